import { crc32c as compute } from '@node-rs/crc32'

/** CRC-32C (Castagnoli, RFC 3720 appendix B.4). `previous` is what an earlier piece of the same message gave. */
export function crc32c(bytes: Uint8Array, previous: number = 0): number {
  return compute(bytes, previous)
}
