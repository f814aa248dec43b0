/**
 * How a busy connection is read whose handler only borrows its chunks: by ourselves, with recv into one buffer.
 *
 * Node makes a buffer of 64 KiB and sends each chunk through a stream; for small requests that costs more than answering
 * them. So a connection that Node heard something on is taken off its loop, and all that were taken are asked in every turn
 * for as long as requests come close together. Then Node watches them again. It is Node, too, that hears of an end or an
 * error: a connection on which recv has nothing to give but that is given back at once.
 */
import type { TcpHandler } from '../ports/tcp.ts'
import { errnoOf, type Native } from './native.ts'

/** What Node's TCP handle has, and its public API has not. */
export interface ReadHandle {
  readStart(): unknown
  readStop(): unknown
}

export type PolledConnection = {
  readonly fd: number
  readonly handle: ReadHandle
  /** Node has closed the descriptor, or is about to: the number may be another's. */
  readonly isGone: () => boolean
  /** One that borrows its chunks. */
  readonly handler: Pick<TcpHandler, 'onData' | 'receiveInto'>
}

/** Longer than a client takes to be woken by our answer and to ask again: on a virtual machine that is over 100 us. */
const pollForMs = 0.2
/** Asked so often in vain beside busier ones, a connection is left to Node. */
const missesMax = 64
/**
 * With more than these busy at once, asking each in vain costs more than Node's wait for all of them, and those that are
 * asked are served before the others: then Node watches all for a while.
 */
const connectionsMax = 32
const crowdedForMs = 100
/**
 * After so many times that nothing came while we asked, whoever asks us takes longer than we are willing to ask: Node waits for a
 * while, and the processor is somebody else's.
 */
const vainMax = 4
const vainForMs = 10
const receiveNow = 0x40 // MSG_DONTWAIT
const bufferBytes = 65_536

type Entry = { readonly connection: PolledConnection; misses: number }

export class TcpPoller {
  readonly #libc: Native
  readonly #entries = new Map<number, Entry>()
  readonly #buffer = new Uint8Array(bufferBytes)
  readonly #turn = (): void => this.#poll()
  #scheduled = false
  #lastBytesMs = 0
  /** Until then Node watches. */
  #waitUntilMs = 0
  /** Whether something came since we began to ask, and how often nothing did. */
  #wasHeard = false
  #vainCount = 0

  constructor(libc: Native) {
    this.#libc = libc
  }

  /** Takes a connection over that Node heard something on. */
  watch(connection: PolledConnection): void {
    if (this.#entries.has(connection.fd)) return
    const nowMs = performance.now()
    if (this.#entries.size >= connectionsMax) {
      this.#waitUntilMs = nowMs + crowdedForMs
      for (const entry of this.#entries.values()) this.#giveBack(entry)
    }
    if (nowMs < this.#waitUntilMs) return
    connection.handle.readStop()
    this.#entries.set(connection.fd, { connection, misses: 0 })
    this.#lastBytesMs = nowMs
    if (this.#scheduled) return
    this.#scheduled = true
    setImmediate(this.#turn)
  }

  /** Gives it back to Node: before it is paused or ended. */
  release(connection: PolledConnection): void {
    const entry = this.#entries.get(connection.fd)
    if (entry?.connection === connection) this.#giveBack(entry)
  }

  #poll(): void {
    this.#scheduled = false
    let heard = false
    for (const entry of this.#entries.values()) if (this.#ask(entry)) heard = true
    const nowMs = performance.now()
    if (heard) {
      this.#lastBytesMs = nowMs
      this.#wasHeard = true
    } else if (nowMs - this.#lastBytesMs > pollForMs) this.#giveUp(nowMs)
    if (this.#entries.size === 0) return
    this.#scheduled = true
    setImmediate(this.#turn)
  }

  #giveUp(nowMs: number): void {
    for (const entry of this.#entries.values()) this.#giveBack(entry)
    this.#vainCount = this.#wasHeard ? 0 : this.#vainCount + 1
    this.#wasHeard = false
    if (this.#vainCount < vainMax) return
    this.#vainCount = 0
    this.#waitUntilMs = nowMs + vainForMs
  }

  #ask(entry: Entry): boolean {
    const { connection } = entry
    if (connection.isGone()) {
      this.#entries.delete(connection.fd)
      return false
    }
    const { handler } = connection
    const target = handler.receiveInto?.() ?? this.#buffer
    const size = this.#libc.recv(connection.fd, target, target.byteLength, receiveNow)
    if (size > 0) {
      entry.misses = 0
      handler.onData(target.subarray(0, size))
      return true
    }
    if (size === 0 || this.#libc.errno() !== errnoOf['EAGAIN'] || ++entry.misses > missesMax) this.#giveBack(entry)
    return false
  }

  #giveBack({ connection }: Entry): void {
    this.#entries.delete(connection.fd)
    if (!connection.isGone()) connection.handle.readStart()
  }
}
