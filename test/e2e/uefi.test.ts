/** Goal: a UEFI machine without a disk boots Linux from Slipway. Method: OVMF in QEMU, its own PXE; its own screen says so. */
import { expect, test } from 'vitest'
import { machineSays } from '../../lab/golden-image.ts'
import { bootWithinMs, rig } from './rig.ts'

test('UEFI PXE fetches snponly.efi by TFTP, boots with mutual CHAP, and finds what it wrote after a power cut', async () => {
  const { powerOn, server } = await rig({ dhcp: 'own', admit: 'all', chap: 'mutual', variant: 'full' })
  const machine = await powerOn({ firmware: 'uefi' })
  await machine.waitFor('NBP filename is snponly.efi', bootWithinMs)
  await machine.waitFor(`${machineSays.grub} I`, bootWithinMs)
  await machine.waitFor(/SLIPWAY-LAB ibft chap \S+ reverse \S+\n/, bootWithinMs)
  await machine.waitFor(`${machineSays.scratchIs} written 1 times`, bootWithinMs)
  await machine.waitFor(/SLIPWAY-LAB ready: .*, boot I,/, bootWithinMs)
  expect(server.eventsOf('tftpDone').map(({ file }) => file)).toEqual(['snponly.efi'])

  // What was flushed is there even when the plug is pulled.
  await machine.powerOff()
  const again = await powerOn({ firmware: 'uefi' })
  await again.waitFor(`${machineSays.grub} II`, bootWithinMs)
  await again.waitFor(`${machineSays.scratchWas} written 1 times`, bootWithinMs)
  await again.waitFor(/SLIPWAY-LAB ready: .*, boot II,/, bootWithinMs)
})

test('UEFI PXE boots with one-way CHAP beside a DHCP server that hands out the addresses', async () => {
  const { powerOn } = await rig({ dhcp: 'proxy', admit: 'all', chap: 'one-way' })
  const machine = await powerOn({ firmware: 'uefi' })
  await machine.waitFor('NBP filename is snponly.efi', bootWithinMs)
  await machine.waitFor(/SLIPWAY-LAB ibft chap \S+ reverse ?\n/, bootWithinMs)
  await machine.waitFor(machineSays.ready, bootWithinMs)
})
