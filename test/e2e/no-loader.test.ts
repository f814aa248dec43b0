/** Goal: a machine that cannot boot is told why, on its own screen, and gets its firmware back. Method: an empty disk. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { runCommand } from '../../lab/child.ts'
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
  // It was known before.
  expect(server.eventsOf('noLoader')).toMatchObject([{ image: 'golden' }])
})

/** What BIOS finds on it: the two bytes that make a boot sector of it, and nothing before them. */
function signatureAlone(disk: Uint8Array): void {
  disk.set([0x55, 0xaa], 510)
}

// Neither firmware can say this itself: the BIOS runs what is not there and hangs, and UEFI only that it found nothing.
const others = [
  ['bios-ipxe-rom', 'The boot sector has no code: install a BIOS boot loader', /has no code/],
  ['uefi', '/EFI/BOOT/BOOTX64.EFI is missing: copy a loader there', /BOOTX64\.EFI is missing/],
] as const

test.for(others)('a disk that starts on other firmware than %s is told before it is tried, and what to do', async ([
  firmware,
  notice,
  reason,
]) => {
  const folder = await mkdtemp(join(tmpdir(), 'slipway-other-'))
  onTestFinished(() => rm(folder, { recursive: true, force: true }))
  const imagePath = join(folder, 'other.img')
  const disk = new Uint8Array(40 * 1024 * 1024)
  signatureAlone(disk)
  await writeFile(imagePath, disk)
  if (firmware === 'uefi') {
    const forArm = join(folder, 'loader')
    await writeFile(forArm, 'of another processor')
    const mtools = (tool: string, ...words: string[]): Promise<string> => {
      return runCommand([tool, '-i', imagePath, ...words], { name: tool })
    }
    await mtools('mformat', '-F', '::')
    await mtools('mmd', '::/EFI', '::/EFI/BOOT')
    await mtools('mcopy', forArm, '::/EFI/BOOT/BOOTAA64.EFI')
  }
  const network = await LabNetwork.create()
  onTestFinished(() => network.close())
  const server = await SlipwayServer.start({ network, imagePath, dhcp: 'own', admit: 'all' })
  onTestFinished(async () => void (await server.stop()))
  const machine = await Machine.powerOn({ network, firmware })
  onTestFinished(() => machine.powerOff())
  await machine.waitFor('this disk has no boot loader for this firmware', bootWithinMs)
  await machine.waitFor(notice, bootWithinMs)
  const told = await server.waitFor('noLoader', bootWithinMs)
  expect(told).toMatchObject({ image: 'golden', reason: expect.stringMatching(reason) })
  expect(told.mac).toBe(machine.mac)
})
