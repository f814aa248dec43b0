/**
 * Who else answers DHCP on a link: sends one DISCOVER as a PXE client would, so that proxies answer too, and collects the
 * offers. Takes none of them; a server keeps the address for it for a minute or so.
 */
import { formatIpv4 } from '../base/address.ts'
import { assert } from '../base/assert.ts'
import type { Clock } from '../ports/clock.ts'
import type { Random } from '../ports/random.ts'
import type { UdpNetwork } from '../ports/udp.ts'
import { WireError } from '../wire/reader.ts'
import { datagramBytesMin, probeOffersMax, replyBytesMax } from './limits.ts'
import { decode, type Message, MessageBuffer } from './message.ts'
import * as option from './option.ts'

export type ProbeTerms = {
  readonly interfaceName: string
  /** The interface's own, 6 bytes: what is offered goes to a machine that the network knows. */
  readonly linkAddress: Uint8Array
  /** Servers check whether an address is free before they offer it: dnsmasq takes up to 3 seconds. */
  readonly waitMs: number
  /** Default 67. */
  readonly serverPort?: number
}

export type SeenServer = {
  /** Option 54, or where the packet came from. Dotted. */
  readonly server: string
  /** Undefined from a proxy. */
  readonly offeredAddress: string | undefined
  /** What it would boot a BIOS PXE machine with. */
  readonly bootFile: string | undefined
  readonly nextServer: string | undefined
  readonly routers: readonly string[]
}

/** Every server once, in the order of their answers. @throws {OperationError} portTaken, portForbidden, interfaceUnknown */
export async function probeServers(
  terms: ProbeTerms,
  ports: { readonly udp: UdpNetwork; readonly clock: Clock; readonly random: Random },
): Promise<readonly SeenServer[]> {
  const { interfaceName, linkAddress, waitMs, serverPort = 67 } = terms
  assert(linkAddress.byteLength === 6, 'an Ethernet address has 6 bytes')
  const discover = probeDiscover(linkAddress, ports.random.bytes(4))
  const seen = new Map<string, SeenServer>()
  const binding = { address: '0.0.0.0', port: serverPort + 1, interfaceName, broadcast: true, reuseAddress: true }
  const socket = await ports.udp.bind(binding, (bytes, from) => {
    const offer = offerIn(bytes, discover)
    if (offer === undefined || seen.size >= probeOffersMax) return
    const server = describe(offer, from.address)
    const key = `${server.server} ${server.offeredAddress === undefined ? 'proxy' : ''}`
    if (!seen.has(key)) seen.set(key, server)
  })
  const buffer = new MessageBuffer(replyBytesMax)
  const bytes = buffer.encode(discover, datagramBytesMin)
  socket.send(buffer.bytes.subarray(0, bytes), { address: '255.255.255.255', port: serverPort })
  await new Promise<void>((resolve) => {
    ports.clock.after(waitMs, resolve)
  })
  socket.close()
  return [...seen.values()]
}

/** Broadcast answers only: this machine has an address, and would not take a packet for another one. */
function probeDiscover(linkAddress: Uint8Array, transaction: Uint8Array): Message {
  const options = new option.Options()
  options.set(option.vendorClass, 'PXEClient:Arch:00000:UNDI:002001')
  options.set(option.clientArchitectures, [0])
  options.set(option.clientInterface, Uint8Array.of(1, 2, 1))
  options.set(option.clientMachine, new Uint8Array(17))
  options.set(option.parameterList, Uint8Array.of(1, 3, 6, 43, 54, 60, 66, 67))
  return {
    op: 'request',
    type: 'discover',
    hardwareType: 1,
    hardwareAddress: linkAddress,
    hops: 0,
    transaction: transaction.reduce((sum, byte) => sum * 256 + byte, 0),
    elapsedSeconds: 0,
    broadcast: true,
    clientAddress: 0,
    yourAddress: 0,
    nextServer: 0,
    relayAddress: 0,
    serverName: '',
    bootFile: '',
    options,
  }
}

/** Undefined for everything that is not an answer to `discover`: other machines' answers are broadcast too. */
function offerIn(bytes: Uint8Array, discover: Message): Message | undefined {
  try {
    const message = decode(bytes)
    const isOurs = message.op === 'reply' && message.type === 'offer' && message.transaction === discover.transaction
    return isOurs ? message : undefined
  } catch (error) {
    if (error instanceof WireError) return undefined
    throw error
  }
}

function describe(offer: Message, fromAddress: string): SeenServer {
  const { yourAddress, nextServer, bootFile, options } = offer
  const server = readable(() => options.get(option.serverIdentifier))
  const file = bootFile === '' ? readable(() => options.get(option.bootFileName)) : bootFile
  return {
    server: server === undefined ? fromAddress : formatIpv4(server),
    offeredAddress: yourAddress === 0 ? undefined : formatIpv4(yourAddress),
    bootFile: file === '' ? undefined : file,
    nextServer: nextServer === 0 ? undefined : formatIpv4(nextServer),
    routers: (readable(() => options.get(option.routers)) ?? []).map(formatIpv4),
  }
}

/** An option that cannot be read says nothing; the server is there all the same. */
function readable<T>(read: () => T): T | undefined {
  try {
    return read()
  } catch (error) {
    if (error instanceof WireError) return undefined
    throw error
  }
}
