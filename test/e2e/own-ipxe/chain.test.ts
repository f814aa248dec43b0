/**
 * Goal: the chain of U-Boot's README.iscsi, whole: iPXE checks the certificate of who gives it its script, gets it by HTTPS, and
 * boots from a disk after each has proven itself to the other. Method: builds of iPXE that trust one authority, which is
 * imported here; each firmware's own console.
 */
import { expect, test } from 'vitest'
import { machineSays } from '../../../lab/golden-image.ts'
import type { SlipwayServer } from '../../../lab/slipway.ts'
import { stopAtPrompt } from '../../../lab/uboot.ts'
import { bootWithinMs } from '../rig.ts'
import { builds, rigWithBuilds } from './builds.ts'

test('U-Boot, HTTPS script, mutual CHAP, GRUB, Linux', async () => {
  const { powerOn, server } = await rigWithBuilds({})
  const machine = await powerOn({ firmware: 'uboot-x86' })
  await stopAtPrompt(machine)
  machine.type('run bootcmd_dhcp\n')
  await machine.waitFor(`${machineSays.grub} I`, bootWithinMs)
  await machine.waitFor(machineSays.ready, bootWithinMs)
  expectProtected(server, builds.uboot)
})

test('U-Boot on arm64, HTTPS script, mutual CHAP, GRUB, Linux', async () => {
  const { powerOn, server } = await rigWithBuilds({ variant: 'tiny-arm64' })
  const machine = await powerOn({ firmware: 'uboot-arm64' })
  await stopAtPrompt(machine)
  machine.type('run bootcmd_dhcp\n')
  await machine.waitFor(`${machineSays.grub} I`, 2 * bootWithinMs)
  await machine.waitFor(machineSays.ready, 2 * bootWithinMs)
  expectProtected(server, builds.ubootArm64)
})

test('UEFI by PXE, HTTPS script, mutual CHAP, GRUB, Linux, which finds the iBFT', async () => {
  const { powerOn, server } = await rigWithBuilds({})
  const machine = await powerOn({ firmware: 'uefi' })
  await machine.waitFor(`NBP filename is ${builds.uefi}`, bootWithinMs)
  await machine.waitFor(/SLIPWAY-LAB ibft chap \S+ reverse \S+\n/, bootWithinMs)
  await machine.waitFor(machineSays.ready, bootWithinMs)
  expectProtected(server, builds.uefi)
})

test('BIOS by PXE, HTTPS script, mutual CHAP, GRUB, Linux, which finds the iBFT', async () => {
  const { powerOn, server } = await rigWithBuilds({})
  const machine = await powerOn({ firmware: 'bios-pxe' })
  await machine.waitFor(/SLIPWAY-LAB ibft chap \S+ reverse \S+\n/, bootWithinMs)
  await machine.waitFor(machineSays.ready, bootWithinMs)
  expectProtected(server, builds.bios)
})

/** The right build was handed out; what held secrets was encrypted; each proved itself to the other. */
function expectProtected(server: SlipwayServer, file: string): void {
  expect(server.eventsOf('tftpDone').map((event) => event.file)).toEqual([file])
  expect(server.eventsOf('tlsAgreed').length).toBeGreaterThan(0)
  expect(server.eventsOf('scriptServed')).toMatchObject([{ script: 'boot', encrypted: true }])
  // On BIOS `sanboot` may open a second session beside the first (docs/quirks.md).
  expect(
    new Set(server.eventsOf('iscsiLogin').map(({ stage, authentication }) => `${stage} ${authentication}`)),
  ).toEqual(new Set(['ipxe mutual']))
  expect(server.eventsOf('machineReported'), 'nothing failed on the way').toEqual([])
}
