/** Which ports `slipway up` will listen at, and whether it can. */
import { OperationError } from '../../base/errors.ts'
import type { DhcpMode, KnownMachine, Ports, UpConfig } from '../config.ts'
import type { StorageNetwork } from '../storage-network.ts'
import { error, type Finding, ok, warning } from './finding.ts'
import type { WantedPort } from './firewall.ts'
import type { DoctorProbes, InterfaceFacts, PortPlace } from './probes.ts'

/** What decides which ports are needed, and how badly. */
export type PortTerms = Pick<UpConfig, 'transport' | 'require'> & {
  readonly ports: Ports
  readonly dhcp: { readonly mode: DhcpMode }
  readonly machines: readonly Pick<KnownMachine, 'transport' | 'require'>[]
}

interface Service extends WantedPort {
  readonly check: string
  readonly place: Omit<PortPlace, 'shared'>
  readonly whyItMatters: string
  /** Without it the rest goes on, as `whyItMatters` says. */
  readonly goesOn: boolean
}

const onlyPort = 'Firmware asks at this port and at no other.'
const withoutHttps = 'Scripts then travel unprotected, and with them the secrets of the boot.'
const strictWithoutHttps =
  'Machines whose transport is strict, or that must prove something, get no script without HTTPS.'
const withoutProofs = 'Machines that must show a certificate are sent to this port, and get no secrets elsewhere.'

/** In the order in which a boot needs them. */
export function servicesOf(
  terms: PortTerms,
  link: InterfaceFacts | undefined,
  storage: StorageNetwork | undefined,
): Service[] {
  const { ports, dhcp } = terms
  const address = link?.address ?? '0.0.0.0'
  const service = (name: string, protocol: 'udp' | 'tcp', port: number): Service => ({
    check: `port.${name}`,
    service: name,
    protocol,
    port,
    place: { protocol, address, port },
    whyItMatters: onlyPort,
    goesOn: false,
  })
  const iscsi = service('iscsi', 'tcp', ports.iscsi)
  // DHCP is heard as broadcast: it is bound to the interface and not to an address.
  const dhcpService = (name: string, port: number): Service => ({
    ...service(name, 'udp', port),
    place: { protocol: 'udp', address: '0.0.0.0', port, ...(link !== undefined && { interfaceName: link.name }) },
  })
  const strict = needsTls(terms)
  const https = {
    ...service('https', 'tcp', ports.https),
    whyItMatters: strict ? strictWithoutHttps : withoutHttps,
    goesOn: !strict,
  }
  const proof = { ...service('proof', 'tcp', ports.proof), whyItMatters: withoutProofs }
  return [
    ...(dhcp.mode === 'off' ? [] : [dhcpService('dhcp', ports.dhcp), dhcpService('pxe', ports.pxe)]),
    service('tftp', 'udp', ports.tftp),
    service('http', 'tcp', ports.http),
    https,
    ...(needsCertificates(terms) ? [proof] : []),
    { ...iscsi, place: { ...iscsi.place, address: storage?.address ?? address } },
  ]
}

export async function checkPorts(
  terms: PortTerms,
  link: InterfaceFacts | undefined,
  storage: StorageNetwork | undefined,
  probes: DoctorProbes,
): Promise<Finding[]> {
  const findings: Finding[] = []
  for (const { check, service, protocol, port, place, whyItMatters, goesOn } of servicesOf(terms, link, storage)) {
    const name = `${service} (${protocol} ${port})`
    const isDhcp = service === 'dhcp' || service === 'pxe'
    const own = await tryPort(probes, { ...place, shared: false })
    if (own === undefined) {
      findings.push(ok(check, `${name} is free`))
      continue
    }
    if (isDhcp && own.code === 'portTaken' && (await tryPort(probes, { ...place, shared: true })) === undefined) {
      const reason =
        'Both hear every request. That is right beside a DHCP server that gives the addresses, and wrong beside another proxy.'
      const next = `See who it is: ss -lnup 'sport = :${port}'.`
      findings.push(warning(check, `${name} is shared with another program on this computer`, reason, next))
      continue
    }
    findings.push((goesOn ? warning : error)(check, own.message, whyItMatters, own.hint))
  }
  return findings
}

async function tryPort(probes: DoctorProbes, place: PortPlace): Promise<OperationError | undefined> {
  try {
    await probes.tryPort(place)
    return undefined
  } catch (thrown) {
    if (thrown instanceof OperationError) return thrown
    throw thrown
  }
}

const needsCertificates = ({ require, machines }: PortTerms): boolean =>
  require === 'certificate' || machines.some((machine) => machine.require === 'certificate')

/** What is said of all machines, or of one. */
const needsTls = (terms: PortTerms): boolean =>
  [terms, ...terms.machines].some(
    ({ transport, require }) => transport === 'strict' || (require !== undefined && require !== 'admission'),
  )
