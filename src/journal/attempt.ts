/**
 * A boot attempt: what one machine has gone through since it was switched on, as far as it can be seen from here. A pure
 * reducer over the stream of events.
 *
 *   address ──▶ loader ──▶ script ──▶ disk ──▶ reading ──▶ system
 *      │           │         │  └─ waiting (held)  │           │
 *      └───────────┴─────────┴──── failed, refused ┴─ ended ───┘
 *
 * Nobody tells a server that a machine was switched on. An attempt begins with a DISCOVER that cannot belong to the one
 * before: `beginsAnew` has the rule. Everything else about the machine belongs to the attempt that is under way.
 */
import type { Mac } from '../base/address.ts'
import type { BootEvent, ProvedBy, Stage } from './events.ts'
import { discoverBurstMs, stepsPerAttemptMax } from './limits.ts'

/** How far it came; each is reached by what the machine did, not by what it was told. */
export type Reached =
  /** It asked for an address. */
  | 'address'
  /** It fetched a program. */
  | 'loader'
  /** It fetched its script. */
  | 'script'
  /** It logged in to its disk. */
  | 'disk'
  /** It read from the disk. */
  | 'reading'
  /** Its operating system logged in to the disk. */
  | 'system'

export type Outcome =
  | { readonly kind: 'underWay' }
  /** Waits for a person. */
  | { readonly kind: 'held' }
  /** The operating system has the disk. */
  | { readonly kind: 'up' }
  /** It was up, and its last session ended. */
  | { readonly kind: 'off' }
  | { readonly kind: 'refused'; readonly reason: string }
  | { readonly kind: 'failed'; readonly step: string; readonly reason: string; readonly hint: string }
  /** The machine started over before this came to an end: it was reset, or its firmware gave up in silence. */
  | { readonly kind: 'startedOver' }

export type AttemptStep = {
  readonly eventId: number
  /** Since the attempt began. */
  readonly afterMs: number
  readonly kind: BootEvent['kind']
  /** One line for people. */
  readonly text: string
}

export type Attempt = {
  /** The event that began it. */
  readonly id: number
  readonly mac: Mac
  readonly startedMs: number
  readonly lastMs: number
  readonly firmware: string | undefined
  readonly image: string | undefined
  /** Which credentials it booted with. */
  readonly bootId: string | undefined
  /** What it had proved before it got those. */
  readonly proof?: ProvedBy | undefined
  readonly reached: Reached
  /** When each was reached first, since the beginning. */
  readonly reachedAfterMs: Readonly<Partial<Record<Reached, number>>>
  readonly outcome: Outcome
  /** Which program spoke last, by rank: an earlier one that speaks again means that the machine began anew. */
  readonly stage: Stage
  readonly openSessions: readonly number[]
  readonly readBytes: number
  readonly writtenBytes: number
  /** The first ones, up to a limit; `droppedStepCount` says how many came after. */
  readonly steps: readonly AttemptStep[]
  readonly droppedStepCount: number
}

export type Reduced = {
  readonly current: Attempt
  /** The one before, closed; only when this event began a new one. */
  readonly closed: Attempt | undefined
}

const order: readonly Reached[] = ['address', 'loader', 'script', 'disk', 'reading', 'system']

/** `textOf` says the event in one line. Events without a MAC address belong to no attempt: do not pass them. */
export function reduce(attempt: Attempt | undefined, event: BootEvent, mac: Mac, text: string): Reduced {
  if (attempt === undefined) return { current: apply(begin(event, mac), event, text), closed: undefined }
  if (!beginsAnew(attempt, event)) return { current: apply(attempt, event, text), closed: undefined }
  return { current: apply(begin(event, mac), event, text), closed: close(attempt) }
}

/**
 * Whether the event can only come from a machine that has started anew. Firmware asks, then iPXE asks, then perhaps the
 * system; who asks out of that order has begun at the beginning.
 */
function beginsAnew(attempt: Attempt, event: BootEvent): boolean {
  if (event.kind !== 'dhcpDiscover') return false
  switch (event.stage) {
    case 'firmware': {
      if (attempt.stage !== 'firmware' && attempt.stage !== 'unknown') return true
      // UEFI tries PXE, then HTTP; U-Boot asks for every file anew: all one boot, until a loader has been fetched in full.
      return attempt.reached !== 'address' || event.atMs - attempt.lastMs > discoverBurstMs
    }
    case 'ipxe':
      // Held machines poll by HTTP, so an iPXE that asks for an address has not got its script in this life. The ROM's
      // iPXE and the one it loads are two programs that both ask: a loader fetched in between joins them.
      return attempt.reached !== 'address' && attempt.reached !== 'loader'
    case 'system':
    case 'unknown':
      return false
  }
}

function begin(event: BootEvent, mac: Mac): Attempt {
  return {
    id: event.id,
    mac,
    startedMs: event.atMs,
    lastMs: event.atMs,
    firmware: undefined,
    image: undefined,
    bootId: undefined,
    reached: 'address',
    reachedAfterMs: {},
    outcome: { kind: 'underWay' },
    stage: 'unknown',
    openSessions: [],
    readBytes: 0,
    writtenBytes: 0,
    steps: [],
    droppedStepCount: 0,
  }
}

/** What an attempt that is no longer the machine's last has come to. */
function close(attempt: Attempt): Attempt {
  const { kind } = attempt.outcome
  if (kind === 'failed' || kind === 'refused') return attempt
  return { ...attempt, openSessions: [], outcome: { kind: kind === 'up' || kind === 'off' ? 'off' : 'startedOver' } }
}

function apply(before: Attempt, event: BootEvent, text: string): Attempt {
  const attempt = { ...withStep(before, event, text), lastMs: Math.max(before.lastMs, event.atMs) }
  switch (event.kind) {
    case 'dhcpDiscover':
      return {
        ...reached(attempt, 'address', event),
        firmware:
          attempt.firmware ?? (event.stage === 'firmware' || event.stage === 'ipxe' ? event.firmware : undefined),
        stage: later(attempt.stage, event.stage),
      }
    case 'tftpDone':
      return reached(attempt, 'loader', event)
    case 'httpServed':
      return event.status < 300 && event.path.startsWith('/loader/') ? reached(attempt, 'loader', event) : attempt
    case 'scriptServed': {
      const at = { ...reached(attempt, 'script', event), stage: later(attempt.stage, 'ipxe') }
      if (event.script === 'held' || event.script === 'signIn') return { ...at, outcome: { kind: 'held' } }
      if (event.script === 'refused')
        return { ...at, outcome: { kind: 'refused', reason: 'it was told so by its script' } }
      return {
        ...at,
        outcome: { kind: 'underWay' },
        image: event.image ?? at.image,
        bootId: event.bootId ?? at.bootId,
        proof: event.proof ?? at.proof,
      }
    }
    case 'held':
      return { ...attempt, outcome: { kind: 'held' } }
    case 'admitted':
      return attempt.outcome.kind === 'held' ? { ...attempt, outcome: { kind: 'underWay' } } : attempt
    case 'refused':
      return { ...attempt, outcome: { kind: 'refused', reason: event.reason } }
    case 'iscsiLogin': {
      const stage = later(attempt.stage, event.stage)
      const at = reached(attempt, event.stage === 'system' ? 'system' : 'disk', event)
      const openSessions = [...at.openSessions.filter((id) => id !== event.sessionId), event.sessionId].slice(-16)
      const isUp = stage === 'system'
      return {
        ...at,
        stage,
        openSessions,
        bootId: event.bootId ?? at.bootId,
        outcome: { kind: isUp ? 'up' : 'underWay' },
      }
    }
    case 'firstRead':
      return reached(attempt, 'reading', event)
    case 'progress':
      return { ...attempt, readBytes: event.readBytes, writtenBytes: event.writtenBytes }
    case 'sessionClosed': {
      const openSessions = attempt.openSessions.filter((id) => id !== event.sessionId)
      const isOff = openSessions.length === 0 && attempt.outcome.kind === 'up'
      return { ...attempt, openSessions, outcome: isOff ? { kind: 'off' } : attempt.outcome }
    }
    case 'machineReported':
      if (event.step !== 'gave-up' && event.step !== 'kernel-gave-up') return attempt
      return { ...attempt, outcome: gaveUp(event.error, event.step === 'gave-up' ? 'disk' : 'kernel') }
    case 'failed':
      return {
        ...attempt,
        outcome: { kind: 'failed', step: event.step, reason: event.reason, hint: event.hint },
      }
    default:
      return attempt
  }
}

/** The boot script's last word: boot/scripts.ts. */
function gaveUp(error: string | undefined, step: 'disk' | 'kernel'): Outcome {
  const reason = error === undefined ? `iPXE could not start the ${step}` : `iPXE error ${error} at the ${step}`
  const more = error === undefined ? '' : `, and https://ipxe.org/${error} explains it`
  return { kind: 'failed', step, reason, hint: `The machine's screen says more${more}.` }
}

function reached(attempt: Attempt, what: Reached, event: BootEvent): Attempt {
  const isFurther = order.indexOf(what) > order.indexOf(attempt.reached)
  const isFirst = attempt.reachedAfterMs[what] === undefined
  if (!isFurther && !isFirst) return attempt
  return {
    ...attempt,
    reached: isFurther ? what : attempt.reached,
    reachedAfterMs: isFirst
      ? { ...attempt.reachedAfterMs, [what]: Math.max(0, event.atMs - attempt.startedMs) }
      : attempt.reachedAfterMs,
  }
}

const rank: Readonly<Record<Stage, number>> = { unknown: 0, firmware: 1, ipxe: 2, system: 3 }

function later(a: Stage, b: Stage): Stage {
  return rank[b] > rank[a] ? b : a
}

/** Progress is a measure, not a step. */
function withStep(attempt: Attempt, event: BootEvent, text: string): Attempt {
  if (event.kind === 'progress') return attempt
  if (attempt.steps.length >= stepsPerAttemptMax) return { ...attempt, droppedStepCount: attempt.droppedStepCount + 1 }
  const afterMs = Math.max(0, event.atMs - attempt.startedMs)
  return { ...attempt, steps: [...attempt.steps, { eventId: event.id, afterMs, kind: event.kind, text }] }
}
