/**
 * iSCSI on a VLAN of its own. The interface is this computer's affair and must be there; here it is found, checked against
 * the network that machines boot from, and the target is kept to it.
 */
import { formatIpv4, parseIpv4 } from '../base/address.ts'
import { OperationError } from '../base/errors.ts'
import type { NetworkInterface } from '../host/interfaces.ts'
import { createSystemTcp } from '../host/tcp.ts'
import type { TcpNetwork } from '../ports/tcp.ts'
import type { AddressRange, StorageTerms } from './config.ts'

export type StorageNetwork = {
  readonly vlan: number
  readonly interfaceName: string
  /** Where the target listens. */
  readonly address: string
  readonly netmask: string
  readonly range: AddressRange
}

/** @throws {OperationError} storageMissing, storageWrong */
export function storageNetworkOf(
  terms: StorageTerms,
  boot: Pick<NetworkInterface, 'name' | 'address' | 'netmask'>,
  interfaces: readonly NetworkInterface[],
): StorageNetwork {
  const { vlan, range } = terms
  const name = terms.interfaceName ?? `${boot.name}.${vlan}`
  const found = interfaces.find((each) => each.name === name)
  if (found === undefined) {
    const example = formatIpv4(range.first - 1)
    const hint = `Make it: ip link add link ${boot.name} name ${name} type vlan id ${vlan}; ip address add ${example}/24 dev ${name}; ip link set ${name} up.`
    throw new OperationError('storageMissing', `no interface ${name} with an IPv4 address, for VLAN ${vlan}`, hint)
  }
  if (found.vlan !== undefined && found.vlan !== vlan) {
    const hint = `Set vlan = ${found.vlan} under [network.storage], or name the interface of VLAN ${vlan}.`
    throw new OperationError('storageWrong', `${name} is on VLAN ${found.vlan}, not ${vlan}`, hint)
  }
  const mask = maskOf(found.netmask)
  if (inNetwork(boot.address, found.address, mask) || inNetwork(found.address, boot.address, maskOf(boot.netmask))) {
    const what = `${name} (${found.address}) and ${boot.name} (${boot.address}) are one network`
    throw new OperationError('storageWrong', what, 'Give the VLAN addresses of its own: a machine sends by address.')
  }
  const text = `${formatIpv4(range.first)}-${formatIpv4(range.last)}`
  if (![range.first, range.last].every((address) => inNetwork(formatIpv4(address), found.address, mask))) {
    const hint = `Give a range in the network of ${found.address}, netmask ${found.netmask}.`
    throw new OperationError('storageWrong', `${text} is not in the network of ${name}`, hint)
  }
  return { vlan, interfaceName: name, address: found.address, netmask: found.netmask, range }
}

/**
 * A tag makes a frame four bytes longer, for which not every driver of a firmware has room (EDK2's for virtio takes 1514
 * bytes). A full segment that never arrives would stop a machine for ever. 1500 - 4 of the tag - 40 of IP and TCP.
 */
const segmentBytesMax = 1456

/** What the target listens with. */
export function storageTcp({ address }: StorageNetwork): TcpNetwork {
  return onlyAt(address, createSystemTcp({ segmentBytesMax }))
}

/**
 * Takes connections to one address only, though a socket that was handed to us (systemd) may hear more: it is closed to
 * everybody else before they have said anything.
 */
export function onlyAt(address: string, network: TcpNetwork): TcpNetwork {
  return {
    connect: network.connect,
    listen: (binding, accept) =>
      network.listen(binding, (connection) => {
        if (connection.local.address === address) return accept(connection)
        connection.destroy()
        return { onData: () => {}, onClose: () => {} }
      }),
  }
}

function maskOf(netmask: string): number {
  return parseIpv4(netmask) ?? 0
}

function inNetwork(address: string, network: string, mask: number): boolean {
  return (((parseIpv4(address) ?? 0) ^ (parseIpv4(network) ?? 0)) & mask) === 0
}
