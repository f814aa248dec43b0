/**
 * What goes into an answer and where it is sent. Pure: the terms of the network, the request and the decisions come in.
 *
 * Which field a client takes its boot file from (docs/quirks.md):
 *
 *   pxe        `file` and siaddr, also options 66 and 67 when it asks for them
 *   ipxe       `file`, or option 67 when it is longer than that; option 175 so that it waits for nobody else
 *   uefiHttp   option 67, and only if option 60 says HTTPClient
 *   uboot      `file` and siaddr
 */
import { formatIpv4, parseIpv4 } from '../base/address.ts'
import { assert } from '../base/assert.ts'
import type { ClientFacts } from './client-facts.ts'
import { writeIpxeDirections } from './ipxe-options.ts'
import { bootFileCharactersMax, datagramBytesMin, ipAndUdpBytes, messageBytesMin, replyBytesMax } from './limits.ts'
import type { Message, MessageType } from './message.ts'
import * as option from './option.ts'
import type { BootAnswer } from './policy.ts'
import { pxeBootHere, writePxeMenu } from './pxe-options.ts'

/** One IP network that machines are on. Addresses are unsigned IPv4. */
export type Network = {
  /** Ours, as machines there reach it: the server identifier. */
  readonly serverAddress: number
  readonly networkAddress: number
  readonly mask: number
  readonly routers: readonly number[]
  readonly domainNameServers: readonly number[]
  readonly domainName: string | undefined
  readonly leaseSeconds: number
}

export type Destination =
  | { readonly kind: 'relay'; readonly address: number }
  | { readonly kind: 'unicast'; readonly address: number }
  /** To an address that the client does not answer ARP for yet: the kernel has to be told its link address. */
  | { readonly kind: 'unicastByLink'; readonly address: number }
  | { readonly kind: 'broadcast' }

export function isOn(network: Network, address: number): boolean {
  return (address & network.mask) >>> 0 === network.networkAddress
}

/** RFC 2131 §4.1. */
export function destinationOf(reply: Message): Destination {
  if (reply.relayAddress !== 0) return { kind: 'relay', address: reply.relayAddress }
  // Whoever is refused has no address worth sending to.
  if (reply.type === 'nak') return { kind: 'broadcast' }
  if (reply.clientAddress !== 0) return { kind: 'unicast', address: reply.clientAddress }
  if (reply.broadcast || reply.yourAddress === 0) return { kind: 'broadcast' }
  return { kind: 'unicastByLink', address: reply.yourAddress }
}

/** How many bytes of UDP payload the client takes (option 57 counts the IP datagram). */
export function replyBytesFor(request: Message): number {
  const datagramBytes = Math.max(request.options.get(option.messageBytesMax) ?? 0, datagramBytesMin)
  return Math.max(messageBytesMin, Math.min(datagramBytes - ipAndUdpBytes, replyBytesMax))
}

export type LeaseReply = {
  readonly type: 'offer' | 'ack'
  readonly request: Message
  readonly client: ClientFacts
  readonly network: Network
  /** 0 in the answer to an INFORM: the client has one. */
  readonly yourAddress: number
  readonly boot: BootAnswer
}

/** OFFER and ACK of a server that hands out addresses. */
export function leaseReply(terms: LeaseReply): Message {
  const { type, request, client, network, yourAddress, boot } = terms
  const options = new option.Options()
  options.set(option.serverIdentifier, network.serverAddress)
  if (yourAddress !== 0) options.set(option.leaseSeconds, network.leaseSeconds)
  options.set(option.subnetMask, network.mask)
  if (network.routers.length > 0) options.set(option.routers, network.routers)
  if (network.domainNameServers.length > 0) options.set(option.domainNameServers, network.domainNameServers)
  const fields = bootFields(boot, client, request, network.serverAddress, options)
  echo(request, options)
  if (boot.kind !== 'ignore' && boot.hostName !== undefined) options.set(option.hostName, boot.hostName)
  if (yourAddress !== 0) {
    // RFC 2131 §4.4.5: half and seven eighths, said because some clients take 0 otherwise.
    options.set(option.renewalSeconds, Math.floor(network.leaseSeconds / 2))
    options.set(option.rebindingSeconds, Math.floor((network.leaseSeconds * 7) / 8))
  }
  options.set(option.broadcastAddress, (network.networkAddress | ~network.mask) >>> 0)
  if (network.domainName !== undefined) options.set(option.domainName, network.domainName)
  return answer(request, type, yourAddress, fields, options)
}

/** OFFER of a proxy: no address, only what to boot (PXE 2.1 §2.2.3). */
export function proxyOffer(request: Message, client: ClientFacts, serverAddress: number, boot: BootAnswer): Message {
  const options = new option.Options()
  options.set(option.serverIdentifier, serverAddress)
  options.set(option.vendorClass, client.program.kind === 'uefiHttp' ? 'HTTPClient' : 'PXEClient')
  const fields = bootFields(boot, client, request, serverAddress, options)
  if (client.program.kind === 'pxe' && !options.has(option.vendorSpecific)) {
    options.set(option.vendorSpecific, pxeBootHere)
  }
  echo(request, options)
  // The client has no address and nobody told us which it will get: only a broadcast reaches it.
  return answer(request, 'offer', 0, fields, options)
}

/** ACK to a boot server request on port 4011 (PXE 2.1 §2.4). `item` repeats which entry of a menu was asked for. */
export function bootServerReply(
  request: Message,
  client: ClientFacts,
  serverAddress: number,
  boot: BootAnswer,
  item: Uint8Array | undefined,
): Message {
  const options = new option.Options()
  options.set(option.serverIdentifier, serverAddress)
  options.set(option.vendorClass, client.program.kind === 'uefiHttp' ? 'HTTPClient' : 'PXEClient')
  const fields = bootFields(boot, client, request, serverAddress, options)
  options.set(option.vendorSpecific, item ?? pxeBootHere)
  echo(request, options)
  return { ...answer(request, 'ack', 0, fields, options), clientAddress: request.clientAddress }
}

/** Why it was refused goes to the client's screen, if it has one. */
export function refusal(request: Message, serverAddress: number, words: string): Message {
  const options = new option.Options()
  options.set(option.serverIdentifier, serverAddress)
  options.set(option.errorMessage, words)
  echo(request, options)
  const reply = answer(request, 'nak', 0, noFields, options)
  // RFC 2131 §4.3.2: the relay shall broadcast it, as the client's address is of no use.
  return { ...reply, clientAddress: 0, broadcast: request.relayAddress !== 0 || request.broadcast }
}

type BootFields = { readonly nextServer: number; readonly serverName: string; readonly bootFile: string }

const noFields: BootFields = { nextServer: 0, serverName: '', bootFile: '' }

/** `file` has 128 bytes and some readers want its NUL. */
const fileCharactersMax = 127

function bootFields(
  boot: BootAnswer,
  client: ClientFacts,
  request: Message,
  serverAddress: number,
  options: option.Options,
): BootFields {
  if (boot.kind === 'ignore') return noFields
  const wanted = request.options.get(option.parameterList)
  // The old iPXE takes the ROM's part too: any that sends option 175 understands it.
  if (request.options.has(option.ipxe)) options.set(option.ipxe, ipxeDirections)
  if (boot.kind === 'addressOnly') return noFields

  const { bootFile } = boot
  assert(bootFile.length > 0 && bootFile.length <= bootFileCharactersMax, 'a boot file has 1 to 1024 characters')
  const nextServer = boot.nextServer === undefined ? serverAddress : parseIpv4(boot.nextServer)
  assert(nextServer !== undefined, 'nextServer is a dotted quad')
  if (boot.rootPath !== undefined) options.set(option.rootPath, boot.rootPath)
  const isUrl = bootFile.includes('://')
  switch (client.program.kind) {
    case 'uefiHttp':
      options.set(option.vendorClass, 'HTTPClient')
      options.set(option.bootFileName, bootFile)
      return { ...noFields, nextServer }
    case 'pxe':
      if (wanted?.includes(option.tftpServerName.code) === true && !isUrl) {
        options.set(option.tftpServerName, formatIpv4(nextServer))
      }
      if (wanted?.includes(option.bootFileName.code) === true || bootFile.length > fileCharactersMax) {
        options.set(option.bootFileName, bootFile)
      }
      if (boot.menu !== undefined) {
        options.set(option.vendorClass, 'PXEClient')
        options.set(option.vendorSpecific, writePxeMenu(boot.menu, serverAddress))
      }
      return { ...noFields, nextServer, bootFile: bootFile.length > fileCharactersMax ? '' : bootFile }
    case 'ipxe':
    case 'uboot':
    case 'linuxIpconfig':
    case 'other':
      if (bootFile.length <= fileCharactersMax) return { ...noFields, nextServer, bootFile }
      options.set(option.bootFileName, bootFile)
      return { ...noFields, nextServer }
  }
}

const ipxeDirections: Uint8Array = writeIpxeDirections({ noProxyDhcp: true })

/** RFC 6842 (61), RFC 4578 §2.3 (97). */
function echo(request: Message, options: option.Options): void {
  for (const { code } of [option.clientIdentifier, option.clientMachine]) {
    const value = request.options.raw(code)
    if (value !== undefined) options.setRaw(code, value)
  }
}

function answer(
  request: Message,
  type: MessageType,
  yourAddress: number,
  fields: BootFields,
  options: option.Options,
): Message {
  // RFC 3046 §2.2: unchanged, and after all others.
  const relayAgent = request.options.raw(option.relayAgent.code)
  if (relayAgent !== undefined) options.setRaw(option.relayAgent.code, relayAgent)
  return {
    op: 'reply',
    type,
    hardwareType: request.hardwareType,
    hardwareAddress: request.hardwareAddress,
    hops: 0,
    transaction: request.transaction,
    elapsedSeconds: 0,
    broadcast: request.broadcast,
    // RFC 2131 table 3: an ACK repeats ciaddr, an OFFER and a NAK have none.
    clientAddress: type === 'ack' ? request.clientAddress : 0,
    yourAddress,
    nextServer: fields.nextServer,
    relayAddress: request.relayAddress,
    serverName: fields.serverName,
    bootFile: fields.bootFile,
    options,
  }
}
