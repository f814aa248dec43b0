/**
 * `slipway doctor`: looks at everything a boot will need, before anything is started and without changing anything.
 * Each check stands alone: one that cannot look says so and the others go on.
 */
import { formatIpv4, parseIpv4 } from '../../base/address.ts'
import { OperationError } from '../../base/errors.ts'
import { formatBytes, gibibyte, mebibyte } from '../../base/units.ts'
import type { AddressRange, DhcpMode, OwnCertificate, StorageTerms } from '../config.ts'
import { trustFolder } from '../site-authority.ts'
import { error, type Finding, ok, warning } from './finding.ts'
import { judgeFirewall, type WantedPort } from './firewall.ts'
import { certificateFailed, judgeCertificate, judgeHandshakes } from './https.ts'
import { checkImage } from './image.ts'
import { checkLoaders } from './loaders.ts'
import { checkPorts, type PortTerms, servicesOf } from './ports.ts'
import type { DoctorProbes, InterfaceFacts } from './probes.ts'
import { checkStorage } from './storage.ts'

export interface DoctorOptions extends PortTerms {
  /** Undefined: nothing is said about an image. */
  readonly imagePath: string | undefined
  /** Undefined: the only one there is. */
  readonly interfaceName: string | undefined
  readonly dhcp: {
    readonly mode: DhcpMode
    readonly range: AddressRange | undefined
    readonly dns: readonly string[]
  }
  readonly loadersDirectories: readonly string[]
  readonly stateDirectory: string
  readonly serverName: string | undefined
  readonly ownCertificate: OwnCertificate | undefined
  readonly storage: StorageTerms | undefined
}

/** Clones hold what machines write: an installed system changes a few hundred megabytes in a day. */
const freeBytesWanted = 2 * gibibyte
const freeBytesNeeded = 64 * mebibyte

/** In the order in which a boot needs things. Never throws for what the world says. */
export async function runDoctor(options: DoctorOptions, probes: DoctorProbes): Promise<Finding[]> {
  const findings: Finding[] = []
  const link = findLink(options, probes, findings)
  const storage = checkStorage(options.storage, link, options.storage === undefined ? [] : probes.interfaces())
  const checks: ReadonlyArray<readonly [check: string, run: () => Promise<Finding[]>]> = [
    ['storage', async () => [...storage.findings]],
    ['ports', async () => checkPorts(options, link, storage.network, probes)],
    ['dhcp.others', async () => checkOtherDhcp(options, link, probes)],
    ['firewall', async () => checkFirewall(options, probes)],
    ['loaders', async () => checkLoaders(options, probes)],
    ['https', async () => checkHttps(options, link, probes)],
    ['image', async () => checkImage(options, probes)],
    ['state', async () => checkState(options, probes)],
  ]
  for (const [check, run] of checks) {
    try {
      findings.push(...(await run()))
    } catch (thrown) {
      if (!(thrown instanceof OperationError)) throw thrown
      findings.push(error(check, thrown.message, 'This could not be looked at.', thrown.hint))
    }
  }
  return findings
}

/** The worst of them; a command's exit code follows it. */
export function worstOf(findings: readonly Finding[]): Finding['level'] {
  if (findings.some(({ level }) => level === 'error')) return 'error'
  return findings.some(({ level }) => level === 'warning') ? 'warning' : 'ok'
}

function findLink(options: DoctorOptions, probes: DoctorProbes, findings: Finding[]): InterfaceFacts | undefined {
  const all = probes.interfaces()
  const names = all.map(({ name, address }) => `${name} (${address})`).join(', ')
  const wanted = options.interfaceName
  if (wanted === undefined && all.length > 1) {
    const why = 'DHCP must be answered on the network of the machines and on no other.'
    findings.push(error('interface', `there are several networks: ${names}`, why, 'Say which: --interface NAME.'))
    return undefined
  }
  const link = wanted === undefined ? all[0] : all.find(({ name }) => name === wanted)
  if (link === undefined) {
    const what =
      wanted === undefined
        ? 'no interface that is up has an IPv4 address'
        : `${wanted} has no IPv4 address, is down or without a cable, or is not there`
    const next = `ip address add 192.168.77.1/24 dev ${wanted ?? 'NAME'}; ip link set ${wanted ?? 'NAME'} up`
    const seen = names === '' ? '' : ` There are: ${names}.`
    findings.push(error('interface', what, `Machines are answered from an address.${seen}`, next))
    return undefined
  }
  const what = `${link.name} has ${link.address}/${prefixBits(link.netmask)}`
  if (!link.up) {
    const next = `ip link set ${link.name} up, and look at the cable.`
    findings.push(error('interface', `${what}, but is down`, 'Nothing arrives on it.', next))
  } else if (link.address.startsWith('169.254.')) {
    const why = 'That is what a computer gives itself when nobody answers it; machines will not be in that network.'
    findings.push(
      warning('interface', `${what}, a link-local address`, why, `ip address add 192.168.77.1/24 dev ${link.name}`),
    )
  } else findings.push(ok('interface', what))
  findings.push(...checkRange(options, link))
  return link
}

/** Our own leases must be addresses of our own network, and not our own address. */
function checkRange({ dhcp }: DoctorOptions, link: InterfaceFacts): Finding[] {
  const own = parseIpv4(link.address)
  const mask = parseIpv4(link.netmask)
  if (dhcp.mode !== 'server' || dhcp.range === undefined || own === undefined || mask === undefined) return []
  const { first, last } = dhcp.range
  const text = `${formatIpv4(first)}-${formatIpv4(last)}`
  const network = (address: number): number => (address & mask) >>> 0
  if (network(first) !== network(own) || network(last) !== network(own)) {
    const why = `A machine with such an address cannot reach ${link.address}.`
    const next = `Give a range of ${formatIpv4(network(own))}/${prefixBits(link.netmask)}.`
    return [error('dhcp.range', `${text} is not in ${link.name}'s network`, why, next)]
  }
  if (own >= first && own <= last) {
    const why = 'It would be given to a machine, and then both have it.'
    return [error('dhcp.range', `${text} contains this computer's ${link.address}`, why, 'Choose a range without it.')]
  }
  return [ok('dhcp.range', `${text}: ${last - first + 1} addresses`)]
}

async function checkOtherDhcp(
  { dhcp, interfaceName }: DoctorOptions,
  link: InterfaceFacts | undefined,
  probes: DoctorProbes,
): Promise<Finding[]> {
  const check = 'dhcp.others'
  if (link === undefined) return []
  let seen: Awaited<ReturnType<DoctorProbes['dhcpServers']>>
  try {
    seen = await probes.dhcpServers({ interfaceName: link.name, mac: link.mac })
  } catch (thrown) {
    if (!(thrown instanceof OperationError)) throw thrown
    const what = `could not ask who answers DHCP on ${interfaceName ?? link.name}: ${thrown.message}`
    return [warning(check, what, 'Two that answer the same machine make its boot a matter of luck.', thrown.hint)]
  }
  const givers = seen.filter(({ offeredAddress }) => offeredAddress !== undefined)
  const booters = seen.filter(({ bootFile }) => bootFile !== undefined && bootFile !== '')
  const list = (servers: typeof seen): string => servers.map(({ server }) => server).join(', ')
  const findings: Finding[] = []
  switch (dhcp.mode) {
    case 'proxy':
      if (givers.length === 0) {
        const next = 'Start the DHCP server of this network, or let Slipway give addresses: --dhcp FROM-TO.'
        const what = `nobody gives addresses on ${link.name}`
        findings.push(error(check, what, 'A proxy tells a machine what to boot; its address comes from another.', next))
      } else findings.push(ok(check, `${list(givers)} gives addresses; Slipway adds what to boot`))
      break
    case 'server':
      if (givers.length > 0) {
        const next = 'Stop the other, or run beside it: --dhcp proxy.'
        const what = `${list(givers)} gives addresses on ${link.name} already`
        findings.push(error(check, what, 'Two that give addresses give the same one twice, sooner or later.', next))
      } else findings.push(ok(check, `nobody else gives addresses on ${link.name}`))
      break
    case 'off':
      if (booters.length === 0) {
        const next = `In that DHCP server: next-server ${link.address}, filename undionly.kpxe (BIOS) or snponly.efi (UEFI).`
        const what = 'Slipway answers no DHCP, and nobody else says what to boot'
        findings.push(warning(check, what, 'Firmware asks DHCP which file to fetch, and from whom.', next))
      }
      break
  }
  const others = booters.filter(({ nextServer, server }) => nextServer !== link.address && server !== link.address)
  if (dhcp.mode !== 'off' && others.length > 0) {
    const files = others.map(({ server, bootFile }) => `${server} (${bootFile})`).join(', ')
    const next = 'Take the boot file out of its configuration, for the machines that Slipway boots.'
    findings.push(warning(check, `${files} also says what to boot`, 'Firmware takes whichever it likes better.', next))
  }
  return findings
}

async function checkFirewall(options: DoctorOptions, probes: DoctorProbes): Promise<Finding[]> {
  const wanted = servicesOf(options, undefined, undefined)
  const verdict = judgeFirewall(await probes.firewall(), wanted)
  if (verdict.guards.length === 0) {
    if (!verdict.unknown) return [ok('firewall', 'nothing refuses what comes in')]
    const next = 'As root, or look yourself: nft list ruleset.'
    return [warning('firewall', 'the firewall could not be read', 'It may keep machines away.', next)]
  }
  const guards = verdict.guards.join(', ')
  if (verdict.notLetIn.length === 0) return [ok('firewall', `${guards} lets in all that Slipway needs`)]
  const list = verdict.notLetIn.map(({ service, protocol, port }) => `${service} (${protocol} ${port})`).join(', ')
  const next = openingAdvice(guards, verdict.notLetIn)
  const why =
    'What a firewall refuses looks to a machine like a server that is not there. (TFTP answers from ports of its own: let replies out.)'
  return [warning('firewall', `${guards}: no rule was seen that lets in ${list}`, why, next)]
}

function openingAdvice(guards: string, ports: readonly WantedPort[]): string {
  const each = (format: (port: WantedPort) => string): string => ports.map(format).join('; ')
  if (guards.includes('ufw')) return each(({ protocol, port }) => `ufw allow ${port}/${protocol}`)
  if (guards.includes('firewalld')) return each(({ protocol, port }) => `firewall-cmd --add-port=${port}/${protocol}`)
  if (guards.includes('iptables'))
    return each(({ protocol, port }) => `iptables -I INPUT -p ${protocol} --dport ${port} -j ACCEPT`)
  const [, family = 'inet', table = 'filter', chain = 'input'] = /nftables \((\S+) (\S+) (\S+)\)/.exec(guards) ?? []
  return each(({ protocol, port }) => `nft insert rule ${family} ${table} ${chain} ${protocol} dport ${port} accept`)
}

async function checkHttps(
  { dhcp, serverName, ownCertificate, stateDirectory }: DoctorOptions,
  link: InterfaceFacts | undefined,
  probes: DoctorProbes,
): Promise<Finding[]> {
  const findings: Finding[] = []
  const terms = {
    address: link?.address ?? '',
    serverName,
    own: ownCertificate,
    dnsServers: dhcp.mode === 'server' ? dhcp.dns : [],
    trustDirectory: `${stateDirectory}/${trustFolder}`,
  }
  try {
    const facts = link && (await probes.certificate(terms))
    if (facts !== undefined) findings.push(judgeCertificate(facts, probes.wallMs()))
  } catch (thrown) {
    if (!(thrown instanceof OperationError)) throw thrown
    findings.push(certificateFailed(thrown))
  }
  return [...findings, ...judgeHandshakes(await probes.recentEvents(stateDirectory), probes.wallMs())]
}

async function checkState({ stateDirectory }: DoctorOptions, probes: DoctorProbes): Promise<Finding[]> {
  const facts = await probes.directory(stateDirectory)
  const free = formatBytes(facts.freeBytes)
  if (!facts.writable) {
    const what = facts.exists ? `${stateDirectory} may not be written` : `${stateDirectory} cannot be made`
    return [
      error(
        'state',
        what,
        'Leases, machines and their disks are kept there.',
        'Choose another: --state DIR, or run as the user who owns it.',
      ),
    ]
  }
  if (facts.freeBytes < freeBytesNeeded) {
    const why = 'A machine whose writes find no room sees its disk fail.'
    return [
      error('state', `${stateDirectory} has ${free} free`, why, 'Make room there, or choose another: --state DIR.'),
    ]
  }
  if (facts.volatile) {
    const why = 'Leases, admissions and clones are gone when this computer restarts.'
    return [warning('state', `${stateDirectory} is in memory`, why, 'Choose a place on a disk: --state DIR.')]
  }
  if (facts.freeBytes < freeBytesWanted) {
    const why = 'Every machine keeps what it writes there.'
    return [
      warning('state', `${stateDirectory} has ${free} free`, why, 'Make room there, or choose another: --state DIR.'),
    ]
  }
  return [ok('state', `${stateDirectory} has ${free} free`)]
}

function prefixBits(netmask: string): number {
  let mask = parseIpv4(netmask) ?? 0
  let bits = 0
  for (; mask !== 0; mask = (mask << 1) >>> 0) bits++
  return bits
}
