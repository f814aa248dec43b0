/**
 * Goal: a real iPXE joins the storage VLAN and boots from there. Method: OVMF in QEMU on a port that carries the VLAN with
 * tags, the iPXE that SLIPWAY_TEST_IPXE names (Debian's has no VLANs); the machine's own screen says how it went.
 */
import { expect, test } from 'vitest'
import { machineSays } from '../../../lab/golden-image.ts'
import { bootWithinMs } from '../rig.ts'
import { rigWithBuilds } from './builds.ts'

test('iPXE makes the VLAN, logs in on it with mutual CHAP, and Linux finds its disk there by the iBFT', async () => {
  const { powerOn, server } = await rigWithBuilds({
    prepare: (network) => network.addStorage('10.77.2.1'),
    config: '[network.storage]\nvlan = 2\nrange = "10.77.2.100-10.77.2.199"\n',
  })
  const machine = await powerOn({ firmware: 'uefi', storageVlan: 2 })
  await machine.waitFor('the disk is on VLAN 2, this machine is 10.77.2.100 there', bootWithinMs)
  await machine.waitFor(machineSays.grub, bootWithinMs)
  await machine.waitFor(/SLIPWAY-LAB ibft target \S+ at 10\.77\.2\.1:3260/, bootWithinMs)
  await machine.waitFor(machineSays.ready, bootWithinMs)
  expect(server.eventsOf('iscsiLogin')[0]).toMatchObject({ authentication: 'mutual', mac: machine.mac })
})
