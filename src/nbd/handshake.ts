/**
 * The messages of the handshake, fixed newstyle (section "Newstyle negotiation"). All numbers are big-endian.
 *
 *   server  'NBDMAGIC' 8 | 'IHAVEOPT' 8 | handshake flags 2
 *   client  client flags 4
 *   client  'IHAVEOPT' 8 | option 4 | data length 4 | data                             for each option
 *   server  0x3e889045565a9 8 | option 4 | reply type 4 | data length 4 | data         one or more for each option
 *   server  size 8 | transmission flags 2 | zeroes 124 unless agreed otherwise         instead, for NBD_OPT_EXPORT_NAME
 */
import { putU16, putU32, putU64Exact, u32, u64Exact } from '../wire/big-endian.ts'
import { type Reader, readerOf, WireError } from '../wire/reader.ts'
import { stringBytesMax } from './limits.ts'
import { allocationContext, handshakeFlag, info, magic, option, optionReply } from './registry.ts'

export const greetingBytes: number = 18
export const optionReplyHeaderBytes: number = 20
export const exportAnswerBytes: number = 10
/** Behind the answer to NBD_OPT_EXPORT_NAME, unless both sides agreed to leave them out. */
export const exportPaddingBytes: number = 124

const encoder = new TextEncoder()
const decoder = new TextDecoder()

export type Greeting = { readonly kind: 'newstyle'; readonly flags: number } | { readonly kind: 'oldstyle' }

/** @throws {WireError} badValue: it is no NBD server */
export function decodeGreeting(bytes: Uint8Array): Greeting {
  if (bytes.byteLength < greetingBytes) throw new WireError('truncated', bytes.byteLength)
  if (u64Exact(bytes, 0) !== magic.greeting) throw new WireError('badValue', 0)
  const second = u64Exact(bytes, 8)
  if (second === magic.oldstyle) return { kind: 'oldstyle' }
  if (second !== magic.options) throw new WireError('badValue', 8)
  return { kind: 'newstyle', flags: readerOf(bytes.subarray(16)).u16() }
}

export function encodeGreeting(flags: number): Uint8Array {
  const bytes = new Uint8Array(greetingBytes)
  putU64Exact(bytes, 0, magic.greeting)
  putU64Exact(bytes, 8, magic.options)
  putU16(bytes, 16, flags)
  return bytes
}

export function encodeClientFlags(serverFlags: number): Uint8Array {
  const bytes = new Uint8Array(4)
  putU32(bytes, 0, serverFlags & (handshakeFlag.fixedNewstyle | handshakeFlag.noZeroes))
  return bytes
}

export function encodeOption(code: number, data: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(16 + data.byteLength)
  putU64Exact(bytes, 0, magic.options)
  putU32(bytes, 8, code)
  putU32(bytes, 12, data.byteLength)
  bytes.set(data, 16)
  return bytes
}

export const structuredReplyOption: Uint8Array = encodeOption(option.structuredReply, new Uint8Array(0))

export function encodeExportName(name: string): Uint8Array {
  return encodeOption(option.exportName, encoder.encode(name))
}

/** Name length 4 | name | number of requests 2 | requests 2 each. */
export function encodeGo(name: string): Uint8Array {
  const encoded = encoder.encode(name)
  const data = new Uint8Array(4 + encoded.byteLength + 4)
  putU32(data, 0, encoded.byteLength)
  data.set(encoded, 4)
  putU16(data, 4 + encoded.byteLength, 1)
  putU16(data, 6 + encoded.byteLength, info.blockSize)
  return encodeOption(option.go, data)
}

/** Name length 4 | name | number of queries 4 | query length 4 | query. */
export function encodeSetMetaContext(name: string): Uint8Array {
  const encoded = encoder.encode(name)
  const query = encoder.encode(allocationContext)
  const data = new Uint8Array(4 + encoded.byteLength + 8 + query.byteLength)
  putU32(data, 0, encoded.byteLength)
  data.set(encoded, 4)
  putU32(data, 4 + encoded.byteLength, 1)
  putU32(data, 8 + encoded.byteLength, query.byteLength)
  data.set(query, 12 + encoded.byteLength)
  return encodeOption(option.setMetaContext, data)
}

export type OptionReply =
  | { readonly kind: 'ack'; readonly option: number }
  | { readonly kind: 'export'; readonly option: number; readonly sizeBytes: bigint; readonly flags: number }
  | {
      readonly kind: 'blockSize'
      readonly option: number
      readonly minimum: number
      readonly preferred: number
      readonly payloadMax: number
    }
  | { readonly kind: 'context'; readonly option: number; readonly id: number; readonly name: string }
  /** `code` as in `optionReply`; what the server says of it may be empty. */
  | { readonly kind: 'error'; readonly option: number; readonly code: number; readonly text: string }
  /** Of a kind that we do not know or did not ask for: to be ignored. */
  | { readonly kind: 'other'; readonly option: number }

/** How long the whole reply is whose header this is. @throws {WireError} badValue */
export function optionReplyBytes(header: Uint8Array): number {
  if (u64Exact(header, 0) !== magic.optionReply) throw new WireError('badValue', 0)
  return optionReplyHeaderBytes + u32(header, 16)
}

/** One whole reply. @throws {WireError} */
export function decodeOptionReply(bytes: Uint8Array): OptionReply {
  const reader = readerOf(bytes)
  reader.bytes(8)
  const about = reader.u32()
  const type = reader.u32()
  if (reader.u32() !== reader.remaining) throw new WireError('badLength', 16)
  if (type >= 0x8000_0000) {
    const text = decoder.decode(reader.rest().subarray(0, stringBytesMax))
    return { kind: 'error', option: about, code: type, text }
  }
  if (type === optionReply.ack) return { kind: 'ack', option: about }
  if (type === optionReply.info) return decodeInfo(reader, about)
  if (type === optionReply.metaContext) {
    return { kind: 'context', option: about, id: reader.u32(), name: decoder.decode(reader.rest()) }
  }
  return { kind: 'other', option: about }
}

function decodeInfo(reader: Reader, about: number): OptionReply {
  const kind = reader.u16()
  if (kind === info.export) {
    if (reader.remaining !== 10) throw new WireError('badLength', 16)
    return { kind: 'export', option: about, sizeBytes: u64Exact(reader.bytes(8), 0), flags: reader.u16() }
  }
  if (kind !== info.blockSize) return { kind: 'other', option: about }
  if (reader.remaining !== 12) throw new WireError('badLength', 16)
  return {
    kind: 'blockSize',
    option: about,
    minimum: reader.u32(),
    preferred: reader.u32(),
    payloadMax: reader.u32(),
  }
}

/** The server's side: what a reply of each kind looks like. `other` cannot be written. */
export function encodeOptionReply(reply: Exclude<OptionReply, { kind: 'other' }>): Uint8Array {
  const { type, data } = replyBody(reply)
  const bytes = new Uint8Array(optionReplyHeaderBytes + data.byteLength)
  putU64Exact(bytes, 0, magic.optionReply)
  putU32(bytes, 8, reply.option)
  putU32(bytes, 12, type)
  putU32(bytes, 16, data.byteLength)
  bytes.set(data, optionReplyHeaderBytes)
  return bytes
}

function replyBody(reply: Exclude<OptionReply, { kind: 'other' }>): { type: number; data: Uint8Array } {
  switch (reply.kind) {
    case 'ack':
      return { type: optionReply.ack, data: new Uint8Array(0) }
    case 'export': {
      const data = new Uint8Array(12)
      putU16(data, 0, info.export)
      putU64Exact(data, 2, reply.sizeBytes)
      putU16(data, 10, reply.flags)
      return { type: optionReply.info, data }
    }
    case 'blockSize': {
      const data = new Uint8Array(14)
      putU16(data, 0, info.blockSize)
      putU32(data, 2, reply.minimum)
      putU32(data, 6, reply.preferred)
      putU32(data, 10, reply.payloadMax)
      return { type: optionReply.info, data }
    }
    case 'context': {
      const name = encoder.encode(reply.name)
      const data = new Uint8Array(4 + name.byteLength)
      putU32(data, 0, reply.id)
      data.set(name, 4)
      return { type: optionReply.metaContext, data }
    }
    case 'error':
      return { type: reply.code, data: encoder.encode(reply.text) }
  }
}

/** The answer to NBD_OPT_EXPORT_NAME, without its padding. */
export function decodeExportAnswer(bytes: Uint8Array): { readonly sizeBytes: bigint; readonly flags: number } {
  const reader = readerOf(bytes)
  return { sizeBytes: u64Exact(reader.bytes(8), 0), flags: reader.u16() }
}
