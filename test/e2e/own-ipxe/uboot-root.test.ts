/**
 * Goal: the chain of U-Boot's README.iscsi to its end: by HTTPS, with the certificate checked, come the script, the kernel and the
 * secrets that Linux keeps its root with. Method: as test/e2e/uboot-root.test.ts, with an iPXE that trusts one authority.
 */
import { expect, onTestFinished, test } from 'vitest'
import { debianImage } from '../../../lab/debian-image.ts'
import { Machine } from '../../../lab/machine.ts'
import { LabNetwork } from '../../../lab/namespace.ts'
import { Shell } from '../../../lab/shell.ts'
import { SlipwayServer } from '../../../lab/slipway.ts'
import { stopAtPrompt } from '../../../lab/uboot.ts'
import { addAll, importAuthority } from './builds.ts'

/** Ten times what it takes on two cores that have nothing else to do. */
const debianWithinMs = 600_000

test('U-Boot, HTTPS: script, kernel, initramfs and secrets; Debian has its root on iSCSI by mutual CHAP', async () => {
  const network = await LabNetwork.create()
  onTestFinished(() => network.close())
  const { path: imagePath } = await debianImage('ready')
  const mac = '52:54:00:77:00:10'
  const config = `[machine."${mac}"]\ntransport = "strict"\nstart = "kernel"\n`
  const before = [importAuthority, ...addAll]
  const server = await SlipwayServer.start({ network, imagePath, dhcp: 'own', admit: 'all', config, before })
  onTestFinished(async () => {
    expect(await server.stop()).toEqual({ code: 0, signal: null })
  })
  await server.waitFor('serviceReady', 60_000, ({ service }) => service === 'https')
  const machine = await Machine.powerOn({ network, firmware: 'uboot-x86', mac, memoryMebibytes: 768 })
  onTestFinished(() => machine.powerOff())
  await stopAtPrompt(machine)
  machine.type('run bootcmd_dhcp\n')
  const shell = await Shell.logIn(machine, debianWithinMs)
  expect(await shell.run('findmnt -n -o SOURCE,FSTYPE /')).toMatch(/^\/dev\/sda3\s+ext4$/)
  const fetched = server.eventsOf('httpServed').filter(({ path }) => path.startsWith('/linux/'))
  expect(fetched.map(({ path, encrypted }) => `${path.split('/').at(-1)} ${encrypted}`)).toEqual([
    'kernel true',
    'initramfs-0 true',
    'settings true',
  ])
  expect(server.eventsOf('scriptServed')).toMatchObject([{ script: 'boot', encrypted: true, start: 'kernel' }])
  const logins = server.eventsOf('iscsiLogin').map(({ stage, authentication }) => `${stage} ${authentication}`)
  expect(new Set(logins)).toEqual(new Set(['system mutual']))
  expect(server.eventsOf('machineReported'), 'nothing failed on the way').toEqual([])
})
