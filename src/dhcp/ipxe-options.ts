/**
 * iPXE's own options, encapsulated in option 175 (iPXE src/include/ipxe/dhcp.h and features.h). A client lists in it
 * what it was built with; a server tells it how to go about the boot.
 */

import type { IpxeFeature } from './client-facts.ts'
import { encapsulate, Options, readOptions } from './option.ts'

const code = {
  priority: 1,
  noProxyDhcp: 176,
  version: 235,
} as const

const features: ReadonlyMap<number, IpxeFeature> = new Map([
  [0x10, 'pxe'],
  [0x11, 'iscsi'],
  [0x12, 'aoe'],
  [0x13, 'http'],
  [0x14, 'https'],
  [0x15, 'tftp'],
  [0x16, 'ftp'],
  [0x17, 'dns'],
  [0x18, 'bzimage'],
  [0x19, 'multiboot'],
  [0x1b, 'srp'],
  [0x20, 'nbi'],
  [0x21, 'pxeImage'],
  [0x22, 'elf'],
  [0x23, 'comboot'],
  [0x24, 'efi'],
  [0x25, 'fcoe'],
  [0x26, 'vlan'],
  [0x27, 'menu'],
  [0x28, 'sdi'],
  [0x29, 'nfs'],
])

export type IpxeFacts = {
  readonly features: ReadonlySet<IpxeFeature>
  /** '1.0.0'; undefined if the client does not say. */
  readonly version: string | undefined
}

/** @throws {WireError} */
export function readIpxeFacts(value: Uint8Array): IpxeFacts {
  const options = new Options()
  readOptions(value, 0, options)
  const found = new Set<IpxeFeature>()
  for (const [number, option] of options.entries()) {
    const feature = features.get(number)
    if (feature !== undefined && option[0] !== 0) found.add(feature)
  }
  const version = options.raw(code.version)
  return { features: found, version: version === undefined ? undefined : version.join('.') }
}

/** What a client like this one sends. */
export function writeIpxeFacts(facts: IpxeFacts): Uint8Array {
  const options: [number, Uint8Array][] = []
  if (facts.version !== undefined) options.push([code.version, Uint8Array.from(facts.version.split('.').map(Number))])
  for (const [number, feature] of features) if (facts.features.has(feature)) options.push([number, Uint8Array.of(1)])
  return encapsulate(options)
}

export type IpxeDirections = {
  /** There is no ProxyDHCP to wait for: without this, iPXE waits 3 seconds for one (docs/quirks.md). */
  readonly noProxyDhcp: boolean
  /** Prefers this offer to others' when positive. -128 to 127. */
  readonly priority?: number
}

export function writeIpxeDirections(directions: IpxeDirections): Uint8Array {
  const options: [number, Uint8Array][] = []
  if (directions.priority !== undefined) options.push([code.priority, Uint8Array.of(directions.priority & 0xff)])
  if (directions.noProxyDhcp) options.push([code.noProxyDhcp, Uint8Array.of(1)])
  return encapsulate(options)
}
