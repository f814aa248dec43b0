/**
 * Goal: what a person decides at the keyboard holds at once, also for a machine that is up. Method: `slipway up` in a network
 * of its own, a disk held open by QEMU's initiator with the secrets of a script, and `slipway release` as another process.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { LabNetwork } from '../../lab/namespace.ts'
import { SlipwayServer } from '../../lab/slipway.ts'
import { MachineDisk } from './machine-disk.ts'

const otherMac = '52:54:00:77:00:30'
const withinMs = 15_000
const read = 'read 0 4096'

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

test.each([
  ['release', 'released', '52:54:00:77:00:31'],
  ['refuse', 'refused', '52:54:00:77:00:32'],
  ['forget', 'released', '52:54:00:77:00:33'],
] as const)('slipway %s ends the sessions of a machine that is up, and no other machine notices', async (verdict, reason, mac) => {
  const machine = await MachineDisk.boot(network, mac)
  const other = await MachineDisk.boot(network, otherMac)
  expect(await machine.say(read)).toContain('4096/4096')
  const login = await server.waitFor('iscsiLogin', withinMs, (event) => event.mac === mac)

  await server.run(network, [verdict, mac])
  const ended = await server.waitFor('credentialsEnded', withinMs, (event) => event.mac === mac)
  expect(ended).toMatchObject({ mac, bootId: login.bootId, reason })
  await server.waitFor('sessionClosed', withinMs, ({ sessionId }) => sessionId === login.sessionId)

  await expect(machine.logInAgain(), 'the same secrets again').rejects.toThrow()
  await server.waitFor('iscsiLoginFailed', withinMs, ({ targetName }) => targetName === login.targetName)
  expect(await other.say(read)).toContain('4096/4096')
  const endedOf = new Set(
    server.eventsOf('credentialsEnded').map((event) => (event.reason === 'nextBoot' ? '' : event.mac)),
  )
  expect(endedOf).not.toContain(otherMac)
  if (verdict === 'refuse') return

  // It may boot again, with a script of its own.
  const again = await MachineDisk.boot(network, mac)
  expect(await again.say(read)).toContain('4096/4096')
})

test('a machine that is not known cannot be released, and is not made known by trying', async () => {
  const mac = '52:54:00:77:00:39'
  await expect(server.run(network, ['release', mac])).rejects.toThrow(/no machine 52:54:00:77:00:39 is known/)
  expect(await server.run(network, ['machines'])).not.toContain(mac)
})
