/**
 * Goal: what a person decides at the keyboard holds at once, also for a machine that is up. Method: `slipway up` in a network
 * of its own, a disk held open by QEMU's initiator with the secrets of a script, and `slipway release` as another process.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { LabNetwork, lab } from '../../lab/namespace.ts'
import { Screen } from '../../lab/screen.ts'
import { SlipwayServer } from '../../lab/slipway.ts'

const otherMac = '52:54:00:77:00:30'
const withinMs = 15_000

/** A machine that is up: `read` reads from its disk, and says how that went. */
type Running = { read(): Promise<string>; logInAgain(): Promise<Running> }

let folder: string
let network: LabNetwork
let server: SlipwayServer

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'slipway-release-'))
  const imagePath = join(folder, 'disk.img')
  await writeFile(imagePath, Buffer.alloc(1024 * 1024, 1))
  network = await LabNetwork.create()
  server = await SlipwayServer.start({ network, imagePath, dhcp: 'own', admit: 'all', chap: 'one-way' })
})

afterAll(async () => {
  await server.stop()
  await network.close()
  await rm(folder, { recursive: true })
})

async function start(address: string): Promise<Running> {
  const url = `http://${lab.serverAddress}/boot/${address}.ipxe`
  const script = await network.run(['curl', '--silent', '--fail', url], 'curl')
  const set = (name: string): string => new RegExp(`^set ${name} (\\S+)`, 'm').exec(script)?.[1] ?? ''
  const target = /^sanboot iscsi:\S*?(iqn\.\S+)/m.exec(script)?.[1] ?? ''
  return await logIn([
    `driver=iscsi,transport=tcp,portal=${lab.serverAddress}:3260,target=${target},lun=0`,
    `initiator-name=${set('initiator-iqn')},user=${set('username')},password-secret=chap`,
    ...['--object', `secret,id=chap,data=${set('password')}`],
  ])
}

async function logIn([target, who, ...object]: readonly string[]): Promise<Running> {
  const qemuIo = network.start(['qemu-io', ...object, '--image-opts', `${target},${who}`], { name: 'qemu-io' })
  onTestFinished(async () => void (await qemuIo.stop('SIGKILL')))
  const screen = new Screen()
  qemuIo.output.on('data', (chunk: Buffer) => screen.feed(chunk, 0))
  void qemuIo.exited.then(() => screen.close(qemuIo.errorText, 0))
  await screen.waitFor('qemu-io>', withinMs)
  const read = async (): Promise<string> => {
    qemuIo.write('read 0 4096\n')
    return (await screen.waitFor(/read 4096\/4096|read failed: [^\r\n]*/, withinMs)).match[0]
  }
  return { read, logInAgain: () => logIn([target ?? '', who ?? '', ...object]) }
}

test.each([
  ['release', 'released', '52:54:00:77:00:31'],
  ['refuse', 'refused', '52:54:00:77:00:32'],
  ['forget', 'released', '52:54:00:77:00:33'],
] as const)('slipway %s ends the sessions of a machine that is up, and no other machine notices', async (verdict, reason, mac) => {
  const machine = await start(mac)
  const other = await start(otherMac)
  expect(await machine.read()).toContain('4096/4096')
  const login = await server.waitFor('iscsiLogin', withinMs, (event) => event.mac === mac)

  await server.run(network, [verdict, mac])
  const ended = await server.waitFor('credentialsEnded', withinMs, (event) => event.mac === mac)
  expect(ended).toMatchObject({ mac, bootId: login.bootId, reason })
  await server.waitFor('sessionClosed', withinMs, ({ sessionId }) => sessionId === login.sessionId)

  await expect(machine.logInAgain(), 'the same secrets again').rejects.toThrow()
  await server.waitFor('iscsiLoginFailed', withinMs, ({ targetName }) => targetName === login.targetName)
  expect(await other.read()).toContain('4096/4096')
  const endedOf = new Set(
    server.eventsOf('credentialsEnded').map((event) => (event.reason === 'nextBoot' ? '' : event.mac)),
  )
  expect(endedOf).not.toContain(otherMac)
  if (verdict === 'refuse') return

  // It may boot again, with a script of its own.
  const again = await start(mac)
  expect(await again.read()).toContain('4096/4096')
})

test('a machine that is not known cannot be released, and is not made known by trying', async () => {
  const mac = '52:54:00:77:00:39'
  await expect(server.run(network, ['release', mac])).rejects.toThrow(/no machine 52:54:00:77:00:39 is known/)
  expect(await server.run(network, ['machines'])).not.toContain(mac)
})
