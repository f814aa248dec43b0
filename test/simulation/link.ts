/**
 * One Ethernet link with a virtual clock, for servers and clients written against `ports`: seeded loss, duplication and
 * reordering. A host hears what is sent to an address it has, to a broadcast, or to its link address when the sender's kernel
 * was told it. Nothing is real: `run` moves the time to the next event until there is none.
 */
import { formatMac } from '../../src/base/address.ts'
import { seededRandom } from '../../src/base/random.ts'
import type { Clock, Timer } from '../../src/ports/clock.ts'
import type { Endpoint, Neighbours, UdpNetwork, UdpReceiver } from '../../src/ports/udp.ts'

export type LinkQuality = { readonly loss: number; readonly duplicate: number; readonly jitterMs: number }

export const perfectLink: LinkQuality = { loss: 0, duplicate: 0, jitterMs: 0 }

type Event = { readonly atMs: number; readonly fire: () => void }

type Bound = { readonly port: number; readonly receive: UdpReceiver }

export type SimulatedHost = {
  readonly udp: UdpNetwork
  readonly neighbours: Neighbours
  /** The host's addresses; may change under way. */
  readonly addresses: Set<string>
}

export class SimulatedLink {
  readonly #random: () => number
  readonly #quality: LinkQuality
  readonly #hosts: { readonly mac: string; readonly addresses: Set<string>; readonly sockets: Set<Bound> }[] = []
  readonly #events: Event[] = []
  #nowMs = 0
  /** 2026-01-01. */
  wallOffsetMs = 1_767_225_600_000
  packetsSent = 0

  constructor(seed: number, quality: LinkQuality = perfectLink) {
    this.#random = seededRandom(seed)
    this.#quality = quality
  }

  readonly clock: Clock = {
    nowMs: () => this.#nowMs,
    wallMs: () => this.#nowMs + this.wallOffsetMs,
    after: (afterMs, fire) => this.#schedule(this.#nowMs + afterMs, fire),
  }

  addHost(mac: string, addresses: readonly string[]): SimulatedHost {
    const host = { mac, addresses: new Set(addresses), sockets: new Set<Bound>() }
    this.#hosts.push(host)
    /** address -> link address, as this host's kernel was told. */
    const learnt = new Map<string, string>()
    const udp: UdpNetwork = {
      bind: async (binding, receive) => {
        const bound = { port: binding.port, receive }
        host.sockets.add(bound)
        const local = { address: binding.address, port: binding.port }
        return {
          local,
          send: (bytes, to) => {
            const from = { address: [...host.addresses][0] ?? '0.0.0.0', port: binding.port }
            this.#send(bytes.slice(), from, to, learnt.get(to.address), host)
          },
          close: () => host.sockets.delete(bound),
        }
      },
    }
    const neighbours: Neighbours = {
      learn: (_interfaceName, address, linkAddress) => {
        learnt.set(address, formatMac(linkAddress))
        return true
      },
    }
    return { udp, neighbours, addresses: host.addresses }
  }

  /** Until nothing is left to happen or `untilMs` is reached. Promises settle between any two events. */
  async run(untilMs: number = Number.POSITIVE_INFINITY): Promise<void> {
    for (;;) {
      for (let turn = 0; turn < 8; turn++) await Promise.resolve()
      const next = this.#events[0]
      if (next === undefined || next.atMs > untilMs) break
      this.#events.shift()
      this.#nowMs = Math.max(this.#nowMs, next.atMs)
      next.fire()
    }
    if (Number.isFinite(untilMs)) this.#nowMs = Math.max(this.#nowMs, untilMs)
  }

  #schedule(atMs: number, fire: () => void): Timer {
    const event: Event = { atMs, fire }
    // In the order of time, and of being scheduled for the same time.
    let index = this.#events.length
    while (index > 0 && (this.#events[index - 1]?.atMs ?? 0) > atMs) index--
    this.#events.splice(index, 0, event)
    return {
      cancel: () => {
        const at = this.#events.indexOf(event)
        if (at !== -1) this.#events.splice(at, 1)
      },
    }
  }

  #send(bytes: Uint8Array, from: Endpoint, to: Endpoint, linkAddress: string | undefined, sender: object): void {
    this.packetsSent++
    const copies = this.#random() < this.#quality.loss ? 0 : this.#random() < this.#quality.duplicate ? 2 : 1
    for (let i = 0; i < copies; i++) {
      this.#schedule(this.#nowMs + 0.1 + this.#random() * this.#quality.jitterMs, () => {
        for (const host of this.#hosts) {
          const isBroadcast = to.address === '255.255.255.255'
          const hears = isBroadcast ? host !== sender : host.addresses.has(to.address) || host.mac === linkAddress
          if (!hears) continue
          for (const socket of host.sockets) if (socket.port === to.port) socket.receive(bytes.slice(), from)
        }
      })
    }
  }
}
