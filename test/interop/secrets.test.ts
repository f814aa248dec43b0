/**
 * Goal: the secrets of a boot are in its script, on the machine and in our state, and nowhere else. Method: the steps of a whole
 * boot by strangers' clients (udhcpc as a PXE ROM and as iPXE, TFTP, HTTP, iSCSI), and logins that are refused; everything that
 * went over the wire and everything that Slipway said is kept, and searched.
 */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import type { Child } from '../../lab/child.ts'
import { LabNetwork, lab } from '../../lab/namespace.ts'
import { SlipwayServer } from '../../lab/slipway.ts'
import { openFleetStore } from '../../src/host/fleet-store.ts'
import { scriptLogin, settingsOf } from './script-login.ts'

const mac = '52:54:00:77:00:51'
const withinMs = 30_000
/** The other end of a wire to the bridge: lab/namespace.ts. */
const machineEnd = 'slipway0-end'

async function capture(network: LabNetwork, path: string): Promise<Child> {
  const dumpcap = network.start(['dumpcap', '-q', '-i', 'any', '-w', path], { name: 'dumpcap' })
  await expect.poll(() => dumpcap.errorText, { timeout: withinMs }).toContain('File: ')
  return dumpcap
}

/** The boot file that a machine with these options is told. */
async function askDhcp(network: LabNetwork, folder: string, options: readonly string[]): Promise<string> {
  const script = join(folder, 'told.sh')
  await writeFile(script, '#!/bin/sh\n[ "$1" = bound ] && echo "told $boot_file"\nexit 0\n', { mode: 0o755 })
  const once = ['-f', '-q', '-n', '-B', '-t', '8', '-T', '2', '-s', script]
  const said = await network.run(['busybox', 'udhcpc', '-i', machineEnd, ...once, ...options], 'udhcpc')
  return /^told (.*)$/m.exec(said)?.[1] ?? ''
}

test('the secrets of a boot are in its script, and in no other packet, event, log line or error', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'slipway-secrets-'))
  onTestFinished(() => rm(folder, { recursive: true }))
  const [imagePath, logPath, wirePath] = [join(folder, 'disk.img'), join(folder, 'log'), join(folder, 'wire.pcapng')]
  await writeFile(imagePath, Buffer.alloc(1024 * 1024, 1))
  const network = await LabNetwork.create()
  onTestFinished(() => network.close())
  const server = await SlipwayServer.start({ network, imagePath, dhcp: 'own', admit: 'all', logPath })
  onTestFinished(async () => void (await server.stop()))
  const dumpcap = await capture(network, wirePath)
  onTestFinished(async () => void (await dumpcap.stop('SIGINT')))

  await network.run(['ip', 'link', 'set', machineEnd, 'address', mac], 'ip')
  const rom = ['-V', 'PXEClient:Arch:00000:UNDI:002001', '-x', '0x5d:0000']
  const loader = await askDhcp(network, folder, rom)
  expect(loader).toBe('undionly.kpxe')
  await network.run(['curl', '--silent', '--output', '/dev/null', `tftp://${lab.serverAddress}/${loader}`], 'curl')
  // Option 77, iPXE's bare word, and option 175 with iSCSI (11) and HTTP (13).
  const url = await askDhcp(network, folder, [...rom, '-x', '0x4d:69505845', '-x', '0xaf:110101130101'])
  expect(url).toMatch(/^http:\/\/192\.168\.77\.1\/boot\/52-54-00-77-00-51\.ipxe/)
  const script = await network.run(['curl', '--silent', '--fail', url.replaceAll(/\$\{[^}]*\}/g, '')], 'curl')
  expect(await scriptLogin(network, settingsOf(script))).toContain('Peripheral')

  // As somebody who knows the names, and tries: errors are where secrets like to slip out.
  const wrong = settingsOf(script.replace(/^set password .*/m, 'set password AAAAAAAAAAAAAAAA'))
  await expect(scriptLogin(network, wrong)).rejects.toThrow()
  await server.waitFor('iscsiLoginFailed', withinMs)
  const store = openFleetStore(join(server.stateDirectory, 'fleet.db'))
  const { active } = store.credentials(mac)
  store.close()
  if (active === undefined) throw new Error('a boot that has logged in has credentials')
  const commands = [['machines', '--json'], ['audit', '--json'], ['audit', mac], ['release', mac], ['machines']]
  const printed: string[] = []
  for (const command of commands) printed.push(await server.run(network, command))
  await expect(scriptLogin(network, settingsOf(script)), 'released').rejects.toThrow()
  await dumpcap.stop('SIGINT')

  const secrets = [active.initiator.secret.reveal(), active.target.secret.reveal()]
  const words = [...secrets, active.initiator.user, active.target.user]
  const said = [JSON.stringify(server.events), printed.join('\n'), await readFile(logPath, 'utf8')]
  for (const word of words) {
    expect(script).toContain(word)
    for (const text of said) expect(text).not.toContain(word)
  }
  const select = async (filter: string): Promise<Buffer> => {
    const path = join(folder, 'selected.pcapng')
    await network.run(['tshark', '-r', wirePath, '-Y', filter, '-w', path], 'tshark')
    return await readFile(path)
  }
  const [http, early, disk] = [await select('tcp.port == 80'), await select('udp'), await select('tcp.port == 3260')]
  for (const word of words) expect(http.includes(word, 0, 'latin1'), 'what was kept is all of it').toBe(true)
  for (const known of ['PXEClient', 'undionly.kpxe', 'boot/52-54-00-77-00-51']) {
    expect(early.includes(known, 0, 'latin1'), 'DHCP and TFTP are in what was kept').toBe(true)
  }
  for (const word of words) expect(early.includes(word, 0, 'latin1')).toBe(false)
  // CHAP_N, the name of the user, is said at the login; what proves it never is.
  expect(disk.includes(active.initiator.user, 0, 'latin1')).toBe(true)
  for (const secret of secrets) expect(disk.includes(secret, 0, 'latin1')).toBe(false)
})
