import { readFileSync } from 'node:fs'
import { networkInterfaces } from 'node:os'
import { OperationError } from '../base/errors.ts'

/** A network interface with an IPv4 address. */
export type NetworkInterface = {
  readonly name: string
  /** Dotted. */
  readonly address: string
  readonly netmask: string
  readonly mac: string
  /** The cable is in and the other side answers (operstate; 'unknown' counts as up: taps and bridges say so). */
  readonly up: boolean
  /** Of a VLAN that Linux tags: which one (IEEE 802.1Q). */
  readonly vlan?: number
}

/** Every interface that has an IPv4 address, without loopback. */
export function listInterfaces(): NetworkInterface[] {
  const found: NetworkInterface[] = []
  for (const [name, addresses] of Object.entries(networkInterfaces())) {
    const ipv4 = addresses?.find((entry) => entry.family === 'IPv4' && !entry.internal)
    if (ipv4 === undefined) continue
    const vlan = vlanOf(name)
    const facts = { name, address: ipv4.address, netmask: ipv4.netmask, mac: ipv4.mac, up: isUp(name) }
    found.push(vlan === undefined ? facts : { ...facts, vlan })
  }
  return found
}

/** The interface named, or the only one there is. @throws {OperationError} interfaceUnknown, interfaceAmbiguous */
export function chooseInterface(wanted: string | undefined): NetworkInterface {
  const all = listInterfaces()
  const names = all.map(({ name, address }) => `${name} (${address})`).join(', ')
  if (wanted !== undefined) {
    const found = all.find(({ name }) => name === wanted)
    if (found !== undefined) return found
    const hint = all.length === 0 ? 'No interface has an IPv4 address: see `ip address`.' : `There are: ${names}.`
    throw new OperationError('interfaceUnknown', `no interface ${wanted} with an IPv4 address`, hint)
  }
  const [only, ...more] = all
  if (only === undefined) {
    const hint = 'Give one an address: ip address add 192.168.77.1/24 dev NAME.'
    throw new OperationError('interfaceUnknown', 'no network interface has an IPv4 address', hint)
  }
  if (more.length > 0) {
    const hint = `Say which network the machines are on: --interface NAME. There are: ${names}.`
    throw new OperationError('interfaceAmbiguous', 'there are several networks, and none was chosen', hint)
  }
  return only
}

/** What the kernel's 8021q module says: "eth0.2  VID: 2   REORDER_HDR: 1". */
function vlanOf(name: string): number | undefined {
  try {
    const id = /\bVID: (\d+)/.exec(readFileSync(`/proc/net/vlan/${name}`, 'utf8'))?.[1]
    return id === undefined ? undefined : Number(id)
  } catch {
    return undefined // no such VLAN, or no VLANs at all
  }
}

function isUp(name: string): boolean {
  try {
    return readFileSync(`/sys/class/net/${name}/operstate`, 'utf8').trim() !== 'down'
  } catch {
    return true // no /sys: nothing is known against it
  }
}
