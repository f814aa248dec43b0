import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Attempt } from './attempt.ts'
import type { BootEvent, Happening } from './events.ts'
import { Journal } from './journal.ts'
import { attemptsInMemoryMax, recentEventsMax, subscribersMax } from './limits.ts'
import { forgetfulJournalStore, type JournalStore } from './store.ts'
import { discover, login, served, stream, testMac, wholeBoot } from './testing/streams.ts'
import { foreign, humanLine, isoTime, jsonLine, sentence } from './text.ts'

const source = { mac: testMac, address: '192.168.77.100' }
const open = (store: JournalStore = forgetfulJournalStore): Journal => new Journal(store, () => 1_790_000_000_000)

class RememberingStore implements JournalStore {
  readonly kept: BootEvent[] = []
  readonly saved = new Map<number, Attempt>()
  lastEventId = (): number => this.kept.at(-1)?.id ?? 0
  append = (events: readonly BootEvent[]): void => {
    this.kept.push(...events)
  }
  saveAttempts = (attempts: readonly Attempt[]): void => {
    for (const attempt of attempts) this.saved.set(attempt.id, attempt)
  }
  currentAttempts = (): readonly Attempt[] => [...this.saved.values()].slice(-1)
  attempts = (): readonly Attempt[] => [...this.saved.values()].reverse()
  events = (): readonly BootEvent[] => this.kept
}

test('who subscribes sees each event once, in order, with the attempt it made', () => {
  const journal = open()
  const seen: string[] = []
  const end = journal.subscribe((event, attempt) => seen.push(`${event.id} ${event.kind} ${attempt?.reached}`))
  journal.record(discover('ipxe'), source)
  journal.record(served('boot'), source)
  journal.record({ kind: 'stopping' }, { mac: undefined, address: undefined })
  if (end !== false) end()
  journal.record(login(1, 'ipxe'), source)
  expect(seen).toEqual(['1 dhcpDiscover address', '2 scriptServed script', '3 stopping undefined'])
  expect(journal.recent().map((event) => event.id)).toEqual([1, 2, 3, 4])
  expect(journal.attempt(testMac)?.reached).toBe('disk')
})

test('a restart goes on counting, and finds the attempt where it was', () => {
  const store = new RememberingStore()
  const before = open(store)
  for (const event of stream(wholeBoot)) before.record(event, source)
  before.flush()
  before.flush()
  expect(store.kept).toHaveLength(wholeBoot.length)
  const after = open(store)
  expect(after.attempt(testMac)).toMatchObject({ outcome: { kind: 'up' }, openSessions: [] })
  expect(after.record(login(9, 'system'), source).id).toBe(wholeBoot.length + 1)
  expect(after.attempt(testMac)?.id).toBe(1)
})

test('a store that fails loses what it was given and not the stream', () => {
  const journal = open({
    ...forgetfulJournalStore,
    append: () => {
      throw new Error('disk full')
    },
  })
  journal.record({ kind: 'stopping' }, source)
  expect(() => journal.flush()).toThrow('disk full')
  expect(journal.hasUnwritten).toBe(false)
})

test('events, machines and readers are bounded', () => {
  const journal = open()
  for (let i = 0; i < subscribersMax; i++) expect(journal.subscribe(() => undefined)).not.toBe(false)
  expect(journal.subscribe(() => undefined)).toBe(false)
  const quiet = open()
  for (let i = 0; i < 5 * recentEventsMax; i++) {
    quiet.record(discover('firmware'), { mac: `02:00:00:00:${i >> 8}:${i & 0xff}`, address: undefined })
    if (i % 100 === 0) quiet.flush()
  }
  expect(quiet.recent()).toHaveLength(recentEventsMax)
  expect(quiet.attempts()).toHaveLength(attemptsInMemoryMax)
  expect(quiet.attempt('02:00:00:00:0:0')).toBeUndefined()
})

test('an event is one line of JSON that reads back, and one line for people', () => {
  const [event] = stream([[0, login(7, 'ipxe')]], 1_790_000_000_000)
  if (event === undefined) throw new Error('an event')
  const line = jsonLine(event)
  expect(line).toMatch(/^\{"at":"2026-09-21T14:13:20.000Z","kind":"iscsiLogin","mac":"52:54:00:77:00:10",/)
  const { at, ...rest } = JSON.parse(line) as Record<string, unknown>
  expect(at).toBe('2026-09-21T14:13:20.000Z')
  const { atMs, ...fields } = event
  expect(rest).toEqual(fields)
  expect(humanLine(event)).toBe('14:13:20.000 52:54:00:77:00:10 logs in to its disk (iPXE, mutual CHAP with md5)')
  expect(humanLine({ ...event, downgraded: true } as typeof event)).toContain(
    '(iPXE, mutual CHAP with md5, for it offered nothing better)',
  )
})

test('whatever a peer called a file, a line stays a line', () => {
  const names = fc.oneof(fc.string({ unit: 'binary', maxLength: 400 }), fc.constant('\u001b[2J\r\nroot: all is well'))
  fc.assert(
    fc.property(names, (name) => {
      const happening: Happening = { kind: 'tftpNotFound', file: name }
      const [event] = stream([[0, happening]])
      if (event === undefined) throw new Error('an event')
      // biome-ignore lint/suspicious/noControlCharactersInRegex: exactly what must not be there
      expect(humanLine(event)).not.toMatch(/[\x00-\x1f\x7f-\x9f\u2028\u2029]/)
      expect(humanLine(event).length).toBeLessThan(400)
      expect(jsonLine(event)).not.toContain('\n')
    }),
    { numRuns: 500 },
  )
})

test('times are what the calendar says, leap years and all', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 253_402_300_799_999 }), (atMs) => {
      expect(isoTime(atMs)).toBe(new Date(atMs).toISOString())
    }),
    { numRuns: 5_000 },
  )
})

test('every kind of event can be said', () => {
  const happenings: Happening[] = [
    ...wholeBoot.map(([, happening]) => happening),
    { kind: 'dhcpOffer', stage: 'firmware', offeredAddress: undefined, file: undefined },
    { kind: 'dhcpNak', requestedAddress: '10.0.0.1', reason: 'wrongNetwork' },
    { kind: 'dhcpDeclined', declinedAddress: '10.0.0.1' },
    { kind: 'dhcpReleased', releasedAddress: '10.0.0.1' },
    { kind: 'dhcpPoolExhausted' },
    { kind: 'dhcpOtherServer', server: '10.0.0.1' },
    { kind: 'tftpProbed', file: 'a' },
    { kind: 'tftpAborted', file: 'a', ackedBytes: 1, reason: 'timed out' },
    { kind: 'tftpRefused', file: 'a', reason: 'busy' },
    { kind: 'httpServed', path: '/a', status: 200, sentBytes: 1, durationMs: 12_345, encrypted: true },
    { kind: 'httpAborted', path: '/a', sentBytes: 1, bodyBytes: 2 },
    { kind: 'httpNotFound', path: '/a' },
    { kind: 'tlsFailed', reason: 'unknown CA', hint: 'Trust us.', offered: 'TLS 1.2 with AES128-SHA' },
    served('held'),
    served('refused'),
    { kind: 'scriptServed', script: 'local', bootId: undefined, image: undefined, encrypted: true },
    { kind: 'machineReported', step: 'disk-failed', error: '0f0a6039' },
    {
      kind: 'iscsiLoginFailed',
      initiatorName: undefined,
      targetName: undefined,
      reason: 'timedOut',
      detail: 'no word',
    },
    { kind: 'firstWrite', sessionId: 1 },
    { kind: 'progress', readBytes: 1, writtenBytes: 2 },
    { kind: 'sessionClosed', sessionId: 1, reason: 'logout', readBytes: 1, writtenBytes: 2 },
    { kind: 'addressSlowed', failureCount: 10, untilMs: 0 },
    { kind: 'machineSeen', uuid: undefined, serial: undefined },
    { kind: 'held', reason: 'nobody knows it' },
    { kind: 'admitted', by: 'person' },
    { kind: 'refused', reason: 'by a person' },
    { kind: 'identityAlarm', knownUuid: 'a', seenUuid: 'b' },
    { kind: 'credentialsEnded', bootId: 'a', reason: 'nextBoot' },
    { kind: 'cloneReady', image: 'a', policy: 'ephemeral', path: undefined },
    { kind: 'bootTraceRecorded', image: 'a@1', readCount: 2900, readBytes: 81_000_000 },
    { kind: 'bootTraceFetched', image: 'a@1', traceBytes: 81_000_000, durationMs: 800 },
    { kind: 'diskFailed', operation: 'write', reason: 'no space', hint: 'Make room.' },
    { kind: 'failed', step: 'disk', reason: 'no', hint: 'Look.' },
    { kind: 'peerBroken', protocol: 'TFTP', detail: 'truncated at byte 2' },
    { kind: 'serviceReady', service: 'TFTP', endpoint: '192.168.77.1:69' },
    { kind: 'serviceFailed', service: 'TFTP', reason: 'port taken', hint: 'Stop the other.' },
    { kind: 'stopping' },
  ]
  for (const happening of happenings) expect(sentence(happening)).toMatch(/^[^\n]+[^\s]$/)
  expect(foreign('a'.repeat(500))).toHaveLength(200)
})
