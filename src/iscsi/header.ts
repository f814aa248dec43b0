/**
 * What all PDUs of RFC 7143 §11 have in common: the basic header segment of 48 bytes. Byte 0 of every header is
 *
 *    |. I|   opcode  |      I: immediate delivery (requests only)
 *
 * and bytes 4..7 are TotalAHSLength (4-byte words) and DataSegmentLength (bytes, without padding). All is big-endian.
 * Initiator task tag, target transfer tag: 0xffffffff means none. `lun` is the 8 bytes of SAM-5 §4.7.
 */
import { WireError } from '../wire/reader.ts'

export const headerBytes = 48
export const digestBytes = 4
export const noTag = 0xffffffff

/** One header with its view, borrowed from whoever received it. */
export type Header = {
  readonly bytes: Uint8Array
  readonly view: DataView
  readonly at: number
  /** Additional header segments behind the 48 bytes; a multiple of 4. */
  readonly additionalBytes: number
  readonly dataBytes: number
}

/** Bits of byte 1 and 0. */
export const finalBit = 0x80

export const immediateBit = 0x40
export const moreBit = 0x40

/** Reads a header that stands alone, as captures and tests have it. */
export function headerOf(bytes: Uint8Array): Header {
  if (bytes.byteLength < headerBytes) throw new WireError('truncated', bytes.byteLength)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const additionalBytes = view.getUint8(4) * 4
  const dataBytes = view.getUint32(4) & 0xffffff
  if (headerBytes + additionalBytes + dataBytes > bytes.byteLength) throw new WireError('truncated', bytes.byteLength)
  return { bytes, view, at: 0, additionalBytes, dataBytes }
}

/** The data segment of a header that stands alone. */
export function dataOf({ bytes, at, additionalBytes, dataBytes }: Header): Uint8Array {
  const from = at + headerBytes + additionalBytes
  return bytes.subarray(from, from + dataBytes)
}

/** Next multiple of 4: how segments are padded. §11.1. */
export function paddedBytes(bytes: number): number {
  return (bytes + 3) & ~3
}

type LoginStages = {
  readonly transit: boolean
  readonly more: boolean
  readonly currentStage: number
  readonly nextStage: number
}

/** Byte 1 of a login request and of its response: T C 0 0 CSG(2) NSG(2). */
export function stageBits(login: LoginStages): number {
  const bits = (login.transit ? finalBit : 0) | (login.more ? moreBit : 0)
  return bits | (login.currentStage << 2) | (login.transit ? login.nextStage : 0)
}

export function setLun(view: DataView, at: number, lun: Uint8Array): void {
  for (let i = 0; i < 8; i++) view.setUint8(at + 8 + i, lun[i] ?? 0)
}

export function setIsid(view: DataView, at: number, isid: string): void {
  for (let i = 0; i < 6; i++) view.setUint8(at + 8 + i, Number.parseInt(isid.slice(2 * i, 2 * i + 2), 16))
}

export function hexadecimal(bytes: Uint8Array, from: number, count: number): string {
  let text = ''
  for (let i = from; i < from + count; i++) text += (bytes[i] ?? 0).toString(16).padStart(2, '0')
  return text
}

/** Not `slice`, which for Node's Buffer gives a view: headers are borrowed. */
export function copyOf(bytes: Uint8Array, from: number, to: number): Uint8Array {
  const copy = new Uint8Array(to - from)
  for (let i = from; i < to; i++) copy[i - from] = bytes[i] as number
  return copy
}

export function clear(view: DataView, at: number): void {
  for (let i = 0; i < headerBytes; i += 4) view.setUint32(at + i, 0)
}
