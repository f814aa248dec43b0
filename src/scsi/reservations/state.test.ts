/** Persistent reservations: the rules one by one, then any sequence of requests against what must always hold. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { registrationsMax } from '../limits.ts'
import {
  apply,
  isAllRegistrants,
  isHolder,
  keyOf,
  nothingReserved,
  type Outcome,
  type PortName,
  type Request,
  type ReservationState,
  type ReservationType,
  samePort,
} from './state.ts'
import { fromSaved, toSaved } from './store.ts'

const port = (name: string, targetPort = 1): PortName => ({
  initiatorPort: `iqn.lab:${name},i,0x400000000001`,
  targetPort,
})
const a = port('a')
const b = port('b')
const c = port('c')

const registering = (newKey: bigint, rest: Partial<Extract<Request, { kind: 'register' }>> = {}): Request => ({
  kind: 'register',
  ignoresKey: true,
  key: 0n,
  newKey,
  also: [],
  persists: false,
  ...rest,
})

function after(...steps: readonly (readonly [PortName, Request])[]): ReservationState {
  let state = nothingReserved
  for (const [from, request] of steps) {
    const outcome = apply(state, from, request)
    if (outcome.kind !== 'done') throw new Error(`${request.kind}: ${outcome.kind}`)
    state = outcome.state
  }
  return state
}

const registered = after([a, registering(1n)], [b, registering(2n)], [c, registering(3n)])

function reservedBy(from: PortName, key: bigint, type: ReservationType): ReservationState {
  const outcome = apply(registered, from, { kind: 'reserve', key, type })
  if (outcome.kind !== 'done') throw new Error(outcome.kind)
  return outcome.state
}

const told = (outcome: Outcome): string[] =>
  outcome.kind === 'done'
    ? outcome.notices.map((each) => `${each.port.initiatorPort.slice(8, 9)} ${each.attention.code.toString(16)}`)
    : [outcome.kind]

const stateOf = (outcome: Outcome): ReservationState => {
  if (outcome.kind !== 'done') throw new Error(outcome.kind)
  return outcome.state
}

test('REGISTER wants key 0 from a stranger and its own key from somebody registered', () => {
  const strict = (key: bigint, newKey: bigint): Request => registering(newKey, { ignoresKey: false, key })
  expect(apply(nothingReserved, a, strict(5n, 6n)).kind).toBe('conflict')
  expect(keyOf(stateOf(apply(nothingReserved, a, strict(0n, 6n))), a)).toBe(6n)
  expect(apply(registered, a, strict(2n, 6n)).kind).toBe('conflict')
  expect(apply(registered, a, strict(0n, 6n)).kind).toBe('conflict')
  expect(keyOf(stateOf(apply(registered, a, strict(1n, 6n))), a)).toBe(6n)
  expect(keyOf(stateOf(apply(registered, a, strict(1n, 0n))), a)).toBeUndefined()
  expect(stateOf(apply(nothingReserved, a, strict(0n, 0n)))).toBe(nothingReserved)
})

test('everything but registering wants a registration, with the right key', () => {
  const requests: Request[] = [
    { kind: 'reserve', key: 9n, type: 1 },
    { kind: 'release', key: 9n, type: 1 },
    { kind: 'clear', key: 9n },
    { kind: 'preempt', key: 9n, victimKey: 2n, type: 1 },
    { kind: 'move', key: 9n, newKey: 4n, to: b, unregister: false, persists: false },
  ]
  for (const request of requests) {
    expect(apply(registered, a, request).kind, request.kind).toBe('conflict')
    expect(apply(nothingReserved, a, request).kind, request.kind).toBe('conflict')
  }
})

test('a reservation is for one; asking again for the same is no error, for another type is a conflict', () => {
  const held = reservedBy(a, 1n, 1)
  expect(stateOf(apply(held, a, { kind: 'reserve', key: 1n, type: 1 }))).toBe(held)
  expect(apply(held, a, { kind: 'reserve', key: 1n, type: 3 }).kind).toBe('conflict')
  expect(apply(held, b, { kind: 'reserve', key: 2n, type: 1 }).kind).toBe('conflict')
  const shared = reservedBy(a, 1n, 7)
  expect(stateOf(apply(shared, b, { kind: 'reserve', key: 2n, type: 7 }))).toBe(shared)
})

test('releasing: by the holder, with its type; by others it does nothing', () => {
  const held = reservedBy(a, 1n, 5)
  expect(apply(held, a, { kind: 'release', key: 1n, type: 1 }).kind).toBe('invalidRelease')
  expect(stateOf(apply(held, b, { kind: 'release', key: 2n, type: 5 }))).toBe(held)
  const released = apply(held, a, { kind: 'release', key: 1n, type: 5 })
  expect(stateOf(released).reservation).toBeUndefined()
  expect(told(released)).toEqual(['b 2a04', 'c 2a04'])
  // Of the exclusive types only the holder had anything: nobody else is told.
  expect(told(apply(reservedBy(a, 1n, 3), a, { kind: 'release', key: 1n, type: 3 }))).toEqual([])
  // Any registrant releases an all-registrants reservation.
  expect(stateOf(apply(reservedBy(a, 1n, 8), c, { kind: 'release', key: 3n, type: 8 })).reservation).toBeUndefined()
})

test('unregistering the holder ends the reservation; of all registrants, the last one ends it', () => {
  const gone = apply(reservedBy(a, 1n, 6), a, registering(0n))
  expect(stateOf(gone).reservation).toBeUndefined()
  expect(told(gone)).toEqual(['b 2a04', 'c 2a04'])
  expect(told(apply(reservedBy(a, 1n, 1), a, registering(0n)))).toEqual([])
  let state = reservedBy(a, 1n, 8)
  for (const from of [a, b]) {
    state = stateOf(apply(state, from, registering(0n)))
    expect(state.reservation?.type).toBe(8)
  }
  expect(stateOf(apply(state, c, registering(0n))).reservation).toBeUndefined()
})

test('CLEAR forgets everybody and tells the others', () => {
  const outcome = apply(reservedBy(a, 1n, 1), b, { kind: 'clear', key: 2n })
  expect(stateOf(outcome).registrations).toEqual([])
  expect(stateOf(outcome).reservation).toBeUndefined()
  expect(told(outcome)).toEqual(['a 2a03', 'c 2a03'])
})

test('PREEMPT of the holder takes the reservation; of somebody else only removes the registration', () => {
  const held = reservedBy(a, 1n, 5)
  const taken = apply(held, b, { kind: 'preempt', key: 2n, victimKey: 1n, type: 3 })
  expect(stateOf(taken).reservation).toEqual({ type: 3, holder: b })
  expect(stateOf(taken).registrations.map(({ key }) => key)).toEqual([2n, 3n])
  expect(told(taken)).toEqual(['a 2a05', 'c 2a04'])
  const removed = apply(held, b, { kind: 'preempt', key: 2n, victimKey: 3n, type: 3 })
  expect(stateOf(removed).reservation).toEqual(held.reservation)
  expect(told(removed)).toEqual(['c 2a05'])
  expect(apply(held, b, { kind: 'preempt', key: 2n, victimKey: 77n, type: 3 }).kind).toBe('conflict')
  expect(apply(held, b, { kind: 'preempt', key: 2n, victimKey: 0n, type: 3 }).kind).toBe('invalidKey')
})

test('PREEMPT with key 0 takes an all-registrants reservation from everybody', () => {
  const taken = apply(reservedBy(a, 1n, 8), b, { kind: 'preempt', key: 2n, victimKey: 0n, type: 8 })
  expect(stateOf(taken).registrations).toEqual([{ port: b, key: 2n }])
  expect(told(taken)).toEqual(['a 2a05', 'c 2a05'])
})

test('preempting oneself keeps the registration and changes the type', () => {
  const changed = apply(reservedBy(a, 1n, 5), a, { kind: 'preempt', key: 1n, victimKey: 1n, type: 6 })
  expect(stateOf(changed).reservation).toEqual({ type: 6, holder: a })
  expect(keyOf(stateOf(changed), a)).toBe(1n)
  expect(told(changed)).toEqual(['b 2a04', 'c 2a04'])
})

test('REGISTER AND MOVE gives the reservation away, and only the holder can', () => {
  const held = reservedBy(a, 1n, 1)
  const move: Request = { kind: 'move', key: 1n, newKey: 8n, to: port('d'), unregister: true, persists: false }
  const moved = stateOf(apply(held, a, move))
  expect(moved.reservation).toEqual({ type: 1, holder: port('d') })
  expect([keyOf(moved, port('d')), keyOf(moved, a)]).toEqual([8n, undefined])
  expect(apply(held, b, { ...move, key: 2n }).kind).toBe('conflict')
  expect(apply(reservedBy(a, 1n, 7), a, move).kind).toBe('conflict')
  expect(apply(held, a, { ...move, newKey: 0n }).kind).toBe('invalidKey')
})

test('registrations are bounded, and a change of key is always possible', () => {
  const also = Array.from({ length: registrationsMax - 1 }, (_, i) => port(`p${i}`))
  const full = stateOf(apply(nothingReserved, a, registering(1n, { also })))
  expect(full.registrations).toHaveLength(registrationsMax)
  expect(apply(full, b, registering(2n)).kind).toBe('exhausted')
  expect(apply(full, a, registering(2n)).kind).toBe('done')
})

const anyPort = fc.constantFrom(a, b, c, port('a', 2))
const anyKey = fc.constantFrom(0n, 1n, 2n, 3n)
const anyType = fc.constantFrom<ReservationType>(1, 3, 5, 6, 7, 8)
const anyRequest: fc.Arbitrary<Request> = fc.oneof(
  fc.record({
    kind: fc.constant('register' as const),
    ignoresKey: fc.boolean(),
    key: anyKey,
    newKey: anyKey,
    also: fc.array(anyPort, { maxLength: 2 }),
    persists: fc.boolean(),
  }),
  fc.record({ kind: fc.constant('reserve' as const), key: anyKey, type: anyType }),
  fc.record({ kind: fc.constant('release' as const), key: anyKey, type: anyType }),
  fc.record({ kind: fc.constant('clear' as const), key: anyKey }),
  fc.record({ kind: fc.constant('preempt' as const), key: anyKey, victimKey: anyKey, type: anyType }),
  fc.record({
    kind: fc.constant('move' as const),
    key: anyKey,
    newKey: anyKey,
    to: anyPort,
    unregister: fc.boolean(),
    persists: fc.boolean(),
  }),
)

test('after any requests: keys are real, ports are registered once, a reservation has a registered holder', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(anyPort, anyRequest), { maxLength: 40 }), (steps) => {
      let state = nothingReserved
      for (const [from, request] of steps) {
        if (request.kind === 'move' && samePort(request.to, from)) continue
        const before = JSON.stringify(toSaved({ ...state, persists: true }))
        const outcome = apply(state, from, request)
        expect(JSON.stringify(toSaved({ ...state, persists: true })), 'nothing changes in place').toBe(before)
        if (outcome.kind !== 'done') continue
        const next = outcome.state
        const ports = next.registrations.map((each) => `${each.port.initiatorPort}/${each.port.targetPort}`)
        expect(new Set(ports).size).toBe(ports.length)
        for (const { key } of next.registrations) expect(key).not.toBe(0n)
        if (next.reservation !== undefined) {
          expect(next.registrations.some((each) => isHolder(next, each.port))).toBe(true)
          if (!isAllRegistrants(next.reservation.type)) expect(keyOf(next, next.reservation.holder)).toBeDefined()
        }
        // Whoever lost something without asking is told, and nobody is told of what it did itself.
        for (const lost of state.registrations.filter((each) => keyOf(next, each.port) === undefined)) {
          if (!samePort(lost.port, from))
            expect(outcome.notices.some((each) => samePort(each.port, lost.port))).toBe(true)
        }
        expect(outcome.notices.some((each) => samePort(each.port, from))).toBe(false)
        const counts = next.registrations !== state.registrations
        if (counts) expect(next.generation).toBe(state.generation + 1)
        state = next
      }
      const again = fromSaved(toSaved({ ...state, persists: true }))
      expect(again).toEqual({ ...state, generation: 0, persists: true })
    }),
    { numRuns: Number(process.env['SLIPWAY_FUZZ_RUNS'] ?? 2000) },
  )
})
