/**
 * What a TLS client says first (RFC 8446 §4.1.2, RFC 5246 §7.4.1.2): read for people who want to know why a handshake
 * failed. The handshake itself is OpenSSL's. Bounded, and it never throws: a broken hello is an answer like any other.
 *
 *   record     22 | version 2 | length 2 | fragment            one handshake message may lie in several
 *   handshake  1 | length 3 | ClientHello
 *   hello      version 2 | random 32 | session id 1+ | suites 2+ | compression 1+ | extensions 2+
 */
import { u16, u24 } from '../wire/big-endian.ts'
import { readerOf, WireError } from '../wire/reader.ts'
import { clientHelloBytesMax, helloRecordsMax, serverNameBytesMax } from './limits.ts'

export interface ClientHello {
  /** The newest version that it can speak: 0x0303 is TLS 1.2. */
  readonly versionMax: number
  /** 32 bytes; an iPXE before 2.0 begins them with its clock. */
  readonly random: Uint8Array
  /** In its order, without signalling values and GREASE. */
  readonly suites: readonly number[]
  /** In its order: a client is known by it. */
  readonly extensions: readonly number[]
  readonly serverName: string | undefined
}

export type Opening =
  | { readonly kind: 'hello'; readonly hello: ClientHello }
  /** It may still become a hello. */
  | { readonly kind: 'more' }
  /** Plain HTTP: somebody left the s out of https. */
  | { readonly kind: 'http' }
  | { readonly kind: 'broken'; readonly why: string }

const more: Opening = { kind: 'more' }
const handshakeRecord = 22
const clientHelloMessage = 1
const recordHeaderBytes = 5
const messageHeaderBytes = 4
/** RFC 8446 §5.1; an empty fragment is not allowed for handshake messages. */
const fragmentBytesMax = 16_384
const extension = { serverName: 0, supportedVersions: 43 } as const
const httpMethod = /^(GET|HEAD|POST|PUT|OPTIONS) /

/** `bytes`: everything that the client has sent so far. */
export function readOpening(bytes: Uint8Array): Opening {
  if (bytes.byteLength === 0) return more
  if (bytes[0] !== handshakeRecord) {
    const text = String.fromCharCode(...bytes.subarray(0, 8))
    if (httpMethod.test(text)) return { kind: 'http' }
    const mayBecomeHttp = bytes.byteLength < 8 && /^[A-Z]+$/.test(text)
    return mayBecomeHttp ? more : { kind: 'broken', why: 'what it sent is no TLS' }
  }
  const message = joinFragments(bytes)
  if (message === undefined) {
    return bytes.byteLength > clientHelloBytesMax ? { kind: 'broken', why: 'its hello is too long' } : more
  }
  if (typeof message === 'string') return { kind: 'broken', why: message }
  try {
    return { kind: 'hello', hello: decode(message) }
  } catch (error) {
    if (!(error instanceof WireError)) throw error
    return { kind: 'broken', why: `its hello breaks off: ${error.message}` }
  }
}

/** The body of the first handshake message. Undefined: not all of it is there yet. A string: it cannot be one. */
function joinFragments(bytes: Uint8Array): Uint8Array | string | undefined {
  const start = new Uint8Array(messageHeaderBytes)
  const parts: Uint8Array[] = []
  let size = 0
  for (let at = 0; at + recordHeaderBytes <= bytes.byteLength; ) {
    const length = u16(bytes, at + 3)
    if (bytes[at] !== handshakeRecord || bytes[at + 1] !== 3) return 'its hello is broken by another record'
    if (length === 0 || length > fragmentBytesMax) return 'a record of it has an impossible length'
    // It is looked at again with every chunk: many small records would make that dear.
    if (parts.length === helloRecordsMax) return 'its hello is cut into too many records'
    at += recordHeaderBytes
    const fragment = bytes.subarray(at, at + length)
    if (size < messageHeaderBytes) start.set(fragment.subarray(0, messageHeaderBytes - size), size)
    parts.push(fragment)
    size += fragment.byteLength
    at += length
    if (size > 0 && start[0] !== clientHelloMessage) return 'it does not begin with a hello'
    if (size < messageHeaderBytes) continue
    const end = messageHeaderBytes + u24(start, 1)
    if (end > messageHeaderBytes + clientHelloBytesMax) return 'its hello is too long'
    if (size >= end) return join(parts, size).subarray(messageHeaderBytes, end)
  }
  return undefined
}

function join(parts: readonly Uint8Array[], size: number): Uint8Array {
  const whole = new Uint8Array(size)
  let at = 0
  for (const part of parts) {
    whole.set(part, at)
    at += part.byteLength
  }
  return whole
}

/** @throws {WireError} */
function decode(body: Uint8Array): ClientHello {
  const reader = readerOf(body)
  let versionMax = reader.u16()
  const random = reader.bytes(32)
  reader.bytes(reader.u8())
  const suites = numbers(reader.bytes(reader.u16())).filter((suite) => !isSignal(suite))
  reader.bytes(reader.u8())
  const extensions: number[] = []
  let serverName: string | undefined
  // RFC 5246 §7.4.1.2: a client without extensions leaves their length out as well.
  const all = readerOf(reader.remaining === 0 ? reader.rest() : reader.bytes(reader.u16()))
  while (all.remaining > 0) {
    const type = all.u16()
    const data = all.bytes(all.u16())
    if (!isGrease(type)) extensions.push(type)
    if (type === extension.serverName) serverName = hostNameOf(data)
    if (type === extension.supportedVersions) {
      const offered = readerOf(data)
      const versions = numbers(offered.bytes(offered.u8())).filter((version) => !isGrease(version))
      versionMax = Math.max(versionMax, ...versions)
    }
  }
  return { versionMax, random, suites, extensions, serverName }
}

/** RFC 6066 §3: a list, of which only one host name was ever used. */
function hostNameOf(data: Uint8Array): string | undefined {
  if (data.byteLength === 0) return undefined
  const reader = readerOf(data)
  const list = readerOf(reader.bytes(reader.u16()))
  if (list.remaining === 0 || list.u8() !== 0) return undefined
  const name = list.bytes(list.u16())
  return name.byteLength > serverNameBytesMax ? undefined : String.fromCharCode(...name)
}

function numbers(bytes: Uint8Array): number[] {
  const found: number[] = []
  for (let at = 0; at + 2 <= bytes.byteLength; at += 2) found.push(u16(bytes, at))
  return found
}

/** RFC 5746 §3.3 and RFC 7507 §3: suites that are none, but a word to the server. */
function isSignal(suite: number): boolean {
  return suite === 0x00ff || suite === 0x5600 || isGrease(suite)
}

/** RFC 8701 §2: values that are there to be ignored. */
function isGrease(value: number): boolean {
  return (value & 0x0f0f) === 0x0a0a && value >>> 8 === (value & 0xff)
}
