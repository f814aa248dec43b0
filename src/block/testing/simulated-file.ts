/**
 * A disk for tests: answers at once or later, as a seed says; fails when told to; loses power. What is in flight takes
 * place late, in pieces and in any order, as far as the port allows it (ports/file.ts). What was written and not yet synced
 * may be there after a crash or not, sector by sector, in any order: each sector holds its last synced content or what
 * any later write put there.
 */
import { assert } from '../../base/assert.ts'
import { OperationError } from '../../base/errors.ts'
import type { RandomAccessFile } from '../../ports/file.ts'
import { SimulatedMedium } from './simulated-medium.ts'

/**
 * What a host would do that does not keep to the port. Simulations that notice nothing of it prove nothing:
 *   growCuts         grow is a resize to the length that was asked for, late
 *   writeEndsEarly   a write says that it has ended, and takes place after that
 *   punchEndsEarly   the same of a hole
 *   syncEndsEarly    a sync covers some of what had ended before it, not all
 */
export type Breach = 'growCuts' | 'writeEndsEarly' | 'punchEndsEarly' | 'syncEndsEarly'

export type SimulatedFileOptions = {
  /** What it holds at first, durable: bytes, or the disk of another file. */
  readonly content?: Uint8Array | SimulatedMedium
  readonly path?: string
  readonly readOnly?: boolean
  /** 0 <= x < 1; decides what answers late. Absent: everything answers at once. */
  readonly random?: () => number
  /** Share of reads and writes that answer late. */
  readonly lateShare?: number
  readonly holes?: boolean
  /** The disk is full when more than this many bytes of sectors are in use. */
  readonly capacityBytes?: number
  readonly breach?: Breach | undefined
}

const sectorBytes = 512

export class SimulatedFile implements RandomAccessFile {
  readonly path: string
  readonly readOnly: boolean
  readonly #random: (() => number) | undefined
  readonly #lateShare: number
  readonly #holes: boolean
  readonly #breach: Breach | undefined
  readonly #medium: SimulatedMedium
  /** As the file tells it: what is in flight may have made it longer already. */
  #sizeBytes: number
  #dead = false
  #operations = 0
  readonly #underway = new Set<number>()
  #truncating = false
  capacityBytes: number
  /** Set to make every following operation of the kind fail. */
  failReads: boolean = false
  failWrites: boolean = false
  failSyncs: boolean = false
  readCount: number = 0
  readBytes: number = 0
  writeCount: number = 0
  writtenBytes: number = 0
  syncCount: number = 0
  punchedBytes: number = 0
  closed: boolean = false

  constructor(options: SimulatedFileOptions = {}) {
    this.path = options.path ?? 'simulated'
    this.readOnly = options.readOnly ?? false
    this.#random = options.random
    this.#lateShare = options.lateShare ?? 0.5
    this.#holes = options.holes ?? true
    this.#breach = options.breach
    this.capacityBytes = options.capacityBytes ?? Number.MAX_SAFE_INTEGER
    const content = options.content ?? new Uint8Array(0)
    this.#medium = content instanceof SimulatedMedium ? content : SimulatedMedium.of(content)
    this.#sizeBytes = this.#medium.sizeBytes
  }

  sizeBytes(): number {
    return this.#sizeBytes
  }

  get usedBytes(): number {
    return this.#medium.usedBytes
  }

  read(offset: number, target: Uint8Array): Promise<void> | undefined {
    this.#alive()
    this.readCount++
    this.readBytes += target.byteLength
    const pieces = this.#cut(offset, target.byteLength)
    const read = (start: number, end: number): void => {
      if (this.failReads) throw ioError('read')
      this.#medium.read(offset + start, target.subarray(start, end))
    }
    if (this.#isAtOnce()) {
      read(0, target.byteLength)
      return undefined
    }
    return this.#late(pieces, read, () => undefined)
  }

  write(offset: number, source: Uint8Array): Promise<void> | undefined {
    this.#alive()
    assert(!this.readOnly, 'nobody writes a file that was opened read-only')
    this.#assertNotTruncating()
    this.writeCount++
    this.writtenBytes += source.byteLength
    const isEarly = this.#breach === 'writeEndsEarly'
    const bytes = isEarly ? source.slice() : source
    const operation = this.#begin()
    const write = (start: number, end: number): void =>
      this.#write(offset + start, bytes.subarray(start, end), operation)
    const ended = (): void => {
      this.#sizeBytes = Math.max(this.#sizeBytes, offset + bytes.byteLength)
    }
    if (this.#isAtOnce()) {
      try {
        write(0, bytes.byteLength)
      } finally {
        this.#underway.delete(operation)
      }
      ended()
      return undefined
    }
    return this.#lateOrEarly(isEarly, operation, this.#cut(offset, bytes.byteLength), write, ended)
  }

  async sync(): Promise<void> {
    this.#alive()
    this.syncCount++
    // What ends while the sync runs may or may not be covered by it; here it is not.
    const called = this.#operations
    const underway = new Set(this.#underway)
    const sizeBytes = this.#sizeBytes
    if (this.#random !== undefined) await this.#turns()
    this.#alive()
    if (this.failSyncs) throw ioError('sync')
    const isLost = (): boolean => this.#breach === 'syncEndsEarly' && (this.#random?.() ?? 1) < 0.2
    this.#medium.settle((operation) => operation <= called && !underway.has(operation) && !isLost())
    this.#medium.durableSizeBytes = sizeBytes
  }

  async punchHole(offset: number, bytes: number): Promise<boolean> {
    this.#alive()
    if (!this.#holes) return false
    this.#assertNotTruncating()
    const end = Math.min(offset + bytes, this.#sizeBytes)
    if (offset >= end) return true
    this.punchedBytes += end - offset
    const operation = this.#begin()
    const punch = (start: number, until: number): void => this.#medium.punch(offset + start, offset + until, operation)
    const isEarly = this.#breach === 'punchEndsEarly'
    await this.#lateOrEarly(isEarly, operation, this.#cut(offset, end - offset), punch, () => undefined)
    return true
  }

  async truncate(sizeBytes: number): Promise<void> {
    this.#alive()
    assert(this.#underway.size === 0, 'nothing is in flight beside a truncate')
    this.#truncating = true
    await this.#resize(sizeBytes).finally(() => {
      this.#truncating = false
    })
  }

  async grow(sizeBytes: number): Promise<void> {
    this.#alive()
    this.#assertNotTruncating()
    if (this.#sizeBytes >= sizeBytes) return
    if (this.#breach === 'growCuts') {
      await this.#resize(sizeBytes)
      return
    }
    const operation = this.#begin()
    const grow = (): void => this.#medium.resize(Math.max(this.#medium.sizeBytes, sizeBytes), operation)
    await this.#lateOrEarly(false, operation, [sizeBytes], grow, () => {
      this.#sizeBytes = Math.max(this.#sizeBytes, sizeBytes)
    })
  }

  async close(): Promise<void> {
    this.closed = true
  }

  /** The whole content as a program sees it now. */
  content(): Uint8Array {
    const content = new Uint8Array(this.#medium.sizeBytes)
    this.#medium.read(0, content)
    return content
  }

  /** Another disk that holds the same. */
  fork(options: Omit<SimulatedFileOptions, 'content'> = {}): SimulatedFile {
    return new SimulatedFile({ path: this.path, ...options, content: this.#medium.fork() })
  }

  /** Power goes: this file answers nothing any more, and what a disk may have kept of it is the content of a new one. */
  crash(random: () => number, options: Omit<SimulatedFileOptions, 'content'> = {}): SimulatedFile {
    this.#dead = true
    return new SimulatedFile({ path: this.path, ...options, content: this.#medium.crash(random) })
  }

  #alive(): void {
    if (this.#dead) throw ioError('use after the power went')
  }

  #assertNotTruncating(): void {
    assert(!this.#truncating, 'nothing is in flight beside a truncate')
  }

  #begin(): number {
    const operation = ++this.#operations
    this.#underway.add(operation)
    return operation
  }

  #isAtOnce(): boolean {
    return this.#random === undefined || this.#random() >= this.#lateShare
  }

  /** Where a late operation's pieces end: one or two, between sectors. */
  #cut(offset: number, bytes: number): readonly number[] {
    if (this.#random === undefined || this.#random() < 0.5) return [bytes]
    const sectors = Math.floor(this.#random() * (bytes / sectorBytes))
    const end = sectors * sectorBytes - (offset % sectorBytes)
    return end > 0 && end < bytes ? [end, bytes] : [bytes]
  }

  /** Takes place piece by piece, at any time until it ends. */
  async #late(
    pieces: readonly number[],
    act: (start: number, end: number) => void,
    ended: () => void,
    operation: number = 0,
  ): Promise<void> {
    try {
      let start = 0
      for (const end of pieces) {
        await this.#turns()
        this.#alive()
        act(start, end)
        start = end
      }
      if (this.#random !== undefined && this.#random() < 0.5) await this.#turns()
      this.#alive()
      ended()
    } finally {
      this.#underway.delete(operation)
    }
  }

  #lateOrEarly(
    isEarly: boolean,
    operation: number,
    pieces: readonly number[],
    act: (start: number, end: number) => void,
    ended: () => void,
  ): Promise<void> {
    if (!isEarly) return this.#late(pieces, act, ended, operation)
    // After what its end sets going has begun.
    const late = this.#turns(40).then(() => this.#late(pieces, act, ended, operation))
    late.catch(() => undefined)
    return this.#turns()
  }

  /** As much of it as fits, then an error, where the disk is full. */
  #write(offset: number, source: Uint8Array, operation: number): void {
    this.#alive()
    if (this.failWrites) throw ioError('write')
    const fitting = this.#medium.fitting(offset, source.byteLength, this.capacityBytes)
    if (fitting > 0) this.#medium.write(offset, source.subarray(0, fitting), operation)
    if (fitting < source.byteLength) throw new OperationError('noSpace', 'the disk is full', 'Free some.')
  }

  async #resize(sizeBytes: number): Promise<void> {
    const operation = this.#begin()
    await this.#lateOrEarly(
      false,
      operation,
      [sizeBytes],
      () => this.#medium.resize(sizeBytes, operation),
      () => {
        this.#sizeBytes = sizeBytes
      },
    )
  }

  async #turns(least: number = 1): Promise<void> {
    if (this.#random === undefined) return
    // Most are soon there; some are passed by whole flushes.
    const most = this.#random() < 0.1 ? 80 : 8
    const count = least + Math.floor(this.#random() * most)
    for (let i = 0; i < count; i++) await undefined
  }
}

function ioError(what: string): OperationError {
  return new OperationError('ioError', `${what} failed on the simulated disk`, 'It was told to fail.')
}
