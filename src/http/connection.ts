/**
 * The life of one HTTP connection, RFC 9112 §9, without I/O: who may speak, how long we wait, and how it ends.
 *
 *         ┌──────────── answered, may stay ─────────────┐
 *         ▼                                             │
 *   ──▶ idle ──bytes──▶ receiving ──whole request──▶ answering ──answered, is last──▶ lingering ──FIN, timer──▶ closed
 *         │                 │ too slow: 408, ──────────▶│                                 ▲
 *         │                 │ unreadable: 4xx           │ client takes nothing, or our file fails: reset ──▶ closed
 *         └── idle too long, FIN, server closing ───────┴──────────────────────────────────┘
 */
import { unreachable } from '../base/assert.ts'
import type { HttpLimits } from './limits.ts'

export type State =
  | { readonly kind: 'idle'; readonly answeredCount: number }
  | { readonly kind: 'receiving'; readonly answeredCount: number }
  | { readonly kind: 'answering'; readonly answeredCount: number; readonly isLast: boolean }
  /** All was said and our FIN is sent; the client's is awaited, so that no RST overtakes the end of the answer. */
  | { readonly kind: 'lingering' }
  | { readonly kind: 'closed' }

export type Input =
  /** The first bytes of a request that is not whole yet. */
  | { readonly kind: 'requestBegan' }
  /** A whole request, or one that cannot be read and gets its refusal; `isLast` in the second case. */
  | { readonly kind: 'requestEnded'; readonly isLast: boolean }
  /** The answer is with the network; `isLast` as the answer said. */
  | { readonly kind: 'answered'; readonly isLast: boolean }
  /** The client took some of the answer. */
  | { readonly kind: 'progressed' }
  | { readonly kind: 'answerFailed' }
  | { readonly kind: 'peerEnded' }
  | { readonly kind: 'serverClosing' }
  | { readonly kind: 'timerFired' }

export type Output =
  | { readonly kind: 'setTimer'; readonly afterMs: number }
  /** Answer 408 to the request that does not end. */
  | { readonly kind: 'refuseSlowRequest' }
  | { readonly kind: 'sayStalled' }
  /** FIN, once what was written has left. */
  | { readonly kind: 'end' }
  /** RST. */
  | { readonly kind: 'destroy' }

export type Step = { readonly state: State; readonly outputs: readonly Output[] }

export function begin(limits: HttpLimits): Step {
  return idle(limits, 0)
}

/** Whether the connection stays open after the answer that is being made now. */
export function mayKeep(limits: HttpLimits, state: State): boolean {
  return state.kind === 'answering' && !state.isLast && state.answeredCount + 1 < limits.requestsPerConnectionMax
}

const nothing: readonly Output[] = []

export function step(limits: HttpLimits, state: State, input: Input): Step {
  const stay: Step = { state, outputs: nothing }
  if (state.kind === 'closed') return stay
  switch (input.kind) {
    case 'requestBegan':
      if (state.kind !== 'idle') return stay
      return wait({ kind: 'receiving', answeredCount: state.answeredCount }, limits.requestMs)
    case 'requestEnded':
      if (state.kind !== 'idle' && state.kind !== 'receiving') return stay
      return wait({ kind: 'answering', answeredCount: state.answeredCount, isLast: input.isLast }, limits.stallMs)
    case 'progressed':
      return state.kind === 'answering' ? wait(state, limits.stallMs) : stay
    case 'answered':
      if (state.kind !== 'answering') return stay
      return input.isLast || state.isLast ? linger(limits) : idle(limits, state.answeredCount + 1)
    case 'answerFailed':
      return state.kind === 'answering' ? reset() : stay
    case 'peerEnded':
      // A client may say that it will ask no more and still read: `printf 'GET /x\r\n' | socat` does. What it asked
      // before is answered first.
      return state.kind === 'answering' || state.kind === 'lingering' ? stay : linger(limits)
    case 'serverClosing':
      if (state.kind === 'answering') return { state: { ...state, isLast: true }, outputs: nothing }
      return state.kind === 'lingering' ? stay : linger(limits)
    case 'timerFired':
      return onTimer(limits, state)
    default:
      return unreachable(input)
  }
}

function onTimer(limits: HttpLimits, state: State): Step {
  switch (state.kind) {
    case 'idle':
      return linger(limits)
    case 'receiving': {
      const next = wait({ ...state, kind: 'answering', isLast: true }, limits.stallMs)
      return { state: next.state, outputs: [...next.outputs, { kind: 'refuseSlowRequest' }] }
    }
    case 'answering':
      return { state: { kind: 'closed' }, outputs: [{ kind: 'sayStalled' }, { kind: 'destroy' }] }
    case 'lingering':
      return reset()
    case 'closed':
      return { state, outputs: nothing }
    default:
      return unreachable(state)
  }
}

function wait(state: State, afterMs: number): Step {
  return { state, outputs: [{ kind: 'setTimer', afterMs }] }
}

function idle(limits: HttpLimits, answeredCount: number): Step {
  return wait({ kind: 'idle', answeredCount }, limits.idleMs)
}

function linger(limits: HttpLimits): Step {
  return { state: { kind: 'lingering' }, outputs: [{ kind: 'end' }, { kind: 'setTimer', afterMs: limits.lingerMs }] }
}

function reset(): Step {
  return { state: { kind: 'closed' }, outputs: [{ kind: 'destroy' }] }
}
