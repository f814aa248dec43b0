import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { Journal } from '../journal/journal.ts'
import { openJournalStore } from './journal-store.ts'

const folder = mkdtempSync(join(tmpdir(), 'slipway-journal-'))
afterAll(() => rmSync(folder, { recursive: true }))
const mac = '52:54:00:77:00:10'
const from = { mac, address: '192.168.77.100' }

test('events and attempts are there after the store was closed and opened, and ids go on', () => {
  const path = join(folder, 'journal.db')
  const before = openJournalStore(path)
  const journal = new Journal(before, () => 1_000)
  journal.record({ kind: 'tftpNotFound', file: 'a' }, from)
  journal.record({ kind: 'held', reason: 'waits' }, from)
  journal.record({ kind: 'serviceReady', service: 'tftp', endpoint: 'x' }, { mac: undefined, address: undefined })
  journal.flush()
  before.close()

  const after = openJournalStore(path)
  expect(after.lastEventId()).toBe(3)
  expect(after.events({ mac, afterId: 1, countMax: 10 }).map((event) => event.kind)).toEqual(['held'])
  expect(after.events({ afterId: 0, countMax: 2 }).map((event) => event.id)).toEqual([1, 2])
  expect(after.attempts({ mac, countMax: 5 })[0]).toMatchObject({ mac, outcome: { kind: 'held' } })
  expect(after.currentAttempts()).toHaveLength(1)
  const next = new Journal(after, () => 2_000)
  expect(next.record({ kind: 'stopping' }, { mac: undefined, address: undefined }).id).toBe(4)
  expect(next.attempt(mac)?.mac).toBe(mac)
  after.close()
})
