import fc from 'fast-check'
import { expect, test } from 'vitest'
import { unpackIpxe, unpackLzma } from './lzma.ts'

const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text)
const bytesOf = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex, 'hex'))
// Made by: xz 5.4.1 --format=raw --lzma1=lc=2,lp=0,pb=0
const packed = bytesOf('003494a85fbbd88545b6b9cc960ca6e4a22ffffadc6000')
const plain = utf8(`${'iPXE '.repeat(20)}done\n`)

test('a stream of xz, alone and in the middle of other bytes', () => {
  expect(unpackLzma(packed, 0, 1024)).toMatchObject({ bytes: plain, complete: true })
  const around = new Uint8Array(300).fill(0x5a)
  around.set(packed, 100)
  const found = unpackLzma(around, 100, 1024)
  expect(found).toMatchObject({ bytes: plain, complete: true })
  expect(Math.abs(found.consumedBytes - packed.byteLength)).toBeLessThanOrEqual(4)
})

test('unpackIpxe finds streams at words, one after the other, behind a prefix', () => {
  const image = new Uint8Array(400).fill(0x90)
  image.set(packed, 64)
  image.set(packed, 64 + 24)
  const found = unpackIpxe(image)
  expect(found && new TextDecoder().decode(found)).toBe(new TextDecoder().decode(plain).repeat(2))
  expect(unpackIpxe(new Uint8Array(400).fill(0x90))).toBeUndefined()
})

test('a stream that gives more than it may, or is cut short, is not complete', () => {
  expect(unpackLzma(packed, 0, 50).complete).toBe(false)
  expect(unpackLzma(packed, 0, 50).bytes.byteLength).toBeLessThanOrEqual(50 + 300)
  expect(unpackLzma(packed.subarray(0, 12), 0, 1024).complete).toBe(false)
})

test('any bytes are unpacked in bounded time, to something or to nothing', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 5, maxLength: 2000 }), (bytes) => {
      bytes[0] = 0
      const { bytes: out } = unpackLzma(bytes, 0, 100_000)
      expect(out.byteLength).toBeLessThanOrEqual(100_000 + 300)
    }),
    { numRuns: 300 },
  )
})

test('zeroes, which are a stream at every word, cost no more than one good file', () => {
  const startMs = performance.now()
  unpackIpxe(new Uint8Array(2 * 1024 * 1024))
  expect(performance.now() - startMs).toBeLessThan(5_000)
})
