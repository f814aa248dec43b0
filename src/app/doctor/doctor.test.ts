import { readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { OperationError } from '../../base/errors.ts'
import { gibibyte } from '../../base/units.ts'
import { createMemoryDevice } from '../../block/memory.ts'
import { buildPe } from '../../trust/testing/pe-builder.ts'
import { defaultPorts } from '../config.ts'
import { type DoctorOptions, runDoctor, worstOf } from './doctor.ts'
import type { Finding } from './finding.ts'
import { judgeFirewall } from './firewall.ts'
import type { DoctorProbes } from './probes.ts'

const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text)
const ipxeFor = (machine: number, more: string): Uint8Array =>
  buildPe({ machine, sections: [['.data', utf8(`\0#!ipxe\0iPXE\0iSCSI\0HTTP\0${more}`)]] })
const biosIpxe = utf8('PXENV+ at UNDI code segment')
const file = (name: string, bytes: Uint8Array): { name: string; bytes: () => Promise<Uint8Array> } => ({
  name,
  bytes: async () => bytes,
})
const ext4 = new Uint8Array(gunzipSync(readFileSync(new URL('../../disk/vectors/ext4.img.gz', import.meta.url))))

const link = { name: 'eth0', address: '10.1.2.1', netmask: '255.255.255.0', mac: '52:54:00:00:00:01', up: true }
const options: DoctorOptions = {
  imagePath: undefined,
  interfaceName: undefined,
  dhcp: { mode: 'proxy', range: undefined },
  ports: defaultPorts,
  loadersDirectories: ['/loaders'],
  stateDirectory: '/state',
}
const dhcpServer = {
  server: '10.1.2.250',
  offeredAddress: '10.1.2.50',
  bootFile: undefined,
  nextServer: undefined,
  routers: [],
}
/** A world in which nothing is wrong. */
const well: DoctorProbes = {
  interfaces: () => [link],
  tryPort: async () => {},
  dhcpServers: async () => [dhcpServer],
  loaderFiles: async () => [
    file('undionly.kpxe', biosIpxe),
    file('snponly.efi', ipxeFor(0x8664, 'HTTPS\0')),
    file('readme', utf8('text')),
  ],
  openImage: async () => createMemoryDevice(ext4),
  directory: async () => ({ exists: true, writable: true, freeBytes: 100 * gibibyte, volatile: false }),
  firewall: async () => ({
    nftJson: '{"nftables": []}',
    iptables: undefined,
    ufwEnabled: false,
    firewalldRunning: false,
  }),
}

async function findingsOf(
  changed: Partial<DoctorProbes>,
  changedOptions: Partial<DoctorOptions> = {},
): Promise<Map<string, Finding>> {
  const findings = await runDoctor({ ...options, ...changedOptions }, { ...well, ...changed })
  for (const { level, whyItMatters, doNext } of findings) {
    // Whoever reads a finding that is not ok must know why and what next; an ok one asks for nothing.
    expect([whyItMatters !== '', doNext !== '']).toEqual(level === 'ok' ? [false, false] : [true, true])
  }
  return new Map(findings.toReversed().map((finding) => [finding.check, finding]))
}

describe('runDoctor', () => {
  test('finds nothing wrong where nothing is', async () => {
    const findings = await runDoctor(options, well)
    expect(findings.filter(({ level }) => level !== 'ok')).toEqual([])
    expect(worstOf(findings)).toBe('ok')
  })

  test('interfaces: none, several, down, link-local, unknown', async () => {
    const other = { ...link, name: 'eth1', address: '10.9.9.1' }
    const interfaceOf = async (interfaces: (typeof link)[], interfaceName?: string): Promise<Finding | undefined> =>
      (await findingsOf({ interfaces: () => interfaces }, { interfaceName })).get('interface')
    expect(await interfaceOf([])).toMatchObject({
      level: 'error',
      what: expect.stringMatching(/no interface that is up/),
    })
    expect(await interfaceOf([link, other])).toMatchObject({ level: 'error', doNext: 'Say which: --interface NAME.' })
    expect(await interfaceOf([link, other], 'eth1')).toMatchObject({ level: 'ok', what: 'eth1 has 10.9.9.1/24' })
    expect(await interfaceOf([link], 'eth7')).toMatchObject({ level: 'error', what: expect.stringMatching(/eth7/) })
    expect(await interfaceOf([{ ...link, up: false }])).toMatchObject({ level: 'error' })
    expect(await interfaceOf([{ ...link, address: '169.254.3.4' }])).toMatchObject({ level: 'warning' })
  })

  test('a range of leases is inside the network and without our own address', async () => {
    const rangeOf = async (first: number, last: number): Promise<string | undefined> => {
      const dhcp = { mode: 'server', range: { first: 0x0a010200 + first, last: 0x0a010200 + last } } as const
      return (await findingsOf({}, { dhcp })).get('dhcp.range')?.level
    }
    expect(await rangeOf(100, 199)).toBe('ok')
    expect(await rangeOf(100, 300)).toBe('error')
    expect(await rangeOf(1, 9)).toBe('error')
  })

  test('a taken port is an error with its own advice; a shared DHCP port is a warning', async () => {
    const findings = await findingsOf({
      tryPort: async ({ port, shared }) => {
        if (port === 69 || (port === 67 && !shared))
          throw new OperationError('portTaken', `${port} is taken`, 'ss -lnup')
      },
    })
    expect(findings.get('port.tftp')).toMatchObject({ level: 'error', what: '69 is taken', doNext: 'ss -lnup' })
    expect(findings.get('port.dhcp')).toMatchObject({ level: 'warning', what: expect.stringMatching(/shared/) })
    expect(findings.get('port.http')?.level).toBe('ok')
  })

  test('without DHCP its ports are not looked at', async () => {
    const findings = await findingsOf({}, { dhcp: { mode: 'off', range: undefined } })
    expect(findings.has('port.dhcp')).toBe(false)
    expect(findings.get('dhcp.others')).toMatchObject({
      level: 'warning',
      doNext: expect.stringMatching(/next-server/),
    })
  })

  test('who else answers DHCP matters differently to a proxy and to a server', async () => {
    const level = async (servers: (typeof dhcpServer)[], mode: 'proxy' | 'server'): Promise<string | undefined> =>
      (await findingsOf({ dhcpServers: async () => servers }, { dhcp: { mode, range: undefined } })).get('dhcp.others')
        ?.level
    expect(await level([dhcpServer], 'proxy')).toBe('ok')
    expect(await level([], 'proxy')).toBe('error')
    expect(await level([dhcpServer], 'server')).toBe('error')
    expect(await level([], 'server')).toBe('ok')
    const booting = { ...dhcpServer, bootFile: 'other.0' } as unknown as typeof dhcpServer
    const findings = await runDoctor(options, { ...well, dhcpServers: async () => [booting] })
    expect(findings).toContainEqual(
      expect.objectContaining({ level: 'warning', what: '10.1.2.250 (other.0) also says what to boot' }),
    )
  })

  test('a probe that may not look is a warning or an error of its own, and the others go on', async () => {
    const forbidden = new OperationError('portForbidden', 'port 68 may not be opened', 'Run as root.')
    const findings = await findingsOf({
      dhcpServers: async () => {
        throw forbidden
      },
      directory: async () => {
        throw forbidden
      },
    })
    expect(findings.get('dhcp.others')).toMatchObject({ level: 'warning', doNext: 'Run as root.' })
    expect(findings.get('state')).toMatchObject({ level: 'error', doNext: 'Run as root.' })
  })

  test('a mistake of ours is not made into a finding', async () => {
    const mistake = { ...well, firewall: () => Promise.reject(new TypeError('ours')) }
    await expect(runDoctor(options, mistake)).rejects.toThrow(TypeError)
  })

  test('loaders: none, only one kind, without HTTPS, no folder', async () => {
    const loaders = async (...files: ReturnType<typeof file>[]): Promise<Map<string, Finding>> =>
      findingsOf({ loaderFiles: async () => files })
    expect((await loaders()).get('loaders')?.level).toBe('error')
    const bios = await loaders(file('undionly.kpxe', biosIpxe))
    expect(bios.get('loaders.bios')).toMatchObject({ level: 'ok', what: expect.stringMatching(/is not known/) })
    expect(bios.get('loaders.x86_64')?.level).toBe('warning')
    expect(bios.get('loaders.https')?.level).toBe('warning')
    expect((await findingsOf({ loaderFiles: async () => undefined })).get('loaders')?.level).toBe('error')
  })

  test('an image: what is on it, and for whom', async () => {
    const findings = await findingsOf({}, { imagePath: 'tiny.img' })
    expect(findings.get('image')?.what).toBe(
      'tiny.img: 512 KiB, no partition table, Tiny Linux 1 (test), kernel 6.1.0-tiny',
    )
    expect(findings.get('image.bios')?.level).toBe('warning')
    expect(findings.get('image.bootable')?.level).toBe('error')
  })

  test('room for state', async () => {
    const state = async (changed: object): Promise<string | undefined> => {
      const facts = { exists: true, writable: true, freeBytes: 100 * gibibyte, volatile: false, ...changed }
      return (await findingsOf({ directory: async () => facts })).get('state')?.level
    }
    expect(await state({ writable: false })).toBe('error')
    expect(await state({ freeBytes: 1024 })).toBe('error')
    expect(await state({ freeBytes: gibibyte })).toBe('warning')
    expect(await state({ volatile: true })).toBe('warning')
  })
})

describe('judgeFirewall', () => {
  const wanted = [
    { protocol: 'udp', port: 69, service: 'tftp' },
    { protocol: 'tcp', port: 3260, service: 'iscsi' },
  ] as const
  const none = { nftJson: undefined, iptables: undefined, ufwEnabled: false, firewalldRunning: false }
  const nft = (...parts: object[]): string => JSON.stringify({ nftables: [{ metainfo: { version: '1' } }, ...parts] })
  const input = (policy: string): object => ({
    chain: { family: 'inet', table: 'filter', name: 'input', handle: 1, hook: 'input', prio: 0, policy },
  })
  const rule = (...expr: object[]): object => ({
    rule: { family: 'inet', table: 'filter', chain: 'input', handle: 2, expr },
  })
  const dport = (protocol: string, right: unknown): object => ({
    match: { op: '==', left: { payload: { protocol, field: 'dport' } }, right },
  })

  test('nothing could be asked: nothing is known', () => {
    expect(judgeFirewall(none, wanted)).toMatchObject({ guards: [], unknown: true })
  })

  test('a chain that accepts is no guard', () => {
    expect(judgeFirewall({ ...none, nftJson: nft(input('accept')) }, wanted).guards).toEqual([])
  })

  test('a chain that drops is, and rules that let in are seen: a port, a range, a set', () => {
    const json = nft(input('drop'), rule(dport('udp', 69), { accept: null }))
    expect(judgeFirewall({ ...none, nftJson: json }, wanted)).toEqual({
      guards: ['nftables (inet filter input)'],
      notLetIn: [wanted[1]],
      unknown: false,
    })
    const both = nft(input('drop'), rule(dport('th', { set: [69, { range: [3000, 4000] }] }), { accept: null }))
    expect(judgeFirewall({ ...none, nftJson: both }, wanted).notLetIn).toEqual([])
  })

  test('a last rule that refuses everything is a guard', () => {
    const json = nft(input('accept'), rule({ counter: null }, { reject: null }))
    expect(judgeFirewall({ ...none, nftJson: json }, wanted).guards).toEqual(['nftables (inet filter input)'])
    const single = nft(input('accept'), rule(dport('tcp', 22), { drop: null }))
    expect(judgeFirewall({ ...none, nftJson: single }, wanted).guards).toEqual([])
  })

  test('iptables-save, with ranges and lists', () => {
    const iptables = [
      '*filter',
      ':INPUT DROP [0:0]',
      '-A INPUT -p udp -m udp --dport 60:70 -j ACCEPT',
      '-A INPUT -p tcp -m multiport --dports 80,443 -j ACCEPT',
    ].join('\n')
    expect(judgeFirewall({ ...none, iptables }, wanted)).toEqual({
      guards: ['iptables (INPUT)'],
      notLetIn: [wanted[1]],
      unknown: false,
    })
  })

  test.for([
    '',
    '{',
    '{"nftables": 3}',
    '[]',
    '{"nftables": [{"chain": {"hook": "input"}}, {"rule": 7}]}',
  ])('an answer that is none (%s) is nobody’s fault', (nftJson) => {
    expect(judgeFirewall({ ...none, nftJson }, wanted).guards).toEqual([])
  })
})
