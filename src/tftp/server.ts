/**
 * The TFTP server: one socket hears requests, each transfer (`running-read.ts`) has a socket of its own (its TID, RFC 1350
 * §4), connected to the client, so that nobody else's packets reach it and a client that left is known by ICMP.
 */
import { assert } from '../base/assert.ts'
import { messageOf } from '../base/errors.ts'
import type { Clock } from '../ports/clock.ts'
import type { Endpoint, UdpNetwork, UdpSocket } from '../ports/udp.ts'
import { readerOf, WireError } from '../wire/reader.ts'
import { defaultLimits, idleBuffersMax, type TftpLimits, transferBufferBytes } from './limits.ts'
import { normalName, printableName } from './name.ts'
import { toNetascii } from './netascii.ts'
import { agree } from './options.ts'
import { controlPacketBytesMax, decode, encode, errorCode, type Packet, type Request } from './packet.ts'
import type { TftpCatalogue, TftpEvent, TftpFile, TftpListener } from './policy.ts'
import { type ReadHost, RunningRead } from './running-read.ts'

export type TftpServerOptions = {
  readonly network: UdpNetwork
  readonly clock: Clock
  /** Where requests arrive; transfers get ports of their own on the same address and interface. */
  readonly listen: Endpoint & { readonly interfaceName?: string }
  readonly catalogue: TftpCatalogue
  readonly onEvent: TftpListener
  readonly limits?: Partial<TftpLimits>
}

export interface TftpServer {
  readonly local: Endpoint
  readonly transferCount: number
  /** Tells clients under way (ERROR 0), forgets them, and closes every socket. */
  close(): void
}

/** @throws {OperationError} portTaken, portForbidden, addressUnknown, interfaceUnknown */
export async function serveTftp(options: TftpServerOptions): Promise<TftpServer> {
  const server = new Server(options)
  await server.open()
  return server
}

const anyPort = 0

class Server implements TftpServer, ReadHost {
  readonly #options: TftpServerOptions
  readonly #limits: TftpLimits
  readonly #transfers = new Set<RunningRead>()
  /** The latest transfer of a client's port. */
  readonly #byClient = new Map<string, RunningRead>()
  /** Requests whose file is being looked up. A repeat of one is not looked up again. */
  readonly #lookups = new Map<string, string>()
  readonly #perAddress = new Map<string, number>()
  readonly #freeBuffers: Uint8Array[] = []
  readonly #control = new Uint8Array(controlPacketBytesMax)
  readonly #controlView: DataView = new DataView(this.#control.buffer)
  #socket: UdpSocket | undefined
  #closed = false

  constructor(options: TftpServerOptions) {
    this.#options = options
    this.#limits = { ...defaultLimits, ...options.limits }
  }

  async open(): Promise<void> {
    this.#socket = await this.#options.network.bind(this.#options.listen, (bytes, from) => this.#onPacket(bytes, from))
  }

  get local(): Endpoint {
    assert(this.#socket !== undefined, 'the server was opened')
    return this.#socket.local
  }

  get transferCount(): number {
    return this.#transfers.size
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    for (const transfer of [...this.#transfers]) transfer.end('stopped', 'the server is going down')
    this.#socket?.close()
  }

  #onPacket(bytes: Uint8Array, from: Endpoint): void {
    let packet: Packet
    try {
      packet = decode(readerOf(bytes))
    } catch (error) {
      if (!(error instanceof WireError)) throw error
      this.#emit({ kind: 'malformed', from, detail: error.message })
      return
    }
    if (packet.kind === 'readRequest' || packet.kind === 'writeRequest') this.#onRequest(packet, from)
    // An ERROR is never answered (RFC 1350 §2), and an ACK or DATA here belongs to a transfer that is over.
    else this.#emit({ kind: 'malformed', from, detail: `${packet.kind} to the port for requests` })
  }

  #onRequest(request: Request, from: Endpoint): void {
    const name = printableName(request.filename)
    if (request.kind === 'writeRequest') {
      this.#refuse(from, errorCode.accessViolation, 'this server is read-only')
      this.#emit({ kind: 'refused', from, name, reason: 'writeRequest' })
      return
    }
    if (request.mode !== 'octet' && request.mode !== 'netascii') {
      this.#refuse(from, errorCode.illegalOperation, 'use mode octet')
      this.#emit({ kind: 'refused', from, name, reason: 'badMode' })
      return
    }
    const wanted = normalName(request.filename)
    if (wanted === undefined) {
      this.#refuse(from, errorCode.fileNotFound, 'file not found')
      this.#emit({ kind: 'refused', from, name, reason: 'badName' })
      return
    }
    const key = keyOf(from)
    if (this.#lookups.get(key) === wanted) return
    const running = this.#byClient.get(key)
    // The network doubled it, or our first answer got lost. Once blocks were acknowledged, the same request from the
    // same port is a machine that started again: it gets a transfer of its own, and the old one dies of silence or of
    // the client's ERROR, whichever of the two the machine does not know.
    if (running?.isUntouchedReadOf(wanted)) {
      running.take({ kind: 'requestRepeated' })
      return
    }
    if (!this.#makeRoom(from.address)) {
      // No answer: the client asks again by itself, and by then there may be room.
      this.#emit({ kind: 'refused', from, name, reason: 'busy' })
      return
    }
    this.#count(from.address, 1)
    this.#lookups.set(key, wanted)
    this.#start(request, wanted, from).then(
      (started) => {
        this.#lookups.delete(key)
        if (!started) this.#count(from.address, -1)
      },
      (error: unknown) => {
        this.#lookups.delete(key)
        this.#count(from.address, -1)
        if (this.#closed) return
        this.#refuse(from, errorCode.notDefined, 'the server cannot serve this now')
        this.#emit({ kind: 'failed', from, name, detail: messageOf(error) })
      },
    )
  }

  /** False when there is nothing to transfer; the client was told. */
  async #start(request: Request, name: string, from: Endpoint): Promise<boolean> {
    const found = this.#options.catalogue.find(name, from)
    const file = found instanceof Promise ? await found : found
    if (file === undefined) {
      this.#refuse(from, errorCode.fileNotFound, 'file not found')
      this.#emit({ kind: 'notFound', from, name })
      return false
    }
    let source = file
    if (request.mode === 'netascii') {
      if (file.sizeBytes > this.#limits.netasciiBytesMax) {
        file.close?.()
        this.#refuse(from, errorCode.notDefined, 'too large for netascii: use mode octet')
        this.#emit({ kind: 'refused', from, name, reason: 'netasciiTooLarge' })
        return false
      }
      source = await asNetascii(file)
    }
    const agreement = agree({
      options: request.options,
      fileBytes: source.sizeBytes,
      blockBytesMax: file.blockBytesMax ?? this.#limits.blockBytesMax,
      limits: this.#limits,
    })
    const { address } = this.local
    const transfer = new RunningRead({ ...agreement, name, from, file: source, host: this })
    const { interfaceName } = this.#options.listen
    try {
      transfer.socket = await this.#options.network.bind(
        {
          address,
          port: anyPort,
          ...(interfaceName === undefined ? {} : { interfaceName }),
          peer: from,
          peerGone: () => transfer.take({ kind: 'clientGone' }),
        },
        (bytes) => transfer.onPacket(bytes),
      )
    } catch (error) {
      source.close?.()
      throw error
    }
    if (this.#closed) {
      transfer.socket.close()
      source.close?.()
      return false
    }
    this.#transfers.add(transfer)
    this.#byClient.set(keyOf(from), transfer)
    const { blockBytes, windowBlocks } = agreement.terms
    this.#emit({ kind: 'transferStarted', from, name, fileBytes: source.sizeBytes, blockBytes, windowBlocks })
    transfer.take({ kind: 'start', withOptions: agreement.acknowledged.size > 0 })
    return true
  }

  /** True if one more transfer may start for this address; ends one that has stood still, if that is what it takes. */
  #makeRoom(address: string): boolean {
    const { transfersMax, transfersPerAddressMax, evictAfterMs } = this.#limits
    const ofAddress = this.#perAddress.get(address) ?? 0
    const crowded = ofAddress >= transfersPerAddressMax
    if (!crowded && this.#transfers.size + this.#lookups.size < transfersMax) return true
    const stillSinceMs = this.clock.nowMs() - evictAfterMs
    for (const transfer of this.#transfers) {
      if (transfer.lastMovedMs > stillSinceMs || (crowded && transfer.from.address !== address)) continue
      transfer.end('evicted', 'the server needs the place')
      return true
    }
    return false
  }

  #count(address: string, change: 1 | -1): void {
    const count = (this.#perAddress.get(address) ?? 0) + change
    if (count === 0) this.#perAddress.delete(address)
    else this.#perAddress.set(address, count)
  }

  #refuse(to: Endpoint, code: number, message: string): void {
    if (this.#closed) return
    this.#socket?.send(this.controlPacket({ kind: 'error', code, message }), to)
  }

  #emit(event: TftpEvent): void {
    this.#options.onEvent(event)
  }

  // --- ReadHost

  get clock(): Clock {
    return this.#options.clock
  }

  /** The bytes hold until the next one is made. */
  controlPacket(packet: Packet): Uint8Array {
    return this.#control.subarray(0, encode(packet, this.#control, this.#controlView))
  }

  takeBuffer(bytesMin: number): Uint8Array {
    if (bytesMin > transferBufferBytes) return new Uint8Array(bytesMin)
    return this.#freeBuffers.pop() ?? new Uint8Array(transferBufferBytes)
  }

  giveBuffer(buffer: Uint8Array): void {
    if (buffer.byteLength !== transferBufferBytes || this.#freeBuffers.length >= idleBuffersMax) return
    this.#freeBuffers.push(buffer)
  }

  ended(transfer: RunningRead, event: TftpEvent): void {
    this.#transfers.delete(transfer)
    const key = keyOf(transfer.from)
    if (this.#byClient.get(key) === transfer) this.#byClient.delete(key)
    this.#count(transfer.from.address, -1)
    this.#emit(event)
  }
}

async function asNetascii(file: TftpFile): Promise<TftpFile> {
  const plain = new Uint8Array(file.sizeBytes)
  try {
    await file.read(0, plain)
  } finally {
    file.close?.()
  }
  const bytes = toNetascii(plain)
  return {
    sizeBytes: bytes.byteLength,
    ...(file.paceBytesPerSecond === undefined ? {} : { paceBytesPerSecond: file.paceBytesPerSecond }),
    read: (offset, target) => {
      target.set(bytes.subarray(offset, offset + target.byteLength))
      return undefined
    },
  }
}

function keyOf({ address, port }: Endpoint): string {
  return `${address}:${port}`
}
