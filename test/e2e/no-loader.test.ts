/** Goal: a machine that cannot boot is told why, on its own screen, and gets its firmware back. Method: an empty disk. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { Machine } from '../../lab/machine.ts'
import { LabNetwork } from '../../lab/namespace.ts'
import { SlipwayServer } from '../../lab/slipway.ts'
import { bootWithinMs } from './rig.ts'

// What each firmware says when it goes on to its next boot device.
const firmwares = [
  ['bios-ipxe-rom', 'No bootable device'],
  ['uefi', /BdsDxe: failed to start|>>Start PXE over IPv6/],
] as const

test.for(firmwares)('a disk without a boot loader for %s is told on the screen, once', async ([firmware, goesOn]) => {
  const folder = await mkdtemp(join(tmpdir(), 'slipway-empty-'))
  onTestFinished(() => rm(folder, { recursive: true, force: true }))
  const imagePath = join(folder, 'empty.img')
  await writeFile(imagePath, new Uint8Array(4 * 1024 * 1024))
  const network = await LabNetwork.create()
  onTestFinished(() => network.close())
  const server = await SlipwayServer.start({ network, imagePath, dhcp: 'own', admit: 'all' })
  onTestFinished(async () => {
    await server.stop()
  })
  const machine = await Machine.powerOn({ network, firmware })
  onTestFinished(() => machine.powerOff())
  await machine.waitFor('the disk did not boot, try 1 of', bootWithinMs)
  await machine.waitFor('The disk has no boot loader for this firmware', bootWithinMs)
  await machine.waitFor('no boot from the disk; the firmware goes on', bootWithinMs)
  await machine.waitFor(goesOn, bootWithinMs)
  expect(server.eventsOf('machineReported').map(({ step }) => step)).toEqual(['disk-failed', 'gave-up'])
})
