/**
 * The messages of the transmission phase (section "Transmission"). All numbers are big-endian.
 *
 *   request            0x25609513 4 | flags 2 | type 2 | cookie 8 | offset 8 | length 4 | data of a write
 *   simple reply       0x67446698 4 | error 4 | cookie 8 | data of a read that went well
 *   structured chunk   0x668e33ef 4 | flags 2 | type 2 | cookie 8 | length 4 | payload
 *     OFFSET_DATA        offset 8 | data                  OFFSET_HOLE   offset 8 | bytes 4
 *     BLOCK_STATUS       context 4 | (bytes 4 | state 4) for each extent
 *     ERROR              error 4 | text length 2 | text   ERROR_OFFSET  the same | offset 8
 *
 * Cookies are ours: they count up, and stay below 2^53.
 */
import { putU16, putU32, putU64, u16, u32, u64 } from '../wire/big-endian.ts'
import { readerOf, WireError } from '../wire/reader.ts'
import { magic } from './registry.ts'

export const requestBytes: number = 28
export const simpleReplyBytes: number = 16
export const chunkHeaderBytes: number = 20

export type Request = {
  readonly flags: number
  /** As in `command`. */
  readonly type: number
  readonly cookie: number
  readonly offset: number
  readonly bytes: number
}

/** Without the data of a write, which follows. */
export function encodeRequest({ flags, type, cookie, offset, bytes }: Request): Uint8Array {
  const frame = new Uint8Array(requestBytes)
  putU32(frame, 0, magic.request)
  putU16(frame, 4, flags)
  putU16(frame, 6, type)
  putU64(frame, 8, cookie)
  putU64(frame, 16, offset)
  putU32(frame, 24, bytes)
  return frame
}

/** The server's side. @throws {WireError} */
export function decodeRequest(frame: Uint8Array): Request {
  if (frame.byteLength < requestBytes) throw new WireError('truncated', frame.byteLength)
  if (u32(frame, 0) !== magic.request) throw new WireError('badValue', 0)
  return {
    flags: u16(frame, 4),
    type: u16(frame, 6),
    cookie: u64(frame, 8),
    offset: u64(frame, 16),
    bytes: u32(frame, 24),
  }
}

export type ReplyHeader =
  | { readonly kind: 'simple'; readonly error: number; readonly cookie: number }
  | {
      readonly kind: 'chunk'
      readonly flags: number
      readonly type: number
      readonly cookie: number
      readonly payloadBytes: number
    }

/** How long the header is that begins with these four bytes. @throws {WireError} badValue */
export function replyHeaderBytes(start: Uint8Array): number {
  const begins = u32(start, 0)
  if (begins === magic.simpleReply) return simpleReplyBytes
  if (begins === magic.structuredReply) return chunkHeaderBytes
  throw new WireError('badValue', 0)
}

/** A whole header of the length that `replyHeaderBytes` says. */
export function decodeReplyHeader(header: Uint8Array): ReplyHeader {
  if (u32(header, 0) === magic.simpleReply) return { kind: 'simple', error: u32(header, 4), cookie: u64(header, 8) }
  return {
    kind: 'chunk',
    flags: u16(header, 4),
    type: u16(header, 6),
    cookie: u64(header, 8),
    payloadBytes: u32(header, 16),
  }
}

export function encodeReplyHeader(reply: ReplyHeader): Uint8Array {
  const header = new Uint8Array(reply.kind === 'simple' ? simpleReplyBytes : chunkHeaderBytes)
  putU64(header, 8, reply.cookie)
  if (reply.kind === 'simple') {
    putU32(header, 0, magic.simpleReply)
    putU32(header, 4, reply.error)
    return header
  }
  putU32(header, 0, magic.structuredReply)
  putU16(header, 4, reply.flags)
  putU16(header, 6, reply.type)
  putU32(header, 16, reply.payloadBytes)
  return header
}

/** Payload of a hole. @throws {WireError} */
export function decodeHole(payload: Uint8Array): { readonly offset: number; readonly bytes: number } {
  if (payload.byteLength !== 12) throw new WireError('badLength', payload.byteLength)
  return { offset: u64(payload, 0), bytes: u32(payload, 8) }
}

/** Payload of an error of any kind: its number and its text. @throws {WireError} */
export function decodeError(payload: Uint8Array): { readonly error: number; readonly text: string } {
  const reader = readerOf(payload)
  const error = reader.u32()
  const text = new TextDecoder().decode(reader.bytes(reader.u16()))
  if (error === 0) throw new WireError('badValue', 0)
  return { error, text }
}

/** The first extent of a block status payload. @throws {WireError} */
export function decodeStatus(payload: Uint8Array): {
  readonly context: number
  readonly bytes: number
  readonly state: number
} {
  if (payload.byteLength < 12 || payload.byteLength % 8 !== 4) throw new WireError('badLength', payload.byteLength)
  const bytes = u32(payload, 4)
  if (bytes === 0) throw new WireError('badValue', 4)
  return { context: u32(payload, 0), bytes, state: u32(payload, 8) }
}
