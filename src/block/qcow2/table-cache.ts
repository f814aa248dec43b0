/**
 * Pieces of L2 tables in memory. A clean piece may be dropped; a changed one stays until it has been written by a commit.
 * A commit takes copies, so that changes made while it runs belong to the next one.
 */
import { assert } from '../../base/assert.ts'
import type { RandomAccessFile } from '../../ports/file.ts'
import type { Pending } from '../device.ts'
import { tableSlicesKept } from '../limits.ts'

/** The smallest piece that a disk writes whole or not at all. */
const sectorBytes = 512

export class Slice {
  readonly offset: number
  readonly bytes: Uint8Array
  readonly view: DataView
  /** Bit n: sector n differs from the file. */
  dirtySectors: number = 0
  /** Operations under way that will change it when they end. */
  pins: number = 0

  constructor(offset: number, bytes: Uint8Array) {
    this.offset = offset
    this.bytes = bytes
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }
}

/** Bytes of a table as they were when a commit began. */
export type TableWrite = { readonly offset: number; readonly bytes: Uint8Array; restore(): void; settled(): void }

export class TableCache {
  readonly #file: RandomAccessFile
  readonly #sliceBytes: number
  /** As the file has them; least recently used first. */
  readonly #clean = new Map<number, Slice>()
  /** Changed, or copied by a commit that has not ended. */
  readonly #changed = new Map<number, Slice>()
  readonly #loading = new Map<number, Promise<void>>()
  #last: Slice | undefined

  constructor(file: RandomAccessFile, sliceBytes: number) {
    this.#file = file
    this.#sliceBytes = sliceBytes
  }

  get changedBytes(): number {
    return this.#changed.size * this.#sliceBytes
  }

  find(offset: number): Slice | undefined {
    if (this.#last?.offset === offset) return this.#last
    let slice = this.#changed.get(offset)
    if (slice === undefined) {
      slice = this.#clean.get(offset)
      if (slice === undefined) return undefined
      this.#clean.delete(offset)
      this.#clean.set(offset, slice)
    }
    this.#last = slice
    return slice
  }

  /** Afterwards `find` has it, for at least this turn. */
  load(offset: number): Pending {
    const loading = this.#loading.get(offset)
    if (loading !== undefined) return loading
    const bytes = new Uint8Array(this.#sliceBytes)
    const reading = this.#file.read(offset, bytes)
    if (reading === undefined) {
      this.#keep(new Slice(offset, bytes))
      return undefined
    }
    const loaded = reading.then(
      () => {
        this.#loading.delete(offset)
        this.#keep(new Slice(offset, bytes))
      },
      (error: unknown) => {
        this.#loading.delete(offset)
        throw error
      },
    )
    this.#loading.set(offset, loaded)
    return loaded
  }

  /** A piece of a table that was never written: zeroes, without asking the file. */
  addEmpty(offset: number): void {
    this.#keep(new Slice(offset, new Uint8Array(this.#sliceBytes)))
  }

  /** The byte at `at` of the slice has changed. */
  touch(slice: Slice, at: number): void {
    if (this.#clean.delete(slice.offset)) this.#changed.set(slice.offset, slice)
    slice.dirtySectors |= 1 << Math.floor(at / sectorBytes)
  }

  /** Copies of all that changed. Each ends by `settled`, after `restore` if it did not reach the file. */
  takeDirty(writes: TableWrite[]): void {
    const sectors = this.#sliceBytes / sectorBytes
    for (const slice of this.#changed.values()) {
      const mask = slice.dirtySectors
      slice.dirtySectors = 0
      for (let first = 0; first < sectors; first++) {
        if ((mask & (1 << first)) === 0) continue
        let end = first + 1
        while (end < sectors && (mask & (1 << end)) !== 0) end++
        slice.pins++
        writes.push(this.#copy(slice, first, end))
        first = end
      }
    }
  }

  #copy(slice: Slice, first: number, end: number): TableWrite {
    return {
      offset: slice.offset + first * sectorBytes,
      bytes: slice.bytes.slice(first * sectorBytes, end * sectorBytes),
      restore: () => {
        for (let sector = first; sector < end; sector++) this.touch(slice, sector * sectorBytes)
      },
      settled: () => this.unpin(slice),
    }
  }

  /** Somebody holds on to the slice after it had to wait, and will change it. */
  pin(slice: Slice): void {
    slice.pins++
  }

  unpin(slice: Slice): void {
    slice.pins--
    if (slice.pins > 0 || slice.dirtySectors !== 0) return
    if (!this.#changed.delete(slice.offset)) return
    this.#clean.set(slice.offset, slice)
    this.#trim()
  }

  #keep(slice: Slice): void {
    assert(!this.#clean.has(slice.offset) && !this.#changed.has(slice.offset), 'a piece of a table is in memory once')
    this.#clean.set(slice.offset, slice)
    this.#last = slice
    this.#trim()
  }

  #trim(): void {
    if (this.#clean.size <= tableSlicesKept) return
    for (const old of this.#clean.values()) {
      // What was found last is about to be used.
      if (old.pins > 0 || old === this.#last) continue
      this.#clean.delete(old.offset)
      if (this.#clean.size <= tableSlicesKept) return
    }
  }
}
