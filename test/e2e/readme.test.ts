/**
 * Goal: what the README tells people to type works. Method: its commands are taken out of it and run, each as it stands but
 * for the names of the network and the image. One that nobody here knows how to run fails the test.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { goldenImage, machineSays } from '../../lab/golden-image.ts'
import { Machine } from '../../lab/machine.ts'
import { LabNetwork, lab } from '../../lab/namespace.ts'
import { startDnsmasq } from '../../lab/peers/dnsmasq.ts'
import { bootWithinMs } from './rig.ts'

const root = resolve(import.meta.dirname, '..', '..')
const readme = readFileSync(join(root, 'README.md'), 'utf8')

/** Every line of every fenced block, and every inline `bin/...` or `npm run ...`, without comments. */
function commandsOf(text: string): string[] {
  const fenced = [...text.matchAll(/^```\n(.*?)^```/gms)].flatMap((match) => (match[1] ?? '').split('\n'))
  const inline = [...text.matchAll(/`((?:bin\/|npm run demo)[^`]*)`/g)].map((match) => match[1] ?? '')
  const all = [...fenced, ...inline].map((line) => line.replace(/\s#.*$/, '').trim())
  return [...new Set(all.filter((line) => line !== ''))]
}

const known = {
  demo: 'npm run demo',
  demoBios: 'npm run demo -- --firmware bios',
  /** What runs this file. */
  test: 'npm test',
  /** What scripts/setup.mjs has done before this file could run. */
  install: 'npm ci',
  doctor: 'bin/slipway doctor golden.img --interface eth0',
  up: 'bin/slipway up golden.img --interface eth0',
  admit: 'bin/slipway admit 52:54:00:12:34:56',
  target: 'bin/slipway target disk.img',
  imageAdd: 'bin/slipway image add disk.qcow2.xz',
  audit: 'bin/slipway audit',
} as const

test('the README opens with what Slipway is, then the two commands', () => {
  expect(readme).toMatch(/^# Slipway\n\nSlipway boots machines that have no disk/)
  expect(commandsOf(readme).slice(0, 2)).toEqual([known.demo, known.test])
})

test('every command of the README is one that is run here', () => {
  expect(Object.values(known)).toEqual(expect.arrayContaining(commandsOf(readme)))
})

test.each([known.demo, known.demoBios])('%s boots a machine, says so and leaves nothing behind', (command) => {
  const temporary = mkdtempSync(join(tmpdir(), 'slipway-readme-'))
  onTestFinished(() => rmSync(temporary, { recursive: true, force: true }))
  const env = { ...process.env, TMPDIR: temporary }
  const done = spawnSync(command, { shell: true, cwd: root, encoding: 'utf8', timeout: 180_000, env })
  expect(done.stderr.replaceAll(/^npm warn .*$/gm, '').trim()).toBe('')
  expect(done.stdout).toMatch(/\d+\.\d s {2}DHCP /)
  expect(done.stdout).toMatch(/\d+\.\d s {2}iSCSI /)
  expect(done.stdout).toMatch(/From power-on to Linux in \d+\.\d s/)
  expect(done.status).toBe(0)
  expect(spawnSync('ip', ['link'], { encoding: 'utf8' }).stdout).not.toContain(lab.interfaceName)
  expect(processesMarked(`TMPDIR=${temporary}`)).toEqual([])
  // npm keeps a compile cache there.
  expect(readdirSync(temporary).filter((name) => name !== 'node-compile-cache')).toEqual([])
})

/** Whatever was started with this in its environment, and by whatever that started; a network is gone with its processes. */
function processesMarked(mark: string): string[] {
  return readdirSync('/proc').filter((entry) => {
    try {
      return /^\d+$/.test(entry) && readFileSync(join('/proc', entry, 'environ'), 'latin1').includes(mark)
    } catch {
      return false // has just ended, or is not ours
    }
  })
}

test('doctor, up and admit, on a network with a DHCP server: the machine boots that its screen told of', async () => {
  const network = await LabNetwork.create()
  onTestFinished(() => network.close())
  const folder = mkdtempSync(join(tmpdir(), 'slipway-readme-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  symlinkSync((await goldenImage('tiny')).path, join(folder, 'golden.img'))
  const here = (command: string, more: string): string[] => {
    const line = command.replace('eth0', lab.interfaceName).replace('bin/', `${root}/bin/`)
    return ['sh', '-c', `cd ${folder} && exec ${line} ${more} --state ${folder}/state`]
  }

  const dnsmasq = await startDnsmasq(network, folder, { kind: 'addressesOnly' })
  onTestFinished(async () => {
    await dnsmasq.stop()
  })
  const looked = await network.run(here(known.doctor, ''), 'doctor')
  expect(looked).toMatch(/^ok +UEFI x86_64: \\EFI\\BOOT\\BOOTX64\.EFI/m)
  expect(looked).not.toMatch(/^ERROR/m)

  const server = network.start(here(known.up, ''), { name: 'slipway' })
  onTestFinished(async () => {
    await server.stop('SIGKILL')
  })
  let printed = ''
  server.output.on('data', (text) => {
    printed += String(text)
  })
  await expect.poll(() => printed, { timeout: 10_000 }).toContain(`on ${lab.interfaceName} (${lab.serverAddress})`)
  const machine = await Machine.powerOn({ network, firmware: 'bios-ipxe-rom', mac: '52:54:00:12:34:56' })
  onTestFinished(() => machine.powerOff())
  await machine.waitFor(`slipway admit ${machine.mac}`, bootWithinMs)
  expect(await network.run(here(known.admit, ''), 'admit')).toMatch(/^52:54:00:12:34:56 is admitted[.,]/)
  await machine.waitFor(machineSays.ready, bootWithinMs)
  expect(await network.run(here(known.audit, ''), 'audit')).toMatch(/^MAC +name +last boot[\s\S]*52:54:00:12:34:56/)
  expect(await server.stop('SIGINT', 30_000)).toEqual({ code: 0, signal: null })
})

test('image add, of a compressed image', () => {
  const folder = mkdtempSync(join(tmpdir(), 'slipway-readme-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const make = 'qemu-img create -q -f qcow2 disk.qcow2 16M && xz disk.qcow2'
  const line = `${make} && ${known.imageAdd.replace('bin/', `${root}/bin/`)} --state state`
  const done = spawnSync(line, { shell: true, cwd: folder, encoding: 'utf8', timeout: 30_000 })
  expect(done.stderr).not.toMatch(/slipway:/)
  expect(done.status).toBe(0)
  expect(done.stdout).toMatch(/disk@1/)
})

test('target, and another program reads the disk', async () => {
  const network = await LabNetwork.create()
  onTestFinished(() => network.close())
  const folder = mkdtempSync(join(tmpdir(), 'slipway-readme-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  symlinkSync((await goldenImage('tiny')).path, join(folder, 'disk.img'))
  const line = `cd ${folder} && exec ${known.target.replace('bin/', `${root}/bin/`)}`
  const server = network.start(['sh', '-c', line], { name: 'slipway' })
  let printed = ''
  server.output.on('data', (text) => {
    printed += String(text)
  })
  await expect.poll(() => printed, { timeout: 10_000 }).toContain('Ctrl-C stops it')
  const listed = await network.run(['iscsi-ls', '-s', `iscsi://${lab.serverAddress}`], 'iscsi-ls')
  expect(listed).toContain('iqn.2026-01.internal.slipway:disk.img')
  expect(await server.stop('SIGINT', 10_000)).toEqual({ code: 0, signal: null })
})
