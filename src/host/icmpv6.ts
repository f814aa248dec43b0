/**
 * Icmpv6Network on a raw socket. Node cannot wait for one, so it is looked at every `pollMs`: a machine that solicits a
 * router waits whole seconds for the answer, and a look at an empty socket costs a microsecond.
 */
import { isIPv6 } from 'node:net'
import { OperationError } from '../base/errors.ts'
import type { Icmpv6Network, Icmpv6Receiver, Icmpv6Socket, Icmpv6Terms } from '../ports/icmpv6.ts'
import { type Native, nameOfErrno, native } from './native.ts'

const afInet6 = 10
/** SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC. */
const rawNonBlocking = 3 | 0o4000 | 0o2000000
const protocolIcmpv6 = 58
const solSocket = 1
const soBindToDevice = 25
const levelIpv6 = 41
const unicastHops = 16
const multicastInterface = 17
const multicastHops = 18
const joinGroup = 20
const levelIcmpv6 = 58
const icmpv6Filter = 1
const doNotWait = 0x40
const pollMs = 25
/** No more packets than this in one look: a flood takes turns with everybody else. */
const packetsPerLookMax = 64
const packetBytesMax = 2048

export const systemIcmpv6: Icmpv6Network = {
  open: async (interfaceName, terms, receive) => {
    if (native === undefined) {
      throw new OperationError('portForbidden', 'no raw sockets on this system', 'Run Slipway on Linux with glibc.')
    }
    return new RawSocket(native, interfaceName, terms, receive)
  },
}

class RawSocket implements Icmpv6Socket {
  readonly #libc: Native
  readonly #fd: number
  readonly #scopeId: number
  readonly #timer: NodeJS.Timeout
  #open = true

  constructor(libc: Native, interfaceName: string, terms: Icmpv6Terms, receive: Icmpv6Receiver) {
    this.#libc = libc
    this.#scopeId = indexOf(libc, interfaceName)
    this.#fd = libc.socket(afInet6, rawNonBlocking, protocolIcmpv6)
    if (this.#fd < 0) throw describe(interfaceName, nameOfErrno(libc.errno()))
    try {
      this.#configure(interfaceName, terms)
    } catch (error) {
      libc.close(this.#fd)
      throw error
    }
    const packet = new Uint8Array(packetBytesMax)
    const from = new Uint8Array(28)
    this.#timer = setInterval(() => this.#look(packet, from, receive), pollMs)
    this.#timer.unref()
  }

  send(bytes: Uint8Array, toAddress: string): void {
    if (!this.#open) return
    const to = sockaddrOf(toAddress, this.#scopeId)
    this.#libc.sendto(this.#fd, bytes, bytes.byteLength, doNotWait, to, to.byteLength)
  }

  close(): void {
    if (!this.#open) return
    this.#open = false
    clearInterval(this.#timer)
    this.#libc.close(this.#fd)
  }

  #configure(interfaceName: string, terms: Icmpv6Terms): void {
    const set = (level: number, name: number, value: Uint8Array): void => {
      if (this.#libc.setsockopt(this.#fd, level, name, value, value.byteLength) === 0) return
      throw describe(interfaceName, nameOfErrno(this.#libc.errno()))
    }
    set(solSocket, soBindToDevice, new TextEncoder().encode(`${interfaceName}\0`))
    // RFC 3542 §3.2: one bit for each type, set means blocked.
    const filter = new Uint8Array(32).fill(0xff)
    for (const type of terms.types) filter[type >>> 3] = (filter[type >>> 3] ?? 0) & ~(1 << (type & 7))
    set(levelIcmpv6, icmpv6Filter, filter)
    set(levelIpv6, unicastHops, int32(255))
    set(levelIpv6, multicastHops, int32(255))
    set(levelIpv6, multicastInterface, int32(this.#scopeId))
    for (const group of terms.joinedGroups) {
      const request = new Uint8Array(20) // struct ipv6_mreq: address 16 | interface index 4
      request.set(parseIpv6(group))
      request.set(int32(this.#scopeId), 16)
      set(levelIpv6, joinGroup, request)
    }
  }

  #look(packet: Uint8Array, from: Uint8Array, receive: Icmpv6Receiver): void {
    for (let i = 0; i < packetsPerLookMax; i++) {
      const fromBytes = Uint8Array.of(from.byteLength, 0, 0, 0)
      const count = this.#libc.recvfrom(this.#fd, packet, packet.byteLength, doNotWait, from, fromBytes)
      if (count < 0) return
      // A link-local or unspecified source cannot have come through a router: the sender is on the link.
      const address = from.subarray(8, 24)
      const isUnspecified = address.every((byte) => byte === 0)
      const isLinkLocal = address[0] === 0xfe && ((address[1] ?? 0) & 0xc0) === 0x80
      if (!isUnspecified && !isLinkLocal) continue
      receive(packet.subarray(0, count), isUnspecified ? '::' : formatIpv6(address))
      if (!this.#open) return
    }
  }
}

/** struct sockaddr_in6: family 2 | port 2 | flow 4 | address 16 | scope 4. */
function sockaddrOf(address: string, scopeId: number): Uint8Array {
  const sockaddr = new Uint8Array(28)
  sockaddr[0] = afInet6
  sockaddr.set(parseIpv6(address), 8)
  sockaddr.set(int32(scopeId), 24)
  return sockaddr
}

function parseIpv6(text: string): Uint8Array {
  if (!isIPv6(text)) throw new OperationError('addressUnknown', `${text} is no IPv6 address`, 'Write it like fe80::1.')
  const [head = '', tail] = text.split('::')
  const groups = (part: string | undefined): number[] =>
    part === undefined || part === '' ? [] : part.split(':').map((group) => Number.parseInt(group, 16))
  const front = groups(head)
  const back = groups(tail)
  const all = [...front, ...new Array<number>(8 - front.length - back.length).fill(0), ...back]
  return Uint8Array.from(all.flatMap((group) => [group >>> 8, group & 0xff]))
}

function formatIpv6(bytes: Uint8Array): string {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  return Array.from({ length: 8 }, (_, index) => view.getUint16(index * 2).toString(16)).join(':')
}

function int32(value: number): Uint8Array {
  const bytes = new Uint8Array(4)
  new DataView(bytes.buffer).setInt32(0, value, true)
  return bytes
}

/** Asked of the kernel, not of /sys, which may show another network namespace's. */
function indexOf(libc: Native, interfaceName: string): number {
  const index = libc.ifNametoindex(interfaceName)
  if (index !== 0) return index
  const hint = 'Name an interface that `ip link` shows.'
  throw new OperationError('interfaceUnknown', `there is no interface ${interfaceName}`, hint)
}

function describe(interfaceName: string, code: string): OperationError {
  if (code === 'EPERM' || code === 'EACCES') {
    const hint = 'Run as root or with CAP_NET_RAW; without it an old iPXE waits 12 s longer at each boot.'
    return new OperationError('portForbidden', 'a raw socket may not be opened by this user', hint)
  }
  const hint = `See whether IPv6 is on: sysctl net.ipv6.conf.${interfaceName}.disable_ipv6.`
  return new OperationError('addressUnknown', `no ICMPv6 on ${interfaceName} (${code})`, hint)
}
