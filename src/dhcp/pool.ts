/** The networks that addresses are given out on, from what the configuration says of them. */
import { formatIpv4, type Mac, parseIpv4 } from '../base/address.ts'
import { OperationError } from '../base/errors.ts'
import { LeaseTable } from './lease-table.ts'
import { leaseSecondsMax, leaseSecondsMin, poolAddressesMax } from './limits.ts'
import { isOn, type Network } from './reply.ts'

/** How machines on one network get addresses. Addresses are dotted. */
export type PoolConfiguration = {
  /** Ours, as machines of this network reach it. */
  readonly serverAddress: string
  /** Of the network that `serverAddress` and the range are on. 1 to 30. */
  readonly prefixBits: number
  readonly from: string
  readonly to: string
  readonly routers?: readonly string[]
  readonly domainNameServers?: readonly string[]
  readonly domainName?: string
  readonly leaseSeconds: number
  readonly reservations?: ReadonlyMap<Mac, string>
}

export type Pool = { readonly network: Network; readonly table: LeaseTable }

/** @throws {OperationError} badConfiguration */
export function poolOf(configuration: PoolConfiguration): Pool {
  const { prefixBits, leaseSeconds } = configuration
  if (!Number.isInteger(prefixBits) || prefixBits < 1 || prefixBits > 30) {
    throw badConfiguration(`a network prefix of ${prefixBits} bits`, 'Use 1 to 30, such as 24.')
  }
  if (!Number.isInteger(leaseSeconds) || leaseSeconds < leaseSecondsMin || leaseSeconds > leaseSecondsMax) {
    throw badConfiguration(`leases of ${leaseSeconds} seconds`, `Use ${leaseSecondsMin} to ${leaseSecondsMax}.`)
  }
  const serverAddress = addressOf('serverAddress', configuration.serverAddress)
  const mask = (0xffffffff << (32 - prefixBits)) >>> 0
  const network: Network = {
    serverAddress,
    networkAddress: (serverAddress & mask) >>> 0,
    mask,
    routers: (configuration.routers ?? []).map((address) => addressOf('routers', address)),
    domainNameServers: (configuration.domainNameServers ?? []).map((address) =>
      addressOf('domainNameServers', address),
    ),
    domainName: configuration.domainName,
    leaseSeconds,
  }
  const from = addressOf('from', configuration.from)
  const to = addressOf('to', configuration.to)
  const range = `${configuration.from}-${configuration.to}`
  if (!isOn(network, from) || !isOn(network, to)) {
    const hint = `Use addresses of ${formatIpv4(network.networkAddress)}/${prefixBits}.`
    throw badConfiguration(`the range ${range}, which is not on the network of ${configuration.serverAddress}`, hint)
  }
  if (from > to) throw badConfiguration(`the range ${range}`, 'Put the lower address first.')
  if (to - from >= poolAddressesMax) {
    throw badConfiguration(`the range ${range}`, `Use a range of at most ${poolAddressesMax} addresses.`)
  }
  const lowest = network.networkAddress
  const highest = (lowest | ~mask) >>> 0
  const excluded = new Set([lowest, highest, serverAddress, ...network.routers, ...network.domainNameServers])
  const table = new LeaseTable({ from, to, leaseSeconds, excluded })
  for (const [mac, address] of configuration.reservations ?? []) {
    const reserved = addressOf('reservations', address)
    if (!isOn(network, reserved) || excluded.has(reserved)) {
      throw badConfiguration(`the reservation of ${address} for ${mac}`, 'Reserve a free address of the same network.')
    }
    table.reserve(mac, reserved)
  }
  return { network, table }
}

/** @throws {OperationError} badConfiguration */
export function addressOf(what: string, text: string): number {
  const address = parseIpv4(text)
  if (address === undefined) throw badConfiguration(`${what} "${text}"`, 'Write an IPv4 address such as 192.168.77.1.')
  return address
}

function badConfiguration(what: string, hint: string): OperationError {
  return new OperationError('badConfiguration', `DHCP cannot use ${what}`, hint)
}
