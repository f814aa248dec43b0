import fc from 'fast-check'
import { expect, test } from 'vitest'
import { putU16, putU24, putU32, putU64, putU64Exact, u16, u24, u32, u64, u64Exact } from './big-endian.ts'

test('what is put is read back, and agrees with DataView', () => {
  fc.assert(
    fc.property(fc.nat({ max: 7 }), fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn }), (at, value) => {
      const bytes = new Uint8Array(16)
      const view = new DataView(bytes.buffer)
      putU64Exact(bytes, at, value)
      expect(view.getBigUint64(at)).toBe(value)
      expect(u64Exact(bytes, at)).toBe(value)
      const low = Number(value & 0xffff_ffffn)
      putU32(bytes, at, low)
      expect([u32(bytes, at), view.getUint32(at)]).toEqual([low, low])
      putU24(bytes, at, low & 0xffffff)
      expect(u24(bytes, at)).toBe(low & 0xffffff)
      putU16(bytes, at, low & 0xffff)
      expect([u16(bytes, at), view.getUint16(at)]).toEqual([low & 0xffff, low & 0xffff])
      const safe = Number(value >> 11n)
      putU64(bytes, at, safe)
      expect([u64(bytes, at), Number(view.getBigUint64(at))]).toEqual([safe, safe])
    }),
  )
})

test('a 64-bit value past 2^53 never reads as less than 2^53', () => {
  const bytes = new Uint8Array(8)
  putU64Exact(bytes, 0, 2n ** 53n + 1n)
  expect(u64(bytes, 0)).toBeGreaterThanOrEqual(2 ** 53)
  bytes.fill(0xff)
  expect(u64(bytes, 0)).toBe(2 ** 64)
})
