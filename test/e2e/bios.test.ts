/** Goal: a BIOS machine without a disk boots Linux from Slipway. Method: SeaBIOS in QEMU; its own screen says so. */
import { expect, test, vi } from 'vitest'
import { machineSays } from '../../lab/golden-image.ts'
import { bootWithinMs, rig } from './rig.ts'

test('the iPXE ROM boots with mutual CHAP, and what the machine wrote is there after it reboots into its clone', async () => {
  const { powerOn, server } = await rig({ dhcp: 'own', admit: 'all', chap: 'mutual', variant: 'full' })
  const machine = await powerOn({ firmware: 'bios-ipxe-rom' })

  // The machine's own words: both names stand in the table that iPXE left for Linux.
  await machine.waitFor(/SLIPWAY-LAB ibft chap \S+ reverse \S+\n/, bootWithinMs)
  // Linux logged in again by that table, wrote, flushed, and read it back from the disk.
  await machine.waitFor(`${machineSays.scratchWas} \n`, bootWithinMs)
  await machine.waitFor(`${machineSays.scratchIs} written 1 times`, bootWithinMs)
  await machine.waitFor(/SLIPWAY-LAB ready: .*, boot I,/, bootWithinMs)
  expect(server.eventsOf('iscsiLogin').map(({ stage, authentication }) => `${stage} ${authentication}`)).toEqual(
    expect.arrayContaining(['ipxe mutual', 'system mutual']),
  )

  machine.type('reboot -f\n')
  // GRUB's stroke was written through the BIOS, Linux's line through iSCSI: both are there.
  await machine.waitFor(`${machineSays.grub} II`, bootWithinMs)
  await machine.waitFor(`${machineSays.scratchWas} written 1 times`, bootWithinMs)
  await machine.waitFor(/SLIPWAY-LAB ready: .*, boot II,/, bootWithinMs)
  // What the first boot read (GRUB, kernel and initramfs are 14 MB) is kept for the next machine, once it reads nothing new.
  const recorded = await vi.waitUntil(() => server.eventsOf('bootTraceRecorded')[0], { timeout: bootWithinMs })
  expect(recorded.readBytes).toBeGreaterThan(8_000_000)
})

test('the iPXE ROM boots with one-way CHAP beside a DHCP server that hands out the addresses', async () => {
  const { powerOn, server } = await rig({ dhcp: 'proxy', admit: 'all', chap: 'one-way' })
  const machine = await powerOn({ firmware: 'bios-ipxe-rom' })
  await machine.waitFor(/SLIPWAY-LAB ibft chap \S+ reverse ?\n/, bootWithinMs)
  await machine.waitFor(machineSays.ready, bootWithinMs)
  expect(new Set(server.eventsOf('iscsiLogin').map(({ authentication }) => authentication))).toEqual(
    new Set(['oneWay']),
  )
  expect(server.eventsOf('dhcpOffer').map(({ offeredAddress }) => offeredAddress)).not.toContainEqual(expect.anything())
})

test('a plain PXE ROM fetches undionly.kpxe by TFTP and boots', async () => {
  const { powerOn, server } = await rig({ dhcp: 'own', admit: 'all' })
  const machine = await powerOn({ firmware: 'bios-pxe' })
  await machine.waitFor(/tftp:\/\/192\.168\.77\.1\/+undionly\.kpxe\.\.\. ok/, bootWithinMs)
  await machine.waitFor(machineSays.ready, bootWithinMs)
  expect(server.eventsOf('tftpDone').map(({ file }) => file)).toEqual(['undionly.kpxe'])
})

test('a plain PXE ROM boots beside a DHCP server that hands out the addresses', async () => {
  const { powerOn } = await rig({ dhcp: 'proxy', admit: 'all' })
  const machine = await powerOn({ firmware: 'bios-pxe' })
  await machine.waitFor(/undionly\.kpxe\.\.\. ok/, bootWithinMs)
  await machine.waitFor(machineSays.ready, bootWithinMs)
})
