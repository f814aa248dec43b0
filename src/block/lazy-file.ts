/**
 * A file that lives elsewhere and is fetched as it is read. What was fetched is kept in a sparse file of the same length, and
 * a map beside it says which chunks are there:
 *
 *   magic 8 'SLIPLAZY' | version 4 | chunk bytes 4 | size 8 | descriptor bytes 4 | state 4 | descriptor, up to byte 20480
 *   then a bit for each chunk, the first chunk in bit 0 of the first byte
 *
 * A bit is written only after the chunk's data was synced, and bits are only ever set: whatever a kill or a power cut leaves
 * of both files, a bit that is set tells the truth, and what has none is fetched again.
 *
 * While the server is away, whoever needs it waits; after `awayPatienceMs` reads fail, and each of them may try again once a
 * second. What is here is read whatever becomes of the server.
 */
import { assert } from '../base/assert.ts'
import { messageOf, OperationError } from '../base/errors.ts'
import type { Clock, Timer } from '../ports/clock.ts'
import type { RandomAccessFile } from '../ports/file.ts'
import { putU32, putU64, u32, u64 } from '../wire/big-endian.ts'
import {
  awayPatienceMs,
  lazyChunkBytes,
  lazyChunksPerFetchMax,
  lazyDescriptorBytesMax,
  lazyFetchesMax,
  lazyRecordChunks,
  lazyRecordMs,
  reconnectAfterMsMax,
  reconnectAfterMsMin,
} from './limits.ts'
import type { RemoteState } from './remote.ts'

export interface RangeSource {
  /**
   * Fills `target` from `offset`, all of it inside the file.
   * @throws {OperationError} sourceAway: another try may help; sourceChanged: it is another file now
   */
  read(offset: number, target: Uint8Array): Promise<void>
}

/** Whether all of it was compared with the checksum that it must have. */
export type Verification = 'notYet' | 'right' | 'wrong'

export type LazyMap = {
  readonly sizeBytes: number
  /** Where it comes from, for whoever opens it. */
  readonly descriptor: Uint8Array
  readonly verification: Verification
  readonly bits: Uint8Array
  readonly chunksHere: number
}

const magic = Uint8Array.from('SLIPLAZY', (letter) => letter.charCodeAt(0))
const formatVersion = 1
const headerBytes = 32
const stateOffset = 28
const bitsOffset = 4_096 + lazyDescriptorBytesMax
const verifications: readonly Verification[] = ['notYet', 'right', 'wrong']

/** An empty map, on stable storage. */
export async function createLazyMap(map: RandomAccessFile, sizeBytes: number, descriptor: Uint8Array): Promise<void> {
  assert(descriptor.byteLength <= lazyDescriptorBytesMax, 'a descriptor has its place')
  const header = new Uint8Array(headerBytes + descriptor.byteLength)
  header.set(magic)
  putU32(header, 8, formatVersion)
  putU32(header, 12, lazyChunkBytes)
  putU64(header, 16, sizeBytes)
  putU32(header, 24, descriptor.byteLength)
  header.set(descriptor, headerBytes)
  await map.write(0, header)
  await map.truncate(bitsOffset + bitmapBytes(sizeBytes))
  await map.sync()
}

/** @throws {OperationError} imageCorrupt, ioError */
export async function readLazyMap(map: RandomAccessFile): Promise<LazyMap> {
  const header = new Uint8Array(headerBytes)
  await map.read(0, header)
  const sizeBytes = u64(header, 16)
  const descriptorBytes = u32(header, 24)
  const verification = verifications[u32(header, stateOffset)]
  const isOurs = magic.every((byte, index) => header[index] === byte)
  const isSound =
    u32(header, 8) === formatVersion &&
    u32(header, 12) === lazyChunkBytes &&
    descriptorBytes <= lazyDescriptorBytesMax &&
    map.sizeBytes() >= bitsOffset + bitmapBytes(sizeBytes)
  if (!isOurs || !isSound || verification === undefined) {
    const hint = 'Remove the image and add it again: what was fetched cannot be told from what was not.'
    throw new OperationError('imageCorrupt', `${map.path} is not the map of a lazy image`, hint)
  }
  const descriptor = new Uint8Array(descriptorBytes)
  await map.read(headerBytes, descriptor)
  const bits = new Uint8Array(bitmapBytes(sizeBytes))
  await map.read(bitsOffset, bits)
  let chunksHere = 0
  for (let chunk = 0; chunk * lazyChunkBytes < sizeBytes; chunk++) if (isSet(bits, chunk)) chunksHere++
  return { sizeBytes, descriptor, verification, bits, chunksHere }
}

export function bytesHere({ sizeBytes, chunksHere }: Pick<LazyMap, 'sizeBytes' | 'chunksHere'>): number {
  return Math.min(sizeBytes, chunksHere * lazyChunkBytes)
}

const bitmapBytes = (sizeBytes: number): number => Math.ceil(Math.ceil(sizeBytes / lazyChunkBytes) / 8)
const isSet = (bits: Uint8Array, chunk: number): boolean => ((bits[chunk >>> 3] ?? 0) & (1 << (chunk & 7))) !== 0

export type LazyParts = {
  readonly source: RangeSource
  readonly clock: Clock
  /** For people: where it comes from. */
  readonly label: string
  readonly data: RandomAccessFile
  readonly map: RandomAccessFile
  readonly found: LazyMap
  /** False: another process keeps what it fetches; this one only reads what is there. */
  readonly keeps: boolean
  readonly patienceMs?: number
  onState?(state: RemoteState): void
  /** What was fetched cannot be kept: the disk is full. It is read all the same. */
  onUnkept?(error: OperationError): void
  /** Whether the whole is what it must be; absent: nobody knows. */
  verify?(data: RandomAccessFile): Promise<boolean>
  /** `verify` said so. */
  onVerified?(isRight: boolean): void
}

/** Owns both files, and closes them. */
export class LazyFile implements RandomAccessFile {
  readonly path: string
  readonly readOnly = true
  readonly #parts: LazyParts
  readonly #bits: Uint8Array
  readonly #chunkCount: number
  #chunksHere: number
  #verification: Verification
  #verifying: Promise<void> | undefined
  readonly #underWay = new Map<number, Promise<Uint8Array>>()
  #fetchCount = 0
  readonly #queue: (() => void)[] = []
  #awaySinceMs: number | undefined
  /** How often it went away or came back: an answer to what was asked before the last time says nothing of now. */
  #turns = 0
  #lastTryMs = 0
  #awayError: OperationError | undefined
  #keeps: boolean
  /** Here, and not on record yet. */
  #unrecorded: number[] = []
  #timer: Timer | undefined
  #recording: Promise<void> | undefined

  constructor(parts: LazyParts) {
    this.#parts = parts
    this.path = parts.data.path
    this.#bits = parts.found.bits.slice()
    this.#chunkCount = Math.ceil(parts.found.sizeBytes / lazyChunkBytes)
    this.#chunksHere = parts.found.chunksHere
    this.#verification = parts.found.verification
    this.#keeps = parts.keeps
  }

  get chunksHere(): number {
    return this.#chunksHere
  }

  sizeBytes(): number {
    return this.#parts.found.sizeBytes
  }

  read(offset: number, target: Uint8Array): Promise<void> | undefined {
    if (this.#verification === 'wrong') throw this.#wrong()
    const there = Math.max(0, Math.min(target.byteLength, this.sizeBytes() - offset))
    if (there < target.byteLength) target.fill(0, there)
    if (there === 0) return undefined
    const part = there === target.byteLength ? target : target.subarray(0, there)
    const first = Math.floor(offset / lazyChunkBytes)
    const last = Math.floor((offset + there - 1) / lazyChunkBytes)
    for (let chunk = first; chunk <= last; chunk++) {
      if (!isSet(this.#bits, chunk)) return this.#readFetching(offset, part, first, last)
    }
    return this.#parts.data.read(offset, part)
  }

  write(): never {
    throw new Error('a lazy file is read-only')
  }

  punchHole(): Promise<boolean> {
    return Promise.resolve(false)
  }

  truncate(): never {
    throw new Error('a lazy file is read-only')
  }

  grow(): never {
    throw new Error('a lazy file is read-only')
  }

  async sync(): Promise<void> {
    await this.#record()
  }

  /** When all of it is here, and was compared with its checksum if that is known. @throws {OperationError} ioError, imageCorrupt */
  async whole(): Promise<void> {
    for (let chunk = 0; chunk < this.#chunkCount; chunk += lazyChunksPerFetchMax) {
      const end = Math.min(this.#chunkCount, chunk + lazyChunksPerFetchMax)
      await Promise.all(this.#fetchMissing(chunk, end - 1))
    }
    await this.#verifying
    if (this.#verification === 'wrong') throw this.#wrong()
  }

  async close(): Promise<void> {
    this.#timer?.cancel()
    try {
      await Promise.allSettled(this.#underWay.values())
      await this.#verifying
      await this.#record()
    } finally {
      await this.#parts.data.close()
      await this.#parts.map.close()
    }
  }

  async #readFetching(offset: number, target: Uint8Array, first: number, last: number): Promise<void> {
    const fetching = this.#fetchMissing(first, last)
    const fetched = new Map<number, Uint8Array>()
    // All have ended before any failure is told: the memory is lent.
    for (const outcome of await Promise.allSettled(fetching)) {
      if (outcome.status === 'rejected') throw outcome.reason
      fetched.set(outcome.value.chunk, outcome.value.bytes)
    }
    for (let chunk = first; chunk <= last; chunk++) {
      const chunkStart = chunk * lazyChunkBytes
      const start = Math.max(offset, chunkStart)
      const end = Math.min(offset + target.byteLength, chunkStart + lazyChunkBytes)
      const part = target.subarray(start - offset, end - offset)
      const bytes = fetched.get(chunk)
      if (bytes === undefined) await this.#parts.data.read(start, part)
      else part.set(bytes.subarray(start - chunkStart, end - chunkStart))
    }
  }

  /** Every chunk of first..last that is not here: neighbours by one request. */
  #fetchMissing(first: number, last: number): Promise<{ chunk: number; bytes: Uint8Array }>[] {
    const all: Promise<{ chunk: number; bytes: Uint8Array }>[] = []
    for (let chunk = first; chunk <= last; chunk++) {
      if (isSet(this.#bits, chunk)) continue
      if (!this.#underWay.has(chunk)) {
        let end = chunk + 1
        const isWanted = (next: number): boolean =>
          next <= last && next - chunk < lazyChunksPerFetchMax && !isSet(this.#bits, next) && !this.#underWay.has(next)
        while (isWanted(end)) end++
        this.#fetchRun(chunk, end)
      }
      const wanted = chunk
      const underWay = this.#underWay.get(chunk)
      assert(underWay !== undefined, 'a chunk that is not here is under way')
      all.push(underWay.then((bytes) => ({ chunk: wanted, bytes })))
    }
    return all
  }

  #fetchRun(first: number, end: number): void {
    const start = first * lazyChunkBytes
    const bytes = new Uint8Array(Math.min(this.sizeBytes(), end * lazyChunkBytes) - start)
    const fetching = this.#inTurn(() => this.#fetch(start, bytes)).then(() => this.#keep(first, end, bytes))
    for (let chunk = first; chunk < end; chunk++) {
      const from = (chunk - first) * lazyChunkBytes
      const one = fetching.then(() => bytes.subarray(from, from + lazyChunkBytes))
      this.#underWay.set(chunk, one)
      const ended = (): void => void this.#underWay.delete(chunk)
      one.then(ended, ended)
    }
  }

  async #inTurn(work: () => Promise<void>): Promise<void> {
    if (this.#fetchCount >= lazyFetchesMax) await new Promise<void>((resolve) => this.#queue.push(resolve))
    this.#fetchCount++
    try {
      await work()
    } finally {
      this.#fetchCount--
      this.#queue.shift()?.()
    }
  }

  async #fetch(offset: number, target: Uint8Array): Promise<void> {
    const { clock, source } = this.#parts
    for (let waitMs = reconnectAfterMsMin; ; waitMs = Math.min(2 * waitMs, reconnectAfterMsMax)) {
      const nowMs = clock.nowMs()
      if (this.#isLongAway(nowMs) && nowMs - this.#lastTryMs < 1_000) throw this.#away()
      this.#lastTryMs = nowMs
      const turn = this.#turns
      try {
        await source.read(offset, target)
        if (turn === this.#turns) this.#isBack()
        return
      } catch (error) {
        if (!(error instanceof OperationError)) throw error
        if (turn === this.#turns) this.#isAway(error.message)
        this.#awayError = error
        // It would be another file tomorrow, too.
        if (error.code !== 'sourceAway' || this.#isLongAway(clock.nowMs())) throw this.#away()
      }
      await new Promise<void>((resolve) => clock.after(waitMs, resolve))
    }
  }

  #isBack(): void {
    const sinceMs = this.#awaySinceMs
    if (sinceMs === undefined) return
    this.#awaySinceMs = undefined
    this.#turns++
    this.#parts.onState?.({ kind: 'back', awayMs: this.#parts.clock.nowMs() - sinceMs })
  }

  #isAway(reason: string): void {
    if (this.#awaySinceMs !== undefined) return
    this.#awaySinceMs = this.#parts.clock.nowMs()
    this.#turns++
    this.#parts.onState?.({ kind: 'away', reason })
  }

  #isLongAway(nowMs: number): boolean {
    return this.#awaySinceMs !== undefined && nowMs - this.#awaySinceMs >= (this.#parts.patienceMs ?? awayPatienceMs)
  }

  #away(): OperationError {
    const cause = this.#awayError
    const hint = cause?.hint ?? 'Look at its server.'
    return new OperationError('ioError', `${this.#parts.label}: ${messageOf(cause)}`, hint, { cause })
  }

  async #keep(first: number, end: number, bytes: Uint8Array): Promise<void> {
    if (!this.#keeps) return
    try {
      await this.#parts.data.write(first * lazyChunkBytes, bytes)
    } catch (error) {
      if (!(error instanceof OperationError)) throw error
      this.#keeps = false
      this.#parts.onUnkept?.(error)
      return
    }
    for (let chunk = first; chunk < end; chunk++) {
      this.#bits[chunk >>> 3] = (this.#bits[chunk >>> 3] ?? 0) | (1 << (chunk & 7))
      this.#unrecorded.push(chunk)
      this.#chunksHere++
    }
    if (this.#chunksHere === this.#chunkCount) this.#verifying ??= this.#verify()
    const isMuch = this.#unrecorded.length >= lazyRecordChunks
    if (isMuch) this.#recordSoon()
    else this.#timer ??= this.#parts.clock.after(lazyRecordMs, () => this.#recordSoon())
  }

  #recordSoon(): void {
    this.#timer?.cancel()
    this.#timer = undefined
    this.#record().catch((error: unknown) => {
      if (!(error instanceof OperationError)) throw error
      this.#keeps = false
      this.#parts.onUnkept?.(error)
    })
  }

  /** One at a time: what was kept when it began is on record when it ends. */
  async #record(): Promise<void> {
    while (this.#recording !== undefined) await this.#recording
    if (this.#unrecorded.length === 0 || !this.#keeps) return
    this.#recording = this.#recordNow()
    try {
      await this.#recording
    } finally {
      this.#recording = undefined
    }
  }

  async #recordNow(): Promise<void> {
    const chunks = this.#unrecorded
    this.#unrecorded = []
    await this.#parts.data.sync()
    const places = new Set(chunks.map((chunk) => chunk >>> 3))
    // A byte may hold bits of chunks whose data came after the sync: those are left out until their own turn.
    const later = new Set(this.#unrecorded)
    for (const place of places) {
      let byte = this.#bits[place] ?? 0
      for (let bit = 0; bit < 8; bit++) if (later.has(place * 8 + bit)) byte &= ~(1 << bit)
      await this.#parts.map.write(bitsOffset + place, Uint8Array.of(byte))
      for (const chunk of this.#unrecorded) later.add(chunk)
    }
  }

  async #verify(): Promise<void> {
    const { data, map, onVerified, verify } = this.#parts
    if (verify === undefined || this.#verification !== 'notYet') return
    const isRight = await verify(data)
    this.#verification = isRight ? 'right' : 'wrong'
    const state = new Uint8Array(4)
    putU32(state, 0, verifications.indexOf(this.#verification))
    await this.#record()
    await map.write(stateOffset, state)
    await map.sync()
    onVerified?.(isRight)
  }

  #wrong(): OperationError {
    const hint = 'Do not use it: remove the image, and add it again from a source that you trust, with its checksum.'
    return new OperationError('imageCorrupt', `${this.#parts.label} does not have the SHA-256 that it must have`, hint)
  }
}
