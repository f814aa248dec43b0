/** Goal: a flood of events from one peer costs the others nothing. Method: the real journal and a virtual clock. */
import { expect, test } from 'vitest'
import { VirtualClock } from '../../test/simulation/clock.ts'
import type { BootEvent, Happening } from '../journal/events.ts'
import { Journal } from '../journal/journal.ts'
import { eventsPerSourceMax, eventsPerWindowMax, floodWindowMs, sourcesToldMax } from './event-flood.ts'
import { EventStream } from './event-stream.ts'

const noise: Happening = { kind: 'peerBroken', protocol: 'HTTP', detail: 'malformed: no version' }

function streamOf(): { clock: VirtualClock; stream: EventStream; kept: BootEvent[]; written: () => number } {
  const clock = new VirtualClock()
  let writtenCount = 0
  const store = {
    lastEventId: () => 0,
    currentAttempts: () => [],
    attempts: () => [],
    events: () => [],
    append: (events: readonly BootEvent[]) => {
      writtenCount += events.length
    },
    saveAttempts: () => undefined,
  }
  const journal = new Journal(store, () => clock.wallMs())
  const kept: BootEvent[] = []
  journal.subscribe((event) => kept.push(event))
  const log = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined }
  const stream = new EventStream(journal, clock, log, () => undefined)
  return { clock, stream, kept, written: () => writtenCount }
}

const leftOut = (events: readonly BootEvent[]): unknown[] =>
  events.flatMap((event) => (event.kind === 'eventsLeftOut' ? [[event.address, event.eventCount]] : []))

test('of one that floods so many events are kept, the others lose none, and how many were left out is told once', async () => {
  const { clock, stream, kept } = streamOf()
  for (let count = 0; count < 50_000; count++) stream.emit({ address: '192.168.77.66' }, noise)
  for (let count = 0; count < 50; count++) stream.emit({ address: '192.168.77.100' }, noise)
  const of = (address: string): number => kept.filter((event) => event.address === address).length
  expect(of('192.168.77.66')).toBe(eventsPerSourceMax)
  expect(of('192.168.77.100')).toBe(50)

  await clock.run(() => false, floodWindowMs)
  expect(leftOut(kept)).toEqual([['192.168.77.66', 50_000 - eventsPerSourceMax]])
  // The next window begins at nothing.
  stream.emit({ address: '192.168.77.66' }, noise)
  expect(kept.at(-1)).toMatchObject({ kind: 'peerBroken', address: '192.168.77.66' })
  await clock.run(() => false, 10 * floodWindowMs)
  expect(leftOut(kept)).toHaveLength(1)
})

test('who invents addresses fills neither memory nor journal, and keeps nothing of our own out', async () => {
  const { clock, stream, kept, written } = streamOf()
  for (let count = 0; count < 100_000; count++) stream.emit({ address: `10.${count >> 8}.${count & 255}.1` }, noise)
  expect(kept).toHaveLength(eventsPerWindowMax)
  stream.emit({}, { kind: 'serviceFailed', service: 'https', reason: 'port taken', hint: 'Free it.' })
  expect(kept.at(-1)).toMatchObject({ kind: 'serviceFailed' })
  stream.emit({ address: '10.1.1.1' }, { kind: 'addressSlowed', failureCount: 10, untilMs: 1 })
  expect(kept.at(-1)).toMatchObject({ kind: 'addressSlowed' })
  await clock.run(() => false, floodWindowMs)
  expect(leftOut(kept)).toEqual([[undefined, 100_000 - eventsPerWindowMax]])
  stream.close()
  expect(written()).toBe(kept.length)
})

test('of many that flood the loudest are named, and the rest is one figure; what is left when it ends is told, too', () => {
  const { stream, kept } = streamOf()
  const sourceCount = sourcesToldMax + 2
  for (let source = 0; source < sourceCount; source++) {
    for (let count = 0; count < eventsPerSourceMax + 10 + source; count++)
      stream.emit({ address: `10.0.0.${source}` }, noise)
  }
  stream.close()
  const told = Array.from({ length: sourcesToldMax }, (_, index) => [
    `10.0.0.${sourceCount - 1 - index}`,
    10 + sourceCount - 1 - index,
  ])
  expect(leftOut(kept)).toEqual([...told, [undefined, 10 + 11]])
})
