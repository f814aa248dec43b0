import { readFileSync } from 'node:fs'
import type { Mac } from '../base/address.ts'

/**
 * The link address that the kernel knows for an IPv4 address, from its ARP table. A machine that just spoke to us is in
 * it; one behind a router is not. A claim, like every MAC address.
 */
export function linkAddressOf(address: string): Mac | undefined {
  let table: string
  try {
    table = readFileSync('/proc/net/arp', 'utf8')
  } catch {
    return undefined // not Linux, or no /proc
  }
  // IP address       HW type     Flags       HW address            Mask     Device
  for (const line of table.split('\n').slice(1)) {
    const [ip, , flags, mac] = line.split(/\s+/)
    if (ip === address && flags !== '0x0') return mac
  }
  return undefined
}
