import { expect, test } from 'vitest'
import { tagged, untagged } from '../../../lab/vlan-port.ts'

const addresses = '525400770010525400770001'
const bytes = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex, 'hex'))

test('a frame of the VLAN loses its tag and gets it again, and others do not pass', () => {
  const plain = bytes(`${addresses}0800abcd`)
  expect(Buffer.from(tagged(plain, 2)).toString('hex')).toBe(`${addresses}810000020800abcd`)
  expect(untagged(tagged(plain, 2), 2)).toEqual(plain)
  // With priority 5.
  expect(untagged(bytes(`${addresses}8100a0020800abcd`), 2)).toEqual(plain)
  expect(untagged(tagged(plain, 3), 2)).toBeUndefined()
  expect(untagged(plain, 2)).toBeUndefined()
  expect(untagged(bytes(addresses), 2)).toBeUndefined()
})
