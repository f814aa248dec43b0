/**
 * Goal: machines boot from an image that lives on another server, and that server may go away and come back under them; who
 * answers in its place is not believed. Method: `slipway up` in a network of its own; nginx with certificates by openssl, and
 * nbdkit, killed and started again; QEMU's initiator as the machine, whose image tells by its bytes where they are from.
 */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { runCommand } from '../../lab/child.ts'
import { LabNetwork, lab } from '../../lab/namespace.ts'
import { startNginx } from '../../lab/peers/nginx.ts'
import { SlipwayServer } from '../../lab/slipway.ts'
import { MachineDisk } from './machine-disk.ts'
import { NbdServer } from './nbd-server.ts'

const withinMs = 30_000
/** More than the server waits for an image before it tells a medium error. */
const failsWithinMs = 40_000
const httpsPort = 9443
const mebibyte = 1024 * 1024
const sizeMebibytes = 64
const origin = `https://${lab.serverAddress}:${httpsPort}`

let folder = ''
let network: LabNetwork
const at = (name: string): string => join(folder, name)

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'slipway-remote-'))
  await mkdir(at('www'))
  await mkdir(at('impostor'))
  // Every byte of MiB n is n + 1; the impostor's are 100 more, and its file is as long and as old.
  const image = (first: number): Buffer => {
    return Buffer.concat(Array.from({ length: sizeMebibytes }, (_, n) => Buffer.alloc(mebibyte, n + first)))
  }
  await writeFile(at('www/disk.img'), image(1))
  await writeFile(at('impostor/disk.img'), image(101))
  await runCommand(['touch', '-d', '2026-01-01', at('www/disk.img'), at('impostor/disk.img')], { name: 'touch' })
  for (const name of ['ours', 'theirs']) await makeAuthority(name)
  await makeCertificate('server', 'ours', lab.serverAddress)
  await makeCertificate('impostor', 'theirs', lab.serverAddress)
  await makeCertificate('elsewhere', 'ours', '192.0.2.1')
  network = await LabNetwork.create()
})
afterAll(async () => {
  await network.close()
  await rm(folder, { recursive: true })
})

const openssl = (...words: string[]): Promise<string> => runCommand(['openssl', ...words], { name: 'openssl' })

async function makeAuthority(name: string): Promise<void> {
  const key = ['-newkey', 'rsa:2048', '-nodes', '-keyout', at(`${name}.key`)]
  // Both have the same name: a signature is what tells them apart.
  await openssl('req', '-x509', ...key, '-out', at(`${name}.crt`), '-subj', '/CN=images root', '-days', '30')
}

async function makeCertificate(name: string, by: string, address: string): Promise<void> {
  const key = ['-newkey', 'rsa:2048', '-nodes', '-keyout', at(`${name}.key`)]
  await openssl('req', '-new', ...key, '-out', at(`${name}.csr`), '-subj', `/CN=${name}`)
  await writeFile(at(`${name}.ext`), `subjectAltName=IP:${address}\n`)
  const signer = ['-CA', at(`${by}.crt`), '-CAkey', at(`${by}.key`), '-extfile', at(`${name}.ext`), '-days', '30']
  await openssl('x509', '-req', '-in', at(`${name}.csr`), '-out', at(`${name}.crt`), ...signer)
}

/** Returns what kills it. */
async function startHttps(certificate: string, www: string): Promise<() => Promise<void>> {
  const tls = { port: httpsPort, certificatePath: at(`${certificate}.crt`), keyPath: at(`${certificate}.key`) }
  const nginx = await startNginx(network, folder, at(www), tls)
  const kill = async (): Promise<void> => void (await nginx.stop('SIGKILL'))
  onTestFinished(kill)
  return kill
}

async function addImage(state: string, ...words: string[]): Promise<string> {
  const line = ['bin/slipway', 'image', 'add', ...words, '--state', at(state)]
  return await network.run(line, 'slipway image add')
}

async function startUp(state: string, image: string): Promise<SlipwayServer> {
  const parts = { network, imagePath: image, dhcp: 'own', admit: 'all', chap: 'one-way' } as const
  const server = await SlipwayServer.start({ ...parts, stateFolder: at(state) })
  onTestFinished(async () => void (await server.stop()))
  return server
}

/** A read of the image: MiB n, as it is there. */
const readOf = (mebibyteIndex: number): string => `read -P ${mebibyteIndex + 1} ${mebibyteIndex}M 64k`
const good = 'read 65536/65536'
const failed = 'read failed: Input/output error'

test('an image behind https is served: its server dies and comes back, and an impostor in between is not believed', async () => {
  const kill = await startHttps('server', 'www')
  const digest = (await runCommand(['sha256sum', at('www/disk.img')], { name: 'sha256sum' })).slice(0, 64)
  const authority = ['--ca', at('ours.crt')]
  const added = await addImage(
    'https',
    '--lazy',
    `${origin}/disk.img`,
    '--name',
    'board',
    '--sha256',
    digest,
    ...authority,
  )
  expect(added).toContain('Added board@1: 64 MiB')
  const shown = await network.run(['bin/slipway', 'image', 'show', 'board', '--state', at('https')], 'slipway')
  expect(shown).toMatch(/^vouched by +CN=images root \(SHA-256 [0-9a-f]{16}\.\.\.\)$/m)

  const server = await startUp('https', 'board')
  const disk = await MachineDisk.boot(network, '52:54:00:77:00:51')
  expect(await disk.say(readOf(5))).toBe(good)
  expect(await disk.say('write -P 0xee 6M 64k')).toBe('wrote 65536/65536')

  await kill()
  // Away for a moment: the machine waits, and knows nothing of it.
  const waiting = disk.say(readOf(20))
  expect(await server.waitFor('imageAway', withinMs)).toMatchObject({ image: 'board@1' })
  const killAgain = await startHttps('server', 'www')
  expect(await waiting).toBe(good)
  expect(await server.waitFor('imageBack', withinMs)).toMatchObject({ image: 'board@1' })

  // Somebody else at its address, with a certificate that is right but for its authority.
  await killAgain()
  const killImpostor = await startHttps('impostor', 'impostor')
  expect(await disk.say(readOf(40), failsWithinMs), 'longer than a machine can wait').toBe(failed)
  const [, away] = server.eventsOf('imageAway')
  expect(away?.reason).toMatch(/certificate of 192\.168\.77\.1:9443 does not come from the authority that was given/)
  expect(await disk.say(readOf(5)), 'what was fetched is here').toBe(good)
  expect(await disk.say('read -P 0xee 6M 64k'), 'what the machine wrote is its own').toBe(good)
  expect(await disk.say('write -P 0xdd 7M 64k'), 'it may write on').toBe('wrote 65536/65536')

  await killImpostor()
  await startHttps('server', 'www')
  // Its server is asked again when a machine asks, at most once a second.
  await sleep(1_000)
  expect(await disk.say(readOf(40)), 'the same session, the same disk').toBe(good)
  await server.waitFor('imageBack', withinMs, ({ awayMs }) => awayMs > 20_000)
  expect(await disk.say('read -P 0xdd 7M 64k')).toBe(good)
  await disk.close()
  // Nothing of the impostor was kept: the whole has the checksum.
  expect(server.eventsOf('imageTrouble')).toEqual([])
  await server.stop()
  const checked = await network.run(
    ['sh', '-c', '"$@" || [ $? = 3 ]', 'sh', 'bin/slipway', 'image', 'check', 'board', '--state', at('https')],
    'slipway image check',
  )
  expect(checked).toContain('board@1 is here, and is what it must be')
})

test('a server whose certificate is not right is refused with words that say what to do, and nothing is left', async () => {
  const refusal = async (...words: string[]): Promise<string> => {
    return await addImage('refused', ...words, '--name', 'board').then(
      (said) => `added: ${said}`,
      ({ message }: Error) => message,
    )
  }
  const kill = await startHttps('server', 'www')
  for (const lazy of [['--lazy'], []]) {
    const add = (...words: string[]): Promise<string> => refusal(...lazy, `${origin}/disk.img`, ...words)
    const unknown = await add()
    expect(unknown).toMatch(
      /cannot fetch https:\S+disk\.img: the certificate of \S+ does not come from an authority that/,
    )
    expect(unknown).toContain('name the certificate of its authority: --ca FILE')
    expect(await add('--ca', at('theirs.crt'))).toContain('does not come from the authority that was given for it')
    expect(await add('--ca', at('server.crt'))).toContain('is the certificate of a server, not of an authority')
    expect(await add('--ca', at('www/disk.img'))).toContain('holds no certificate')
    expect(await add('--ca', at('nothing.crt'))).toContain('is not there')
  }
  expect(await refusal('--lazy', 'http://192.168.77.1/disk.img', '--ca', at('ours.crt'))).toContain('--ca is for https')
  await kill()
  const killElsewhere = await startHttps('elsewhere', 'www')
  const other = await refusal('--lazy', `${origin}/disk.img`, '--ca', at('ours.crt'))
  expect(other).toContain('is not for 192.168.77.1')
  expect(await network.run(['sh', '-c', `ls ${at('refused/images')} | grep -v @lock || true`], 'ls')).toBe('')
  await killElsewhere()
  await startHttps('server', 'www')
  expect(await addImage('refused', `${origin}/disk.img`, '--ca', at('ours.crt'))).toContain(
    'Added disk@1: 64 MiB, 64 MiB on',
  )
})

test('an export on a unix socket is served: its server dies and comes back under the running disk', async () => {
  const image = at('www/disk.img')
  const nbd = new NbdServer(at('lab.sock'), 'nbdkit', ['-f', '-r', '-U', '{socket}', '-e', 'lab', 'file', image])
  await nbd.start()
  expect(await addImage('nbd', nbd.uri('lab'))).toContain('Added lab@1: 64 MiB, kept by its NBD server')
  // There is a folder of that name where it runs: what is no file is no image.
  const server = await startUp('nbd', 'lab')
  const disk = await MachineDisk.boot(network, '52:54:00:77:00:52')
  expect(await disk.say(readOf(5))).toBe(good)
  await nbd.kill()
  const waiting = disk.say(readOf(20))
  expect(await server.waitFor('imageAway', withinMs)).toMatchObject({ image: 'lab@1' })
  await nbd.start()
  expect(await waiting).toBe(good)

  await nbd.kill()
  expect(await disk.say(readOf(40), failsWithinMs)).toBe(failed)
  expect(await disk.say('write -P 0xdd 7M 64k'), 'what it writes needs no image').toBe('wrote 65536/65536')
  expect(await disk.say('read -P 0xdd 7M 64k')).toBe(good)
  await nbd.start()
  await server.waitFor('imageBack', withinMs, ({ awayMs }) => awayMs > 20_000)
  expect(await disk.say(readOf(40))).toBe(good)
  await disk.close()
})
