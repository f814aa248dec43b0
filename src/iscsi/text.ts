/**
 * Text of login and text PDUs: key=value pairs, each ended by a NUL. RFC 7143 §6.1.
 *
 *   text    = 1*( key "=" value NUL )
 *   key     = ALPHA 0*62( ALPHA / DIGIT / "." / "-" / "+" / "@" / "_" / "#" )
 *   value   = any UTF-8 without NUL; numbers in decimal or 0x hex; binary items as 0x hex or 0b base64
 */
import { WireError } from '../wire/reader.ts'
import { keyNameBytesMax, negotiationKeysMax } from './limits.ts'

export type KeyValue = readonly [key: string, value: string]

const decoder = new TextDecoder('utf-8', { fatal: true })
const encoder = new TextEncoder()
const keyPattern = /^[A-Za-z][A-Za-z0-9.+@_#-]*$/

/** @throws {WireError} badValue: no "=", no NUL at the end, a key twice, an impossible key, too many. */
export function decodeText(bytes: Uint8Array): KeyValue[] {
  const pairs: KeyValue[] = []
  const seen = new Set<string>()
  let at = 0
  while (at < bytes.byteLength) {
    const nul = bytes.indexOf(0, at)
    if (nul === -1) throw new WireError('badValue', at)
    // Stray NULs between pairs are padding of a sender that pads inside the segment.
    if (nul > at) {
      const pair = decodePair(bytes.subarray(at, nul), at)
      // §6.2: a key may be negotiated once; a second offer in one sequence is a protocol error.
      if (seen.has(pair[0]) || seen.size >= negotiationKeysMax) throw new WireError('badValue', at)
      seen.add(pair[0])
      pairs.push(pair)
    }
    at = nul + 1
  }
  return pairs
}

function decodePair(bytes: Uint8Array, offset: number): KeyValue {
  let text: string
  try {
    text = decoder.decode(bytes)
  } catch {
    throw new WireError('badValue', offset)
  }
  const equals = text.indexOf('=')
  if (equals <= 0 || equals > keyNameBytesMax) throw new WireError('badValue', offset)
  const key = text.slice(0, equals)
  if (!keyPattern.test(key)) throw new WireError('badValue', offset)
  return [key, text.slice(equals + 1)]
}

export function encodeText(pairs: readonly KeyValue[]): Uint8Array {
  return encoder.encode(pairs.map(([key, value]) => `${key}=${value}\0`).join(''))
}

/** Decimal or 0x hexadecimal, at most 32 bits: numeric values of §6.1. Undefined if it is neither. */
export function parseNumber(text: string): number | undefined {
  if (!/^(?:0[xX][0-9A-Fa-f]{1,8}|[0-9]{1,10})$/.test(text)) return undefined
  const value = Number(text)
  return value <= 0xffffffff ? value : undefined
}

/** 0x hex (an odd digit stands for a leading zero) or 0b base64. Undefined if it is neither, empty, or over `bytesMax`. */
export function parseBinary(text: string, bytesMax: number): Uint8Array | undefined {
  const kind = text.slice(0, 2).toLowerCase()
  const digits = text.slice(2)
  if (kind === '0x') {
    if (digits.length === 0 || digits.length > 2 * bytesMax || !/^[0-9A-Fa-f]+$/.test(digits)) return undefined
    const even = digits.length % 2 === 0 ? digits : `0${digits}`
    return Uint8Array.from({ length: even.length / 2 }, (_, i) => Number.parseInt(even.slice(2 * i, 2 * i + 2), 16))
  }
  if (kind === '0b') {
    if (digits.length === 0 || digits.length > Math.ceil(bytesMax / 3) * 4) return undefined
    if (digits.length % 4 !== 0 || !/^[A-Za-z0-9+/]+={0,2}$/.test(digits)) return undefined
    const binary = atob(digits)
    return binary.length > bytesMax ? undefined : Uint8Array.from(binary, (character) => character.charCodeAt(0))
  }
  return undefined
}

export function formatHexadecimal(bytes: Uint8Array): string {
  return `0x${Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')}`
}

export function formatBase64(bytes: Uint8Array): string {
  return `0b${btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''))}`
}

/** The first value of a key. */
export function textValue(pairs: readonly KeyValue[], key: string): string | undefined {
  return pairs.find(([name]) => name === key)?.[1]
}
