/**
 * The client's handshake as a state machine without I/O: whole messages come in, what to send goes out.
 *
 *   greeting -> structured -> context -> go -> ready
 *       |           (refused) -----------^ |
 *       +-> exportName <-------------------+ (the server does not know NBD_OPT_GO, or is not of the fixed newstyle)
 *
 * Any state may end in `failed`, with the reason in words.
 */
import { unreachable } from '../base/assert.ts'
import { WireError } from '../wire/reader.ts'
import {
  decodeExportAnswer,
  decodeGreeting,
  decodeOptionReply,
  encodeClientFlags,
  encodeExportName,
  encodeGo,
  encodeSetMetaContext,
  exportAnswerBytes,
  exportPaddingBytes,
  greetingBytes,
  type OptionReply,
  optionReplyBytes,
  optionReplyHeaderBytes,
  structuredReplyOption,
} from './handshake.ts'
import {
  effectBytesMax,
  minimumBlockBytesMax,
  optionReplyBytesMax,
  payloadBytesMax,
  repliesPerOptionMax,
  sizesUnlessTold,
} from './limits.ts'
import { allocationContext, handshakeFlag, option, optionReply, transmissionFlag } from './registry.ts'

/** What client and server have agreed on. */
export type NbdTerms = {
  readonly sizeBytes: number
  readonly readOnly: boolean
  readonly canFlush: boolean
  readonly canWriteZeroes: boolean
  /** Offsets and lengths are multiples of it. */
  readonly minimumBlockBytes: number
  readonly preferredBlockBytes: number
  /** Data of one read or write. */
  readonly transferBytesMax: number
  /** One range of zeroes, or one question about an extent. */
  readonly effectBytesMax: number
  readonly structuredReplies: boolean
  /** The number of `base:allocation`; undefined: the server does not tell what is allocated. */
  readonly allocationContext: number | undefined
}

type Agreed = {
  readonly structured: boolean
  readonly context: number | undefined
  /** The answer to NBD_OPT_EXPORT_NAME has no padding behind it. */
  readonly noZeroes: boolean
}
type Sizes = typeof sizesUnlessTold
type Export = { readonly sizeBytes: bigint; readonly flags: number }

export type Negotiation =
  | { readonly kind: 'greeting' }
  | { readonly kind: 'structured'; readonly agreed: Agreed }
  | { readonly kind: 'context'; readonly agreed: Agreed; readonly replies: number }
  | {
      readonly kind: 'go'
      readonly agreed: Agreed
      readonly export: Export | undefined
      readonly sizes: Sizes
      readonly replies: number
    }
  | { readonly kind: 'exportName'; readonly agreed: Agreed }
  | { readonly kind: 'ready'; readonly terms: NbdTerms }
  | { readonly kind: 'failed'; readonly reason: string }

export type NegotiationStep = { readonly state: Negotiation; readonly send: readonly Uint8Array[] }

export const negotiationStart: Negotiation = { kind: 'greeting' }

/** How long the next message is, as far as `buffered` tells: more bytes than that are another message's. @throws {WireError} */
export function messageBytes(state: Negotiation, buffered: Uint8Array): number {
  switch (state.kind) {
    case 'greeting':
      return greetingBytes
    case 'exportName':
      return exportAnswerBytes + (state.agreed.noZeroes ? 0 : exportPaddingBytes)
    default: {
      if (buffered.byteLength < optionReplyHeaderBytes) return optionReplyHeaderBytes
      const bytes = optionReplyBytes(buffered)
      if (bytes > optionReplyBytesMax) throw new WireError('badLength', 16)
      return bytes
    }
  }
}

/** `message` is as long as `messageBytes` said. Total: bytes that are wrong end in `failed`. */
export function negotiate(exportName: string, state: Negotiation, message: Uint8Array): NegotiationStep {
  try {
    switch (state.kind) {
      case 'greeting':
        return greeted(exportName, message)
      case 'exportName':
        return ready(state.agreed, decodeExportAnswer(message), sizesUnlessTold)
      case 'structured':
      case 'context':
      case 'go':
        return replied(exportName, state, decodeOptionReply(message))
      case 'ready':
      case 'failed':
        return { state, send: [] }
      default:
        return unreachable(state)
    }
  } catch (error) {
    if (!(error instanceof WireError)) throw error
    return failed(`it does not speak NBD (${error.message})`)
  }
}

function greeted(exportName: string, message: Uint8Array): NegotiationStep {
  const greeting = decodeGreeting(message)
  if (greeting.kind === 'oldstyle') return failed('it speaks the oldstyle protocol, which has no exports with names')
  const { flags } = greeting
  const clientFlags = encodeClientFlags(flags)
  const agreed: Agreed = { structured: false, context: undefined, noZeroes: (flags & handshakeFlag.noZeroes) !== 0 }
  if ((flags & handshakeFlag.fixedNewstyle) === 0) {
    // Such a server ends the connection at any other option.
    return { state: { kind: 'exportName', agreed }, send: [clientFlags, encodeExportName(exportName)] }
  }
  return { state: { kind: 'structured', agreed }, send: [clientFlags, structuredReplyOption] }
}

function replied(
  exportName: string,
  state: Extract<Negotiation, { kind: 'structured' | 'context' | 'go' }>,
  reply: OptionReply,
): NegotiationStep {
  const asked = { structured: option.structuredReply, context: option.setMetaContext, go: option.go }[state.kind]
  if (reply.option !== asked) return failed(`it answers option ${reply.option}, which was not asked`)
  if (reply.kind === 'error' && reply.code === optionReply.tlsRequired) {
    return failed('it demands TLS, which Slipway does not speak to NBD servers')
  }
  switch (state.kind) {
    case 'structured': {
      if (reply.kind === 'ack') {
        const agreed: Agreed = { ...state.agreed, structured: true }
        return { state: { kind: 'context', agreed, replies: 0 }, send: [encodeSetMetaContext(exportName)] }
      }
      if (reply.kind === 'error') return go(exportName, state.agreed)
      return failed('it answers NBD_OPT_STRUCTURED_REPLY with something else')
    }
    case 'context': {
      if (reply.kind === 'ack') return go(exportName, state.agreed)
      if (reply.kind === 'error') return go(exportName, { ...state.agreed, context: undefined })
      const isOurs = reply.kind === 'context' && reply.name === allocationContext
      const agreed: Agreed = isOurs ? { ...state.agreed, context: reply.id } : state.agreed
      return counted({ ...state, agreed, replies: state.replies + 1 })
    }
    case 'go':
      return wentOn(exportName, state, reply)
    default:
      return unreachable(state)
  }
}

function wentOn(exportName: string, state: Extract<Negotiation, { kind: 'go' }>, reply: OptionReply): NegotiationStep {
  switch (reply.kind) {
    case 'ack':
      if (state.export === undefined) return failed('it says yes without saying how large the export is')
      return ready(state.agreed, state.export, state.sizes)
    case 'export':
      return counted({ ...state, export: reply, replies: state.replies + 1 })
    case 'blockSize': {
      const { minimum, preferred, payloadMax } = reply
      const isPower = minimum > 0 && (minimum & (minimum - 1)) === 0
      if (!isPower || minimum > minimumBlockBytesMax || payloadMax < minimum) {
        return failed(`its block sizes make no sense (${minimum}, ${preferred}, ${payloadMax})`)
      }
      const largest = Math.min(payloadMax, payloadBytesMax)
      const sizes: Sizes = {
        minimumBlockBytes: minimum,
        preferredBlockBytes: preferred,
        transferBytesMax: largest - (largest % minimum),
      }
      return counted({ ...state, sizes, replies: state.replies + 1 })
    }
    case 'error':
      if (reply.code === optionReply.unsupported) {
        return { state: { kind: 'exportName', agreed: state.agreed }, send: [encodeExportName(exportName)] }
      }
      return failed(refusal(exportName, reply.code, reply.text))
    default:
      return counted({ ...state, replies: state.replies + 1 })
  }
}

function refusal(exportName: string, code: number, text: string): string {
  const said = text === '' ? '' : `: ${printable(text)}`
  switch (code) {
    case optionReply.unknown:
      return `it has no export ${JSON.stringify(exportName)}${said}`
    case optionReply.policy:
      return `it does not let us have the export${said}`
    case optionReply.shutdown:
      return 'it is shutting down'
    case optionReply.extendedHeadersRequired:
      return 'it demands extended headers, which Slipway does not speak'
    default:
      return `it refuses the export (0x${code.toString(16)})${said}`
  }
}

/** Words of a stranger on their way to a terminal or a log. */
export function printable(text: string): string {
  return text.replaceAll(/[^\x20-\x7e]/g, '?').slice(0, 200)
}

function go(exportName: string, agreed: Agreed): NegotiationStep {
  const state: Negotiation = {
    kind: 'go',
    agreed,
    export: undefined,
    sizes: sizesUnlessTold,
    replies: 0,
  }
  return { state, send: [encodeGo(exportName)] }
}

function counted(state: Extract<Negotiation, { kind: 'context' | 'go' }>): NegotiationStep {
  if (state.replies > repliesPerOptionMax) return failed('it does not come to an end with its answers')
  return { state, send: [] }
}

function ready(agreed: Agreed, { sizeBytes, flags }: Export, sizes: Sizes): NegotiationStep {
  if (sizeBytes > BigInt(Number.MAX_SAFE_INTEGER)) return failed(`the export is too large (${sizeBytes} bytes)`)
  const has = (flag: number): boolean => (flags & flag) !== 0
  const terms: NbdTerms = {
    sizeBytes: Number(sizeBytes),
    readOnly: has(transmissionFlag.readOnly),
    canFlush: has(transmissionFlag.sendFlush),
    canWriteZeroes: has(transmissionFlag.sendWriteZeroes),
    ...sizes,
    effectBytesMax,
    structuredReplies: agreed.structured,
    allocationContext: agreed.context,
  }
  return { state: { kind: 'ready', terms }, send: [] }
}

function failed(reason: string): NegotiationStep {
  return { state: { kind: 'failed', reason }, send: [] }
}
