import { OperationError } from '../../src/base/errors.ts'
import type { Clock } from '../../src/ports/clock.ts'
import type { Endpoint, UdpBinding, UdpNetwork, UdpReceiver, UdpSocket } from '../../src/ports/udp.ts'

export type UdpLink = {
  /** Of packets, 0 to 1. */
  readonly loss: number
  readonly duplicate: number
  /** Each packet takes 1 ms and up to this much more: packets overtake each other. */
  readonly jitterMs: number
}

type Bound = { readonly binding: UdpBinding; readonly receive: UdpReceiver }

/** One network with one link for all: what is sent arrives later, twice, out of order or never, as `random` has it. */
export class SimulatedUdp implements UdpNetwork {
  sentPackets = 0
  inFlight = 0
  link: UdpLink
  readonly #clock: Clock
  readonly #random: () => number
  readonly #bound = new Map<string, Bound>()
  #nextPort = 20_000

  constructor(clock: Clock, random: () => number, link: UdpLink) {
    this.#clock = clock
    this.#random = random
    this.link = link
  }

  get socketCount(): number {
    return this.#bound.size
  }

  bind(binding: UdpBinding, receive: UdpReceiver): Promise<UdpSocket> {
    const local: Endpoint = { address: binding.address, port: binding.port === 0 ? this.#nextPort++ : binding.port }
    const key = keyOf(local)
    if (this.#bound.has(key)) {
      return Promise.reject(new OperationError('portTaken', `${key} is taken`, 'Bind another port.'))
    }
    const bound: Bound = { binding, receive }
    this.#bound.set(key, bound)
    return Promise.resolve({
      local,
      send: (bytes, to) => {
        if (this.#bound.get(key) === bound) this.#carry(bytes.slice(), local, binding.peer ?? to)
      },
      close: () => {
        if (this.#bound.get(key) === bound) this.#bound.delete(key)
      },
    })
  }

  #carry(bytes: Uint8Array, from: Endpoint, to: Endpoint): void {
    this.sentPackets++
    const { loss, duplicate, jitterMs } = this.link
    const copies = this.#random() < loss ? 0 : this.#random() < duplicate ? 2 : 1
    for (let i = 0; i < copies; i++) {
      this.inFlight++
      this.#clock.after(1 + this.#random() * jitterMs, () => {
        this.inFlight--
        this.#deliver(bytes, from, to)
      })
    }
  }

  #deliver(bytes: Uint8Array, from: Endpoint, to: Endpoint): void {
    const target = this.#bound.get(keyOf(to))
    const wants = target?.binding.peer
    if (target !== undefined && (wants === undefined || keyOf(wants) === keyOf(from))) {
      target.receive(bytes, from)
      return
    }
    // ICMP port unreachable, which only a connected socket hears of.
    const sender = this.#bound.get(keyOf(from))
    const connected = sender?.binding.peer
    if (connected !== undefined && keyOf(connected) === keyOf(to)) sender?.binding.peerGone?.()
  }
}

function keyOf({ address, port }: Endpoint): string {
  return `${address}:${port}`
}
