/** Goal: a site's authority and its loaders are kept from the command line. Method: run it as a person would; openssl judges. */
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { systemHash } from '../../src/host/hash.ts'
import { systemKeys } from '../../src/host/keys.ts'
import { systemRandom } from '../../src/host/random.ts'
import { createAuthority, exportCertificate } from '../../src/trust/authority.ts'
import { ipxePublicRoot } from '../../src/trust/loaders/identify.ts'
import { buildPe } from '../../src/trust/testing/pe-builder.ts'

const slipway = join(import.meta.dirname, '..', '..', 'bin', 'slipway')
const folder = mkdtempSync(join(tmpdir(), 'slipway-trust-cli-'))
afterAll(() => rmSync(folder, { recursive: true }))

type Said = { readonly code: number | null; readonly said: string; readonly complained: string }

function run(...words: string[]): Said {
  const done = spawnSync(slipway, words, { encoding: 'utf8', timeout: 60_000 })
  return { code: done.status, said: done.stdout, complained: done.stderr }
}

/** `slipway` on a state directory of its own. */
function site(name: string): (...words: string[]) => Said {
  return (...words) => run(...words, '--state', join(folder, name))
}

function openssl(...words: string[]): string {
  const done = spawnSync('openssl', words, { encoding: 'utf8', cwd: folder })
  expect(done.status, done.stderr).toBe(0)
  return done.stdout
}

/** An authority as somebody's own: `name`.crt and `name`.key. */
function makeAuthority(name: string, ...more: string[]): { certificate: string; key: string } {
  const words = ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', `${name}.key`, '-out', `${name}.crt`]
  openssl(...words, '-subj', `/CN=${name}`, ...more)
  return { certificate: join(folder, `${name}.crt`), key: join(folder, `${name}.key`) }
}

/** openssl makes none that has ended already. */
async function expiredAuthority(): Promise<{ certificate: string; key: string }> {
  const ports = { keys: systemKeys, hash: systemHash, random: systemRandom }
  const made = await createAuthority({ name: 'expired', nowMs: Date.UTC(2000, 0) }, ports)
  writeFileSync(join(folder, 'expired.crt'), exportCertificate(made.certificate))
  writeFileSync(join(folder, 'expired.key'), made.key.exportPem().reveal())
  return { certificate: join(folder, 'expired.crt'), key: join(folder, 'expired.key') }
}

function fingerprintOf(pem: string): string {
  const base64 = pem.replaceAll(/-----[^-]+-----|\s/g, '')
  return createHash('sha256').update(Buffer.from(base64, 'base64')).digest('hex')
}

/** UEFI 2.10 appendix A: the first three fields lie little-endian. */
function guidOf(bytes: Buffer): string {
  const [a, b, c] = [bytes.readUInt32LE(0), bytes.readUInt16LE(4), bytes.readUInt16LE(6)]
  const digits = (value: number, count: number): string => value.toString(16).padStart(count, '0')
  const rest = bytes.toString('hex', 8)
  return [digits(a, 8), digits(b, 4), digits(c, 4), rest.slice(0, 4), rest.slice(4)].join('-')
}

const ipxeWithHttps = join(folder, 'snp.efi')
writeFileSync(
  ipxeWithHttps,
  buildPe({
    sections: [
      ['.text', Buffer.from('c3f4c3', 'hex'), true],
      ['.data', Buffer.from('\0iPXE\0\x001.21.1\0\0HTTPS\0HTTP\0iSCSI\0VLAN\0TFTP\0#!ipxe\n', 'latin1')],
      ['.pins', ipxePublicRoot.fingerprint],
    ],
  }),
)

test.each([
  'ca',
  'ca show',
  'ca export',
  'ca import',
  'ca rotate',
  'loaders',
  'loaders list',
  'loaders show',
  'loaders add',
  'loaders remove',
  'loaders kit',
])('slipway %s --help exits 0', (words) => {
  const { code, said } = run(...words.split(' '), '--help')
  expect(code).toBe(0)
  expect(said).toContain(`Usage: slipway ${words}`)
})

test('an authority is made, shown, exported in three forms that openssl reads, and replaced; its key is its owner’s alone', () => {
  const home = site('made')
  expect(home('ca', 'show').said).toContain('There is none yet')
  const before = home('ca', 'export', join(folder, 'early.crt'))
  expect(before).toMatchObject({
    code: 1,
    complained: expect.stringMatching(/no certificate authority[^\n]*\n {2}The first/),
  })

  expect(home('ca', 'rotate').code).toBe(0)
  const pem = join(folder, 'site.crt')
  const der = join(folder, 'site.der')
  const list = join(folder, 'site.esl')
  expect(home('ca', 'export', pem).code).toBe(0)
  expect(home('ca', 'export', der, '--format', 'der').code).toBe(0)
  expect(home('ca', 'export', list, '--format', 'efi').code).toBe(0)
  expect(openssl('x509', '-in', pem, '-noout', '-ext', 'basicConstraints')).toContain('CA:TRUE')
  expect(openssl('x509', '-inform', 'der', '-in', der, '-noout', '-subject')).toContain('Slipway CA of')
  expect(readFileSync(list).subarray(44).equals(readFileSync(der))).toBe(true)
  // efitools, told the same owner, makes the same file.
  const theirs = join(folder, 'theirs.esl')
  const made = spawnSync('cert-to-efi-sig-list', ['-g', guidOf(readFileSync(list).subarray(28, 44)), pem, theirs])
  expect(made.status, String(made.stderr)).toBe(0)
  expect(readFileSync(list).equals(readFileSync(theirs))).toBe(true)
  const facts = JSON.parse(home('ca', 'show', '--json').said)
  expect(facts.fingerprint).toBe(`sha256:${fingerprintOf(readFileSync(pem, 'utf8'))}`)

  const key = join(folder, 'made', 'trust', 'ca.pem')
  for (const place of [key, join(folder, 'made')]) expect(statSync(place).mode & 0o077, place).toBe(0)
  expect(readFileSync(pem, 'utf8')).not.toContain('PRIVATE')

  home('ca', 'rotate')
  expect(JSON.parse(home('ca', 'show', '--json').said).fingerprint).not.toBe(facts.fingerprint)
  const former = `ca-${facts.serial.slice(-6)}.crt`
  expect(readdirSync(join(folder, 'made', 'trust'))).toContain(former)
})

test('an authority of one’s own is taken over; what is not in order is refused, and what was there stays', async () => {
  const home = site('imported')
  const own = makeAuthority('own')
  expect(home('ca', 'import', own.certificate, own.key)).toMatchObject({
    code: 0,
    said: expect.stringContaining('CN=own'),
  })

  const other = makeAuthority('other')
  const plain = makeAuthority('plain', '-addext', 'basicConstraints=critical,CA:FALSE')
  const expired = await expiredAuthority()
  const broken = join(folder, 'broken.crt')
  writeFileSync(broken, readFileSync(other.certificate, 'utf8').replace(/\n.{40}/, '\n'))
  const locked = join(folder, 'locked.key')
  openssl('pkey', '-in', other.key, '-out', locked, '-aes256', '-passout', 'pass:x')
  const refused: ReadonlyArray<readonly [words: readonly [string, string], complaint: RegExp]> = [
    [[own.certificate, other.key], /the private key is not that of CN=own\n {2}Give the two/],
    [[plain.certificate, plain.key], /CN=plain is not a certificate authority\n {2}Give/],
    [[expired.certificate, expired.key], /CN=expired [^\n]* expired on \d{4}-\d\d-\d\d\n {2}Have a new one/],
    [[broken, other.key], /\n {2}\S/],
    [[other.certificate, locked], /the private key is encrypted\n {2}Take its password off/],
    [[other.certificate, other.certificate], /no private key in that file\n {2}Give/],
    [['/nonexistent.crt', other.key], /\/nonexistent\.crt is not there\n {2}Check the path/],
  ]
  for (const [words, complaint] of refused) {
    const { code, complained } = home('ca', 'import', ...words)
    expect(complained).toMatch(complaint)
    expect(complained).not.toMatch(/MII|\n {4}at /)
    expect(code).toBe(1)
  }
  expect(home('ca', 'show').said).toContain('CN=own')
})

test('a loader is added, trusts us in the copy, goes before all others, and is removed', () => {
  const home = site('loaders')
  const original = readFileSync(ipxeWithHttps)
  const added = home('loaders', 'add', ipxeWithHttps, '--trust-us')
  expect(added.complained).toBe('')
  expect(added.said).toMatch(
    /snp\.efi is added: iPXE 1\.21\.1 for x86_64\.\nChanged in the copy, at byte \d+: it trusts this site/,
  )
  expect(readFileSync(ipxeWithHttps).equals(original), "the user's file").toBe(true)

  const ours = Buffer.from(JSON.parse(home('ca', 'show', '--json').said).fingerprint.slice('sha256:'.length), 'hex')
  const copy = readFileSync(join(folder, 'loaders', 'loaders', 'snp.efi'))
  expect(copy.includes(ours)).toBe(true)
  expect(copy.includes(Buffer.from(ipxePublicRoot.fingerprint))).toBe(false)

  const listed = home('loaders', 'list', '--json')
  const rows = listed.said
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  const goesTo = (name: string): unknown => rows.find((row) => row.name === name)?.gets
  expect(goesTo('snp.efi')).toEqual(['UEFI x86_64'])
  expect(goesTo('uboot-snp.efi')).toEqual(['U-Boot x86_64'])
  expect(goesTo('undionly.kpxe')).toEqual(['BIOS'])
  expect(goesTo('snponly.efi')).toEqual([])
  expect(home('loaders', 'show', 'snp.efi').said).toMatch(/trusts +this site\n/)
  expect(home('loaders', 'show', ipxeWithHttps).said).toMatch(/trusts +ipxe\.org\n/)

  expect(
    home('loaders', 'add', join(folder, 'loaders', 'loaders', 'snp.efi'), '--as', 'again.efi', '--trust-us').said,
  ).toContain('trusts this site already')
  expect(home('loaders', 'remove', 'snp.efi').code).toBe(0)
  expect(home('loaders', 'remove', 'snp.efi')).toMatchObject({
    code: 1,
    complained: expect.stringContaining('was not added'),
  })
})

test.each([
  [['add', '/etc/hostname', '--as', 'x.efi'], /\/etc\/hostname is no boot loader\n {2}Give an EFI program/],
  [['add', '/etc/hostname'], /hostname is no name that a loader can be asked for by\n {2}Firmware asks/],
  [['add', '/nonexistent.efi'], /is not there\n {2}Check the path/],
  [['add', '/usr/lib/ipxe/snponly.efi', '--trust-us'], /built without HTTPS[^\n]*\n {2}Take one that has HTTPS/],
  [['show', 'nothing.efi'], /there is no loader called nothing\.efi\n {2}Name one/],
] as const)('slipway loaders %j says why not, and what to do', (words, complaint) => {
  const { code, complained } = site('refusals')('loaders', ...words)
  expect(complained).toMatch(complaint)
  expect(complained).not.toMatch(/\n {4}at /)
  expect(code).toBe(1)
})

test('the kit has our certificate and a build script that runs, and does not write over one that is there', () => {
  const home = site('kit')
  const kit = join(folder, 'kit')
  expect(home('loaders', 'kit', kit).code).toBe(0)
  expect(openssl('x509', '-in', join(kit, 'ca.crt'), '-noout', '-subject')).toContain('Slipway CA of')
  expect(spawnSync(join(kit, 'build'), { encoding: 'utf8' })).toMatchObject({
    status: 2,
    stderr: expect.stringContaining('usage:'),
  })
  expect(home('loaders', 'kit', kit)).toMatchObject({ code: 1, complained: expect.stringContaining('exists already') })
})
