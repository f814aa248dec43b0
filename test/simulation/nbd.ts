/** An NBD server for tests, against `ports`: answers late and in any order, in pieces, and forgets what was not flushed when it is killed. */

import { encodeGreeting, encodeOptionReply, type OptionReply } from '../../src/nbd/handshake.ts'
import { chunkFlag, chunkType, command, option, optionReply, transmissionFlag } from '../../src/nbd/registry.ts'
import { decodeRequest, encodeReplyHeader, type Request, requestBytes } from '../../src/nbd/transmission.ts'
import type { Clock } from '../../src/ports/clock.ts'
import type { TcpConnection, TcpHandler, TcpListener, TcpNetwork } from '../../src/ports/tcp.ts'
import type { Endpoint } from '../../src/ports/udp.ts'
import { putU32, putU64, u32 } from '../../src/wire/big-endian.ts'

export type SimulatedNbdParts = {
  readonly network: TcpNetwork
  readonly clock: Clock
  readonly random: () => number
  readonly listen: Endpoint
  readonly content: Uint8Array
  readonly structured: boolean
}

export class SimulatedNbdServer {
  durable: Uint8Array
  cached: Uint8Array
  answeredCount = 0
  readonly #parts: SimulatedNbdParts
  readonly #connections = new Set<TcpConnection>()
  #listener: TcpListener | undefined
  #life = 0
  #isDeaf = false

  constructor(parts: SimulatedNbdParts) {
    this.#parts = parts
    this.durable = parts.content.slice()
    this.cached = parts.content.slice()
  }

  async start(): Promise<void> {
    this.#listener = await this.#parts.network.listen(this.#parts.listen, (connection) => this.#accept(connection))
  }

  /** Blocks that were not flushed are kept or not. */
  kill(): void {
    this.#life++
    void this.#listener?.close()
    for (const connection of this.#connections) connection.destroy()
    this.#connections.clear()
    for (let at = 0; at < this.cached.byteLength; at += 512) {
      if (this.#parts.random() < 0.5) this.cached.set(this.durable.subarray(at, at + 512), at)
    }
    this.durable = this.cached.slice()
  }

  /** Answers nothing more on the connections that there are. */
  deafen(): void {
    this.#isDeaf = true
  }

  #accept(connection: TcpConnection): TcpHandler {
    this.#isDeaf = false
    this.#connections.add(connection)
    let buffered = Buffer.alloc(0)
    let phase: 'flags' | 'options' | 'transmission' = 'flags'
    connection.write(encodeGreeting(3))
    const frameBytes = (): number => {
      if (phase === 'flags') return 4
      if (phase === 'options') return buffered.byteLength < 16 ? 16 : 16 + u32(buffered, 12)
      if (buffered.byteLength < requestBytes) return requestBytes
      const request = decodeRequest(buffered)
      return requestBytes + (request.type === command.write ? request.bytes : 0)
    }
    return {
      onData: (chunk) => {
        buffered = Buffer.concat([buffered, chunk])
        for (let bytes = frameBytes(); buffered.byteLength >= bytes; bytes = frameBytes()) {
          const frame = buffered.subarray(0, bytes)
          buffered = buffered.subarray(bytes)
          if (phase === 'flags') phase = 'options'
          else if (phase === 'transmission') this.#take(connection, decodeRequest(frame), frame.subarray(requestBytes))
          else if (this.#answerOption(connection, u32(frame, 8))) phase = 'transmission'
          if (bytes === 0) return
        }
      },
      onClose: () => this.#connections.delete(connection),
    }
  }

  /** True: it was the last one. */
  #answerOption(connection: TcpConnection, asked: number): boolean {
    const reply = (what: Exclude<OptionReply, { kind: 'other' }>): void => connection.write(encodeOptionReply(what))
    if (asked === option.go) {
      const { hasFlags, sendFlush, sendWriteZeroes } = transmissionFlag
      const flags = hasFlags | sendFlush | sendWriteZeroes
      reply({ kind: 'blockSize', option: asked, minimum: 512, preferred: 4096, payloadMax: 1 << 20 })
      reply({ kind: 'export', option: asked, sizeBytes: BigInt(this.cached.byteLength), flags })
      reply({ kind: 'ack', option: asked })
      return true
    }
    if (asked === option.structuredReply && this.#parts.structured) reply({ kind: 'ack', option: asked })
    else reply({ kind: 'error', option: asked, code: optionReply.unsupported, text: 'no' })
    return false
  }

  /** Each request is done at a moment of its own, and answered at a later one. */
  #take(connection: TcpConnection, request: Request, data: Uint8Array): void {
    if (request.type === command.disconnect) {
      connection.end()
      return
    }
    if (this.#isDeaf) return
    const { clock, random } = this.#parts
    const life = this.#life
    clock.after(random() * 5, () => {
      if (life !== this.#life) return
      const { offset, bytes } = request
      let read: Uint8Array | undefined
      if (request.type === command.read) read = this.cached.slice(offset, offset + bytes)
      else if (request.type === command.write) this.cached.set(data, offset)
      else if (request.type === command.writeZeroes) this.cached.fill(0, offset, offset + bytes)
      else if (request.type === command.flush) this.durable = this.cached.slice()
      clock.after(random() * 5, () => {
        if (life !== this.#life) return
        this.answeredCount++
        this.#answer(connection, request, read)
      })
    })
  }

  #answer(connection: TcpConnection, { cookie, offset }: Request, read: Uint8Array | undefined): void {
    const { random, structured } = this.#parts
    if (read === undefined || !structured) {
      connection.write(encodeReplyHeader({ kind: 'simple', error: 0, cookie }))
      if (read !== undefined) connection.write(read)
      return
    }
    const pieces: [number, Uint8Array][] = []
    for (let at = 0; at < read.byteLength; ) {
      const piece = read.subarray(at, at + 512 * (1 + Math.floor(random() * 16)))
      pieces.push([offset + at, piece])
      at += piece.byteLength
    }
    pieces.sort(() => random() - 0.5)
    for (const [index, [place, bytes]] of pieces.entries()) {
      const isHole = bytes.every((byte) => byte === 0)
      const payload = new Uint8Array(isHole ? 12 : 8 + bytes.byteLength)
      putU64(payload, 0, place)
      if (isHole) putU32(payload, 8, bytes.byteLength)
      else payload.set(bytes, 8)
      const flags = index === pieces.length - 1 ? chunkFlag.done : 0
      const type = isHole ? chunkType.offsetHole : chunkType.offsetData
      connection.write(encodeReplyHeader({ kind: 'chunk', flags, type, cookie, payloadBytes: payload.byteLength }))
      connection.write(payload)
    }
  }
}
