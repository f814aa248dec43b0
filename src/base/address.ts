/** IPv4 and MAC addresses as people write them. Numbers of an IPv4 address are unsigned, network order. */
import { assert } from './assert.ts'

/** '192.168.77.1' -> 0xc0a84d01. Undefined if it is not a dotted quad. */
export function parseIpv4(text: string): number | undefined {
  const match = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(text)
  if (match === null) return undefined
  let value = 0
  for (let i = 1; i <= 4; i++) {
    const octet = Number(match[i])
    if (octet > 255) return undefined
    value = value * 256 + octet
  }
  return value
}

export function formatIpv4(value: number): string {
  assert(Number.isInteger(value) && value >= 0 && value <= 0xffffffff, 'an IPv4 address is 32 unsigned bits')
  return `${value >>> 24}.${(value >>> 16) & 0xff}.${(value >>> 8) & 0xff}.${value & 0xff}`
}

/** A MAC address in the one form used as a key everywhere: lower case, colons. */
export type Mac = string

/** Takes 52:54:00:aa:bb:cc, 52-54-00-AA-BB-CC and 525400aabbcc. Undefined if it is none of them. */
export function parseMac(text: string): Mac | undefined {
  const digits = text.trim().toLowerCase()
  if (!/^([0-9a-f]{12}|[0-9a-f]{2}([:-])[0-9a-f]{2}(\2[0-9a-f]{2}){4})$/.test(digits)) return undefined
  return digits.replaceAll(/[:-]/g, '').replaceAll(/(..)(?=.)/g, '$1:')
}

export function formatMac(bytes: Uint8Array): Mac {
  return Array.from(bytes.subarray(0, 6), (byte) => byte.toString(16).padStart(2, '0')).join(':')
}
