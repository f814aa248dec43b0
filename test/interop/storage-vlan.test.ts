/**
 * Goal: with a VLAN for iSCSI the disk is there and nowhere else. Method: `slipway up` in a network of its own that has a
 * second one; ss, curl and libiscsi look from inside.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { LabNetwork, lab } from '../../lab/namespace.ts'
import { SlipwayServer } from '../../lab/slipway.ts'
import { fetchScript, type ScriptSettings, scriptLogin } from './script-login.ts'

const withinMs = 15_000
const storageAddress = '10.77.2.1'
const config = '[network.storage]\nvlan = 2\nrange = "10.77.2.100-10.77.2.101"\n'

async function networkAndImage(): Promise<{ network: LabNetwork; imagePath: string; folder: string }> {
  const folder = await mkdtemp(join(tmpdir(), 'slipway-storage-'))
  onTestFinished(() => rm(folder, { recursive: true }))
  const imagePath = join(folder, 'disk.img')
  await writeFile(imagePath, Buffer.alloc(1024 * 1024, 1))
  const network = await LabNetwork.create()
  onTestFinished(() => network.close())
  return { network, imagePath, folder }
}

const addressIn = (script: ScriptSettings): string | undefined => /\}\/ip (\S+)/.exec(script.get('text') ?? '')?.[1]

test('the target listens on the VLAN alone, and each machine is sent there with an address of its own', async () => {
  const { network, imagePath } = await networkAndImage()
  await network.addStorage(storageAddress)
  const server = await SlipwayServer.start({ network, imagePath, dhcp: 'own', admit: 'all', config })
  onTestFinished(async () => void (await server.stop()))
  expect(await server.waitFor('serviceReady', withinMs, ({ service }) => service === 'iscsi')).toMatchObject({
    endpoint: `${storageAddress}:3260`,
  })
  const listening = await network.run(['ss', '-Hltn'], 'ss')
  expect(listening.match(/\S+:3260\b/g)).toEqual([`${storageAddress}:3260`])

  const here = { network }
  const scriptOf = (last: string): Promise<ScriptSettings> =>
    fetchScript(here, `http://${lab.serverAddress}/boot/52-54-00-77-00-${last}.ipxe`)
  const first = await scriptOf('21')
  expect(addressIn(first)).toBe('10.77.2.100')
  expect(first.get('portal')).toBe(storageAddress)
  expect(addressIn(await scriptOf('22'))).toBe('10.77.2.101')
  // Who comes when all are taken is told so; who had one keeps it.
  expect((await scriptOf('23')).get('text')).toContain('all addresses of the storage VLAN are taken')
  expect(await server.waitFor('refused', withinMs)).toMatchObject({ reason: 'noAddress' })
  const again = await scriptOf('21')
  expect(addressIn(again)).toBe('10.77.2.100')
  expect(await scriptLogin(here.network, again, storageAddress)).toContain('Peripheral')
  await expect(scriptLogin(here.network, again)).rejects.toThrow()
})

test('without that interface Slipway says how to make it, and doctor says the same', async () => {
  const { network, imagePath, folder } = await networkAndImage()
  const hint = 'ip link add link slipway0 name slipway0.2 type vlan id 2'
  await expect(SlipwayServer.start({ network, imagePath, dhcp: 'own', admit: 'all', config })).rejects.toThrow(
    /no interface slipway0\.2 with an IPv4 address, for VLAN 2\n {2}Make it: ip link add link slipway0/,
  )
  const path = join(folder, 'slipway.toml')
  await writeFile(path, config)
  const doctor = async (): Promise<string> => {
    const words = ['bin/slipway', 'doctor', '--json', '--config', path, '--interface', lab.interfaceName]
    const range = `${lab.firstLease}-${lab.lastLease}`
    const state = ['--state', join(folder, 'state'), '--dhcp', range]
    // It also finds things that are no concern of this test, and ends with 3 for them.
    const quiet = ['sh', '-c', '"$@" || [ $? = 3 ]', 'sh']
    return await network.run([...quiet, ...words, ...state], 'slipway doctor')
  }
  const finding = (said: string): Record<string, string> =>
    said
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
      .find(({ check }) => check === 'storage')
  expect(finding(await doctor())).toMatchObject({ level: 'error', doNext: expect.stringContaining(hint) })
  await network.addStorage(storageAddress)
  // Here nobody tags: the lab's kernel need not have VLANs.
  const untagged = 'slipway0.2 is not tagged by this computer, and machines send with tag 2'
  expect(finding(await doctor())).toMatchObject({ level: 'warning', what: untagged })
})
