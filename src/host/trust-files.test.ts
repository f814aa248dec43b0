import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { Secret } from '../base/secret.ts'
import { openSiteAuthority } from '../trust/site.ts'
import { systemHash } from './hash.ts'
import { systemKeys } from './keys.ts'
import { systemRandom } from './random.ts'
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

test('who makes the authority at the same moment gets the same one, and the files hold it', async () => {
  const terms = { authorityName: 'Lab', nowMs: Date.now() }
  const ports = { keys: systemKeys, hash: systemHash, random: systemRandom }
  const place = join(folder, 'trust')
  const open = () => openSiteAuthority(terms, createTrustFiles(place), ports)
  const opened = await Promise.all([open(), open(), open()])
  expect(opened.filter(({ isNew }) => isNew)).toHaveLength(1)
  const serials = new Set([...opened, await open()].map(({ authority }) => authority.certificate.serial))
  expect(serials.size).toBe(1)
})
