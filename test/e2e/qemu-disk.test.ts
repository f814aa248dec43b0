/**
 * Goal: Slipway's disk is one that QEMU starts a machine from, by its own initiator and as a file. Method: the machine counts
 * its boots on the disk, through GRUB; the first is served by Slipway, the second has only the clone that Slipway wrote.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { runCommand } from '../../lab/child.ts'
import { goldenImage, machineSays, sha256OfFile } from '../../lab/golden-image.ts'
import { Machine } from '../../lab/machine.ts'
import { LabNetwork, lab } from '../../lab/namespace.ts'
import { bootWithinMs } from './rig.ts'

const slipway = resolve(import.meta.dirname, '..', '..', 'bin', 'slipway')
const secret = 'only-for-this-test'

test('QEMU boots by its own initiator, with CHAP; then it boots from the clone, a file, with what was written', async () => {
  const golden = await goldenImage('tiny')
  const network = await LabNetwork.create()
  onTestFinished(() => network.close())
  const folder = await mkdtemp(join(tmpdir(), 'slipway-qemu-'))
  onTestFinished(() => rm(folder, { recursive: true, force: true }))
  const secretFile = join(folder, 'secret')
  await writeFile(secretFile, secret, { mode: 0o600 })
  const clone = join(folder, 'clone.qcow2')
  const name = 'iqn.2026-01.internal.slipway:golden'
  const target = network.start(
    [
      ...[slipway, 'target', golden.path, '--clone', clone, '--name', name],
      ...['--chap', 'qemu', '--chap-secret-file', secretFile],
    ],
    { name: 'slipway' },
  )
  onTestFinished(async () => {
    await target.stop('SIGKILL')
  })
  let printed = ''
  target.output.on('data', (text) => {
    printed += String(text)
  })
  await expect.poll(() => printed, { timeout: 15_000 }).toContain('Ctrl-C stops it')

  const bootFrom = async (disk: { file: string; format: 'raw' | 'qcow2' }, boots: string): Promise<void> => {
    const machine = await Machine.powerOn({ network, firmware: 'bios-ipxe-rom', disk })
    onTestFinished(() => machine.powerOff())
    await machine.waitFor(`${machineSays.grub} ${boots}\n`, bootWithinMs)
    await machine.waitFor(`boot ${boots}, up`, bootWithinMs)
    machine.type('poweroff -f\n')
    await machine.waitUntilOff(bootWithinMs)
  }
  await bootFrom({ file: `iscsi://qemu%${secret}@${lab.serverAddress}/${name}/0`, format: 'raw' }, 'I')
  expect(await target.stop('SIGINT', 15_000)).toEqual({ code: 0, signal: null })

  await runCommand(['qemu-img', 'check', clone], { name: 'qemu-img' })
  await bootFrom({ file: clone, format: 'qcow2' }, 'II')
  await runCommand(['qemu-img', 'check', clone], { name: 'qemu-img' })
  expect(await sha256OfFile(golden.path), 'the golden image').toBe(golden.sha256)
})
