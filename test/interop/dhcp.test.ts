/**
 * Goal: strangers' DHCP clients accept us, and a lease survives kill -9. Method: busybox udhcpc and perfdhcp on the other
 * side of a virtual wire; between two network namespaces, as DHCP needs a link of its own.
 */
import { execFile } from 'node:child_process'
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { makeNamespacePair, type NamespacePair, type RunningProcess, startProcess } from '../../bench/frame.ts'

const program = resolve(import.meta.dirname, '../../bench/dhcp-server.ts')
const firstAddress = '10.111.16.0'
const lastAddress = '10.111.47.255'

let network: NamespacePair
let folder = ''
let server: RunningProcess

async function startServer(): Promise<void> {
  server = await startProcess({
    command: process.execPath,
    args: [program, network.server.interfaceName, network.server.address, firstAddress, lastAddress, folder],
    namespaceName: network.server.name,
    ready: /ready/,
  })
}

async function inClient(...command: string[]): Promise<string> {
  const { stdout } = await promisify(execFile)('ip', ['netns', 'exec', network.client.name, ...command], {
    timeout: 60_000,
  })
  return stdout
}

/** Asks for a lease as an initramfs does; returns what its script was told: the address, mask, boot file and server. */
async function udhcpc(mac: string, ...options: string[]): Promise<string> {
  const script = join(folder, 'told.sh')
  const told = join(folder, 'told')
  writeFileSync(script, `#!/bin/sh\n[ "$1" = bound ] && echo "$ip $subnet $boot_file $serverid" > ${told}\nexit 0\n`)
  chmodSync(script, 0o755)
  rmSync(told, { force: true })
  const name = network.client.interfaceName
  await inClient('ip', 'link', 'set', name, 'address', mac)
  await inClient('busybox', 'udhcpc', '-i', name, '-f', '-q', '-n', '-t', '4', '-T', '2', '-s', script, ...options)
  return readFileSync(told, 'utf8').trim()
}

beforeEach(async () => {
  network = makeNamespacePair('di')
  folder = mkdtempSync(join(tmpdir(), 'slipway-dhcp-'))
  await startServer()
})
afterEach(async () => {
  await server.stop()
  network.remove()
  rmSync(folder, { recursive: true })
})

test('busybox udhcpc gets an address, by unicast to a machine that has none yet and by broadcast', async () => {
  const told = `${firstAddress} 255.255.0.0 undionly.kpxe ${network.server.address}`
  expect(await udhcpc('02:00:00:00:00:0a')).toBe(told)
  expect(await udhcpc('02:00:00:00:00:0a', '-B')).toBe(told)
  expect(await udhcpc('02:00:00:00:00:0b')).toContain('10.111.16.1 ')
})

test("a lease is the machine's after kill -9 of the server, a released one the next machine's only when it must", async () => {
  await udhcpc('02:00:00:00:00:0a')
  await udhcpc('02:00:00:00:00:0b')
  process.kill(-server.pid, 'SIGKILL')
  await server.stop()
  await startServer()
  expect(await udhcpc('02:00:00:00:00:0c')).toContain('10.111.16.2 ')
  expect(await udhcpc('02:00:00:00:00:0b', '-R')).toContain('10.111.16.1 ')
  expect(await udhcpc('02:00:00:00:00:0d')).toContain('10.111.16.3 ')
  expect(await udhcpc('02:00:00:00:00:0b')).toContain('10.111.16.1 ')
})

test('perfdhcp: 4000 machines behind a relay, each an address of its own, hardly any dropped', async () => {
  const load = ['-4', '-r', '1000', '-R', '4000', '-n', '4000', '-u', '-W', '1000000']
  const printed = await inClient('perfdhcp', ...load, '-l', network.client.address, network.server.address)
  const [offers, acks] = [...printed.matchAll(/^drops: (\d+)/gm)].map((match) => Number(match[1]))
  // Not none: on a busy machine perfdhcp itself may miss a few.
  expect((offers ?? 0) + (acks ?? 0), printed).toBeLessThan(40)
  expect(printed).not.toMatch(/non unique addresses: [1-9]/)
  const leases = readFileSync(join(folder, 'leases-a'), 'utf8').match(/^bound /gm)
  expect(leases?.length).toBeGreaterThan(3_960)
})

test('the probe of doctor finds us, from another machine on the link', async () => {
  const sources = resolve(import.meta.dirname, '../../src')
  const script = `
    import { probeServers } from '${sources}/dhcp/probe.ts'
    import { systemClock } from '${sources}/host/clock.ts'
    import { systemRandom } from '${sources}/host/random.ts'
    import { systemUdp } from '${sources}/host/udp.ts'
    const terms = { interfaceName: '${network.client.interfaceName}', linkAddress: Uint8Array.of(2, 0, 0, 0, 0, 5), waitMs: 500 }
    console.log(JSON.stringify(await probeServers(terms, { udp: systemUdp, clock: systemClock, random: systemRandom })))
  `
  const printed = await inClient(process.execPath, '--input-type=module', '--eval', script)
  expect(JSON.parse(printed)).toEqual([
    {
      server: '10.111.0.1',
      offeredAddress: firstAddress,
      bootFile: 'undionly.kpxe',
      nextServer: '10.111.0.1',
      routers: [],
    },
  ])
})
