/**
 * Goal: the boot listener shows the right certificate at every moment, and says in words why somebody could not agree with
 * it. Method: the real service on loopback under a clock that the test moves; OpenSSL makes certificates of the user's own,
 * Node's TLS and captured hellos ask.
 */
import { spawn, spawnSync } from 'node:child_process'
import { X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { type AddressInfo, connect as connectPlain, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type ConnectionOptions, connect, type DetailedPeerCertificate, type TLSSocket } from 'node:tls'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { HttpsService } from '../../src/app/https.ts'
import type { CertificateTerms } from '../../src/app/server-certificates.ts'
import { systemClock } from '../../src/host/clock.ts'
import { systemHash } from '../../src/host/hash.ts'
import { systemKeys } from '../../src/host/keys.ts'
import { createLog } from '../../src/host/log.ts'
import { systemRandom } from '../../src/host/random.ts'
import { createTrustFiles } from '../../src/host/trust-files.ts'
import type { EventKind, Happening } from '../../src/journal/events.ts'
import type { Clock, Timer } from '../../src/ports/clock.ts'
import { openSiteTrust, rotateSiteAuthority } from '../../src/trust/site.ts'
import type { Compat } from '../../src/trust/suites.ts'
import { readVector } from '../vectors.ts'

const address = '127.0.0.1'
const dayMs = 86_400_000
const withinMs = 15_000
const ports = { keys: systemKeys, hash: systemHash, random: systemRandom }
const folder = mkdtempSync(join(tmpdir(), 'slipway-https-'))
afterAll(() => rmSync(folder, { recursive: true }))
const siteFolder = join(folder, 'site')

// Once: a key of RSA-3072 takes its time.
beforeAll(async () => {
  const terms = { authorityName: 'Site', names: { dns: [], ip: [address] }, nowMs: Date.now() }
  await openSiteTrust(terms, createTrustFiles(siteFolder), ports)
  makeOwnCertificates()
}, 60_000)

/** The real clock, which `move` makes jump. */
class MovedClock implements Clock {
  #aheadMs = 0
  readonly #timers = new Set<{ readonly atMs: number; readonly fire: () => void }>()

  nowMs(): number {
    return systemClock.nowMs() + this.#aheadMs
  }

  wallMs(): number {
    return Date.now() + this.#aheadMs
  }

  after(afterMs: number, fire: () => void): Timer {
    const timer = { atMs: this.nowMs() + afterMs, fire }
    this.#timers.add(timer)
    return { cancel: () => void this.#timers.delete(timer) }
  }

  move(byMs: number): void {
    this.#aheadMs += byMs
    for (const timer of [...this.#timers]) {
      if (timer.atMs <= this.nowMs() && this.#timers.delete(timer)) timer.fire()
    }
  }
}

type Served = {
  readonly service: HttpsService
  readonly clock: MovedClock
  readonly said: Happening[]
  happened<K extends EventKind>(kind: K): Promise<Extract<Happening, { kind: K }>>
}

type Changed = Partial<CertificateTerms> & {
  readonly compat?: readonly Compat[]
  readonly port?: number
  readonly proofPort?: number
}

async function serve({ compat, port = 0, proofPort = 0, ...changed }: Changed = {}): Promise<Served> {
  const trustDirectory = mkdtempSync(join(folder, 'trust-'))
  cpSync(siteFolder, trustDirectory, { recursive: true })
  const clock = new MovedClock()
  const said: Happening[] = []
  const service = new HttpsService({
    listen: { address, port },
    proofListen: { address, port: proofPort },
    certificates: { address, serverName: undefined, own: undefined, dnsServers: [], trustDirectory, ...changed },
    compat: compat ?? ['ipxe-2019', 'ovmf'],
    serve: () => ({ status: 200, body: { kind: 'text', text: 'yes' } }),
    say: (event) => {
      if (event !== undefined) said.push(event.happening)
    },
    clock,
    log: createLog('silent'),
  })
  onTestFinished(() => service.close())
  await service.start()
  const happened = async <K extends EventKind>(kind: K): Promise<Extract<Happening, { kind: K }>> => {
    const find = (): Happening | undefined => said.find((event) => event.kind === kind)
    await expect.poll(find, { timeout: withinMs }).toBeDefined()
    return find() as Extract<Happening, { kind: K }>
  }
  return { service, clock, said, happened }
}

function handshake(
  { service }: Served,
  options: ConnectionOptions & { readonly allowHalfOpen?: boolean } = {},
): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const port = service.local?.port
    if (port === undefined) throw new Error('HTTPS is not served')
    const socket = connect({ host: address, port, rejectUnauthorized: false, ...options }, () => resolve(socket))
    socket.on('error', reject)
    onTestFinished(() => void socket.destroy())
  })
}

async function shown(served: Served, options: ConnectionOptions = {}): Promise<DetailedPeerCertificate> {
  const socket = await handshake(served, options)
  const certificate = socket.getPeerCertificate(true)
  socket.destroy()
  return certificate
}

/** Says something on a plain connection, waits for the answer of at least so many bytes, and hangs up. */
async function sayAndHangUp({ service }: Served, bytes: Uint8Array, answerBytes: number): Promise<void> {
  const socket = connectPlain({ host: address, port: service.local?.port ?? 0 })
  socket.on('error', () => {})
  let count = 0
  await new Promise<void>((resolve) => {
    socket.on('data', (chunk) => {
      count += chunk.byteLength
      if (count >= answerBytes) resolve()
    })
    socket.on('close', () => resolve())
    socket.write(bytes)
  })
  socket.end()
}

const old = { maxVersion: 'TLSv1.2' } as const

test('RSA-3072 and P-256 stand side by side: each client gets the one that it can check', async () => {
  const served = await serve()
  const authority = readFileSync(join(siteFolder, 'ca.crt'))
  // An iPXE has the authority's fingerprint and nothing else: the authority itself must be in the chain.
  const { issuerCertificate } = await shown(served)
  expect(issuerCertificate.fingerprint256).toBe(new X509Certificate(authority).fingerprint256)
  const asIpxe = await handshake(served, { ...old, ciphers: 'AES128-SHA256:@SECLEVEL=0', ca: authority })
  expect(asIpxe.authorized).toBe(true)
  expect(asIpxe.getPeerCertificate()).toMatchObject({ bits: 3072, subjectaltname: 'IP Address:127.0.0.1' })
  const modern = await handshake(served, { ca: authority })
  expect([modern.authorized, modern.getProtocol()]).toEqual([true, 'TLSv1.3'])
  expect(modern.getPeerCertificate()).toMatchObject({ asn1Curve: 'prime256v1' })
  expect(await served.happened('tlsAgreed')).toMatchObject({ cipher: 'AES128-SHA256', compat: 'ipxe-2019' })
  const agreed = (): unknown => served.said.find((event) => event.kind === 'tlsAgreed' && event.protocol === 'TLSv1.3')
  await expect.poll(agreed, { timeout: withinMs }).toMatchObject({ compat: undefined })
})

test('while months go by, the running server makes and shows new certificates', async () => {
  const served = await serve()
  const before = await shown(served)
  served.clock.move(200 * dayMs)
  await served.service.look()
  expect((await shown(served)).serialNumber).toBe(before.serialNumber)

  served.clock.move(100 * dayMs)
  await expect.poll(async () => (await shown(served)).serialNumber, { timeout: withinMs }).not.toBe(before.serialNumber)
  const after = await shown(served)
  expect(Date.parse(after.valid_to) - Date.parse(before.valid_to)).toBeGreaterThan(290 * dayMs)
  expect((await shown(served, { ...old, ciphers: 'AES128-SHA256:@SECLEVEL=0' })).valid_to).toBe(after.valid_to)
  const ready = served.said.flatMap((event) => (event.kind === 'serviceReady' ? [event.service] : []))
  expect(ready, 'each once').toEqual(['https', 'https for proofs'])
  expect(served.said.filter(({ kind }) => kind === 'serviceFailed')).toEqual([])
})

test('`slipway ca rotate` reaches the running server, and who is connected stays so', async () => {
  const trustDirectory = join(folder, 'rotated')
  cpSync(siteFolder, trustDirectory, { recursive: true })
  const served = await serve({ trustDirectory })
  const before = await shown(served)
  const kept = await handshake(served)
  const terms = { authorityName: 'Other', nowMs: Date.now() }
  await rotateSiteAuthority(terms, createTrustFiles(trustDirectory), ports)
  // What SIGHUP asks for.
  await served.service.look()
  expect((await shown(served)).issuer.CN).not.toBe(before.issuer.CN)
  kept.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
  const [answer] = await once(kept, 'data')
  expect(String(answer)).toMatch(/^HTTP\/1\.1 200 /)
  await rotateSiteAuthority(terms, createTrustFiles(trustDirectory), ports)
  const second = (await shown(served)).issuer.CN
  served.clock.move(31_000)
  await expect.poll(async () => (await shown(served)).issuer.CN, { timeout: withinMs }).not.toBe(second)
})

test('a client that neither ends its request nor hangs up costs its connection, and nobody else notices', async () => {
  const served = await serve()
  const slow = await handshake(served, { allowHalfOpen: true })
  const told = once(slow, 'end')
  slow.resume().write('GET / HTTP/1.1\r\nHost: ')
  const tell = setInterval(() => served.clock.move(16_000), 50)
  await told.finally(() => clearInterval(tell))
  // Told and waited for in vain: the connection is ended without its consent.
  served.clock.move(130_000)
  const next = await handshake(served)
  next.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
  const [answer] = await once(next, 'data')
  expect(String(answer)).toMatch(/^HTTP\/1\.1 200 /)
})

test('an authority that has expired is told, with the way out, and nothing else stops', async () => {
  const trustDirectory = join(folder, 'expired')
  const terms = { authorityName: 'Old', nowMs: Date.UTC(2000, 0) }
  await rotateSiteAuthority(terms, createTrustFiles(trustDirectory), ports)
  const served = await serve({ trustDirectory })
  expect(served.service.host).toBeUndefined()
  expect(await served.happened('serviceFailed')).toMatchObject({
    service: 'https',
    reason: expect.stringMatching(/expired on 2019-12-/),
    hint: expect.stringMatching(/new one/),
  })
  // Put right while it runs.
  await rotateSiteAuthority({ ...terms, nowMs: Date.now() }, createTrustFiles(trustDirectory), ports)
  served.clock.move(31_000)
  await served.happened('serviceReady')
  expect(served.service.host).toBe(address)
})

/** Of an authority that a public root has cross-signed: leaf, intermediate, root as signed by the other root. */
const own = (name: string): { certificatePath: string; keyPath: string } => ({
  certificatePath: join(folder, `${name}.pem`),
  keyPath: join(folder, `${name}.key`),
})

function openssl(...words: string[]): void {
  const done = spawnSync('openssl', words, { encoding: 'utf8', cwd: folder })
  expect(done.status, `openssl ${words.join(' ')}: ${done.stderr}`).toBe(0)
}

function makeOwnCertificates(): void {
  const text = (name: string): string => readFileSync(join(folder, name), 'utf8')
  const authorities = ['pinned', 'public']
  for (const name of authorities) {
    const words = ['-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', `${name}.key`, '-out', `${name}.crt`]
    openssl('req', ...words, '-subj', `/CN=${name} root`, '-days', '3650')
  }
  const ca = 'basicConstraints=critical,CA:TRUE\n'
  const sign = (name: string, by: string, extensions: string, ...more: string[]): void => {
    writeFileSync(join(folder, 'extensions'), extensions)
    const words = ['-CA', `${by}.crt`, '-CAkey', `${by}.key`, '-extfile', 'extensions', '-out', `${name}.crt`, ...more]
    openssl('x509', '-req', '-in', `${name}.csr`, ...words)
  }
  const request = (name: string, key: readonly string[], subject: string): void =>
    openssl('req', '-new', '-nodes', ...key, '-keyout', `${name}.key`, '-out', `${name}.csr`, '-subj', subject)
  const rsa = ['-newkey', 'rsa:2048']
  const ec = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256']
  openssl('req', '-new', '-key', 'public.key', '-out', 'cross.csr', '-subj', '/CN=public root')
  sign('cross', 'pinned', ca, '-days', '365')
  request('middle', rsa, '/CN=middle')
  // Public authorities sign with SHA-384 too.
  sign('middle', 'public', ca, '-days', '365', '-sha384')
  const leaves = [
    ['first', rsa, 'DNS:localhost', '300'],
    ['second', rsa, 'DNS:*.lab,DNS:localhost', '301'],
    ['curved', ec, 'DNS:localhost,IP:127.0.0.1', '300'],
    ['elsewhere', rsa, 'DNS:nothing.invalid', '300'],
  ] as const
  for (const [name, key, names, days] of leaves) {
    request(name, key, `/CN=${name}`)
    sign(name, 'middle', `subjectAltName=${names}\n`, '-days', days)
    writeFileSync(
      join(folder, `${name}.pem`),
      ['.crt'].map((end) => text(name + end)).join('') + text('middle.crt') + text('cross.crt'),
    )
  }
}

test('a certificate of one’s own is shown with its cross-signed chain, by its name, and its renewal is taken up', async () => {
  const mine = own('mine')
  const use = (name: string): void => {
    cpSync(own(name).keyPath, mine.keyPath)
    cpSync(own(name).certificatePath, mine.certificatePath)
  }
  use('first')
  const served = await serve({ own: mine, serverName: 'localhost' })
  expect(served.service.host).toBe('localhost')
  // Who trusts either root follows the chain, as an iPXE does that has only the one pinned.
  for (const root of ['pinned', 'public']) {
    const asked = { ca: readFileSync(join(folder, `${root}.crt`)), servername: 'localhost' }
    expect((await handshake(served, asked)).authorized, root).toBe(true)
  }
  use('second')
  served.clock.move(31_000)
  await expect.poll(async () => (await shown(served)).subject.CN, { timeout: withinMs }).toBe('second')
  expect(served.said.filter(({ kind }) => kind === 'serviceFailed')).toEqual([])
})

test('by address where the certificate is for it', async () => {
  const served = await serve({ own: own('curved'), serverName: 'localhost' })
  expect(served.service.host).toBe(address)
})

test.each([
  [
    'a key that does not match',
    () => ({ ...own('first'), keyPath: own('second').keyPath }),
    /key is not that of CN=first/,
  ],
  [
    'a file that is not there',
    () => ({ ...own('first'), keyPath: '/nonexistent.key' }),
    /nonexistent\.key is not there/,
  ],
  [
    'a broken PEM',
    () => {
      const pem = readFileSync(own('first').certificatePath, 'utf8')
      writeFileSync(own('broken').certificatePath, pem.slice(0, 500))
      return { ...own('broken'), keyPath: own('first').keyPath }
    },
    /cut short/,
  ],
  [
    'a chain without its middle',
    () => {
      const [leaf = '', , root = ''] = readFileSync(own('first').certificatePath, 'utf8').split(/(?=-----BEGIN)/)
      writeFileSync(own('gap').certificatePath, leaf + root)
      return { ...own('gap'), keyPath: own('first').keyPath }
    },
    /has signed none of those before it/,
  ],
  ['a certificate for another name', () => own('elsewhere'), /is not for localhost/],
])('%s is told, and the former goes on; at the first start HTTPS waits for it to be put right', async (_, bad, reason) => {
  const mine = own('changing')
  cpSync(own('first').keyPath, mine.keyPath)
  cpSync(own('first').certificatePath, mine.certificatePath)
  const { certificatePath, keyPath } = bad()
  const served = await serve({ own: mine, serverName: 'localhost' })
  rmSync(mine.keyPath)
  if (keyPath !== '/nonexistent.key') cpSync(keyPath, mine.keyPath)
  cpSync(certificatePath, mine.certificatePath)
  await served.service.look()
  const expected = keyPath === '/nonexistent.key' ? /is not there/ : reason
  const told = await served.happened('serviceFailed')
  expect(told.reason).toMatch(expected)
  expect(told.reason).toMatch(/the former certificate is shown until then/)
  expect(told.hint).not.toBe('')
  expect(JSON.stringify(served.said)).not.toMatch(/MII|PRIVATE/)
  expect((await shown(served)).subject.CN).toBe('first')
  // Said once, not every half minute.
  await served.service.look()
  expect(served.said.filter(({ kind }) => kind === 'serviceFailed')).toHaveLength(1)

  const waiting = await serve({ own: { certificatePath, keyPath }, serverName: 'localhost' })
  expect(waiting.service.host).toBeUndefined()
  expect((await waiting.happened('serviceFailed')).reason).toMatch(reason)
})

test('a certificate that has run out is told, and shown until there is another; a loader that refuses it says why', async () => {
  const served = await serve({ own: own('first'), serverName: 'localhost' })
  served.clock.move(310 * dayMs)
  const told = await served.happened('serviceFailed')
  expect(told.reason).toMatch(/CN=first expired on \d{4}-\d\d-\d\d; the former/)
  await sayAndHangUp(served, readVector('trust', 'ipxe-2019-hello'), 200)
  expect((await served.happened('tlsFailed')).reason).toMatch(/our certificate expired on/)
})

test('a name that does not resolve is told, and no machine is sent to it', async () => {
  const served = await serve({ own: own('elsewhere'), serverName: 'nothing.invalid' })
  expect(served.service.host).toBeUndefined()
  expect(await served.happened('serviceFailed')).toMatchObject({
    reason: expect.stringMatching(/nothing\.invalid does not resolve/),
    hint: expect.stringMatching(/in DNS/),
  })
})

test.each(['https', 'https for proofs'])('%s whose port is taken is served as soon as it is free', async (name) => {
  const taken = createServer().listen(0, address)
  await once(taken, 'listening')
  const { port } = taken.address() as AddressInfo
  const served = await serve(name === 'https' ? { port } : { proofPort: port })
  const ready = (): boolean => served.said.some((event) => event.kind === 'serviceReady' && event.service === name)
  expect(await served.happened('serviceFailed')).toMatchObject({
    service: name,
    reason: expect.stringContaining(`${port}`),
  })
  await served.service.look()
  expect(ready()).toBe(false)
  // Said once, not every half minute.
  expect(served.said.filter(({ kind }) => kind === 'serviceFailed')).toHaveLength(1)
  taken.close()
  await once(taken, 'close')
  served.clock.move(30_000)
  await expect.poll(ready, { timeout: withinMs }).toBe(true)
  expect(served.service.host).toBe(address)
})

test('without the setting that it needs, an old loader is told of by name, and what it offered', async () => {
  const served = await serve({ compat: [] })
  await sayAndHangUp(served, readVector('trust', 'ipxe-2019-hello'), 7)
  expect(await served.happened('tlsFailed')).toMatchObject({
    reason: 'no cipher suite in common: the loader is old',
    hint: '[https] compat with "ipxe-2019" allows what it has.',
    offered: 'TLS 1.2 with AES128-SHA256, AES256-SHA256, AES128-SHA, AES256-SHA; for boot.lab',
  })
  await expect(handshake(served, { ...old, ciphers: 'DHE-RSA-AES128-GCM-SHA256' })).rejects.toThrow()
})

test('a loader that takes RSA only, where there is only an EC certificate', async () => {
  const served = await serve({ own: own('curved'), serverName: 'localhost' })
  await sayAndHangUp(served, readVector('trust', 'ipxe-2019-hello'), 7)
  expect((await served.happened('tlsFailed')).reason).toMatch(/takes RSA certificates only/)
})

test('an iPXE that does not trust us hangs up without a word, and is understood', async () => {
  const served = await serve()
  const hello = readVector('trust', 'ipxe-2019-hello').slice()
  new DataView(hello.buffer).setUint32(11, Date.now() / 1000, true)
  await sayAndHangUp(served, hello, 1000)
  expect((await served.happened('tlsFailed')).reason).toBe(
    'the loader hung up after it saw our certificate: it does not trust our CA',
  )
})

test('a machine whose clock is in 1970 is told from one that does not trust us', async () => {
  const served = await serve()
  const hello = readVector('trust', 'ipxe-2019-hello').slice()
  new DataView(hello.buffer).setUint32(11, 120, true)
  await sayAndHangUp(served, hello, 1000)
  const told = await served.happened('tlsFailed')
  expect(told.reason).toMatch(/^the loader's clock is wrong: it says 1970-01-01, and our certificate is good from/)
  // What worked before still works.
  expect((await handshake(served)).getProtocol()).toBe('TLSv1.3')
})

test.each([
  ['1970', 60, /refused our certificate: .*, or its clock is wrong$/],
  ['2100', 4_102_444_800, /found our certificate expired, which it is not: its clock is wrong$/],
] as const)('a client that trusts us and whose clock is in %s says so by alert', async (_, atSeconds, reason) => {
  const served = await serve()
  const words = [
    's_client',
    '-connect',
    `${address}:${served.service.local?.port}`,
    '-CAfile',
    join(siteFolder, 'ca.crt'),
  ]
  const client = spawn('openssl', [...words, '-tls1_2', '-verify_return_error', '-attime', String(atSeconds)], {
    stdio: 'ignore',
  })
  const [code] = await once(client, 'exit')
  expect(code).not.toBe(0)
  expect((await served.happened('tlsFailed')).reason).toMatch(reason)
})

test('who refuses us by alert, speaks no TLS or is only looking, each as it is', async () => {
  const served = await serve()
  await expect(handshake(served, { rejectUnauthorized: true })).rejects.toThrow()
  await sayAndHangUp(served, Buffer.from('GET / HTTP/1.0\r\n\r\n'), 10_000)
  await sayAndHangUp(served, Buffer.from('SSH-2.0-x\r\n'), 10_000)
  const reasons = (): string[] => served.said.flatMap((event) => (event.kind === 'tlsFailed' ? [event.reason] : []))
  await expect.poll(reasons, { timeout: withinMs }).toContain('plain HTTP on the HTTPS port')
  await expect.poll(reasons, { timeout: withinMs }).toContain('what it sent is no TLS')
  const count = reasons().length
  const looked = connectPlain({ host: address, port: served.service.local?.port ?? 0 }, () => looked.end())
  await new Promise((resolve) => looked.on('close', resolve))
  expect(reasons()).toHaveLength(count)
  // A hello in pieces is a hello.
  const hello = readVector('trust', 'ovmf-2022-hello')
  const socket = connectPlain({ host: address, port: served.service.local?.port ?? 0, noDelay: true })
  for (const at of [0, 3, 40]) {
    socket.write(hello.subarray(at, { 0: 3, 3: 40 }[at]))
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  const [answer] = await once(socket, 'data')
  expect(answer[0]).toBe(22)
  socket.destroy()
})
