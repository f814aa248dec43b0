/**
 * iSCSI TransportIDs, SPC-4 §7.6.4.6:
 *
 *   0 format code (bits 7..6) | protocol 5h   2..3 additional length   4.. the name, NUL, filled to a multiple of 4
 *
 * Format 00b is an initiator's name; 01b is an initiator port: the name, ',i,0x' and the ISID.
 */
import { putU16, u16 } from '../../wire/big-endian.ts'

export interface TransportId {
  readonly kind: 'initiator' | 'initiatorPort'
  readonly name: string
  /** All of it. */
  readonly bytes: number
}

/** Undefined if there is no well-formed one at `at`. */
export function decodeTransportId(list: Uint8Array, at: number): TransportId | undefined {
  if (list.byteLength - at < 24) return undefined
  const first = list[at] as number
  const format = first >> 6
  if ((first & 0x0f) !== 0x05 || format > 1) return undefined
  const nameBytes = u16(list, at + 2)
  if (nameBytes % 4 !== 0 || nameBytes < 20 || at + 4 + nameBytes > list.byteLength) return undefined
  const field = list.subarray(at + 4, at + 4 + nameBytes)
  const end = field.indexOf(0)
  if (end <= 0) return undefined
  const name = String.fromCharCode(...field.subarray(0, end))
  const isPort = /^[^,]+,i,0x[0-9a-fA-F]{12}$/.test(name)
  if (isPort !== (format === 1) || (!isPort && name.includes(','))) return undefined
  // The ISID's digits are ours in lower case.
  const comma = name.lastIndexOf(',')
  const normal = isPort ? name.slice(0, comma) + name.slice(comma).toLowerCase() : name
  return { kind: isPort ? 'initiatorPort' : 'initiator', name: normal, bytes: 4 + nameBytes }
}

export function encodeTransportId(initiatorPort: string): Uint8Array {
  const nameBytes = Math.max(20, Math.ceil((initiatorPort.length + 1) / 4) * 4)
  const bytes = new Uint8Array(4 + nameBytes)
  bytes[0] = 0x40 | 0x05
  putU16(bytes, 2, nameBytes)
  for (let i = 0; i < initiatorPort.length; i++) bytes[4 + i] = initiatorPort.charCodeAt(i)
  return bytes
}
