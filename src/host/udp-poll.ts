/**
 * How a busy connected socket is read: by ourselves, with recv, instead of through Node.
 *
 * Node makes a buffer, an object and a call for each datagram, some four microseconds; a TFTP transfer in lock step is
 * nothing but such packets. So a socket that just heard one is taken off Node's loop, and all that were taken are asked in
 * every turn of the loop for as long as packets come closer together than `pollForMs`. Then Node watches them again: a
 * quiet time costs nothing, and nobody waits, because the loop goes on turning in between.
 */
import { errnoOf, type Native } from './native.ts'

/** What Node's UDP handle has, and its public API has not. */
export interface PausableHandle {
  recvStart(): unknown
  recvStop(): unknown
}

export type PolledSocket = {
  readonly fd: number
  readonly handle: PausableHandle
  /** `bytes` is lent until it returns. */
  readonly receive: (bytes: Uint8Array) => void
  readonly peerGone: () => void
}

/** Longer than a client on the same machine thinks about a packet. On a machine that has other work, longer is worse. */
const pollForMs = 0.05
/** Of one turn of the loop, how much may go to packets before everything else has its turn. */
const turnMs = 0.2
/** Asked so often in vain beside busier ones, a socket is left to Node: asking costs a fifth of a microsecond. */
const missesMax = 64
const receiveNow = 0x40 // MSG_DONTWAIT

type Entry = { readonly socket: PolledSocket; misses: number }

export class UdpPoller {
  readonly #libc: Native
  readonly #entries = new Map<number, Entry>()
  readonly #buffer = new Uint8Array(65_536)
  /** Acknowledgements are four bytes: the view of them is made once. */
  readonly #smallViews: readonly Uint8Array[]
  readonly #turn = (): void => this.#poll()
  #scheduled = false
  #lastPacketMs = 0

  constructor(libc: Native) {
    this.#libc = libc
    this.#smallViews = Array.from({ length: 17 }, (_, size) => this.#buffer.subarray(0, size))
  }

  /** Takes a socket over that Node heard a packet on. */
  watch(socket: PolledSocket): void {
    if (this.#entries.has(socket.fd)) return
    socket.handle.recvStop()
    this.#entries.set(socket.fd, { socket, misses: 0 })
    this.#lastPacketMs = performance.now()
    this.#schedule()
  }

  /** Before a socket is closed. */
  forget(fd: number): void {
    this.#entries.delete(fd)
  }

  #schedule(): void {
    if (this.#scheduled) return
    this.#scheduled = true
    setImmediate(this.#turn)
  }

  #poll(): void {
    this.#scheduled = false
    const startedMs = performance.now()
    let nowMs = startedMs
    let packets = 0
    // While packets come faster than we answer, the loop's own round is saved; but others wait no longer than this.
    do {
      packets = this.#askAll()
      nowMs = performance.now()
      if (packets > 0) this.#lastPacketMs = nowMs
    } while (packets > 0 && nowMs - startedMs < turnMs)
    if (nowMs - this.#lastPacketMs > pollForMs) for (const entry of this.#entries.values()) this.#giveBack(entry)
    if (this.#entries.size > 0) this.#schedule()
  }

  /** Takes one packet from each socket that has one; returns how many those were. */
  #askAll(): number {
    const libc = this.#libc
    let packets = 0
    for (const entry of this.#entries.values()) {
      const { fd, receive, peerGone } = entry.socket
      const size = libc.recv(fd, this.#buffer, this.#buffer.byteLength, receiveNow)
      if (size >= 0) {
        packets++
        entry.misses = 0
        receive(this.#smallViews[size] ?? this.#buffer.subarray(0, size))
      } else if (libc.errno() === errnoOf['ECONNREFUSED']) peerGone()
      else if (++entry.misses > missesMax) this.#giveBack(entry)
    }
    return packets
  }

  #giveBack({ socket }: Entry): void {
    this.#entries.delete(socket.fd)
    socket.handle.recvStart()
  }
}
