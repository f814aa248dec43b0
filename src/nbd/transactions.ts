/**
 * The transmission phase as the client sees it, without I/O: which requests are under way, and what becomes of the bytes
 * that come. Data goes straight into the memory of whoever asked.
 *
 *   start 4 -> header 16 or 20 -> data (into the reader's memory)  -> start
 *                              -> payload (small, gathered here)   -> start
 *
 * Bytes that break the protocol are a `WireError`; the connection is of no use after one.
 */
import { assert } from '../base/assert.ts'
import { u64 } from '../wire/big-endian.ts'
import { WireError } from '../wire/reader.ts'
import { chunkBytesMax, piecesPerReadMax } from './limits.ts'
import { chunkErrorBit, chunkFlag, chunkType, command } from './registry.ts'
import {
  decodeError,
  decodeHole,
  decodeReplyHeader,
  decodeStatus,
  type ReplyHeader,
  replyHeaderBytes,
} from './transmission.ts'

export type Failure = { readonly error: number; readonly text: string }
export type ExtentStatus = { readonly bytes: number; readonly state: number }

/** One request that is under way; exactly one of its two ends is called. */
export type Transaction = {
  readonly cookie: number
  readonly type: number
  readonly offset: number
  readonly bytes: number
  /** Of a read: filled before `done`. */
  readonly target: Uint8Array | undefined
  done(status: ExtentStatus | undefined): void
  failed(failure: Failure): void
}

type Entry = Transaction & {
  failure: Failure | undefined
  status: ExtentStatus | undefined
  /** Bytes of a read that have come. */
  receivedBytes: number
  /** [start, end) in the target, of reads that come in pieces. */
  readonly pieces: [number, number][]
}

type Chunk = Extract<ReplyHeader, { kind: 'chunk' }>

type Awaiting =
  | { readonly kind: 'header' }
  /** The offset in front of a piece of data. */
  | { readonly kind: 'place'; readonly entry: Entry; readonly chunk: Chunk }
  | { readonly kind: 'data'; readonly entry: Entry; readonly into: Uint8Array; readonly isLast: boolean }
  | { readonly kind: 'payload'; readonly entry: Entry; readonly chunk: Chunk }

const empty = new Uint8Array(0)
/** Below this a copy costs less than another buffer. */
const receiveIntoBytesMin = 4_096
const offsetBytes = 8

export class Transactions {
  readonly #structured: boolean
  readonly #context: number | undefined
  readonly #entries = new Map<number, Entry>()
  readonly #small = new Uint8Array(chunkBytesMax)
  #awaiting: Awaiting = { kind: 'header' }
  /** How much has come of what is awaited. */
  #filled = 0

  constructor(terms: { readonly structuredReplies: boolean; readonly allocationContext: number | undefined }) {
    this.#structured = terms.structuredReplies
    this.#context = terms.allocationContext
  }

  get count(): number {
    return this.#entries.size
  }

  begin(transaction: Transaction): void {
    assert(!this.#entries.has(transaction.cookie), 'a cookie is one request')
    const entry: Entry = { ...transaction, failure: undefined, status: undefined, receivedBytes: 0, pieces: [] }
    this.#entries.set(transaction.cookie, entry)
  }

  /** All that are under way have failed: the connection has ended. */
  takeAll(): readonly Transaction[] {
    const all = [...this.#entries.values()]
    this.#entries.clear()
    this.#awaiting = { kind: 'header' }
    return all
  }

  /** Where the next bytes are wanted, if they are many: what is received there need not be copied. */
  receiveInto(): Uint8Array | undefined {
    const awaiting = this.#awaiting
    if (awaiting.kind !== 'data' || awaiting.into.byteLength - this.#filled < receiveIntoBytesMin) return undefined
    return awaiting.into.subarray(this.#filled)
  }

  /** @throws {WireError} */
  receive(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.byteLength; ) {
      const target = this.#target()
      const part = bytes.subarray(at, at + target.byteLength - this.#filled)
      const isThere = part.buffer === target.buffer && part.byteOffset === target.byteOffset + this.#filled
      if (!isThere) target.set(part, this.#filled)
      at += part.byteLength
      this.#filled += part.byteLength
      if (this.#filled === target.byteLength) this.#complete()
    }
  }

  /** What the bytes that come belong to; longer than what has come of it. */
  #target(): Uint8Array {
    const awaiting = this.#awaiting
    switch (awaiting.kind) {
      case 'header':
        return this.#small.subarray(0, this.#filled < 4 ? 4 : replyHeaderBytes(this.#small))
      case 'place':
        return this.#small.subarray(0, offsetBytes)
      case 'data':
        return awaiting.into
      case 'payload':
        return this.#small.subarray(0, awaiting.chunk.payloadBytes)
    }
  }

  #complete(): void {
    const awaiting = this.#awaiting
    switch (awaiting.kind) {
      case 'header':
        // The first four bytes only say how long the rest is.
        if (this.#filled === 4) replyHeaderBytes(this.#small)
        else this.#begun(decodeReplyHeader(this.#small))
        return
      case 'place': {
        const { entry, chunk } = awaiting
        const bytes = chunk.payloadBytes - offsetBytes
        const place = u64(this.#small, 0)
        this.#await({ kind: 'data', entry, into: this.#piece(entry, place, bytes), isLast: isLast(chunk) })
        return
      }
      case 'data':
        awaiting.entry.receivedBytes += awaiting.into.byteLength
        this.#await({ kind: 'header' })
        if (awaiting.isLast) this.#end(awaiting.entry)
        return
      case 'payload':
        this.#await({ kind: 'header' })
        this.#take(awaiting.entry, awaiting.chunk, this.#small.subarray(0, awaiting.chunk.payloadBytes))
        if (isLast(awaiting.chunk)) this.#end(awaiting.entry)
    }
  }

  #await(next: Awaiting): void {
    this.#awaiting = next
    this.#filled = 0
  }

  #begun(header: ReplyHeader): void {
    this.#await({ kind: 'header' })
    const entry = this.#entries.get(header.cookie)
    if (entry === undefined) throw new WireError('badValue', 8)
    if (header.kind === 'simple') {
      // "MUST NOT use a simple reply for NBD_CMD_READ" where structured ones are agreed on.
      if (this.#structured && entry.type === command.read) throw new WireError('badValue', 0)
      if (header.error !== 0) entry.failure = { error: header.error, text: '' }
      else if (entry.target !== undefined) {
        this.#await({ kind: 'data', entry, into: this.#piece(entry, entry.offset, entry.bytes), isLast: true })
        return
      }
      this.#end(entry)
      return
    }
    if (!this.#structured) throw new WireError('badValue', 0)
    const { type, payloadBytes } = header
    if (type === chunkType.offsetData) {
      if (entry.target === undefined || payloadBytes <= offsetBytes) throw new WireError('badLength', 16)
      this.#await({ kind: 'place', entry, chunk: header })
    } else if (payloadBytes > chunkBytesMax) throw new WireError('badLength', 16)
    else if (payloadBytes > 0) this.#await({ kind: 'payload', entry, chunk: header })
    else {
      this.#take(entry, header, empty)
      if (isLast(header)) this.#end(entry)
    }
  }

  #take(entry: Entry, { type, flags }: Chunk, payload: Uint8Array): void {
    if ((type & chunkErrorBit) !== 0) {
      entry.failure ??= decodeError(payload)
      return
    }
    switch (type) {
      case chunkType.none:
        if (payload.byteLength > 0 || (flags & chunkFlag.done) === 0) throw new WireError('badLength', 16)
        return
      case chunkType.offsetHole: {
        if (entry.target === undefined) throw new WireError('badValue', 6)
        const hole = decodeHole(payload)
        this.#piece(entry, hole.offset, hole.bytes).fill(0)
        entry.receivedBytes += hole.bytes
        return
      }
      case chunkType.blockStatus: {
        const { context, bytes, state } = decodeStatus(payload)
        if (entry.type !== command.blockStatus || context !== this.#context) throw new WireError('badValue', 20)
        entry.status = { bytes: Math.min(bytes, entry.bytes), state }
        return
      }
      default:
        throw new WireError('badValue', 6)
    }
  }

  /** The memory for one piece of a read: inside what was asked for, and no part of it twice. */
  #piece(entry: Entry, offset: number, bytes: number): Uint8Array {
    const start = offset - entry.offset
    const end = start + bytes
    if (entry.target === undefined || start < 0 || bytes === 0 || end > entry.bytes) throw new WireError('badValue', 20)
    if (entry.pieces.length >= piecesPerReadMax) throw new WireError('badLength', 20)
    for (const [from, to] of entry.pieces) if (start < to && end > from) throw new WireError('badValue', 20)
    if (bytes < entry.bytes) entry.pieces.push([start, end])
    else if (entry.receivedBytes > 0) throw new WireError('badValue', 20)
    return entry.target.subarray(start, end)
  }

  #end(entry: Entry): void {
    const isWhole =
      (entry.target === undefined || entry.receivedBytes === entry.bytes) &&
      (entry.type !== command.blockStatus || entry.status !== undefined)
    if (entry.failure === undefined && !isWhole) throw new WireError('truncated', 0)
    this.#entries.delete(entry.cookie)
    if (entry.failure === undefined) entry.done(entry.status)
    else entry.failed(entry.failure)
  }
}

const isLast = ({ flags }: Chunk): boolean => (flags & chunkFlag.done) !== 0
