/** What the doctor asks of the world. `system-probes.ts` really asks; a test answers as it likes. */
import type { BlockDevice } from '../../block/device.ts'
import type { SeenServer } from '../../dhcp/probe.ts'
import type { BootEvent } from '../../journal/events.ts'
import type { CertificateTerms } from '../server-certificates.ts'

export interface DoctorProbes {
  interfaces(): readonly InterfaceFacts[]
  /** Binds and lets go. @throws {OperationError} portTaken, portForbidden, addressUnknown, interfaceUnknown */
  tryPort(place: PortPlace): Promise<void>
  /** @throws {OperationError} portTaken, portForbidden, interfaceUnknown */
  dhcpServers(link: { readonly interfaceName: string; readonly mac: string }): Promise<readonly SeenServer[]>
  /** Undefined when there is no such directory. */
  loaderFiles(directory: string): Promise<readonly LoaderFileFacts[] | undefined>
  /** Read-only. @throws {OperationError} fileMissing, fileForbidden, notAFile, ... */
  openImage(path: string): Promise<BlockDevice>
  directory(path: string): Promise<DirectoryFacts>
  firewall(): Promise<FirewallReading>
  /** Makes nothing. Undefined: our authority makes one when it is needed. @throws those of loadServerCertificates */
  certificate(terms: CertificateTerms): Promise<CertificateFacts | undefined>
  /** The newest of the journal, oldest first; none where there is no journal. */
  recentEvents(stateDirectory: string): Promise<readonly BootEvent[]>
  wallMs(): number
}

export interface CertificateFacts {
  readonly subject: string
  readonly notAfterMs: number
  /** By which host machines ask for it. */
  readonly host: string
}

export interface InterfaceFacts {
  readonly name: string
  readonly address: string
  readonly netmask: string
  readonly mac: string
  readonly up: boolean
  /** Of a VLAN that Linux tags: which one. */
  readonly vlan?: number
}

export interface PortPlace {
  readonly protocol: 'udp' | 'tcp'
  readonly address: string
  readonly port: number
  /** UDP: only this interface. */
  readonly interfaceName?: string
  /** Others may listen there as well, if they allow it too. */
  readonly shared: boolean
}

export interface LoaderFileFacts {
  readonly name: string
  /** @throws {OperationError} fileForbidden, ioError */
  bytes(): Promise<Uint8Array>
}

export interface DirectoryFacts {
  readonly exists: boolean
  readonly writable: boolean
  readonly freeBytes: number
  readonly volatile: boolean
}

export interface FirewallReading {
  readonly nftJson: string | undefined
  readonly iptables: string | undefined
  readonly ufwEnabled: boolean
  readonly firewalldRunning: boolean
}
