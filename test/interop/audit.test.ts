/** Goal: `slipway audit` tells the truth about a boot. Method: a journal as a server leaves it, read by the command. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { openJournalStore } from '../../src/host/journal-store.ts'
import { Journal } from '../../src/journal/journal.ts'
import { testMac, wholeBoot } from '../../src/journal/testing/streams.ts'

const slipway = join(import.meta.dirname, '..', '..', 'bin', 'slipway')
const state = mkdtempSync(join(tmpdir(), 'slipway-audit-'))
afterAll(() => rmSync(state, { recursive: true }))

function audit(...words: string[]): { code: number | null; said: string; complained: string } {
  const done = spawnSync(slipway, ['audit', ...words, '--state', state], { encoding: 'utf8', timeout: 20_000 })
  return { code: done.status, said: done.stdout, complained: done.stderr }
}

test('the last boot of a machine is graded, step by step; of all machines, in a line each', () => {
  expect(audit().said).toMatch(/^MAC +name/)
  const store = openJournalStore(join(state, 'journal.db'))
  let nowMs = Date.UTC(2026, 0, 1)
  const journal = new Journal(store, () => nowMs)
  for (const [afterMs, happening] of wholeBoot) {
    nowMs += afterMs
    journal.record(happening, { mac: testMac, address: '192.168.77.100' })
  }
  journal.flush()
  store.close()

  const { code, said } = audit(testMac)
  expect(code).toBe(0)
  expect(said).toContain(`${testMac}: grade E. Boot of 2026-01-01 00:00:00 UTC.`)
  expect(said).toMatch(/E {2}the script came by HTTP[^\n]*\n +-> Use a loader with HTTPS/)
  expect(said).toMatch(/iSCSI is not encrypted[^\n]*\n +-> Put iSCSI on a VLAN of its own/)
  expect(said).toMatch(/CHAP used MD5/)
  expect(said).toMatch(/Loader by TFTP: undionly\.kpxe\n[^\n]*claim\n[^\n]*nothing\n {2}encrypted +no\n/)
  expect(audit().said).toMatch(new RegExp(`^${testMac} +- +2026-01-01 00:00:00 +E +the script came by HTTP`, 'm'))
  expect(JSON.parse(audit(testMac, '--json', '--storage-apart').said)).toMatchObject({ mac: testMac, grade: 'E' })
})

test.each([
  ['52:54:00:00:00:99', /no boot of 52:54:00:00:00:99 is known: it has not been switched on[^\n]*\n {2}\S/],
  ['bench-9', /no boot of bench-9 is known: it is no MAC address[^\n]*\n {2}\S/],
])('slipway audit %s says why not', (machine, complaint) => {
  const { code, complained } = audit(machine)
  expect(complained).toMatch(complaint)
  expect(code).toBe(1)
})
