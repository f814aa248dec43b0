/** UdpNetwork on real sockets: the socket is made by hand so that it can hear one interface only; Node listens to it. */
import { createSocket, type Socket } from 'node:dgram'
import { parseIpv4 } from '../base/address.ts'
import { assert } from '../base/assert.ts'
import { OperationError } from '../base/errors.ts'
import type { Endpoint, Neighbours, UdpBinding, UdpNetwork, UdpReceiver, UdpSocket } from '../ports/udp.ts'
import { takeInheritedSocket } from './activation.ts'
import { codeOf } from './file.ts'
import { type Native, nameOfErrno, native, writeSockaddr } from './native.ts'
import { type PausableHandle, type PolledSocket, UdpPoller } from './udp-poll.ts'

const afInet = 2
/** SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC. */
const datagramNonBlocking = 2 | 0o4000 | 0o2000000
const solSocket = 1
const soReuseAddress = 2
const soBroadcast = 6
const soReceiveBuffer = 8
const soBindToDevice = 25
const soReceiveBufferForce = 33
/** MSG_DONTWAIT | MSG_NOSIGNAL. */
const sendNow = 0x40 | 0x4000
/** A burst of requests waits in the kernel, not on the floor, while we answer the ones before. */
const receiveBufferBytes = 4 * 1024 * 1024

export const systemUdp: UdpNetwork = {
  bind: async (binding, receive) => {
    const socket = createSocket({ type: 'udp4', reuseAddr: binding.reuseAddress ?? false })
    const bound = new Promise<void>((resolve, reject) => {
      socket.once('error', reject)
      socket.once('listening', resolve)
    })
    let fd: number | undefined
    try {
      if (native === undefined) socket.bind({ address: binding.address, port: binding.port, exclusive: true })
      else {
        fd = takeInheritedSocket('udp', binding.port) ?? openSocket(native, binding)
        socket.bind({ fd })
      }
      await bound
    } catch (error) {
      socket.close()
      const on = binding.interfaceName ?? binding.address
      throw describeListen({ protocol: 'UDP', port: binding.port, on }, error)
    }
    if (native === undefined && binding.broadcast === true) socket.setBroadcast(true)
    if (native === undefined && binding.peer !== undefined) await connect(socket, binding.peer)
    return new SystemUdpSocket(socket, fd, binding, receive)
  },
}

class SystemUdpSocket implements UdpSocket {
  readonly local: Endpoint
  readonly #socket: Socket
  readonly #fd: number | undefined
  readonly #to = new Uint8Array(16)
  readonly #connected: boolean
  #open = true

  constructor(socket: Socket, fd: number | undefined, { peer, peerGone }: UdpBinding, receive: UdpReceiver) {
    this.#socket = socket
    this.#fd = fd
    const { address, port } = socket.address()
    this.local = { address, port }
    this.#connected = peer !== undefined
    const handle = handleOf(socket)
    const polled: PolledSocket | undefined =
      peer === undefined || fd === undefined || handle === undefined
        ? undefined
        : { fd, handle, receive: (bytes) => receive(bytes, peer), peerGone: () => peerGone?.() }
    socket.on('message', (bytes, from) => {
      receive(bytes, from)
      if (polled !== undefined && this.#open) pollerOf().watch(polled)
    })
    // A port-unreachable for an earlier packet comes back as an error on the socket; the next packet may well arrive.
    socket.on('error', (error) => {
      if (codeOf(error) === 'ECONNREFUSED') peerGone?.()
    })
  }

  send(bytes: Uint8Array, to: Endpoint): void {
    if (!this.#open) return
    if (native === undefined || this.#fd === undefined) {
      if (this.#connected) this.#socket.send(Uint8Array.from(bytes), () => {})
      else this.#socket.send(Uint8Array.from(bytes), to.port, to.address, () => {})
      return
    }
    if (this.#connected) {
      native.send(this.#fd, bytes, bytes.byteLength, sendNow)
      return
    }
    const address = parseIpv4(to.address)
    assert(address !== undefined, 'a UDP packet is sent to an IPv4 address')
    writeSockaddr(this.#to, address, to.port)
    native.sendto(this.#fd, bytes, bytes.byteLength, sendNow, this.#to, this.#to.byteLength)
  }

  close(): void {
    if (!this.#open) return
    this.#open = false
    if (this.#fd !== undefined) poller?.forget(this.#fd)
    this.#socket.close()
  }
}

let poller: UdpPoller | undefined

function pollerOf(): UdpPoller {
  assert(native !== undefined, 'only asked where there are system calls')
  poller ??= new UdpPoller(native)
  return poller
}

/** Node keeps its handle to itself; without one a socket is simply not polled. */
function handleOf(socket: Socket): PausableHandle | undefined {
  const internals = Object.getOwnPropertySymbols(socket).map((key) => (socket as never as Record<symbol, unknown>)[key])
  for (const state of internals) {
    const handle = typeof state === 'object' && state !== null && 'handle' in state ? state.handle : undefined
    if (typeof handle === 'object' && handle !== null && 'recvStart' in handle && 'recvStop' in handle) {
      return handle as PausableHandle
    }
  }
  return undefined
}

function connect(socket: Socket, peer: Endpoint): Promise<void> {
  return new Promise((resolve) => socket.connect(peer.port, peer.address, () => resolve()))
}

/** A bound socket, or throws an Error whose `code` is the errno's name. */
function openSocket(libc: Native, binding: UdpBinding): number {
  const address = parseIpv4(binding.address)
  assert(address !== undefined, 'a UDP socket is bound to an IPv4 address')
  const fd = check(libc, libc.socket(afInet, datagramNonBlocking, 0))
  try {
    const on = Uint8Array.of(1, 0, 0, 0)
    const receiveBuffer = new Uint8Array(4)
    new DataView(receiveBuffer.buffer).setUint32(0, receiveBufferBytes, true)
    // Past net.core.rmem_max with CAP_NET_ADMIN; without it, up to there.
    if (libc.setsockopt(fd, solSocket, soReceiveBufferForce, receiveBuffer, 4) !== 0) {
      libc.setsockopt(fd, solSocket, soReceiveBuffer, receiveBuffer, 4)
    }
    if (binding.reuseAddress === true) check(libc, libc.setsockopt(fd, solSocket, soReuseAddress, on, 4))
    if (binding.broadcast === true) check(libc, libc.setsockopt(fd, solSocket, soBroadcast, on, 4))
    if (binding.interfaceName !== undefined) {
      const name = new TextEncoder().encode(`${binding.interfaceName}\0`)
      check(libc, libc.setsockopt(fd, solSocket, soBindToDevice, name, name.byteLength))
    }
    const sockaddr = new Uint8Array(16)
    writeSockaddr(sockaddr, address, binding.port)
    check(libc, libc.bind(fd, sockaddr, sockaddr.byteLength))
    if (binding.peer !== undefined) {
      const peerAddress = parseIpv4(binding.peer.address)
      assert(peerAddress !== undefined, 'a UDP socket is connected to an IPv4 address')
      writeSockaddr(sockaddr, peerAddress, binding.peer.port)
      check(libc, libc.connect(fd, sockaddr, sockaddr.byteLength))
    }
    return fd
  } catch (error) {
    libc.close(fd)
    throw error
  }
}

function check(libc: Native, result: number): number {
  if (result >= 0) return result
  const code = nameOfErrno(libc.errno())
  throw Object.assign(new Error(code), { code })
}

export type ListenPlace = { readonly protocol: 'UDP' | 'TCP'; readonly port: number; readonly on: string }

/** Why a port could not be had, in words. */
export function describeListen(place: ListenPlace, error: unknown): unknown {
  const { protocol, port, on } = place
  const where = `${protocol} port ${port} on ${on}`
  switch (codeOf(error)) {
    case 'EADDRINUSE': {
      const hint = `See who has it: ss -lntup 'sport = :${port}'. Stop that program, or choose another port.`
      return new OperationError('portTaken', `${where} is taken by another program`, hint, { cause: error })
    }
    case 'EACCES':
    case 'EPERM': {
      const hint = 'Run as root, or give the capabilities that the systemd unit in docs/operating gives.'
      return new OperationError('portForbidden', `${where} may not be opened by this user`, hint, { cause: error })
    }
    case 'EADDRNOTAVAIL': {
      const hint = 'Name an address that `ip address` shows on this machine.'
      return new OperationError('addressUnknown', `${on} is not an address of this machine`, hint, { cause: error })
    }
    case 'ENODEV': {
      const hint = 'Name an interface that `ip link` shows.'
      return new OperationError('interfaceUnknown', `there is no interface ${on}`, hint, { cause: error })
    }
    default:
      return error
  }
}

const siocSetArp = 0x8955
const arpComplete = 0x02
const arphrdEthernet = 1

/** ARP entries through SIOCSARP (net/if_arp.h struct arpreq); needs CAP_NET_ADMIN, and says false without it. */
export function createNeighbours(): Neighbours {
  const libc = native
  if (libc === undefined) return { learn: () => false }
  const fd = libc.socket(afInet, datagramNonBlocking, 0)
  // arp_pa sockaddr 16 | arp_ha sockaddr 16 | arp_flags 4 | arp_netmask sockaddr 16 | arp_dev 16
  const request = new Uint8Array(68)
  const view = new DataView(request.buffer)
  return {
    learn: (interfaceName, address, linkAddress) => {
      const number = parseIpv4(address)
      const device = new TextEncoder().encode(interfaceName)
      if (fd < 0 || number === undefined || linkAddress.byteLength !== 6 || device.byteLength > 15) return false
      request.fill(0)
      writeSockaddr(request, number, 0)
      view.setUint16(16, arphrdEthernet, true)
      request.set(linkAddress, 18)
      view.setUint32(32, arpComplete, true)
      request.set(device, 52)
      return libc.ioctl(fd, siocSetArp, request) === 0
    },
  }
}
