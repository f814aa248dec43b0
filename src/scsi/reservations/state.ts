/**
 * Persistent reservations as a pure state machine. SPC-4 §5.9 and §6.16.
 *
 *            register            reserve               release, or the holder unregisters
 *   (nobody) -------> registered -------> reserved -------------------------------------> registered
 *                                            | preempt: another registered port holds it, or nobody
 *                                            | clear: nobody is registered
 *
 * `apply` takes a state and a request and returns the next state with what others must be told; nothing changes in
 * place, so that a state which cannot be saved is simply not taken.
 */
import { unreachable } from '../../base/assert.ts'
import { registrationsMax } from '../limits.ts'
import { type Condition, condition } from '../sense.ts'

/** An initiator port at a target port, by names that outlive a session. */
export interface PortName {
  /** 'iqn.2026-01.lab:m1,i,0x400027230001'. */
  readonly initiatorPort: string
  /** Relative target port identifier. */
  readonly targetPort: number
}

export interface Registration {
  readonly port: PortName
  /** Never 0. */
  readonly key: bigint
}

/** SPC-4 table 208. */
export const reservationType = {
  writeExclusive: 1,
  exclusiveAccess: 3,
  writeExclusiveRegistrantsOnly: 5,
  exclusiveAccessRegistrantsOnly: 6,
  writeExclusiveAllRegistrants: 7,
  exclusiveAccessAllRegistrants: 8,
} as const

export type ReservationType = (typeof reservationType)[keyof typeof reservationType]

export interface Reservation {
  readonly type: ReservationType
  /** Whoever is registered holds a reservation of an all-registrants type; the port is then the one that asked. */
  readonly holder: PortName
}

export interface ReservationState {
  /** PRGENERATION: counts what could have changed who is registered; 32 bits, back to 0 at a restart. */
  readonly generation: number
  readonly registrations: readonly Registration[]
  readonly reservation: Reservation | undefined
  /** APTPL: kept across restarts. */
  readonly persists: boolean
}

export const nothingReserved: ReservationState = {
  generation: 0,
  registrations: [],
  reservation: undefined,
  persists: false,
}

export type Request =
  | {
      readonly kind: 'register'
      readonly ignoresKey: boolean
      readonly key: bigint
      readonly newKey: bigint
      /** Further ports to register: SPEC_I_PT, ALL_TG_PT. */
      readonly also: readonly PortName[]
      readonly persists: boolean
    }
  | { readonly kind: 'reserve'; readonly key: bigint; readonly type: ReservationType }
  | { readonly kind: 'release'; readonly key: bigint; readonly type: ReservationType }
  | { readonly kind: 'clear'; readonly key: bigint }
  | {
      readonly kind: 'preempt'
      readonly key: bigint
      readonly victimKey: bigint
      readonly type: ReservationType
    }
  | {
      readonly kind: 'move'
      readonly key: bigint
      readonly newKey: bigint
      readonly to: PortName
      readonly unregister: boolean
      readonly persists: boolean
    }

export interface Notice {
  readonly port: PortName
  readonly attention: Condition
}

export type Outcome =
  | {
      readonly kind: 'done'
      readonly state: ReservationState
      readonly notices: readonly Notice[]
      /** Ports that lost their registration to a preempt: PREEMPT AND ABORT ends their tasks. */
      readonly preempted: readonly PortName[]
    }
  | { readonly kind: 'conflict' }
  /** A zero key where one is needed. */
  | { readonly kind: 'invalidKey' }
  | { readonly kind: 'invalidRelease' }
  | { readonly kind: 'exhausted' }

const conflict: Outcome = { kind: 'conflict' }

export function samePort(a: PortName, b: PortName): boolean {
  return a.targetPort === b.targetPort && a.initiatorPort === b.initiatorPort
}

export function isAllRegistrants(type: ReservationType): boolean {
  return type === 7 || type === 8
}

/** Registered ports are as good as the holder. */
export function isForRegistrants(type: ReservationType): boolean {
  return type >= 5
}

export function isExclusiveAccess(type: ReservationType): boolean {
  return type === 3 || type === 6 || type === 8
}

export function keyOf(state: ReservationState, port: PortName): bigint | undefined {
  return state.registrations.find((each) => samePort(each.port, port))?.key
}

export function isHolder(state: ReservationState, port: PortName): boolean {
  const { reservation } = state
  if (reservation === undefined) return false
  return isAllRegistrants(reservation.type) ? keyOf(state, port) !== undefined : samePort(reservation.holder, port)
}

export function apply(state: ReservationState, from: PortName, request: Request): Outcome {
  if (request.kind === 'register') return register(state, from, request)
  // Table 217: everybody else must be registered, with the key that it names.
  if (keyOf(state, from) !== request.key) return conflict
  switch (request.kind) {
    case 'reserve':
      return reserve(state, from, request.type)
    case 'release':
      return release(state, from, request.type)
    case 'clear':
      return clear(state, from)
    case 'preempt':
      return preempt(state, from, request.victimKey, request.type)
    case 'move':
      return move(state, from, request)
    default:
      return unreachable(request)
  }
}

// ---- §5.9.7: registering and unregistering

function register(state: ReservationState, from: PortName, request: Extract<Request, { kind: 'register' }>): Outcome {
  const own = keyOf(state, from)
  // §6.16.2 table 218: an unregistered port names key 0, a registered one its own.
  if (!request.ignoresKey && (own ?? 0n) !== request.key) return conflict
  const base = bump({ ...state, persists: request.persists })
  if (request.newKey === 0n) return own === undefined ? done(state, []) : unregister(base, from)
  const ports = [from, ...request.also]
  const others = state.registrations.filter((each) => !ports.some((port) => samePort(port, each.port)))
  const changed = ports
    .filter((port, i) => ports.findIndex((each) => samePort(each, port)) === i)
    .map((port) => ({ port, key: request.newKey }))
  if (others.length + changed.length > registrationsMax) return { kind: 'exhausted' }
  return done({ ...base, registrations: [...others, ...changed] }, [])
}

/** §5.9.11.3: with its last holder's registration the reservation goes too, and registrants are told. */
function unregister(state: ReservationState, from: PortName): Outcome {
  const registrations = state.registrations.filter((each) => !samePort(each.port, from))
  const { reservation } = state
  if (reservation === undefined) return done({ ...state, registrations }, [])
  if (isAllRegistrants(reservation.type)) {
    return done({ ...state, registrations, reservation: registrations.length > 0 ? reservation : undefined }, [])
  }
  if (!samePort(reservation.holder, from)) return done({ ...state, registrations }, [])
  const notices = isForRegistrants(reservation.type) ? tell(registrations, condition.reservationsReleased) : []
  return done({ ...state, registrations, reservation: undefined }, notices)
}

// ---- §5.9.9, §5.9.11: reserving, releasing, clearing

function reserve(state: ReservationState, from: PortName, type: ReservationType): Outcome {
  if (state.reservation === undefined) return done({ ...state, reservation: { type, holder: from } }, [])
  return isHolder(state, from) && state.reservation.type === type ? done(state, []) : conflict
}

function release(state: ReservationState, from: PortName, type: ReservationType): Outcome {
  const { reservation } = state
  if (reservation === undefined || !isHolder(state, from)) return done(state, [])
  if (reservation.type !== type) return { kind: 'invalidRelease' }
  const others = without(state.registrations, from)
  const notices = isForRegistrants(type) ? tell(others, condition.reservationsReleased) : []
  return done({ ...state, reservation: undefined }, notices)
}

function clear(state: ReservationState, from: PortName): Outcome {
  const notices = tell(without(state.registrations, from), condition.reservationsPreempted)
  return done(bump({ ...state, registrations: [], reservation: undefined }), notices)
}

// ---- §5.9.11.4: preempting

function preempt(state: ReservationState, from: PortName, victimKey: bigint, type: ReservationType): Outcome {
  const { reservation } = state
  const all = reservation !== undefined && isAllRegistrants(reservation.type)
  if (victimKey === 0n && !all) return { kind: 'invalidKey' }
  const takesOver =
    reservation !== undefined && (all ? victimKey === 0n : keyOf(state, reservation.holder) === victimKey)
  const isVictim = (each: Registration): boolean => (takesOver && all) || each.key === victimKey
  if (!state.registrations.some(isVictim)) return conflict
  // Who takes the reservation over stays registered, even with the victim's key.
  const goes = (each: Registration): boolean => isVictim(each) && !(takesOver && samePort(each.port, from))
  const gone = state.registrations.filter(goes)
  const registrations = state.registrations.filter((each) => !goes(each))
  const preempted = gone.map((each) => each.port).filter((port) => !samePort(port, from))
  const notices = preempted.map((port) => ({ port, attention: condition.registrationsPreempted as Condition }))
  const kept = all && registrations.length === 0 ? undefined : reservation
  if (!takesOver) return { ...done(bump({ ...state, registrations, reservation: kept }), notices), preempted }
  const next = bump({ ...state, registrations, reservation: { type, holder: from } })
  // Another type: those who stay registered no longer have what the old one gave them.
  const stay = reservation.type === type ? [] : without(registrations, from)
  const all2 = [...notices, ...tell(stay, condition.reservationsReleased)]
  return { ...done(next, all2), preempted }
}

// ---- §5.9.8: REGISTER AND MOVE

function move(state: ReservationState, from: PortName, request: Extract<Request, { kind: 'move' }>): Outcome {
  const { reservation } = state
  if (reservation === undefined || isAllRegistrants(reservation.type) || !samePort(reservation.holder, from)) {
    return conflict
  }
  if (request.newKey === 0n) return { kind: 'invalidKey' }
  const others = without(state.registrations, request.to).filter(
    (each) => !(request.unregister && samePort(each.port, from)),
  )
  if (others.length + 1 > registrationsMax) return { kind: 'exhausted' }
  const registrations = [...others, { port: request.to, key: request.newKey }]
  const next = {
    ...state,
    registrations,
    reservation: { ...reservation, holder: request.to },
    persists: request.persists,
  }
  return done(bump(next), [])
}

function bump(state: ReservationState): ReservationState {
  return { ...state, generation: (state.generation + 1) >>> 0 }
}

function without(registrations: readonly Registration[], port: PortName): readonly Registration[] {
  return registrations.filter((each) => !samePort(each.port, port))
}

function tell(registrations: readonly Registration[], attention: Condition): Notice[] {
  return registrations.map(({ port }) => ({ port, attention }))
}

function done(state: ReservationState, notices: readonly Notice[]): Extract<Outcome, { kind: 'done' }> {
  return { kind: 'done', state, notices, preempted: [] }
}
