/** DHCP plugged together: the server, its leases on disk, and the answers to IPv6 router solicitations that go with it. */
import { formatIpv4, parseIpv4 } from '../base/address.ts'
import { messageOf, OperationError } from '../base/errors.ts'
import { openLeaseLog } from '../dhcp/lease-log.ts'
import { type DhcpEvent, type DhcpEvents, forgetfulLeaseStore, type LeaseStore } from '../dhcp/policy.ts'
import { type DhcpServerTerms, startDhcpServer } from '../dhcp/server.ts'
import { startSolicitationResponder } from '../dhcp/solicitation-responder.ts'
import { systemClock } from '../host/clock.ts'
import { openFile } from '../host/file.ts'
import { systemIcmpv6 } from '../host/icmpv6.ts'
import type { NetworkInterface } from '../host/interfaces.ts'
import { createNeighbours, systemUdp } from '../host/udp.ts'
import type { RandomAccessFile } from '../ports/file.ts'
import type { Log } from '../ports/log.ts'
import type { BootDesk } from './boot-desk.ts'
import { formatRange, type UpConfig } from './config.ts'
import type { EventStream } from './event-stream.ts'
import type { Roster } from './roster.ts'
import { fromDhcp } from './translate.ts'

export type DhcpParts = {
  readonly config: UpConfig
  readonly network: NetworkInterface
  readonly bootDesk: BootDesk
  readonly roster: Roster
  readonly events: EventStream
  readonly log: Log
  /** A file of the state directory. */
  file(name: string): string
}

/** Returns what stops it. @throws {OperationError} portTaken, and what the lease files say */
export async function startDhcp(parts: DhcpParts): Promise<() => Promise<void>> {
  const { config, network, bootDesk, roster, events, log } = parts
  const solicitation: { hear?: (event: DhcpEvent) => void } = {}
  const dhcpEvents: DhcpEvents = {
    emit: (event) => {
      solicitation.hear?.(event)
      if (event.kind === 'leased') roster.hasAddress(event.client.mac, event.address)
      for (const { whose, happening } of fromDhcp(event, (client) => bootDesk.reasonFor(client))) {
        events.emit(whose, happening)
      }
    },
  }
  const leases = config.dhcp.mode === 'server' ? await openLeases(parts) : undefined
  const server = await startDhcpServer(
    dhcpTerms(config, network),
    { udp: systemUdp, neighbours: createNeighbours(), clock: systemClock, log },
    { advisor: bootDesk, leases: leases?.store ?? forgetfulLeaseStore, events: dhcpEvents },
  )
  // Without router advertisements a boot works, only slower; so a machine without IPv6 or the capability goes on.
  const responder = await startSolicitationResponder(
    { interfaceName: network.name, linkAddress: linkAddressBytes(network.mac) },
    { icmpv6: systemIcmpv6, clock: systemClock },
    dhcpEvents,
  ).catch((error: unknown) => {
    log.info('no router advertisements: an iPXE of 2019 waits 12 s longer', { reason: messageOf(error) })
    return undefined
  })
  if (responder !== undefined) solicitation.hear = (event) => responder.hear(event)
  const { range } = config.dhcp
  const what = range === undefined ? 'proxy' : formatRange(range)
  events.emit({}, { kind: 'serviceReady', service: 'dhcp', endpoint: `${network.name}:${config.ports.dhcp} (${what})` })
  return async () => {
    responder?.close()
    await server.close()
    await leases?.close()
  }
}

async function openLeases({ file }: DhcpParts): Promise<{ store: LeaseStore; close: () => Promise<void> }> {
  const open = async (name: string): Promise<RandomAccessFile> =>
    openFile(file(name), 'readWrite').catch((error: unknown) => {
      if (error instanceof OperationError && error.code === 'fileMissing') return openFile(file(name), 'createNew')
      throw error
    })
  const files = [await open('leases-a'), await open('leases-b')] as const
  const store = openLeaseLog(files)
  return {
    store,
    close: async () => {
      await store.close()
      for (const each of files) await each.close()
    },
  }
}

function dhcpTerms(config: UpConfig, network: NetworkInterface): DhcpServerTerms {
  const { range, router, dns, leaseSeconds } = config.dhcp
  const common = { interfaceName: network.name, port: config.ports.dhcp, bootServerPort: config.ports.pxe }
  if (range === undefined) return { ...common, mode: { kind: 'proxy', serverAddress: network.address } }
  return {
    ...common,
    mode: {
      kind: 'server',
      pool: {
        serverAddress: network.address,
        prefixBits: prefixBitsOf(network.netmask),
        from: formatIpv4(range.first),
        to: formatIpv4(range.last),
        ...(router === undefined ? {} : { routers: [router] }),
        domainNameServers: dns,
        leaseSeconds,
      },
    },
  }
}

function prefixBitsOf(netmask: string): number {
  const bits = parseIpv4(netmask) ?? 0
  return bits.toString(2).replaceAll('0', '').length
}

function linkAddressBytes(mac: string): Uint8Array {
  return Uint8Array.from(mac.split(':').map((part) => Number.parseInt(part, 16)))
}
