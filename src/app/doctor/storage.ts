/** Whether the VLAN that iSCSI is to be on is there, and who could join it. */
import { formatIpv4 } from '../../base/address.ts'
import { OperationError } from '../../base/errors.ts'
import type { Loader } from '../../trust/loaders/identify.ts'
import type { StorageTerms } from '../config.ts'
import { type StorageNetwork, storageNetworkOf } from '../storage-network.ts'
import { error, type Finding, ok, warning } from './finding.ts'
import type { InterfaceFacts } from './probes.ts'

const why = 'iSCSI goes there and nowhere else.'

export type StorageFound = { readonly findings: readonly Finding[]; readonly network: StorageNetwork | undefined }

export function checkStorage(
  terms: StorageTerms | undefined,
  link: InterfaceFacts | undefined,
  interfaces: readonly InterfaceFacts[],
): StorageFound {
  if (terms === undefined || link === undefined) return { findings: [], network: undefined }
  let network: StorageNetwork
  try {
    network = storageNetworkOf(terms, link, interfaces)
  } catch (thrown) {
    if (!(thrown instanceof OperationError)) throw thrown
    return { findings: [error('storage', thrown.message, why, thrown.hint)], network: undefined }
  }
  const { vlan, interfaceName, address, range } = network
  const facts = interfaces.find(({ name }) => name === interfaceName)
  if (facts?.up === false) {
    const next = `Plug in the cable, or: ip link set ${interfaceName} up.`
    return { findings: [error('storage', `${interfaceName} is down`, why, next)], network }
  }
  if (facts?.vlan === undefined) {
    const what = `${interfaceName} is not tagged by this computer, and machines send with tag ${vlan}`
    const next = 'Right if the switch takes the tag off for this port; otherwise name the interface of that VLAN.'
    return { findings: [warning('storage', what, why, next)], network }
  }
  const addresses = `${formatIpv4(range.first)}-${formatIpv4(range.last)}`
  return {
    findings: [ok('storage', `${interfaceName} (${address}) is VLAN ${vlan}; machines are ${addresses} there`)],
    network,
  }
}

/** Which of the iPXEs can join it. */
export function checkVlanLoaders(
  terms: StorageTerms | undefined,
  ipxes: readonly { readonly name: string; readonly loader: Loader }[],
): readonly Finding[] {
  if (terms === undefined) return []
  const able = ipxes.filter(({ loader }) => loader.can.vlan === 'yes').map(({ name }) => name)
  if (able.length > 0) return [ok('loaders.vlan', `VLANs: ${able.join(', ')}`)]
  const next = 'Add an iPXE built with VLAN_CMD: slipway loaders add (docs/loaders.md).'
  const reason = `A machine whose iPXE cannot join VLAN ${terms.vlan} is told so on its screen and gets no disk.`
  return [warning('loaders.vlan', 'no iPXE is known to have VLANs', reason, next)]
}
