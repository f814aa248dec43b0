import { readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { OperationError } from '../../base/errors.ts'
import { gibibyte } from '../../base/units.ts'
import { createMemoryDevice } from '../../block/memory.ts'
import type { BootEvent, Happening } from '../../journal/events.ts'
import { buildPe } from '../../trust/testing/pe-builder.ts'
import { defaultPorts } from '../config.ts'
import { type DoctorOptions, runDoctor, worstOf } from './doctor.ts'
import type { Finding } from './finding.ts'
import { judgeFirewall } from './firewall.ts'
import type { DoctorProbes, InterfaceFacts, PortPlace } from './probes.ts'

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
  dhcp: { mode: 'proxy', range: undefined, dns: [] },
  ports: defaultPorts,
  transport: 'auto',
  require: 'admission',
  machines: [],
  loadersDirectories: ['/loaders'],
  stateDirectory: '/state',
  serverName: undefined,
  ownCertificate: undefined,
  storage: undefined,
}
const dhcpServer = {
  server: '10.1.2.250',
  offeredAddress: '10.1.2.50',
  bootFile: undefined,
  nextServer: undefined,
  routers: [],
}
const dayMs = 86_400_000
const nowMs = Date.UTC(2026, 10, 21, 12)
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
  certificate: async () => ({ subject: 'CN=Site', notAfterMs: nowMs + 300 * dayMs, host: '10.1.2.1' }),
  recentEvents: async () => [],
  wallMs: () => nowMs,
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
      const dhcp = { mode: 'server', range: { first: 0x0a010200 + first, last: 0x0a010200 + last }, dns: [] } as const
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

  test('the port that asks for certificates is looked at where a machine must show one, and let through the firewall', async () => {
    const tryPort = async ({ port }: PortPlace): Promise<void> => {
      if (port === 8443) throw new OperationError('portTaken', '8443 is taken', 'ss -lntp')
    }
    expect((await findingsOf({ tryPort })).has('port.proof')).toBe(false)
    const closed = JSON.stringify({
      nftables: [{ chain: { family: 'inet', table: 'filter', name: 'input', hook: 'input', policy: 'drop' } }],
    })
    const firewall = async () => ({ nftJson: closed, iptables: undefined, ufwEnabled: false, firewalldRunning: false })
    for (const demand of [
      { require: 'certificate' },
      { machines: [{ transport: undefined, require: 'certificate' }] },
    ] as const) {
      const findings = await findingsOf({ tryPort, firewall }, demand)
      expect(findings.get('port.proof')).toMatchObject({ level: 'error', what: '8443 is taken', doNext: 'ss -lntp' })
      expect(findings.get('firewall')?.what).toContain('proof (tcp 8443)')
    }
    expect((await findingsOf({}, { require: 'certificate' })).get('port.proof')?.level).toBe('ok')
  })

  test('a taken HTTPS port is a warning, and an error where a machine gets nothing without', async () => {
    const tryPort = async ({ port }: PortPlace): Promise<void> => {
      if (port === 443) throw new OperationError('portTaken', '443 is taken', 'ss -lntp')
    }
    const levelOf = async (demand: Partial<DoctorOptions>): Promise<string | undefined> =>
      (await findingsOf({ tryPort }, demand)).get('port.https')?.level
    expect(await levelOf({})).toBe('warning')
    expect(await levelOf({ transport: 'strict' })).toBe('error')
    expect(await levelOf({ machines: [{ transport: undefined, require: 'login' }] })).toBe('error')
  })

  test('without DHCP its ports are not looked at', async () => {
    const findings = await findingsOf({}, { dhcp: { mode: 'off', range: undefined, dns: [] } })
    expect(findings.has('port.dhcp')).toBe(false)
    expect(findings.get('dhcp.others')).toMatchObject({
      level: 'warning',
      doNext: expect.stringMatching(/next-server/),
    })
  })

  test('who else answers DHCP matters differently to a proxy and to a server', async () => {
    const level = async (servers: (typeof dhcpServer)[], mode: 'proxy' | 'server'): Promise<string | undefined> =>
      (await findingsOf({ dhcpServers: async () => servers }, { dhcp: { mode, range: undefined, dns: [] } })).get(
        'dhcp.others',
      )?.level
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

  test('a certificate that cannot be shown, or ends soon', async () => {
    const ends = { subject: 'CN=boot.lab', notAfterMs: nowMs + 5 * dayMs, host: 'boot.lab' }
    expect((await findingsOf({ certificate: async () => ends })).get('https.certificate')).toMatchObject({
      level: 'warning',
      what: 'CN=boot.lab is good until 2026-11-26',
    })
    const wrong = async (): Promise<never> => {
      throw new OperationError('nameUnresolved', 'boot.lab does not resolve', 'Give it an address.')
    }
    expect((await findingsOf({ certificate: wrong })).get('https.certificate')).toMatchObject({
      level: 'error',
      what: 'boot.lab does not resolve',
      doNext: 'Give it an address.',
    })
    expect((await findingsOf({ certificate: async () => undefined })).has('https.certificate')).toBe(false)
  })

  test('who could not agree on TLS lately, and has not since', async () => {
    const failed = { kind: 'tlsFailed', reason: 'no suite', hint: 'Set compat.', offered: 'TLS 1.2 with X' } as const
    const agreed = {
      kind: 'tlsAgreed',
      protocol: 'TLSv1.3',
      cipher: 'X',
      compat: undefined,
      clientFingerprint: undefined,
    } as const
    const silent = { kind: 'failed', step: 'HTTPS', reason: 'did not come', hint: 'Enroll ours.' } as const
    const from = (mac: string, event: Happening, hoursAgo: number): BootEvent => ({
      ...event,
      mac,
      address: undefined,
      id: 1,
      atMs: nowMs - hoursAgo * 3_600_000,
    })
    const recent = [
      from('a', failed, 30),
      from('b', failed, 5),
      from('b', agreed, 4),
      from('c', failed, 3),
      from('c', failed, 2),
      from('d', silent, 1),
    ]
    const findings = await runDoctor(options, { ...well, recentEvents: async () => recent })
    expect(findings.filter(({ check }) => check === 'https.failed')).toMatchObject([
      {
        level: 'warning',
        what: 'c, 2026-11-21 10:00: could not agree on TLS: no suite (it offered TLS 1.2 with X)',
        doNext: 'Set compat.',
      },
      { level: 'warning', what: 'd, 2026-11-21 11:00: did not come', doNext: 'Enroll ours.' },
    ])
  })

  test('the VLAN of the disks: there, missing, down, untagged; and who can join it', async () => {
    const range = { first: 0x0a4d0264, last: 0x0a4d02c7 }
    const storage = { vlan: 2, interfaceName: undefined, range }
    const tagged = { ...link, name: 'eth0.2', address: '10.77.2.1', vlan: 2 }
    const of = async (
      more: readonly InterfaceFacts[],
      probes: Partial<DoctorProbes> = {},
    ): Promise<Map<string, Finding>> =>
      findingsOf({ interfaces: () => [link, ...more], ...probes }, { storage, interfaceName: 'eth0' })
    expect((await of([tagged])).get('storage')).toMatchObject({
      level: 'ok',
      what: 'eth0.2 (10.77.2.1) is VLAN 2; machines are 10.77.2.100-10.77.2.199 there',
    })
    expect((await of([])).get('storage')).toMatchObject({
      level: 'error',
      doNext: expect.stringMatching(/ip link add link eth0 name eth0\.2 type vlan id 2/),
    })
    expect((await of([{ ...tagged, up: false }])).get('storage')?.level).toBe('error')
    const { vlan: _, ...untagged } = tagged
    expect((await of([untagged])).get('storage')?.level).toBe('warning')
    const asked: string[] = []
    const tryPort = async ({ address, port }: PortPlace): Promise<void> => void asked.push(`${address}:${port}`)
    await of([tagged], { tryPort })
    expect(asked.filter((place) => place.endsWith(':3260'))).toEqual(['10.77.2.1:3260'])

    expect((await of([tagged])).get('loaders.vlan')?.level).toBe('warning')
    const able = async () => [file('snponly.efi', ipxeFor(0x8664, 'VLAN\0'))]
    expect((await of([tagged], { loaderFiles: able })).get('loaders.vlan')).toMatchObject({
      level: 'ok',
      what: 'VLANs: snponly.efi',
    })
    expect((await findingsOf({})).has('loaders.vlan')).toBe(false)
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
