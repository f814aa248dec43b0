import { expect, test } from 'vitest'
import { Secret } from '../base/secret.ts'
import { scryptPasswords } from './password.ts'

const password = new Secret('correct horse')

test('a password is kept as something that it opens, and no other, with a salt of its own', async () => {
  const [kept, again] = [await scryptPasswords.hash(password), await scryptPasswords.hash(password)]
  expect(kept.reveal()).not.toBe(again.reveal())
  expect(kept.reveal()).not.toContain('horse')
  expect(await scryptPasswords.verify(password, kept)).toBe(true)
  expect(await scryptPasswords.verify(new Secret('correct horsf'), kept)).toBe(false)
})

// RFC 7914 §12, the second of its vectors, cut to 32 bytes.
test('it is scrypt as RFC 7914 has it', async () => {
  const hash = Buffer.from('fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162', 'hex').toString('base64')
  const kept = new Secret(`scrypt$1024$8$16$${Buffer.from('NaCl').toString('base64')}$${hash}`)
  expect(await scryptPasswords.verify(new Secret('password'), kept)).toBe(true)
})

test.each([
  '',
  'scrypt',
  'md5$x',
  'scrypt$99999999999$8$1$c2FsdA==$aGFzaA==',
  'scrypt$32768$8$1$c2FsdA==$aGFzaA==',
])('what was not made here opens to nobody: %j', async (kept) => {
  expect(await scryptPasswords.verify(password, new Secret(kept))).toBe(false)
})
