/** A read on its way: carries out what `transfer.ts` decides; reads ahead, sends, keeps the pace and the one timer. */
import { unreachable } from '../base/assert.ts'
import { messageOf } from '../base/errors.ts'
import type { Clock, Timer } from '../ports/clock.ts'
import type { Endpoint, UdpSocket } from '../ports/udp.ts'
import { readerOf, WireError } from '../wire/reader.ts'
import { printableName } from './name.ts'
import { decode, errorCode, type Options, type Packet } from './packet.ts'
import type { TftpEvent, TftpFile, TftpOutcome } from './policy.ts'
import { ackedBytes, type Input, initial, isUntouched, type Output, type State, step, type Terms } from './transfer.ts'

/** opcode 2 | block 2. */
const dataHeaderBytes = 4
const opcodeData = 3
const opcodeAck = 4
/** A timer that comes a little early is not worth another one. */
const timerSlackMs = 1
/** A paced transfer may send at once what it could have sent in this time: below it, timers are too coarse to pace. */
const paceBurstMs = 2

/** The server that a read is part of. */
export interface ReadHost {
  readonly clock: Clock
  /** The bytes hold until the next one is made. */
  controlPacket(packet: Packet): Uint8Array
  takeBuffer(bytesMin: number): Uint8Array
  giveBuffer(buffer: Uint8Array): void
  ended(read: RunningRead, event: TftpEvent): void
}

export type ReadTerms = {
  readonly terms: Terms
  readonly acknowledged: Options
  readonly name: string
  readonly from: Endpoint
  readonly file: TftpFile
  readonly host: ReadHost
}

export class RunningRead {
  readonly from: Endpoint
  socket: UdpSocket | undefined
  /** When the client last acknowledged something new. */
  lastMovedMs: number
  readonly #terms: Terms
  readonly #acknowledged: Options
  readonly #name: string
  readonly #file: TftpFile
  readonly #host: ReadHost
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

  constructor({ terms, acknowledged, name, from, file, host }: ReadTerms) {
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
