/**
 * Goal: what is published, rolled back and removed while machines run counts from their next boot; who is running keeps what
 * it has. Method: `slipway up` in a network of its own, QEMU's initiator as the machines, the commands as a person runs them.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { LabNetwork } from '../../lab/namespace.ts'
import { SlipwayServer } from '../../lab/slipway.ts'
import { MachineDisk } from './machine-disk.ts'

const ephemeralMac = '52:54:00:77:00:61'
const persistentMac = '52:54:00:77:00:62'
const mebibyte = 1024 * 1024
const good = 'read 65536/65536'

test('a version that is published or rolled back is what the next boot gets; a running machine and its image stay', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'slipway-publish-'))
  onTestFinished(() => rm(folder, { recursive: true }))
  const network = await LabNetwork.create()
  onTestFinished(() => network.close())
  const stateFolder = join(folder, 'state')
  const image = (...words: string[]): Promise<string> => {
    return network.run(['bin/slipway', 'image', ...words, '--state', stateFolder], 'slipway image')
  }
  for (const version of [1, 2]) {
    const path = join(folder, `${version}.img`)
    await writeFile(path, Buffer.alloc(4 * mebibyte, version))
  }
  expect(await image('add', join(folder, '1.img'), '--name', 'farm')).toContain('Added farm@1')
  const config = `[machine."${ephemeralMac}"]\npolicy = "ephemeral"\n`
  const server = await SlipwayServer.start({
    ...{ network, imagePath: 'farm', dhcp: 'own', admit: 'all', chap: 'one-way', config, stateFolder },
  })
  onTestFinished(async () => void (await server.stop()))

  const first = await MachineDisk.boot(network, ephemeralMac)
  const kept = await MachineDisk.boot(network, persistentMac)
  for (const disk of [first, kept]) {
    expect(await disk.say('read -P 1 0 64k')).toBe(good)
    expect(await disk.say('write -P 9 2M 64k')).toBe('wrote 65536/65536')
  }
  expect(await image('add', join(folder, '2.img'), '--name', 'farm')).toContain(
    'Machines get it after: slipway image publish',
  )
  expect(await image('publish', 'farm@2')).toContain('farm@2 is published')
  expect(await image('remove', 'farm', '--prune'), 'both run on it').toContain('Nothing to remove')
  await expect(image('remove', 'farm@1')).rejects.toThrow(/farm@1 is needed by the clones of 52:54:00:77:00:6/)

  // Also when they log in again: it is the same boot.
  await first.close()
  const again = await first.logInAgain()
  for (const disk of [again, kept]) {
    expect(await disk.say('read -P 1 1M 64k')).toBe(good)
    expect(await disk.say('read -P 9 2M 64k')).toBe(good)
  }
  await again.close()
  await kept.close()

  const second = await MachineDisk.boot(network, ephemeralMac)
  expect(await second.say('read -P 2 0 64k'), 'what is published now').toBe(good)
  expect(await second.say('read -P 2 2M 64k'), 'what it wrote is gone').toBe(good)
  await second.close()
  const persistent = await MachineDisk.boot(network, persistentMac)
  expect(await persistent.say('read -P 1 0 64k'), 'pinned to its version').toBe(good)
  expect(await persistent.say('read -P 9 2M 64k')).toBe(good)
  await persistent.close()

  expect(await image('rollback', 'farm')).toContain('farm@1 is published again')
  const third = await MachineDisk.boot(network, ephemeralMac)
  expect(await third.say('read -P 1 0 64k')).toBe(good)
  await third.close()
  expect(server.eventsOf('cloneReady').map(({ mac, image: label, policy }) => [mac, label, policy])).toEqual(
    expect.arrayContaining([
      [ephemeralMac, 'farm@1', 'ephemeral'],
      [ephemeralMac, 'farm@2', 'ephemeral'],
      [persistentMac, 'farm@1', 'persistent'],
    ]),
  )
  // Nobody stands on it any more: the clone of that boot went with the next.
  await expect
    .poll(() => image('remove', 'farm', '--prune'), { timeout: 30_000, interval: 1_000 })
    .toContain('Removed farm@2')
})
