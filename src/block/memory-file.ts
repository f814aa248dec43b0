import { assert } from '../base/assert.ts'
import { OperationError } from '../base/errors.ts'
import { formatBytes } from '../base/units.ts'
import type { RandomAccessFile } from '../ports/file.ts'
import { memorySlabBytes, overlayBlockBytes } from './limits.ts'

/** A sparse file in memory: takes memory only for the pages that were written, and gives a hole's pages back. */
export interface MemoryFile extends RandomAccessFile {
  /** Memory taken now, at most the `bytesMax` it was made with, rounded up to a slab. */
  readonly usedBytes: number
}

/** @param bytesMax pages written at most; past it a write fails with noSpace, like a full disk. */
export function createMemoryFile(bytesMax: number, path: string = 'memory'): MemoryFile {
  return new PagedMemory(bytesMax, path)
}

const pageBytes = overlayBlockBytes
const slabPages = memorySlabBytes / pageBytes

class PagedMemory implements MemoryFile {
  readonly path: string
  readonly readOnly: boolean = false
  readonly #pagesMax: number
  readonly #slabs: Uint8Array[] = []
  /** Page of the file -> place in the slabs. */
  readonly #places = new Map<number, number>()
  readonly #freePlaces: number[] = []
  #sizeBytes = 0

  constructor(bytesMax: number, path: string) {
    this.path = path
    this.#pagesMax = Math.floor(bytesMax / pageBytes)
  }

  get usedBytes(): number {
    return this.#slabs.length * memorySlabBytes
  }

  sizeBytes(): number {
    return this.#sizeBytes
  }

  read(offset: number, target: Uint8Array): undefined {
    for (let done = 0; done < target.byteLength; ) {
      const page = Math.floor((offset + done) / pageBytes)
      const within = (offset + done) % pageBytes
      const bytes = Math.min(pageBytes - within, target.byteLength - done)
      const place = this.#places.get(page)
      if (place === undefined) target.fill(0, done, done + bytes)
      else target.set(this.#at(place, within, bytes), done)
      done += bytes
    }
  }

  write(offset: number, source: Uint8Array): undefined {
    for (let done = 0; done < source.byteLength; ) {
      const page = Math.floor((offset + done) / pageBytes)
      const within = (offset + done) % pageBytes
      const bytes = Math.min(pageBytes - within, source.byteLength - done)
      const place = this.#places.get(page) ?? this.#take(page, bytes < pageBytes)
      this.#at(place, within, bytes).set(source.subarray(done, done + bytes))
      done += bytes
    }
    this.#sizeBytes = Math.max(this.#sizeBytes, offset + source.byteLength)
  }

  sync(): Promise<void> {
    return Promise.resolve()
  }

  punchHole(offset: number, bytes: number): Promise<boolean> {
    this.#forget(offset, Math.min(offset + bytes, this.#sizeBytes))
    return Promise.resolve(true)
  }

  truncate(sizeBytes: number): Promise<void> {
    if (sizeBytes < this.#sizeBytes) this.#forget(sizeBytes, this.#sizeBytes)
    this.#sizeBytes = sizeBytes
    return Promise.resolve()
  }

  grow(sizeBytes: number): Promise<void> {
    this.#sizeBytes = Math.max(this.#sizeBytes, sizeBytes)
    return Promise.resolve()
  }

  close(): Promise<void> {
    this.#places.clear()
    this.#slabs.length = 0
    this.#freePlaces.length = 0
    return Promise.resolve()
  }

  #at(place: number, within: number, bytes: number): Uint8Array {
    const slab = this.#slabs[Math.floor(place / slabPages)]
    assert(slab !== undefined, 'a page lies in a slab')
    const start = (place % slabPages) * pageBytes + within
    return slab.subarray(start, start + bytes)
  }

  #take(page: number, clean: boolean): number {
    if (this.#places.size >= this.#pagesMax) {
      throw new OperationError(
        'noSpace',
        `all ${formatBytes(this.#pagesMax * pageBytes)} of memory for the changes of one machine are in use`,
        'Keep changes in a file instead (a clone), or allow more memory for them.',
      )
    }
    if (this.#freePlaces.length === 0) {
      const first = this.#slabs.length * slabPages
      this.#slabs.push(new Uint8Array(memorySlabBytes))
      for (let i = slabPages - 1; i >= 0; i--) this.#freePlaces.push(first + i)
    }
    const place = this.#freePlaces.pop()
    assert(place !== undefined, 'a new slab has free pages')
    if (clean) this.#at(place, 0, pageBytes).fill(0)
    this.#places.set(page, place)
    return place
  }

  #forget(start: number, end: number): void {
    const firstWhole = Math.ceil(start / pageBytes)
    // The page with the end of the file in it is wholly dropped: what is past the end reads as zeroes anyway.
    const endWhole = end >= this.#sizeBytes ? Math.ceil(end / pageBytes) : Math.floor(end / pageBytes)
    if (firstWhole > endWhole) {
      this.#zero(start, end)
      return
    }
    this.#zero(start, Math.min(end, firstWhole * pageBytes))
    this.#zero(Math.max(start, endWhole * pageBytes), end)
    // A hole may be far larger than what was ever written: walk whichever is fewer.
    if (endWhole - firstWhole <= this.#places.size) {
      for (let page = firstWhole; page < endWhole; page++) this.#drop(page)
    } else {
      for (const page of this.#places.keys()) if (page >= firstWhole && page < endWhole) this.#drop(page)
    }
  }

  #zero(start: number, end: number): void {
    const place = start < end ? this.#places.get(Math.floor(start / pageBytes)) : undefined
    if (place !== undefined) this.#at(place, start % pageBytes, end - start).fill(0)
  }

  #drop(page: number): void {
    const place = this.#places.get(page)
    if (place === undefined) return
    this.#places.delete(page)
    this.#freePlaces.push(place)
  }
}
