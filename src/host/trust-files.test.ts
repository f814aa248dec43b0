import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { Secret } from '../base/secret.ts'
import { createTrustFiles } from './trust-files.ts'

let folder = ''
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'slipway-trust-'))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

test('a secret is readable by its owner only, whatever was left behind, and nothing else stays', async () => {
  const place = join(folder, 'trust')
  const files = createTrustFiles(place)
  expect(await files.read('ca.pem')).toBeUndefined()
  await files.write('ca.crt', 'public')
  writeFileSync(join(place, 'ca.pem.new'), 'left behind', { mode: 0o644 })
  await files.write('ca.pem', new Secret('private'))
  expect(await files.read('ca.pem')).toBe('private')
  expect(statSync(join(place, 'ca.pem')).mode & 0o777).toBe(0o600)
  expect(statSync(place).mode & 0o777).toBe(0o700)
  expect(readdirSync(place).sort()).toEqual(['ca.crt', 'ca.pem'])
})

test('a place where nothing can be kept is an error with advice', async () => {
  writeFileSync(join(folder, 'file'), '')
  await expect(createTrustFiles(join(folder, 'file', 'below')).read('ca.pem')).rejects.toBeInstanceOf(Error)
})
