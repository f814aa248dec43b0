/**
 * Goal: `slipway doctor` sees what is there. Method: a network namespace of its own, with dnsmasq in another one across a
 * wire, and programs of this test on ports that Slipway wants.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { makeNamespacePair, type NamespacePair, type RunningProcess, startProcess } from '../../bench/frame.ts'

type Finding = { readonly level: string; readonly check: string; readonly what: string; readonly doNext: string }

const slipway = resolve(import.meta.dirname, '../../bin/slipway')
let network: NamespacePair
let folder = ''
const running: RunningProcess[] = []

beforeEach(async () => {
  network = makeNamespacePair('do')
  await linkIsUp()
  folder = mkdtempSync(join(tmpdir(), 'slipway-doctor-'))
})
afterEach(async () => {
  for (const process of running.splice(0)) await process.stop()
  network.remove()
  rmSync(folder, { recursive: true })
})

/** A wire has a carrier a moment after both its ends are up; before that Node does not list it. */
async function linkIsUp(): Promise<void> {
  for (let tries = 0; tries < 100; tries++) {
    const seen = spawnSync('ip', ['-n', network.client.name, 'link', 'show', network.client.interfaceName])
    if (seen.stdout.includes('state UP')) return
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  throw new Error('the wire between the namespaces has no carrier')
}

function doctor(...words: readonly string[]): { readonly code: number | null; readonly findings: Finding[] } {
  const command = [slipway, 'doctor', '--json', '--state', join(folder, 'state'), ...words]
  const done = spawnSync('ip', ['netns', 'exec', network.client.name, ...command], {
    encoding: 'utf8',
    timeout: 60_000,
  })
  expect(done.stderr.replaceAll(/^.*nodedir.*\n/gm, '')).toBe('')
  const findings = done.stdout
    .split('\n')
    .filter(Boolean)
    .map((line): Finding => JSON.parse(line))
  return { code: done.status, findings }
}

async function startDnsmasq(...options: readonly string[]): Promise<void> {
  running.push(
    await startProcess({
      command: '/usr/sbin/dnsmasq',
      args: [
        '--no-daemon',
        '--conf-file=/dev/null',
        '--port=0',
        '--log-dhcp',
        '--no-ping',
        `--interface=${network.server.interfaceName}`,
        `--dhcp-leasefile=${join(folder, 'leases')}`,
        ...options,
      ],
      namespaceName: network.server.name,
      ready: /DHCP, /,
    }),
  )
}

const find = (findings: readonly Finding[], check: string): Finding | undefined =>
  findings.find((finding) => finding.check === check)

test('beside a DHCP server, with free ports and the loaders of Debian, only HTTPS and the image are wanting', async () => {
  await startDnsmasq('--dhcp-range=10.111.1.1,10.111.1.9')
  const image = join(folder, 'empty.img')
  writeFileSync(image, '')
  truncateSync(image, 4 * 1024 * 1024)
  const { code, findings } = doctor(image)
  expect(find(findings, 'interface')?.what).toBe(`${network.client.interfaceName} has ${network.client.address}/16`)
  expect(find(findings, 'dhcp.others')).toMatchObject({ level: 'ok', what: expect.stringContaining('10.111.0.1') })
  for (const port of ['dhcp', 'pxe', 'tftp', 'http', 'https', 'iscsi'])
    expect(find(findings, `port.${port}`)?.level).toBe('ok')
  expect(find(findings, 'loaders.bios')?.what).toMatch(/undionly\.kpxe 1\.0\.0\S* \(iscsi\)/)
  expect(find(findings, 'loaders.https')?.level).toBe('warning')
  expect(find(findings, 'image.bootable')?.level).toBe('error')
  expect(code).toBe(3)
})

test('another that says what to boot, and a taken port, are found', async () => {
  await startDnsmasq('--dhcp-range=10.111.1.1,10.111.1.9', '--dhcp-boot=theirs.0')
  const taken = 'require("net").createServer().listen(3260, "0.0.0.0", () => console.log("ready"))'
  running.push(
    await startProcess({
      command: process.execPath,
      args: ['-e', taken],
      namespaceName: network.client.name,
      ready: /ready/,
    }),
  )
  const { code, findings } = doctor()
  expect(findings.map(({ what }) => what)).toContain('10.111.0.1 (theirs.0) also says what to boot')
  expect(find(findings, 'port.iscsi')).toMatchObject({ level: 'error', doNext: expect.stringContaining(':3260') })
  expect(code).toBe(3)
})

test('nobody gives addresses: a proxy is not enough, and giving them is right', () => {
  expect(find(doctor().findings, 'dhcp.others')?.level).toBe('error')
  const { code, findings } = doctor('--dhcp', '10.111.2.1-10.111.2.99')
  expect(find(findings, 'dhcp.others')?.level).toBe('ok')
  expect(find(findings, 'dhcp.range')?.what).toBe('10.111.2.1-10.111.2.99: 99 addresses')
  expect(findings.filter(({ level }) => level === 'error')).toEqual([])
  expect(code).toBe(0)
})
