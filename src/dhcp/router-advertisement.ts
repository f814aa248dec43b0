/**
 * Router solicitations and the answer that ends the wait for one: RFC 4861 §4.1, §4.2.
 *
 *   solicitation    type 133 (1) | code 0 (1) | checksum (2) | reserved (4) | options
 *   advertisement   type 134 (1) | code 0 (1) | checksum (2) | hop limit (1) | M O flags (1) | router lifetime, s (2)
 *                   | reachable time, ms (4) | retransmission, ms (4) | options
 *   option          type (1) | length in units of 8 bytes (1) | value; type 1 is the sender's link address
 *
 * Numbers are big-endian. iPXE of 2019 asks for IPv6 beside DHCP and waits 12.8 seconds for an answer. The one we give says
 * that there is a link, no router (lifetime 0), no prefix and no DHCPv6: iPXE goes on at once, and a host that
 * should hear it changes nothing, as it says nothing (RFC 4861 §6.3.4).
 */
import { formatMac, type Mac } from '../base/address.ts'
import { assert } from '../base/assert.ts'
import { readerOf, WireError } from '../wire/reader.ts'

export const routerSolicitationType: number = 133
export const routerAdvertisementType: number = 134
export const allRouters: string = 'ff02::2'
export const allNodes: string = 'ff02::1'

export type RouterSolicitation = {
  /** From the source link address option; senders without an address must leave it out. */
  readonly mac: Mac | undefined
}

/** `bytes` starts with the ICMPv6 type. @throws {WireError} */
export function readRouterSolicitation(bytes: Uint8Array): RouterSolicitation {
  const reader = readerOf(bytes)
  if (reader.u8() !== routerSolicitationType) throw new WireError('unknownOpcode', 0)
  if (reader.u8() !== 0) throw new WireError('badValue', 1)
  reader.u16()
  reader.u32()
  let mac: Mac | undefined
  while (reader.remaining > 0) {
    const at = reader.offset
    const type = reader.u8()
    const units = reader.u8()
    // RFC 4861 §4.6: length 0 would never end.
    if (units === 0) throw new WireError('badLength', at)
    const value = reader.bytes(units * 8 - 2)
    if (type === 1 && units === 1) mac = formatMac(value)
  }
  return { mac }
}

/** The checksum is left zero: the kernel fills it in. `linkAddress` is ours, 6 bytes. */
export function writeEmptyRouterAdvertisement(linkAddress: Uint8Array): Uint8Array {
  assert(linkAddress.byteLength === 6, 'an Ethernet address has 6 bytes')
  const bytes = new Uint8Array(24)
  bytes[0] = routerAdvertisementType
  bytes.set([1, 1], 16)
  bytes.set(linkAddress, 18)
  return bytes
}
