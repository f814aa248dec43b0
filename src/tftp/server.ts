/**
 * The TFTP server: one socket hears requests, each transfer has a socket of its own (its TID, RFC 1350 §4), connected to
 * the client, so that nobody else's packets reach it and a client that left is known by ICMP.
 */
import { assert, unreachable } from '../base/assert.ts'
import { messageOf } from '../base/errors.ts'
import type { Clock, Timer } from '../ports/clock.ts'
import type { Endpoint, UdpNetwork, UdpSocket } from '../ports/udp.ts'
import { readerOf, WireError } from '../wire/reader.ts'
import { defaultLimits, idleBuffersMax, type TftpLimits, transferBufferBytes } from './limits.ts'
import { normalName, printableName } from './name.ts'
import { toNetascii } from './netascii.ts'
import { agree } from './options.ts'
import { controlPacketBytesMax, decode, encode, errorCode, type Options, type Packet, type Request } from './packet.ts'
import type { TftpCatalogue, TftpEvent, TftpFile, TftpListener, TftpOutcome } from './policy.ts'
import { ackedBytes, type Input, initial, isUntouched, type Output, type State, step, type Terms } from './transfer.ts'

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

/** opcode 2 | block 2. */
const dataHeaderBytes = 4
const opcodeData = 3
const opcodeAck = 4
/** A timer that comes a little early is not worth another one. */
const timerSlackMs = 1
/** A paced transfer may send at once what it could have sent in this time: below it, timers are too coarse to pace. */
const paceBurstMs = 2
const anyPort = 0

class Server implements TftpServer {
  readonly #options: TftpServerOptions
  readonly #limits: TftpLimits
  readonly #transfers = new Set<Transfer>()
  /** The latest transfer of a client's port. */
  readonly #byClient = new Map<string, Transfer>()
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
    const transfer = new Transfer({ ...agreement, name, from, file: source, host: this })
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

  // What a transfer asks of the server it is part of.

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

  ended(transfer: Transfer, event: TftpEvent): void {
    this.#transfers.delete(transfer)
    const key = keyOf(transfer.from)
    if (this.#byClient.get(key) === transfer) this.#byClient.delete(key)
    this.#count(transfer.from.address, -1)
    this.#emit(event)
  }
}

type TransferTerms = {
  readonly terms: Terms
  readonly acknowledged: Options
  readonly name: string
  readonly from: Endpoint
  readonly file: TftpFile
  readonly host: Server
}

/** Carries out what `step` decides: reads ahead, sends, and keeps the one timer. */
class Transfer {
  readonly from: Endpoint
  socket: UdpSocket | undefined
  /** When the client last acknowledged something new. */
  lastMovedMs: number
  readonly #terms: Terms
  readonly #acknowledged: Options
  readonly #name: string
  readonly #file: TftpFile
  readonly #host: Server
  readonly #startedMs: number
  /**
   * In one buffer, so that a block is moved from what was read into the packet without an object for it: one DATA packet,
   * made anew for each block (`UdpSocket.send` copies), and behind it what was read ahead.
   */
  readonly #buffer: Uint8Array
  readonly #view: DataView
  readonly #packet: Uint8Array
  #state: State = initial
  #lastLiveState: State = initial
  #error: string | undefined

  /** Blocks that `step` wants sent and that have not been: from `#sendIndex` up to, not including, `#sendEnd`. */
  #sendIndex = 0
  #sendEnd = 0
  /** What was read ahead: `#chunkBytes` bytes of the file from `#chunkOffset`, in the buffer from `#chunkAt`. */
  readonly #chunkAt: number
  #chunkOffset = 0
  #chunkBytes = 0
  #reading = false

  #timerSetMs: number
  #deadlineMs = Number.POSITIVE_INFINITY
  #timer: Timer | undefined
  #paceTimer: Timer | undefined
  #paceCreditBytes: number
  #pacedAtMs: number

  constructor({ terms, acknowledged, name, from, file, host }: TransferTerms) {
    this.from = from
    this.#terms = terms
    this.#acknowledged = acknowledged
    this.#name = name
    this.#file = file
    this.#host = host
    this.#startedMs = host.clock.nowMs()
    this.lastMovedMs = this.#startedMs
    this.#pacedAtMs = this.#startedMs
    this.#timerSetMs = this.#startedMs
    this.#paceCreditBytes = 0
    this.#chunkAt = dataHeaderBytes + terms.blockBytes
    this.#buffer = host.takeBuffer(this.#chunkAt + terms.blockBytes)
    this.#view = new DataView(this.#buffer.buffer)
    this.#view.setUint16(0, opcodeData)
    this.#packet = this.#buffer.subarray(0, this.#chunkAt)
  }

  isUntouchedReadOf(name: string): boolean {
    return name === this.#name && isUntouched(this.#state)
  }

  onPacket(bytes: Uint8Array): void {
    // Nearly every packet is an ACK; it is read without making an object of it.
    if (bytes.byteLength >= dataHeaderBytes && bytes[0] === 0 && bytes[1] === opcodeAck) {
      this.take({ kind: 'ack', block: ((bytes[2] ?? 0) << 8) | (bytes[3] ?? 0) })
      return
    }
    let packet: Packet
    try {
      packet = decode(readerOf(bytes))
    } catch (error) {
      if (error instanceof WireError) return // Lost, as packets are: the timer sends again.
      throw error
    }
    if (packet.kind !== 'error') return
    this.#error = `client's ERROR ${packet.code}: ${printableName(packet.message)}`
    this.take({ kind: 'clientError', code: packet.code })
  }

  take(input: Input): void {
    if (this.#state.kind === 'done') return
    const { state, outputs } = step(this.#terms, this.#state, input)
    const moved = input.kind === 'ack' && state !== this.#state
    this.#state = state
    if (state.kind === 'done') {
      this.end(state.outcome, this.#error)
      return
    }
    this.#lastLiveState = state
    for (const output of outputs) this.#perform(output)
    if (moved) this.lastMovedMs = this.#timerSetMs
  }

  end(outcome: TftpOutcome, detail: string | undefined): void {
    const { clock } = this.#host
    if (outcome === 'stopped' || outcome === 'evicted' || outcome === 'unreadable') {
      this.#sendControl({ kind: 'error', code: errorCode.notDefined, message: detail ?? outcome })
    }
    const bytes = outcome === 'complete' ? this.#terms.fileBytes : ackedBytes(this.#terms, this.#lastLiveState)
    this.#state = { kind: 'done', outcome: 'aborted' }
    this.#sendEnd = 0
    this.#timer?.cancel()
    this.#paceTimer?.cancel()
    this.socket?.close()
    this.#releaseBuffer()
    this.#file.close?.()
    this.#host.ended(this, {
      kind: 'transferEnded',
      from: this.from,
      name: this.#name,
      outcome,
      ackedBytes: bytes,
      durationMs: clock.nowMs() - this.#startedMs,
      ...(detail === undefined ? {} : { detail }),
    })
  }

  #perform(output: Output): void {
    switch (output.kind) {
      case 'sendOptionAck':
        this.#sendControl({ kind: 'optionAck', options: this.#acknowledged })
        return
      case 'sendBlocks':
        this.#sendIndex = output.firstIndex
        this.#sendEnd = output.firstIndex + output.blockCount
        this.#sendWhatIsReady()
        return
      case 'setTimer':
        this.#timerSetMs = this.#host.clock.nowMs()
        this.#deadlineMs = this.#timerSetMs + output.afterMs
        if (this.#timer === undefined) this.#armTimer(output.afterMs)
        return
      case 'clearTimer':
        this.#deadlineMs = Number.POSITIVE_INFINITY
        return
      default:
        unreachable(output)
    }
  }

  /** The timer is not moved for each block: when it fires too early, it is set again for the rest. */
  #armTimer(afterMs: number): void {
    this.#timer = this.#host.clock.after(afterMs, () => {
      this.#timer = undefined
      if (this.#state.kind === 'done' || this.#deadlineMs === Number.POSITIVE_INFINITY) return
      const leftMs = this.#deadlineMs - this.#host.clock.nowMs()
      // While our own disk or pace is what the client waits for, the silence is not the client's.
      const isOurs = this.#reading || this.#paceTimer !== undefined
      if (leftMs > timerSlackMs || isOurs) this.#armTimer(Math.max(leftMs, isOurs ? this.#terms.retryAfterMs : 0))
      else this.take({ kind: 'timerFired' })
    })
  }

  #sendWhatIsReady(): void {
    const { blockBytes, fileBytes } = this.#terms
    while (this.#sendIndex < this.#sendEnd) {
      const offset = this.#sendIndex * blockBytes
      const bytes = Math.min(blockBytes, fileBytes - offset)
      const inChunk = offset >= this.#chunkOffset && offset + bytes <= this.#chunkOffset + this.#chunkBytes
      if (!inChunk && bytes > 0) {
        if (this.#reading || !this.#readAhead(offset)) return
      }
      if (this.#file.paceBytesPerSecond !== undefined && !this.#mayLeave(bytes, this.#file.paceBytesPerSecond)) return
      this.#sendBlock(offset, bytes)
      this.#sendIndex++
    }
  }

  #sendBlock(offset: number, bytes: number): void {
    // RFC 1350 figure 5-2:  2 bytes opcode | 2 bytes block | 0..blksize bytes
    this.#view.setUint16(2, (this.#sendIndex + 1) & 0xffff)
    const packetBytes = dataHeaderBytes + bytes
    const at = this.#chunkAt + offset - this.#chunkOffset
    if (bytes > 0) this.#buffer.copyWithin(dataHeaderBytes, at, at + bytes)
    const whole = packetBytes === this.#packet.byteLength
    this.socket?.send(whole ? this.#packet : this.#packet.subarray(0, packetBytes), this.from)
  }

  /** True when the blocks from `offset` on are there now; otherwise sending goes on when they are. */
  #readAhead(offset: number): boolean {
    const { blockBytes, fileBytes } = this.#terms
    const wholeBlocks = Math.floor((this.#buffer.byteLength - this.#chunkAt) / blockBytes)
    const bytes = Math.min(wholeBlocks * blockBytes, fileBytes - offset)
    this.#chunkBytes = 0
    let pending: Promise<void> | undefined
    try {
      pending = this.#file.read(offset, this.#buffer.subarray(this.#chunkAt, this.#chunkAt + bytes))
    } catch (error) {
      this.#failRead(error)
      return false
    }
    const arrived = (): void => {
      this.#chunkOffset = offset
      this.#chunkBytes = bytes
    }
    if (pending === undefined) {
      arrived()
      return true
    }
    this.#reading = true
    pending.then(
      () => {
        this.#reading = false
        if (this.#state.kind === 'done') {
          this.#releaseBuffer()
          return
        }
        arrived()
        this.#sendWhatIsReady()
      },
      (error: unknown) => {
        this.#reading = false
        if (this.#state.kind === 'done') this.#releaseBuffer()
        else this.#failRead(error)
      },
    )
    return false
  }

  #failRead(error: unknown): void {
    this.end('unreadable', messageOf(error))
  }

  /** False while the pace does not allow it yet; sending goes on when it does. */
  #mayLeave(bytes: number, bytesPerSecond: number): boolean {
    if (this.#paceTimer !== undefined) return false
    const nowMs = this.#host.clock.nowMs()
    const earned = ((nowMs - this.#pacedAtMs) * bytesPerSecond) / 1_000
    const creditMax = Math.max(bytes, (paceBurstMs * bytesPerSecond) / 1_000)
    this.#paceCreditBytes = Math.min(creditMax, this.#paceCreditBytes + earned)
    this.#pacedAtMs = nowMs
    if (this.#paceCreditBytes >= bytes) {
      this.#paceCreditBytes -= bytes
      return true
    }
    const waitMs = ((bytes - this.#paceCreditBytes) * 1_000) / bytesPerSecond
    this.#paceTimer = this.#host.clock.after(waitMs, () => {
      this.#paceTimer = undefined
      this.#sendWhatIsReady()
    })
    return false
  }

  /** A buffer that a read is still filling comes back when the read is over. */
  #releaseBuffer(): void {
    if (!this.#reading) this.#host.giveBuffer(this.#buffer)
  }

  #sendControl(packet: Packet): void {
    this.socket?.send(this.#host.controlPacket(packet), this.from)
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
