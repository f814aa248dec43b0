/**
 * Goal: a machine with U-Boot boots Linux from Slipway, the way U-Boot's README.iscsi means it. Method: Debian's U-Boot in
 * QEMU, and Debian's iPXE; what each says is on the serial console.
 */
import { expect, test } from 'vitest'
import { machineSays } from '../../lab/golden-image.ts'
import { stopAtPrompt, typeCommands } from '../../lab/uboot.ts'
import { bootWithinMs, rig } from './rig.ts'

test('U-Boot by commands typed, then by its own distro boot: iPXE, script, mutual CHAP, GRUB, Linux', async () => {
  const { powerOn, server } = await rig({ dhcp: 'own', admit: 'all', chap: 'mutual' })
  const machine = await powerOn({ firmware: 'uboot-x86' })
  await stopAtPrompt(machine)
  // `dhcp` loads the file that the server named, too.
  await typeCommands(machine, ['dhcp 0x3000000'])
  machine.type('bootefi 0x3000000\n')
  await machine.waitFor('Booting /uboot-snponly.efi', bootWithinMs)
  await machine.waitFor('Open Source Network Boot Firmware', bootWithinMs)
  await machine.waitFor('This firmware cannot tell the system where its disk is', bootWithinMs)
  await machine.waitFor(`${machineSays.grub} I`, bootWithinMs)
  await machine.waitFor(/SLIPWAY-LAB kernel .* disable_mtrr_trim efi=noruntime/, bootWithinMs)
  await machine.waitFor(/SLIPWAY-LAB ready: .*, boot I,/, bootWithinMs)
  expect(server.eventsOf('tftpDone').map(({ file }) => file)).toEqual(['uboot-snponly.efi'])
  expect(server.eventsOf('iscsiLogin').map(({ stage, authentication }) => `${stage} ${authentication}`)).toEqual([
    'ipxe mutual',
  ])

  await machine.powerOff()
  const again = await powerOn({ firmware: 'uboot-x86' })
  await stopAtPrompt(again)
  again.type('run bootcmd_dhcp\n')
  // What GRUB wrote through U-Boot and iPXE is there after the power cut.
  await again.waitFor(`${machineSays.grub} II`, bootWithinMs)
  await again.waitFor(/SLIPWAY-LAB ready: .*, boot II,/, bootWithinMs)
  // Every distro boot asks for these before the loader; they are refused at once, which moves it on.
  expect(new Set(server.eventsOf('tftpNotFound').map(({ file }) => file))).toEqual(new Set(['boot.scr.uimg', 'dtb']))
  expect(server.eventsOf('machineReported'), 'nothing failed on the way').toEqual([])
  // Both times it was said that a Linux with its root there would not find it.
  expect(server.eventsOf('rootUndescribed')).toHaveLength(2)
})
