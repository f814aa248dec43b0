/**
 * Goal: a machine that must prove which it is gets its secrets when it has proved it, and nobody else does; what was missing is
 * told on its screen, and what was tried is an event. Method: `slipway up` in a network of its own, the commands of a person,
 * and curl with the cipher lists of the loaders, with certificates, and with names and passwords as iPXE sends them.
 */
import { spawnSync } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { LabNetwork, lab } from '../../lab/namespace.ts'
import { SlipwayServer } from '../../lab/slipway.ts'
import { scriptLogin, settingsOf } from './script-login.ts'

const alpha = '52:54:00:77:00:41'
const beta = '52:54:00:77:00:42'
const signed = '52:54:00:77:00:43'
const plain = '52:54:00:77:00:44'
const strict = '52:54:00:77:00:45'
const withinMs = 15_000
const old = ['--tls-max', '1.2', '--ciphers', 'AES128-SHA256']
const modern = ['--tls-max', '1.2', '--ciphers', 'ECDHE-RSA-AES128-GCM-SHA256']

let folder: string
let network: LabNetwork
let server: SlipwayServer
const at = (name: string): string => join(folder, name)
const slipway = (words: readonly string[], input?: string): Promise<string> => server.run(network, words, input)

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'slipway-proofs-'))
  await writeFile(at('disk.img'), Buffer.alloc(1024 * 1024, 1))
  network = await LabNetwork.create()
  const require = (mac: string, proof: string): string => `[machine."${mac}"]\nrequire = "${proof}"\n`
  const demands = require(alpha, 'certificate') + require(beta, 'certificate') + require(signed, 'login')
  const config = `${demands}[machine."${strict}"]\ntransport = "strict"\n`
  server = await SlipwayServer.start({ network, imagePath: at('disk.img'), dhcp: 'own', admit: 'all', config })
  await server.waitFor('serviceReady', withinMs, ({ service }) => service === 'https')
  await slipway(['ca', 'export', at('ca.crt')])
  for (const [mac, name] of [
    [alpha, 'alpha'],
    [beta, 'beta'],
  ] as const) {
    await slipway(['certificate', 'issue', mac, '--out', at(name)])
  }
}, 60_000)

afterAll(async () => {
  await server.stop()
  await network.close()
  await rm(folder, { recursive: true })
})

type Got = { readonly status: number; readonly script: string }

async function ask(mac: string, where: string, options: readonly string[] = [], query = ''): Promise<Got> {
  const url = `${where.replace('://', `://${lab.serverAddress}`)}/boot/${mac}.ipxe${query}`
  const words = ['curl', '--silent', '--show-error', '--cacert', at('ca.crt'), '--write-out', '\n%{http_code}']
  const said = await network.run([...words, ...options, url], 'curl')
  const cut = said.lastIndexOf('\n')
  return { status: Number(said.slice(cut + 1)), script: said.slice(0, cut) }
}

const as = (machine: string): string[] => [
  '--cert',
  at(`${machine}/machine.crt`),
  '--key',
  at(`${machine}/machine.key`),
]
const holdsSecrets = /^set password \S{16}$/m
const eventsOf = (mac: string): string[] => server.events.filter((event) => event.mac === mac).map(({ kind }) => kind)

test('a machine whose transport is strict gets its script by TLS, and by HTTP the reason why not; others get theirs', async () => {
  const refused = await ask(strict, 'http://')
  expect(refused.script).toContain('gets its script by HTTPS only')
  expect(refused.script).not.toMatch(holdsSecrets)
  expect((await ask(strict, 'https://', old)).script).toMatch(holdsSecrets)
  expect((await ask(plain, 'http://')).script).toMatch(holdsSecrets)
})

test('a machine that must show a certificate gets nothing without, by whatever way it asks', async () => {
  expect((await ask(alpha, 'http://')).script).toContain('gets its script by HTTPS only')
  const { script } = await ask(alpha, 'https://', modern)
  expect(script).toContain(`chain --replace --autofree https://${lab.serverAddress}:8443/boot/52-54-00-77-00-41.ipxe`)
  expect((await ask(alpha, 'https://:8443', modern)).script).toContain('its iPXE has none')
  for (const port of ['', ':8443'])
    expect((await ask(alpha, `https://${port}`, modern)).script).not.toMatch(holdsSecrets)
  expect(await server.waitFor('refused', withinMs, ({ reason }) => reason === 'needsCertificate')).toMatchObject({
    mac: alpha,
  })
  expect(eventsOf(alpha)).not.toContain('credentialsMinted')
})

test.each([
  ['the cipher suites of 2019', old],
  ['those of today', modern],
])('with %s, a certificate opens the disk of its machine and of no other', async (_, ciphers) => {
  const { script } = await ask(alpha, 'https://:8443', [...ciphers, ...as('alpha')])
  expect(script).toMatch(holdsSecrets)
  const served = server.eventsOf('scriptServed').findLast(({ script: which }) => which === 'boot')
  const listed = JSON.parse(await slipway(['certificate', 'list', alpha, '--json'])) as { fingerprint: string }
  expect(served).toMatchObject({
    mac: alpha,
    encrypted: true,
    proof: { kind: 'certificate', fingerprint: listed.fingerprint },
  })

  const other = await ask(beta, 'https://:8443', [...ciphers, ...as('alpha')])
  expect(other.script).toContain('was made for another machine')
  expect(other.script).not.toMatch(holdsSecrets)
  await server.waitFor('certificateRefused', withinMs, ({ mac, reason }) => mac === beta && reason === 'ofAnother')
})

test('a certificate that somebody else made, and one that this site made for another purpose, prove nothing', async () => {
  const made = spawnSync('openssl', [
    ...['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-subj', `/O=Slipway/CN=${alpha}`, '-days', '9'],
    ...['-keyout', at('theirs.key'), '-out', at('theirs.crt'), '-addext', 'extendedKeyUsage=clientAuth'],
  ])
  expect(made.status).toBe(0)
  // The server's own certificate and key, as somebody who broke in might try them.
  const own = await readFile(join(server.stateDirectory, 'trust', 'server-rsa.pem'), 'utf8')
  await writeFile(at('own.pem'), own)
  for (const [certificate, key, detail] of [
    ['theirs.crt', 'theirs.key', 'DEPTH_ZERO_SELF_SIGNED_CERT'],
    ['own.pem', 'own.pem', 'INVALID_PURPOSE'],
  ] as const) {
    const { script } = await ask(alpha, 'https://:8443', ['--cert', at(certificate), '--key', at(key)])
    expect(script).toContain('is out of date, or not from here')
    expect(script).not.toMatch(holdsSecrets)
    await server.waitFor('certificateRefused', withinMs, (event) => event.reason === 'unfit' && event.detail === detail)
  }
})

test('revoked, a certificate opens nothing from then on, and the boot that began with it has ended', async () => {
  const { script } = await ask(beta, 'https://:8443', as('beta'))
  expect(await scriptLogin(network, settingsOf(script))).toContain('Peripheral')
  const { serial } = JSON.parse(await slipway(['certificate', 'list', beta, '--json'])) as { serial: string }
  expect(await slipway(['certificate', 'revoke', serial])).toBe(`${serial} of ${beta} is revoked.\n`)
  await expect(scriptLogin(network, settingsOf(script)), 'secrets that were handed out for it').rejects.toThrow()
  const again = await ask(beta, 'https://:8443', as('beta'))
  expect(again.script).toContain('was revoked')
  expect(again.script).not.toMatch(holdsSecrets)
  await server.waitFor('certificateRefused', withinMs, ({ mac, reason }) => mac === beta && reason === 'revoked')
  expect(await slipway(['certificate', 'list'])).toMatch(new RegExp(`${beta} .* revoked 2`))

  // Another one for the same machine is as good as the first was.
  await slipway(['certificate', 'issue', beta, '--out', at('beta-2')])
  expect((await ask(beta, 'https://:8443', as('beta-2'))).script).toMatch(holdsSecrets)
})

test('a person who signs in gets the machine its script, once the password was asked for', async () => {
  const password = 'p@ss: w/rd%41'
  expect(await slipway(['account', 'add', 'ann'], `${password}\n`)).toBe('ann is added.\n')
  expect((await ask(signed, 'http://')).script).toContain('gets its script by HTTPS only')
  const { script } = await ask(signed, 'https://', old)
  expect(script).toMatch(/^login \|\| goto stopped$/m)
  expect(script).not.toMatch(holdsSecrets)
  // iPXE puts what was typed into the address, and sends it when it is asked for it.
  expect((await ask(signed, 'https://', old, '?sign-in=1')).status).toBe(401)
  const user = ['--user', `ann:${password}`]
  const got = await ask(signed, 'https://', [...old, ...user], '?sign-in=1')
  expect(got.script).toMatch(holdsSecrets)
  expect(await server.waitFor('signedIn', withinMs)).toMatchObject({ mac: signed, account: 'ann' })
  const served = server.eventsOf('scriptServed').findLast(({ script: which }) => which === 'boot')
  expect(served).toMatchObject({ mac: signed, proof: { kind: 'login', account: 'ann' } })

  // By plain HTTP a password is not even looked at.
  const attempts = server.eventsOf('signInFailed').length + server.eventsOf('signedIn').length
  expect((await ask(signed, 'http://', user, '?sign-in=1')).script).toContain('HTTPS only')
  expect(server.eventsOf('signInFailed').length + server.eventsOf('signedIn').length).toBe(attempts)

  expect(await scriptLogin(network, settingsOf(got.script))).toContain('Peripheral')
  await slipway(['account', 'remove', 'ann'])
  await expect(scriptLogin(network, settingsOf(got.script)), 'a boot of an account that is gone').rejects.toThrow()
})

test('wrong passwords are slowed for who tries them, told, and slow nobody else', async () => {
  await slipway(['account', 'add', 'bob'], 'correct horse\n')
  await network.run(['ip', 'address', 'add', '192.168.77.2/24', 'dev', lab.interfaceName], 'ip')
  const from = (address: string, user: string): Promise<Got> =>
    ask(signed, 'https://', ['--interface', address, '--user', user], '?sign-in=1')
  for (let tries = 0; tries < 3; tries++) {
    expect((await from('192.168.77.2', 'bob:wrong horse')).script).toContain('the name or the password is not right')
  }
  const slowed = await server.waitFor('signInSlowed', withinMs)
  expect(slowed).toMatchObject({ by: 'address', address: '192.168.77.2', account: 'bob', failureCount: 3 })
  // On a busy machine the pause may be over: each wrong try makes the next one longer.
  const left = async (): Promise<number> =>
    Number(/in (\d+) seconds/.exec((await from('192.168.77.2', 'bob:wrong horse')).script)?.[1] ?? 0)
  await expect.poll(left, { timeout: 60_000, interval: 0 }).toBeGreaterThan(3)
  // Now not even the right one counts, and the machine's screen says for how long.
  expect((await from('192.168.77.2', 'bob:correct horse')).script).toMatch(
    /too many wrong tries.*\n(?:.*\n)*sleep \d+ /,
  )
  expect((await from('192.168.77.1', 'bob:correct horse')).script).toMatch(holdsSecrets)
  expect((await ask(plain, 'https://', ['--interface', '192.168.77.2'])).script).toMatch(holdsSecrets)
  // A name that does not exist is told to nobody: it may be a password.
  await from('192.168.77.1', 'hunter2hunter2:x')
  expect((await server.waitFor('signInFailed', withinMs, ({ account }) => account === undefined)).address).toBe(
    '192.168.77.1',
  )
  expect(JSON.stringify(server.events)).not.toMatch(/hunter2|correct horse|wrong horse|p@ss/)
})

test('when the authority is replaced, the certificates of machines stay good', async () => {
  expect(await slipway(['ca', 'rotate'])).toContain('Certificates of machines stay good')
  await slipway(['ca', 'export', at('ca.crt')])
  process.kill(server.processId, 'SIGHUP')
  const script = (): Promise<string> =>
    ask(alpha, 'https://:8443', as('alpha')).then(
      (got) => got.script,
      () => '',
    )
  await expect.poll(script, { timeout: withinMs }).toMatch(holdsSecrets)
})
