import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Attempt, reduce } from './attempt.ts'
import { type BootEvent, type Happening, stageOfIsid } from './events.ts'
import { stepsPerAttemptMax } from './limits.ts'
import {
  closed,
  discover,
  fetched,
  firstRead,
  login,
  served,
  stream,
  type Timed,
  testMac,
  wholeBoot,
} from './testing/streams.ts'
import { sentence } from './text.ts'

/** Every attempt of the machine, in order; the last is the current one. */
function attemptsOf(events: readonly BootEvent[]): Attempt[] {
  const done: Attempt[] = []
  let current: Attempt | undefined
  for (const event of events) {
    const reduced = reduce(current, event, testMac, sentence(event))
    if (reduced.closed !== undefined) done.push(reduced.closed)
    current = reduced.current
  }
  return current === undefined ? done : [...done, current]
}

const told = (timed: readonly Timed[], ...more: readonly Timed[]): Attempt[] => attemptsOf(stream([...timed, ...more]))
const outcomes = (attempts: readonly Attempt[]): string[] =>
  attempts.map((attempt) => `${attempt.reached} ${attempt.outcome.kind}`)

test('a boot from power-on to Linux is one attempt that is up, with the time of each stage', () => {
  const [attempt, ...more] = told(wholeBoot)
  expect(more).toEqual([])
  expect(attempt).toMatchObject({
    mac: testMac,
    firmware: 'BIOS by PXE',
    image: 'debian-lab',
    bootId: 'k3x9abcd',
    reached: 'system',
    outcome: { kind: 'up' },
    stage: 'system',
    openSessions: [1, 2],
    reachedAfterMs: { address: 0, loader: 2_450, script: 7_151, disk: 7_301, reading: 7_321, system: 25_321 },
  })
  expect(attempt?.steps.map((step) => step.afterMs)).toEqual(
    [...(attempt?.steps ?? [])].map((s) => s.afterMs).sort((a, b) => a - b),
  )
  expect(attempt?.steps).toHaveLength(wholeBoot.length)
})

// Who asks out of order has begun at the beginning; everything else belongs to the boot under way.
const beginnings: ReadonlyArray<[what: string, attempts: Attempt[], outcomes: string[]]> = [
  [
    'a machine that is switched on again',
    told(wholeBoot, [60_000, discover('firmware')]),
    ['system off', 'address underWay'],
  ],
  [
    'a machine whose ROM is an iPXE, switched on again',
    told(wholeBoot, [60_000, discover('ipxe')]),
    ['system off', 'address underWay'],
  ],
  [
    'a power cut before the disk',
    told(wholeBoot.slice(0, 9), [9_000, discover('firmware')]),
    ['script startedOver', 'address underWay'],
  ],
  [
    'a loader that did not start',
    told(
      [
        [0, discover('firmware')],
        [500, fetched],
      ],
      [9_000, discover('firmware')],
    ),
    ['loader startedOver', 'address underWay'],
  ],
  [
    'a DISCOVER repeated',
    told([[0, discover('firmware')]], [4_000, discover('firmware')], [8_000, discover('firmware')]),
    ['address underWay'],
  ],
  [
    'a firmware that tries PXE, then HTTP',
    told([[0, discover('firmware')]], [30_000, discover('firmware', 'UEFI x86_64 by HTTP')]),
    ['address underWay'],
  ],
  [
    'a machine that asked in vain, and is switched on the next day',
    told([[0, discover('firmware')]], [86_400_000, discover('firmware')]),
    ['address startedOver', 'address underWay'],
  ],
  [
    'a ROM with iPXE that loads another iPXE',
    told(
      [
        [0, discover('ipxe')],
        [300, fetched],
      ],
      [2_000, discover('ipxe')],
    ),
    ['loader underWay'],
  ],
  ['Linux that asks for its address', told(wholeBoot.slice(0, 11), [9_000, discover('system')]), ['reading underWay']],
  ['a system that renews its lease', told(wholeBoot, [600_000, discover('unknown')]), ['system up']],
  [
    'iscsid that logs in again, as at every boot',
    told(wholeBoot, [5_000, closed(2)], [10, login(3, 'system')]),
    ['system up'],
  ],
  ['a machine that is switched off', told(wholeBoot, [5_000, closed(1)], [10, closed(2)]), ['system off']],
  [
    'a restart of ours under a machine that is up',
    told(wholeBoot, [5_000, closed(1)], [0, closed(2)], [2_000, login(3, 'system')]),
    ['system up'],
  ],
  [
    "iPXE's second session beside the first",
    told(wholeBoot.slice(0, 10), [100, login(2, 'ipxe')], [100, closed(2)]),
    ['disk underWay'],
  ],
]

test.for(beginnings)('%s', ([, attempts, expected]) => {
  expect(outcomes(attempts)).toEqual(expected)
})

describe('how an attempt ends', () => {
  const asked: readonly Timed[] = [[0, discover('ipxe')]]

  test('held, then admitted, then up', () => {
    const held = told(asked, [100, served('held')])
    expect(outcomes(held)).toEqual(['script held'])
    const polling = told(
      asked,
      [100, served('held')],
      [3_000, served('held')],
      [3_000, { kind: 'admitted', by: 'person' }],
    )
    expect(outcomes(polling)).toEqual(['script underWay'])
    expect(outcomes(told(asked, [100, served('held')], [3_000, served('boot')], [100, login(1, 'ipxe')]))).toEqual([
      'disk underWay',
    ])
  })

  test('refused', () => {
    expect(outcomes(told(asked, [100, served('refused')]))).toEqual(['script refused'])
    expect(outcomes(told(asked, [1, { kind: 'refused', reason: 'by a person' }], [60_000, discover('ipxe')]))).toEqual([
      'address refused',
    ])
  })

  test('failed, as the machine itself told', () => {
    const [attempt] = told(
      asked,
      [100, served('boot')],
      [80_000, { kind: 'machineReported', step: 'gave-up', error: '0f0a6039' }],
    )
    expect(attempt?.outcome).toMatchObject({ kind: 'failed', step: 'disk', reason: 'iPXE error 0f0a6039 at the disk' })
  })

  test('failed stays failed when the machine starts over', () => {
    const failed: Happening = { kind: 'failed', step: 'clone', reason: 'no space', hint: 'Make room.' }
    expect(outcomes(told(asked, [100, served('boot')], [1, failed], [9_000, discover('ipxe')]))).toEqual([
      'script failed',
      'address underWay',
    ])
  })
})

test('an attempt that goes on for ever remembers a bounded number of steps', () => {
  const events = stream(Array.from({ length: 1_000 }, (): Timed => [1_000, served('held')]))
  const [attempt] = attemptsOf(events)
  expect(attempt?.steps).toHaveLength(stepsPerAttemptMax)
  expect(attempt?.droppedStepCount).toBe(1_000 - stepsPerAttemptMax)
})

test('progress is a measure, not a step', () => {
  const [attempt] = told(wholeBoot, [1_000, { kind: 'progress', readBytes: 5_000, writtenBytes: 10 }])
  expect(attempt).toMatchObject({ readBytes: 5_000, writtenBytes: 10 })
  expect(attempt?.steps).toHaveLength(wholeBoot.length)
})

test('initiators are told apart by their ISIDs', () => {
  // From the captures: iPXE's, and open-iscsi's.
  expect(stageOfIsid('40002723b099')).toBe('ipxe')
  expect(stageOfIsid('00023d000001')).toBe('system')
  expect(stageOfIsid('800000000000')).toBe('unknown')
})

const anyHappening: fc.Arbitrary<Happening> = fc.oneof(
  fc.constantFrom<Happening>(
    ...(['firmware', 'ipxe', 'system', 'unknown'] as const).map((stage) => discover(stage)),
    fetched,
    firstRead,
    served('boot'),
    served('held'),
    served('refused'),
    { kind: 'admitted', by: 'person' },
    { kind: 'failed', step: 'disk', reason: 'no', hint: 'Look.' },
    { kind: 'stopping' },
  ),
  fc.tuple(fc.nat(40), fc.constantFrom('ipxe' as const, 'system' as const)).map(([id, stage]) => login(id, stage)),
  fc.nat(40).map(closed),
)

test('any stream makes attempts that are bounded, in order, and never share a step', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(200_000), anyHappening), { maxLength: 80 }), (timed) => {
      const events = stream(timed)
      const attempts = attemptsOf(events)
      const steps = attempts.flatMap((attempt) => attempt.steps.map((step) => step.eventId))
      expect(steps).toEqual(events.map((event) => event.id))
      for (const [index, attempt] of attempts.entries()) {
        expect(attempt.openSessions.length).toBeLessThanOrEqual(16)
        expect(attempt.lastMs).toBeGreaterThanOrEqual(attempt.startedMs)
        expect(attempt.id).toBe(attempt.steps[0]?.eventId)
        if (index < attempts.length - 1)
          expect(['off', 'startedOver', 'failed', 'refused']).toContain(attempt.outcome.kind)
      }
    }),
    { numRuns: 500 },
  )
})
