/**
 * Goal: real iPXE and Slipway's target refuse each other when one of them lies, and both say what happened. Method: iPXE's own
 * prompt, at which scripts are started that are genuine but for one thing.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { machineSays } from '../../lab/golden-image.ts'
import type { Machine } from '../../lab/machine.ts'
import { lab } from '../../lab/namespace.ts'
import { bootWithinMs, type Rig, rig } from './rig.ts'

const promptWithinMs = 30_000
const scriptPort = 8080
const roguePort = 3261

test('a rogue target, a wrong secret and a replayed script are refused, and the machine boots all the same', async () => {
  const { network, powerOn, server, golden } = await rig({ dhcp: 'own', admit: 'all', chap: 'mutual' })
  const folder = await mkdtemp(join(tmpdir(), 'slipway-refusals-'))
  onTestFinished(() => rm(folder, { recursive: true, force: true }))
  const web = network.start(['busybox', 'httpd', '-f', '-p', `${lab.serverAddress}:${scriptPort}`, '-h', folder], {
    name: 'httpd',
  })
  web.discardOutput()
  onTestFinished(async () => {
    await web.stop()
  })

  const machine = await powerOn({ firmware: 'bios-ipxe-rom' })
  await atPrompt(machine)
  // By HTTP anybody on the wire can ask in its name: this is what such a thief holds in his hands.
  const url = `http://${lab.serverAddress}/boot/${machine.mac.replaceAll(':', '-')}.ipxe`
  const stolen = await network.run(['curl', '-sf', url], 'curl')
  await writeFile(join(folder, 'stolen.ipxe'), stolen)

  // Somebody else answers in the disk's place. He knows its name and takes whatever the machine proves, but not the reverse secret.
  await startRogue({ network, golden }, folder, stolen)
  await writeFile(join(folder, 'rogue.ipxe'), stolen.replaceAll('::3260:', `::${roguePort}:`))
  await typeCommand(machine, `chain http://${lab.serverAddress}:${scriptPort}/rogue.ipxe`)
  await machine.waitFor(/ipxe\.org\/020d62/, bootWithinMs)
  await machine.waitFor(`What answers at ${lab.serverAddress} is not the disk of this script`, bootWithinMs)
  await machine.waitFor('iPXE>', promptWithinMs)
  expect(server.eventsOf('machineReported').map(({ step, error }) => `${step} ${error?.slice(0, 6)}`)).toEqual([
    'disk-failed 020d62',
    'gave-up 020d62',
  ])
  expect(server.eventsOf('iscsiLogin')).toEqual([])

  // A secret that is not this boot's: refused by the target, and the script fetches a fresh one, which boots.
  const secret = settingOf(stolen, 'password')
  await writeFile(join(folder, 'wrong.ipxe'), stolen.replaceAll(secret, 'A'.repeat(secret.length)))
  await typeCommand(machine, `chain http://${lab.serverAddress}:${scriptPort}/wrong.ipxe`)
  await machine.waitFor(/ipxe\.org\/410d61/, bootWithinMs)
  await machine.waitFor('The disk refused the secret of this script', bootWithinMs)
  await server.waitFor('iscsiLoginFailed', bootWithinMs)
  await machine.waitFor(machineSays.ready, bootWithinMs)
  await machine.powerOff()

  // That boot has logged in: the stolen script, unchanged, is worth nothing to the thief's own machine.
  const thief = await powerOn({ firmware: 'bios-ipxe-rom', mac: '52:54:00:77:00:66' })
  await atPrompt(thief)
  const failuresBefore = server.eventsOf('iscsiLoginFailed').length
  await typeCommand(thief, `chain http://${lab.serverAddress}:${scriptPort}/stolen.ipxe`)
  await thief.waitFor(/ipxe\.org\/410d61/, bootWithinMs)
  await thief.waitFor('a newer boot has begun', bootWithinMs)
  // It then asks for a fresh script in the machine's name. By HTTP it gets that: a threat of its own (docs/security.md).
  await thief.powerOff()
  const failures = server.eventsOf('iscsiLoginFailed')
  expect(failures.length).toBeGreaterThan(failuresBefore)
  expect(new Set(failures.map(({ reason }) => reason))).toEqual(new Set(['wrongCredentials']))
  const stolenBoot = /^# Slipway: boot (\S+) of/m.exec(stolen)?.[1]
  expect(stolenBoot).toBeDefined()
  expect(server.eventsOf('iscsiLogin').map(({ bootId }) => bootId)).not.toContain(stolenBoot)
})

/** iPXE's command line, with an address. */
async function atPrompt(machine: Machine): Promise<void> {
  await machine.waitFor('for the iPXE command line', promptWithinMs)
  machine.type('\x02')
  await machine.waitFor('iPXE>', promptWithinMs)
  await typeCommand(machine, 'dhcp')
  await machine.waitFor(/ok$/, promptWithinMs)
  await machine.waitFor('iPXE>', promptWithinMs)
}

/** A key at a time: the keyboard buffer of a BIOS on the serial line holds few. */
async function typeCommand(machine: Machine, command: string): Promise<void> {
  for (const key of command) {
    machine.type(key)
    await machine.waitFor(key, promptWithinMs)
  }
  machine.type('\n')
}

async function startRogue(
  { network, golden }: Pick<Rig, 'network' | 'golden'>,
  folder: string,
  script: string,
): Promise<void> {
  await writeFile(join(folder, 'secret'), `${settingOf(script, 'password')}\n`, { mode: 0o600 })
  await writeFile(join(folder, 'guess'), `${'B'.repeat(16)}\n`, { mode: 0o600 })
  const target = /iscsi:\S+:0:(\S+)/.exec(script)?.[1] ?? ''
  const rogue = network.start(
    [
      ...[resolve(import.meta.dirname, '..', '..', 'bin', 'slipway'), 'target', golden.path, '--read-only'],
      ...['--listen', `${lab.serverAddress}:${roguePort}`, '--name', target],
      ...['--chap', settingOf(script, 'username'), '--chap-secret-file', join(folder, 'secret')],
      ...['--mutual', settingOf(script, 'reverse-username'), '--mutual-secret-file', join(folder, 'guess')],
    ],
    { name: 'rogue target' },
  )
  onTestFinished(async () => {
    await rogue.stop('SIGINT')
  })
  await new Promise((listening) => rogue.output.once('data', listening))
  rogue.discardOutput()
}

function settingOf(script: string, name: string): string {
  return new RegExp(`^set ${name} (\\S+)$`, 'm').exec(script)?.[1] ?? ''
}
