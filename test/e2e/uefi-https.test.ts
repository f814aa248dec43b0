/**
 * Goal: UEFI's own HTTP boot by HTTPS, to who trusts our authority and to nobody else. Method: OVMF in QEMU, its authorities
 * enrolled as a person would (`slipway ca export --format efi`); the machine's own screen and our events say how it went.
 */
import { spawnSync } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { machineSays } from '../../lab/golden-image.ts'
import { bootWithinMs, rig } from './rig.ts'

const httpsUefi = { dhcp: 'own', admit: 'all', chap: 'mutual', config: '[https]\nuefi = true\n' } as const
const loaderUri = 'URI: https://192.168.77.1/loader/snponly.efi'

async function folderOfOurs(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'slipway-enrolled-'))
  onTestFinished(() => rm(folder, { recursive: true }))
  return folder
}

test('OVMF with our authority enrolled has its loader by HTTPS, and boots Linux with mutual CHAP', async () => {
  const { network, powerOn, server } = await rig(httpsUefi)
  await server.waitFor('serviceReady', bootWithinMs, ({ service }) => service === 'https')
  const enrolledAuthorities = join(await folderOfOurs(), 'ca.esl')
  await server.run(network, ['ca', 'export', enrolledAuthorities, '--format', 'efi'])

  const machine = await powerOn({ firmware: 'uefi-http', enrolledAuthorities })
  await machine.waitFor(loaderUri, bootWithinMs)
  await machine.waitFor('iPXE initialising devices', bootWithinMs)
  await machine.waitFor(machineSays.grub, bootWithinMs)
  await machine.waitFor(machineSays.ready, bootWithinMs)
  const loader = server.eventsOf('httpServed').find(({ path }) => path === '/loader/snponly.efi')
  expect(loader).toMatchObject({ status: 200, encrypted: true })
  expect(server.eventsOf('tlsAgreed')[0]).toMatchObject({ protocol: 'TLSv1.2', compat: 'ovmf' })
  expect(server.eventsOf('iscsiLogin')[0]).toMatchObject({ authentication: 'mutual' })
  expect(server.eventsOf('failed')).toEqual([])
})

test('OVMF that trusts another authority, or none, refuses: its screen says so, and our events say why', async () => {
  const { powerOn, server } = await rig(httpsUefi)
  await server.waitFor('serviceReady', bootWithinMs, ({ service }) => service === 'https')
  const folder = await folderOfOurs()
  const made = ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-subj', '/CN=other', '-keyout', '/dev/null']
  expect(spawnSync('openssl', [...made, '-out', 'other.crt'], { cwd: folder }).status).toBe(0)
  expect(spawnSync('cert-to-efi-sig-list', ['other.crt', 'other.esl'], { cwd: folder }).status).toBe(0)

  const mistaken = await powerOn({ firmware: 'uefi-http', enrolledAuthorities: join(folder, 'other.esl') })
  await mistaken.waitFor(loaderUri, bootWithinMs)
  await mistaken.waitFor('Error: Could not retrieve NBP file size from HTTP server.', bootWithinMs)
  const refused = await server.waitFor('tlsFailed', bootWithinMs)
  expect(refused).toMatchObject({ mac: mistaken.mac, reason: expect.stringContaining('it does not trust our CA') })
  expect(refused.offered).toContain('TLS 1.2 with DHE-RSA-AES256-GCM-SHA384')
  await mistaken.powerOff()

  // Without any it does not even connect.
  const trusting = await powerOn({ firmware: 'uefi-http', mac: '52:54:00:77:00:11' })
  await trusting.waitFor(loaderUri, bootWithinMs)
  await trusting.waitFor('Error: Could not retrieve NBP file size from HTTP server.', bootWithinMs)
  const silent = await server.waitFor('failed', bootWithinMs, ({ mac }) => mac === trusting.mac)
  expect(silent).toMatchObject({ step: 'HTTPS', reason: expect.stringContaining('no authority is enrolled') })
  expect(server.eventsOf('scriptServed')).toEqual([])
})
