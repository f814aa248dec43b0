/**
 * The DHCP server and the proxyDHCP server: packets in, answers out. What to answer is in `reply.ts`, who has which address
 * in `lease-table.ts`, when an ACK may leave in `lease-commits.ts`, what to boot is the advisor's; here they meet the sockets.
 */
import { formatIpv4, type Mac, parseIpv4 } from '../base/address.ts'
import { assert } from '../base/assert.ts'
import type { Clock } from '../ports/clock.ts'
import type { Log } from '../ports/log.ts'
import type { Endpoint, Neighbours, UdpNetwork, UdpSocket } from '../ports/udp.ts'
import { WireError } from '../wire/reader.ts'
import { macOf, recognise } from './client.ts'
import type { ClientFacts } from './client-facts.ts'
import { LeaseCommits } from './lease-commits.ts'
import type { LeaseView, RequestKind } from './lease-table.ts'
import { malformedEventsPerSecondMax, replyBytesMax } from './limits.ts'
import { decode, type Message, MessageBuffer } from './message.ts'
import * as option from './option.ts'
import type { BootAdvisor, BootAnswer, DhcpEvents, LeaseStore, RefusalReason } from './policy.ts'
import { addressOf, type Pool, type PoolConfiguration, poolOf } from './pool.ts'
import { readPxeBootItem, writePxeBootItem } from './pxe-options.ts'
import {
  bootServerReply,
  destinationOf,
  isOn,
  leaseReply,
  type Network,
  proxyOffer,
  refusal,
  replyBytesFor,
} from './reply.ts'

export type DhcpServerTerms = {
  readonly interfaceName: string
  readonly mode:
    | {
        readonly kind: 'server'
        /** The network that the interface is on. */
        readonly pool: PoolConfiguration
        /** Networks behind relays, told apart by the relay's address. */
        readonly relayed?: readonly PoolConfiguration[]
      }
    /** `serverAddress` is ours on the interface, dotted. */
    | { readonly kind: 'proxy'; readonly serverAddress: string }
  /** Default 67; clients listen on the one after it. */
  readonly port?: number
  /** Default 4011; 0 for any free one. */
  readonly bootServerPort?: number
}

export type DhcpServerPorts = {
  readonly udp: UdpNetwork
  readonly neighbours: Neighbours
  readonly clock: Clock
  readonly log: Log
}

export type DhcpServerPlugs = {
  readonly advisor: BootAdvisor
  readonly leases: LeaseStore
  readonly events: DhcpEvents
}

export interface DhcpServer {
  /** Every offer, lease and quarantined address. */
  leases(): readonly LeaseView[]
  /** `mac` gets `address` from its next DISCOVER on. False if the address is on none of our networks, or we are a proxy. */
  reserve(mac: Mac, address: string): boolean
  unreserve(mac: Mac): void
  /** Where it listens: the DHCP port and the boot server port. */
  readonly local: readonly [dhcp: Endpoint, bootServer: Endpoint]
  /** Answers what is being kept, then closes. */
  close(): Promise<void>
}

/**
 * Loads the leases and binds both ports.
 * @throws {OperationError} badConfiguration, portTaken, portForbidden, interfaceUnknown, and what the store throws
 */
export async function startDhcpServer(
  terms: DhcpServerTerms,
  ports: DhcpServerPorts,
  plugs: DhcpServerPlugs,
): Promise<DhcpServer> {
  const { mode } = terms
  const pools = mode.kind === 'server' ? [mode.pool, ...(mode.relayed ?? [])].map(poolOf) : []
  // The wall clock may jump under way; only its value at the start goes into expiries, which have to outlive the process.
  const wallOffsetMs = ports.clock.wallMs() - ports.clock.nowMs()
  if (pools.length > 0) {
    const kept = await plugs.leases.load()
    const nowSeconds = Math.floor((ports.clock.nowMs() + wallOffsetMs) / 1000)
    for (const { network, table } of pools) {
      table.restore(
        kept.filter((lease) => isOn(network, lease.address)),
        nowSeconds,
      )
    }
  }
  const server = new Server(terms, pools, ports, plugs, wallOffsetMs)
  await server.listen()
  return server
}

class Server implements DhcpServer {
  readonly #terms: DhcpServerTerms
  /** The first one is the interface's own. None for a proxy. */
  readonly #pools: readonly Pool[]
  readonly #ports: DhcpServerPorts
  readonly #plugs: DhcpServerPlugs
  readonly #wallOffsetMs: number
  readonly #serverAddress: number
  readonly #buffer: MessageBuffer = new MessageBuffer(replyBytesMax)
  readonly #port: number
  #dhcpSocket: UdpSocket | undefined
  #bootServerSocket: UdpSocket | undefined
  readonly #commits: LeaseCommits
  #closed = false
  #malformedSecond = 0
  #malformedCount = 0

  constructor(
    terms: DhcpServerTerms,
    pools: readonly Pool[],
    ports: DhcpServerPorts,
    plugs: DhcpServerPlugs,
    wallOffsetMs: number,
  ) {
    this.#terms = terms
    this.#pools = pools
    this.#ports = ports
    this.#plugs = plugs
    this.#wallOffsetMs = wallOffsetMs
    this.#port = terms.port ?? 67
    this.#commits = new LeaseCommits({ ...plugs, log: ports.log }, (bytes, to) => this.#dhcpSocket?.send(bytes, to))
    const { mode } = terms
    this.#serverAddress = addressOf(
      'serverAddress',
      mode.kind === 'proxy' ? mode.serverAddress : mode.pool.serverAddress,
    )
  }

  async listen(): Promise<void> {
    const { interfaceName, bootServerPort = 4011 } = this.#terms
    const binding = { address: '0.0.0.0', interfaceName, broadcast: true, reuseAddress: true }
    const { udp } = this.#ports
    this.#dhcpSocket = await udp.bind({ ...binding, port: this.#port }, (bytes, from) => {
      this.#receive(bytes, from, (message) => this.#onDhcp(message, from))
    })
    try {
      this.#bootServerSocket = await udp.bind({ ...binding, port: bootServerPort }, (bytes, from) => {
        this.#receive(bytes, from, (message) => this.#onBootServerRequest(message, from))
      })
    } catch (error) {
      this.#dhcpSocket.close()
      throw error
    }
  }

  get local(): readonly [Endpoint, Endpoint] {
    assert(this.#dhcpSocket !== undefined && this.#bootServerSocket !== undefined, 'the server is listening')
    return [this.#dhcpSocket.local, this.#bootServerSocket.local]
  }

  leases(): readonly LeaseView[] {
    return this.#pools.flatMap(({ table }) => [...table.leases()])
  }

  reserve(mac: Mac, address: string): boolean {
    const number = addressOf('reservation', address)
    const pool = this.#pools.find(({ network }) => isOn(network, number))
    if (pool === undefined || number === pool.network.serverAddress) return false
    pool.table.reserve(mac, number)
    return true
  }

  unreserve(mac: Mac): void {
    for (const { table } of this.#pools) table.unreserve(mac)
  }

  async close(): Promise<void> {
    this.#closed = true
    await this.#commits.settled()
    this.#dhcpSocket?.close()
    this.#bootServerSocket?.close()
  }

  /** The one place where a peer's bad bytes end. */
  #receive(bytes: Uint8Array, from: Endpoint, handle: (message: Message) => void): void {
    if (this.#closed) return
    try {
      const message = decode(bytes)
      // Answers of other servers, looped back by a relay or meant for a client on this host.
      if (message.op === 'request') handle(message)
    } catch (error) {
      if (error instanceof WireError) this.#onMalformed(from, error.message)
      else this.#onMistake(from, error)
    }
  }

  /** Ours, not the peer's. It costs this packet; all other machines go on booting. */
  #onMistake(from: Endpoint, error: unknown): void {
    const reason = error instanceof Error ? (error.stack ?? error.message) : String(error)
    this.#ports.log.error('a DHCP packet was not answered: a mistake of ours', { from: from.address, reason })
  }

  #onMalformed(from: Endpoint, reason: string): void {
    const second = Math.floor(this.#ports.clock.nowMs() / 1000)
    if (second !== this.#malformedSecond) {
      this.#malformedSecond = second
      this.#malformedCount = 0
    }
    this.#malformedCount++
    if (this.#malformedCount > malformedEventsPerSecondMax) return
    this.#plugs.events.emit({ kind: 'malformed', from: `${from.address}:${from.port}`, reason })
  }

  #onDhcp(request: Message, from: Endpoint): void {
    if (this.#terms.mode.kind === 'proxy') {
      if (request.type === 'discover') this.#offerAsProxy(request)
      return
    }
    const pool = this.#poolFor(request)
    if (pool === undefined) return
    switch (request.type) {
      case 'discover':
        this.#onDiscover(request, pool)
        break
      case 'request':
        this.#onRequest(request, pool)
        break
      case 'decline':
        this.#onDecline(request, pool)
        break
      case 'release':
        this.#onRelease(request, pool)
        break
      case 'inform':
        this.#onInform(request, pool, from)
        break
      case 'offer':
      case 'ack':
      case 'nak':
        break
    }
  }

  /** A relay says by its address where the client is; without one it is on our own network. */
  #poolFor(request: Message): Pool | undefined {
    if (request.relayAddress === 0) return this.#pools[0]
    return this.#pools.find(({ network }) => isOn(network, request.relayAddress))
  }

  #onDiscover(request: Message, pool: Pool): void {
    const client = recognise(request)
    const requested = request.options.get(option.requestedAddress)
    const { network, table } = pool
    const boot = this.#ask(client, network.serverAddress, undefined)
    if (boot.kind === 'ignore') return
    const address = table.offer(client.mac, requested, this.#nowSeconds())
    if (address === undefined) {
      this.#plugs.events.emit({ kind: 'poolExhausted', mac: client.mac })
      return
    }
    this.#send(
      leaseReply({ type: 'offer', request, client, network, yourAddress: address, boot }),
      replyBytesFor(request),
    )
    this.#plugs.events.emit({ kind: 'offered', client, address: formatIpv4(address), bootFile: bootFileOf(boot) })
  }

  /** RFC 2131 §4.3.2; table 4 tells the cases apart. */
  #onRequest(request: Message, pool: Pool): void {
    const client = recognise(request)
    const { network, table } = pool
    const { mac } = client
    const server = request.options.get(option.serverIdentifier)
    if (server !== undefined && server !== network.serverAddress) {
      table.withdraw(mac, this.#nowSeconds())
      this.#plugs.events.emit({ kind: 'otherServerChosen', mac, server: formatIpv4(server) })
      return
    }
    const requested = request.options.get(option.requestedAddress)
    const address = requested ?? request.clientAddress
    if (address === 0) return
    const boot = this.#ask(client, network.serverAddress, formatIpv4(address))
    if (boot.kind === 'ignore') return
    if (!isOn(network, address)) {
      this.#refuse(request, mac, network, address, 'wrongNetwork')
      return
    }
    const kind: RequestKind = server !== undefined ? 'selecting' : requested !== undefined ? 'rebooting' : 'renewing'
    const taken = table.take(mac, address, kind, this.#nowSeconds())
    if (taken.kind === 'unknown') return
    if (taken.kind === 'refused') {
      this.#refuse(request, mac, network, address, taken.reason)
      return
    }
    const reply = leaseReply({ type: 'ack', request, client, network, yourAddress: address, boot })
    const event = { kind: 'leased', client, address: formatIpv4(address), bootFile: bootFileOf(boot) } as const
    // Past the limit the lease stands and the answer is lost: the client asks again.
    if (this.#commits.hasRoom) {
      const bytes = this.#encode(reply, replyBytesFor(request)).slice()
      this.#commits.answerWhenKept({ bytes, to: this.#endpointOf(reply), event })
    }
    this.#commits.keep(table.takeChanges())
  }

  #refuse(request: Message, mac: Mac, network: Network, address: number, reason: RefusalReason): void {
    this.#send(refusal(request, network.serverAddress, refusalWords[reason]), replyBytesFor(request))
    this.#plugs.events.emit({ kind: 'refused', mac, address: formatIpv4(address), reason })
  }

  #onDecline(request: Message, { network, table }: Pool): void {
    const address = request.options.get(option.requestedAddress)
    if (address === undefined || !isForUs(request, network)) return
    const mac = macOf(request)
    if (!table.decline(mac, address, this.#nowSeconds())) return
    this.#commits.keep(table.takeChanges())
    this.#plugs.events.emit({ kind: 'declined', mac, address: formatIpv4(address) })
  }

  #onRelease(request: Message, { network, table }: Pool): void {
    if (!isForUs(request, network)) return
    const mac = macOf(request)
    if (!table.release(mac, request.clientAddress, this.#nowSeconds())) return
    this.#commits.keep(table.takeChanges())
    this.#plugs.events.emit({ kind: 'released', mac, address: formatIpv4(request.clientAddress) })
  }

  /** RFC 2131 §4.3.5: it has an address and wants to know the rest. */
  #onInform(request: Message, { network }: Pool, from: Endpoint): void {
    // Some clients leave ciaddr empty and are known by where the packet came from.
    const clientAddress = request.clientAddress !== 0 ? request.clientAddress : (parseIpv4(from.address) ?? 0)
    if (clientAddress === 0 || (request.relayAddress === 0 && !isOn(network, clientAddress))) return
    const client = recognise(request)
    const boot = this.#ask(client, network.serverAddress, formatIpv4(clientAddress))
    if (boot.kind === 'ignore') return
    const reply = leaseReply({ type: 'ack', request, client, network, yourAddress: 0, boot })
    this.#send({ ...reply, clientAddress }, replyBytesFor(request))
  }

  #offerAsProxy(request: Message): void {
    const client = recognise(request)
    // Others take the first offer they get, with or without an address in it (U-Boot 2023.01 does): silence is what helps.
    const { kind } = client.program
    if (kind !== 'pxe' && kind !== 'uefiHttp' && kind !== 'ipxe') return
    const boot = this.#ask(client, this.#serverAddress, undefined)
    if (boot.kind !== 'boot') return
    this.#send(proxyOffer(request, client, this.#serverAddress, boot), replyBytesFor(request))
    this.#plugs.events.emit({ kind: 'offered', client, address: undefined, bootFile: boot.bootFile })
  }

  /** Port 4011: firmware that has its address asks what to load (PXE 2.1 §2.4). It asks with REQUEST, some with INFORM. */
  #onBootServerRequest(request: Message, from: Endpoint): void {
    if (request.type !== 'request' && request.type !== 'inform') return
    const server = request.options.get(option.serverIdentifier)
    const pool = this.#terms.mode.kind === 'server' ? this.#poolFor(request) : undefined
    const serverAddress = pool?.network.serverAddress ?? this.#serverAddress
    if (server !== undefined && server !== serverAddress) return
    const client = recognise(request)
    const clientAddress = request.clientAddress !== 0 ? formatIpv4(request.clientAddress) : undefined
    const boot = this.#ask(client, serverAddress, clientAddress)
    if (boot.kind !== 'boot') return
    const vendorSpecific = request.options.get(option.vendorSpecific)
    const item = vendorSpecific === undefined ? undefined : readPxeBootItem(vendorSpecific)
    const entry = boot.menu?.entries.find(({ bootServerType }) => bootServerType === item?.bootServerType)
    const chosen = { ...boot, bootFile: entry?.bootFile ?? boot.bootFile }
    const reply = bootServerReply(
      request,
      client,
      serverAddress,
      chosen,
      item === undefined ? undefined : writePxeBootItem(item),
    )
    // To where it came from: firmware asks from port 68 or from 4011.
    const to = from.address === '0.0.0.0' ? this.#broadcast() : from
    this.#bootServerSocket?.send(this.#encode(reply, replyBytesFor(request)), to)
    this.#plugs.events.emit({ kind: 'bootServerAnswered', client, bootFile: chosen.bootFile })
  }

  #ask(client: ClientFacts, serverAddress: number, clientAddress: string | undefined): BootAnswer {
    const proxy = this.#terms.mode.kind === 'proxy'
    return this.#plugs.advisor.answer(client, { serverAddress: formatIpv4(serverAddress), clientAddress, proxy })
  }

  #send(reply: Message, bytesMax: number): void {
    this.#dhcpSocket?.send(this.#encode(reply, bytesMax), this.#endpointOf(reply))
  }

  /** The bytes are in the one buffer that all answers are written into. */
  #encode(reply: Message, bytesMax: number): Uint8Array {
    const omitted: number[] = []
    const bytes = this.#buffer.encode(reply, bytesMax, omitted)
    if (omitted.length > 0) {
      this.#ports.log.warn('options did not fit into the answer', { mac: macOf(reply), options: omitted.join(' ') })
    }
    return this.#buffer.bytes.subarray(0, bytes)
  }

  #endpointOf(reply: Message): Endpoint {
    const destination = destinationOf(reply)
    switch (destination.kind) {
      case 'broadcast':
        return this.#broadcast()
      case 'relay':
        return { address: formatIpv4(destination.address), port: this.#port }
      case 'unicast':
        return { address: formatIpv4(destination.address), port: this.#port + 1 }
      case 'unicastByLink': {
        const address = formatIpv4(destination.address)
        const { hardwareType, hardwareAddress } = reply
        const isEthernet = hardwareType === 1 && hardwareAddress.byteLength === 6
        const learnt = isEthernet && this.#ports.neighbours.learn(this.#terms.interfaceName, address, hardwareAddress)
        return learnt ? { address, port: this.#port + 1 } : this.#broadcast()
      }
    }
  }

  #broadcast(): Endpoint {
    return { address: '255.255.255.255', port: this.#port + 1 }
  }

  #nowSeconds(): number {
    return Math.floor((this.#ports.clock.nowMs() + this.#wallOffsetMs) / 1000)
  }
}

const refusalWords: Readonly<Record<RefusalReason, string>> = {
  wrongNetwork: 'that address is not of this network',
  notYours: 'another address is leased to you',
  taken: 'that address is in use by another machine',
}

function bootFileOf(boot: BootAnswer): string | undefined {
  return boot.kind === 'boot' ? boot.bootFile : undefined
}

function isForUs(request: Message, network: Network): boolean {
  const server = request.options.get(option.serverIdentifier)
  return server === undefined || server === network.serverAddress
}
