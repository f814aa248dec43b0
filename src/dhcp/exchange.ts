/**
 * One DHCP exchange, seen from the client: RFC 2131 §4.4, with PXE's second source of offers (PXE 2.1 §2.1).
 *
 *   selecting ──an offer, and no reason to wait for more──▶ requesting ──ACK──▶ bound
 *       │                                                       │
 *       └─────────────────── silences used up ──────────────────┼──────────────▶ failed(noOffer | noAnswer)
 *                                                               └──NAK──▶ selecting again, at most `naksMax` times
 *
 * What firmware sends differs, how it proceeds hardly: the DISCOVER comes in as it is, the REQUEST is made from it.
 */
import { unreachable } from '../base/assert.ts'
import type { Message } from './message.ts'
import * as option from './option.ts'

export type ExchangeTerms = {
  readonly discover: Message
  /** How long offers are collected after the first one with an address. 0: the first one is taken. */
  readonly collectOffersMs: number
  readonly retryAfterMs: number
  /** Silences in a row before giving up. */
  readonly retriesMax: number
  readonly naksMax: number
}

export type ExchangeState =
  | {
      readonly kind: 'selecting'
      readonly retries: number
      readonly naks: number
      readonly offer: Message | undefined
      readonly proxyOffer: Message | undefined
    }
  | {
      readonly kind: 'requesting'
      readonly retries: number
      readonly naks: number
      readonly offer: Message
      readonly proxyOffer: Message | undefined
    }
  | { readonly kind: 'bound'; readonly ack: Message; readonly proxyOffer: Message | undefined }
  | { readonly kind: 'failed'; readonly reason: 'noOffer' | 'noAnswer' | 'refused' }

export type ExchangeInput =
  | { readonly kind: 'start' }
  | { readonly kind: 'received'; readonly message: Message }
  | { readonly kind: 'timerFired' }

export type ExchangeOutput =
  /** To 255.255.255.255 port 67. */
  | { readonly kind: 'broadcast'; readonly message: Message }
  | { readonly kind: 'setTimer'; readonly afterMs: number }
  | { readonly kind: 'clearTimer' }

export type ExchangeStep = { readonly state: ExchangeState; readonly outputs: readonly ExchangeOutput[] }

export const exchangeInitial: ExchangeState = {
  kind: 'selecting',
  retries: 0,
  naks: 0,
  offer: undefined,
  proxyOffer: undefined,
}

/** A kept message must own its bytes: `received` is kept in the state. */
export function stepExchange(terms: ExchangeTerms, state: ExchangeState, input: ExchangeInput): ExchangeStep {
  if (state.kind === 'bound' || state.kind === 'failed') return { state, outputs: [] }
  switch (input.kind) {
    case 'start':
      return discover(terms, 0, 0)
    case 'received':
      return isForUs(terms, input.message) ? onMessage(terms, state, input.message) : { state, outputs: [] }
    case 'timerFired':
      return onSilence(terms, state)
    default:
      return unreachable(input)
  }
}

/** The REQUEST for an offer: the DISCOVER's options, and which offer was taken. */
export function requestFor(discover: Message, offer: Message): Message {
  const options = new option.Options()
  for (const [code, value] of discover.options.entries()) options.setRaw(code, value)
  options.set(option.requestedAddress, offer.yourAddress)
  const server = offer.options.get(option.serverIdentifier)
  if (server !== undefined) options.set(option.serverIdentifier, server)
  return { ...discover, type: 'request', options }
}

function isForUs(terms: ExchangeTerms, message: Message): boolean {
  const { discover } = terms
  if (message.op !== 'reply' || message.transaction !== discover.transaction) return false
  return message.hardwareAddress.every((byte, index) => byte === discover.hardwareAddress[index])
}

function onMessage(
  terms: ExchangeTerms,
  state: Extract<ExchangeState, { kind: 'selecting' | 'requesting' }>,
  message: Message,
): ExchangeStep {
  if (state.kind === 'selecting') {
    if (message.type !== 'offer') return { state, outputs: [] }
    const isProxy = message.yourAddress === 0
    const offer = state.offer ?? (isProxy ? undefined : message)
    const proxyOffer = state.proxyOffer ?? (isProxy ? message : undefined)
    const next = { ...state, offer, proxyOffer }
    if (offer === undefined) return { state: next, outputs: [] }
    if (terms.collectOffersMs === 0 || proxyOffer !== undefined) return request(terms, offer, proxyOffer, state.naks)
    const isFirst = state.offer === undefined
    return { state: next, outputs: isFirst ? [{ kind: 'setTimer', afterMs: terms.collectOffersMs }] : [] }
  }
  const server = message.options.get(option.serverIdentifier)
  if (server !== state.offer.options.get(option.serverIdentifier)) return { state, outputs: [] }
  if (message.type === 'ack' && message.yourAddress === state.offer.yourAddress) {
    return { state: { kind: 'bound', ack: message, proxyOffer: state.proxyOffer }, outputs: [{ kind: 'clearTimer' }] }
  }
  if (message.type !== 'nak') return { state, outputs: [] }
  if (state.naks < terms.naksMax) return discover(terms, 0, state.naks + 1)
  return { state: { kind: 'failed', reason: 'refused' }, outputs: [{ kind: 'clearTimer' }] }
}

function onSilence(
  terms: ExchangeTerms,
  state: Extract<ExchangeState, { kind: 'selecting' | 'requesting' }>,
): ExchangeStep {
  const { offer, proxyOffer, naks } = state
  if (state.kind === 'selecting' && offer !== undefined) return request(terms, offer, proxyOffer, naks)
  const isUsedUp = state.retries >= terms.retriesMax
  if (state.kind === 'selecting') {
    if (!isUsedUp) return discover(terms, state.retries + 1, naks)
    return { state: { kind: 'failed', reason: 'noOffer' }, outputs: [{ kind: 'clearTimer' }] }
  }
  if (isUsedUp) return { state: { kind: 'failed', reason: 'noAnswer' }, outputs: [{ kind: 'clearTimer' }] }
  const again = request(terms, state.offer, proxyOffer, naks)
  return { ...again, state: { ...state, retries: state.retries + 1 } }
}

function discover(terms: ExchangeTerms, retries: number, naks: number): ExchangeStep {
  return {
    state: { kind: 'selecting', retries, naks, offer: undefined, proxyOffer: undefined },
    outputs: [
      { kind: 'broadcast', message: terms.discover },
      { kind: 'setTimer', afterMs: terms.retryAfterMs },
    ],
  }
}

function request(terms: ExchangeTerms, offer: Message, proxyOffer: Message | undefined, naks: number): ExchangeStep {
  return {
    state: { kind: 'requesting', retries: 0, naks, offer, proxyOffer },
    outputs: [
      { kind: 'broadcast', message: requestFor(terms.discover, offer) },
      { kind: 'setTimer', afterMs: terms.retryAfterMs },
    ],
  }
}
