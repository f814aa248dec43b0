import { OperationError } from '../../src/base/errors.ts'
import type { Clock } from '../../src/ports/clock.ts'
import type { TcpConnection, TcpHandler, TcpListener, TcpNetwork } from '../../src/ports/tcp.ts'
import type { Endpoint } from '../../src/ports/udp.ts'

export type TcpLink = {
  readonly delayMs: number
  /** Bytes on their way to a reader that is held, or has not got them yet: more is not taken from the writer. */
  readonly windowBytes: number
  /** A segment carries from 1 up to this many bytes; `random` says how many. */
  readonly segmentBytesMax: number
}

type Queued = { readonly bytes: Uint8Array; readonly release: (() => void) | undefined; at: number }

/** TCP without loss: bytes in order, cut anywhere, with a window that a slow reader fills. */
export class SimulatedTcp implements TcpNetwork {
  openCount = 0
  readonly #clock: Clock
  readonly #random: () => number
  readonly #link: TcpLink
  readonly #listening = new Map<string, (connection: TcpConnection) => TcpHandler>()
  #nextPort = 30_000

  constructor(clock: Clock, random: () => number, link: TcpLink) {
    this.#clock = clock
    this.#random = random
    this.#link = link
  }

  listen(binding: Endpoint, accept: (connection: TcpConnection) => TcpHandler): Promise<TcpListener> {
    const local = { address: binding.address, port: binding.port === 0 ? this.#nextPort++ : binding.port }
    this.#listening.set(keyOf(local), accept)
    const close = (): Promise<void> => {
      this.#listening.delete(keyOf(local))
      return Promise.resolve()
    }
    return Promise.resolve({ local, close })
  }

  /** From the address 10.0.1.1; `connectFrom` says another. */
  connect(to: Endpoint, open: (connection: TcpConnection) => TcpHandler): Promise<TcpConnection> {
    return this.connectFrom('10.0.1.1', to, open)
  }

  connectFrom(address: string, to: Endpoint, open: (connection: TcpConnection) => TcpHandler): Promise<TcpConnection> {
    const accept = this.#listening.get(keyOf(to))
    if (accept === undefined) {
      return Promise.reject(new OperationError('connectionRefused', `${keyOf(to)} does not answer`, 'Listen there.'))
    }
    const from = { address, port: this.#nextPort++ }
    const half = { clock: this.#clock, random: this.#random, link: this.#link }
    const client = new Half({ ...half, local: from, remote: to, closed: () => this.openCount-- })
    const server = new Half({ ...half, local: to, remote: from, closed: () => this.openCount-- })
    this.openCount += 2
    client.peer = server
    server.peer = client
    server.handler = accept(server)
    client.handler = open(client)
    return Promise.resolve(client)
  }
}

type HalfTerms = {
  readonly clock: Clock
  readonly random: () => number
  readonly link: TcpLink
  readonly local: Endpoint
  readonly remote: Endpoint
  readonly closed: () => void
}

class Half implements TcpConnection {
  readonly local: Endpoint
  readonly remote: Endpoint
  peer: Half | undefined
  handler: TcpHandler | undefined
  readonly #terms: HalfTerms
  /** Not yet taken by the network. */
  #queue: Queued[] = []
  #queuedBytes = 0
  /** Sent to the peer and not yet in its handler's hands. */
  #inWindowBytes = 0
  #ending = false
  #finSent = false
  #scheduled = false
  #inbox: (Uint8Array | 'fin')[] = []
  #held = false
  #finReceived = false
  #closed = false

  constructor(terms: HalfTerms) {
    this.#terms = terms
    this.local = terms.local
    this.remote = terms.remote
  }

  get queuedBytes(): number {
    return this.#queuedBytes
  }

  write(bytes: Uint8Array, release?: () => void): void {
    if (this.#closed || this.#ending) {
      release?.()
      return
    }
    this.#queue.push({ bytes, release, at: 0 })
    this.#queuedBytes += bytes.byteLength
    this.#schedule()
  }

  pause(): void {
    this.#held = true
  }

  resume(): void {
    this.#held = false
    this.#terms.clock.after(0, () => this.#read())
  }

  end(): void {
    if (this.#closed || this.#ending) return
    this.#ending = true
    this.#schedule()
  }

  destroy(): void {
    if (this.#closed) return
    const { peer } = this
    this.#terms.clock.after(this.#terms.link.delayMs, () => peer?.close('ECONNRESET'))
    this.#terms.clock.after(0, () => this.close('closed'))
  }

  close(reason: string): void {
    if (this.#closed) return
    this.#closed = true
    for (const { release } of this.#queue) release?.()
    this.#queue = []
    this.#queuedBytes = 0
    this.handler?.onClose(reason)
    this.#terms.closed()
  }

  #schedule(): void {
    if (this.#scheduled) return
    this.#scheduled = true
    this.#terms.clock.after(0, () => {
      this.#scheduled = false
      this.#transmit()
    })
  }

  #transmit(): void {
    const { clock, random, link } = this.#terms
    const released: (() => void)[] = []
    while (this.#queue.length > 0 && this.#inWindowBytes < link.windowBytes && !this.#closed) {
      const head = this.#queue[0]
      if (head === undefined) break
      const room = link.windowBytes - this.#inWindowBytes
      const size = Math.min(room, head.bytes.byteLength - head.at, 1 + Math.floor(random() * link.segmentBytesMax))
      const segment = head.bytes.slice(head.at, head.at + size)
      head.at += size
      this.#inWindowBytes += size
      this.#queuedBytes -= size
      if (size > 0) clock.after(link.delayMs, () => this.peer?.arrive(segment))
      if (head.at < head.bytes.byteLength) continue
      this.#queue.shift()
      if (head.release !== undefined) released.push(head.release)
    }
    for (const release of released) release()
    if (!this.#ending || this.#finSent || this.#queue.length > 0 || this.#closed) return
    this.#finSent = true
    clock.after(link.delayMs, () => this.peer?.arrive('fin'))
    this.#closeWhenBothSaidSo()
  }

  arrive(what: Uint8Array | 'fin'): void {
    if (this.#closed) return
    this.#inbox.push(what)
    this.#read()
  }

  #read(): void {
    while (!this.#held && !this.#closed) {
      const next = this.#inbox.shift()
      if (next === undefined) return
      if (next === 'fin') {
        this.#finReceived = true
        if (this.handler?.onEnd === undefined) this.end()
        else this.handler.onEnd()
        this.#closeWhenBothSaidSo()
      } else {
        this.peer?.taken(next.byteLength)
        const lent = this.handler?.borrowsChunks ? Buffer.from(next) : next
        this.handler?.onData(lent)
        // Who kept what was only lent would see this.
        if (lent !== next) lent.fill(0xff)
      }
    }
  }

  taken(bytes: number): void {
    this.#inWindowBytes -= bytes
    this.#schedule()
  }

  #closeWhenBothSaidSo(): void {
    if (this.#finSent && this.#finReceived) this.#terms.clock.after(0, () => this.close('closed'))
  }
}

function keyOf({ address, port }: Endpoint): string {
  return `${address}:${port}`
}
