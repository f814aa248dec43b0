/**
 * Big-endian integers at a byte offset of any buffer, for protocols whose fields are read here and there instead of in
 * one pass. The caller has checked the bounds: nothing is checked again.
 */

export function u16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) << 8) | (bytes[at + 1] as number)
}

export function u24(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) << 16) | ((bytes[at + 1] as number) << 8) | (bytes[at + 2] as number)
}

export function u32(bytes: Uint8Array, at: number): number {
  return (((bytes[at] as number) << 24) | u24(bytes, at + 1)) >>> 0
}

/**
 * 64 bits as a number: exact up to 2^53, beyond it rounded but never to less than 2^53, so that comparing it with any
 * real size gives the right answer.
 */
export function u64(bytes: Uint8Array, at: number): number {
  return u32(bytes, at) * 0x1_0000_0000 + u32(bytes, at + 4)
}

/** 64 bits that are a name, not a quantity: keys, identifiers. */
export function u64Exact(bytes: Uint8Array, at: number): bigint {
  return (BigInt(u32(bytes, at)) << 32n) | BigInt(u32(bytes, at + 4))
}

export function putU16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8
  bytes[at + 1] = value
}

export function putU24(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 16
  putU16(bytes, at + 1, value)
}

export function putU32(bytes: Uint8Array, at: number, value: number): void {
  putU16(bytes, at, value >>> 16)
  putU16(bytes, at + 2, value)
}

/** `value` is a whole number of at most 2^53. */
export function putU64(bytes: Uint8Array, at: number, value: number): void {
  putU32(bytes, at, Math.floor(value / 0x1_0000_0000))
  putU32(bytes, at + 4, value % 0x1_0000_0000)
}

export function putU64Exact(bytes: Uint8Array, at: number, value: bigint): void {
  putU32(bytes, at, Number((value >> 32n) & 0xffff_ffffn))
  putU32(bytes, at + 4, Number(value & 0xffff_ffffn))
}
