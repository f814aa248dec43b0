import { expect, test } from 'vitest'
import { crc32c } from './crc32c.ts'

// RFC 7143 appendix A.4 prints these as bytes on the wire, least significant first.
const examples: readonly (readonly [string, Uint8Array, number])[] = [
  ['32 bytes of zeroes', new Uint8Array(32), 0x8a9136aa],
  ['32 bytes of ones', new Uint8Array(32).fill(0xff), 0x62a8ab43],
  ['32 bytes counting up', Uint8Array.from({ length: 32 }, (_, i) => i), 0x46dd794e],
  ['32 bytes counting down', Uint8Array.from({ length: 32 }, (_, i) => 31 - i), 0x113fdb5c],
]

test.each(examples)('%s have the checksum that RFC 7143 gives', (_, bytes, expected) => {
  expect(crc32c(bytes)).toBe(expected)
})

test('a message may come in pieces', () => {
  const bytes = Uint8Array.from({ length: 1000 }, (_, i) => i)
  for (const cut of [0, 1, 7, 500, 999, 1000]) {
    expect(crc32c(bytes.subarray(cut), crc32c(bytes.subarray(0, cut)))).toBe(crc32c(bytes))
  }
})
