/**
 * Blocks of golden images in memory, shared by every clone of every version. A golden image never changes, so what is
 * here never changes either and can be lent: it goes from here to the socket without a copy.
 *
 *   page      4 KiB: nothing smaller is read from below or found here
 *   segment   256 pages in one buffer, filled from start to end like a log; dropped whole, oldest first. Pages that were
 *             asked for again since they came in move on to the newest segment. The buffer itself is left to the garbage
 *             collector, because somebody may still be sending what he was lent.
 *   leaf      where 256 neighbouring pages of an image are
 *
 * One buffer for many pages, because a million small ones keep the garbage collector busier than the disk.
 *
 * Only what was asked for is read, rounded to pages: a boot costs its own bytes once. A miss that had to wait for the
 * disk at the place where an earlier one ended is a sequential reader; for that one the cache reads ahead.
 */
import { assert } from '../base/assert.ts'
import { assertRange, readOnlyError } from './bounds.ts'
import type { BlockDevice, Extent, Pending } from './device.ts'
import {
  cacheLeafBytes,
  cacheSegmentBytesMax,
  readAheadBytesFirst,
  readAheadBytesMax,
  readAheadStreamsMax,
} from './limits.ts'
import { both, failed } from './pending.ts'

const pageBytes = 4096
const leafPages = 256

export interface BlockCache {
  readonly bytesMax: number
  /** Never above `bytesMax`, but for segments that are being read into. */
  readonly usedBytes: number
  readonly statistics: CacheStatistics
  /** A read-only view of `below` whose blocks are kept here. Closing it drops them and closes `below`. */
  attach(below: BlockDevice): CachedDevice
}

export type CacheStatistics = {
  /** Requests answered from memory alone. */
  hitCount: number
  missCount: number
  /** Bytes read from below, ahead or not. */
  fetchedBytes: number
}

export interface CachedDevice extends BlockDevice {
  /** Brings a range into memory, as far as it fits. Pending until it is there; failures are left to whoever reads. */
  prefetch(offset: number, bytes: number): Pending
}

/** @param bytesMax 0 keeps nothing. */
export function createBlockCache(bytesMax: number): BlockCache {
  return new LogCache(bytesMax)
}

/** Places are numbered through all segments; 0 in here means that the page is not in memory. */
class Leaf {
  readonly places: Uint32Array = new Uint32Array(leafPages)
  liveCount: number = 0
}

class Segment {
  readonly bytes: Uint8Array
  /** Its number in the table of segments. */
  readonly index: number
  readonly owners: (CacheView | undefined)[]
  readonly pages: Float64Array
  /** Asked for again since it came in. */
  readonly marks: Uint8Array
  filledPages: number = 0
  /** Reads into it under way. */
  pins: number = 0

  constructor(index: number, pages: number) {
    this.bytes = new Uint8Array(pages * pageBytes)
    this.index = index
    this.owners = new Array<CacheView | undefined>(pages).fill(undefined)
    this.pages = new Float64Array(pages)
    this.marks = new Uint8Array(pages)
  }
}

class LogCache implements BlockCache {
  readonly bytesMax: number
  readonly statistics: CacheStatistics = { hitCount: 0, missCount: 0, fetchedBytes: 0 }
  readonly segmentPages: number
  leafCount: number = 0
  /** By number; holes are free numbers. */
  readonly #table: (Segment | undefined)[] = []
  readonly #freeNumbers: number[] = []
  /** Oldest first. */
  readonly #queue: Segment[] = []
  #newest: Segment | undefined

  constructor(bytesMax: number) {
    this.bytesMax = bytesMax
    // A small cache is several segments too, or there would be no order in which to drop.
    this.segmentPages = Math.floor(Math.min(cacheSegmentBytesMax, bytesMax / 4) / pageBytes)
  }

  get usedBytes(): number {
    return this.#queue.length * this.segmentPages * pageBytes + this.leafCount * cacheLeafBytes
  }

  attach(below: BlockDevice): CachedDevice {
    return new CacheView(this, below)
  }

  segmentOf(place: number): Segment {
    const segment = this.#table[Math.floor((place - 1) / this.segmentPages)]
    assert(segment !== undefined, 'a place lies in a segment')
    return segment
  }

  /** A segment with a free page at least; how many are free is `segmentPages - filledPages`. */
  room(): Segment {
    if (this.#newest === undefined || this.#newest.filledPages === this.segmentPages) this.#newest = this.#begin()
    return this.#newest
  }

  #begin(): Segment {
    const index = this.#freeNumbers.pop() ?? this.#table.length
    const segment = new Segment(index, this.segmentPages)
    this.#table[index] = segment
    this.#queue.push(segment)
    while (this.usedBytes > this.bytesMax) {
      const oldest = this.#queue.findIndex((candidate) => candidate.pins === 0 && candidate !== segment)
      if (oldest === -1) break
      const [dropped] = this.#queue.splice(oldest, 1)
      if (dropped !== undefined) this.#drop(dropped, segment)
    }
    return segment
  }

  #drop(old: Segment, next: Segment): void {
    // Half of the new segment at most goes to survivors, or a cache that is all in use would never take anything new.
    const survivorsMax = this.segmentPages / 2
    for (let i = 0; i < old.filledPages; i++) {
      const owner = old.owners[i]
      const page = old.pages[i] ?? 0
      if (owner === undefined) continue
      if (old.marks[i] === 1 && next.filledPages < survivorsMax) {
        const to = next.filledPages++
        next.bytes.set(old.bytes.subarray(i * pageBytes, (i + 1) * pageBytes), to * pageBytes)
        this.publish(next, to, owner, page)
      } else owner.forget(page)
    }
    this.#table[old.index] = undefined
    this.#freeNumbers.push(old.index)
  }

  /** From now on the page is found there. */
  publish(segment: Segment, at: number, owner: CacheView, page: number): void {
    segment.owners[at] = owner
    segment.pages[at] = page
    segment.marks[at] = 0
    owner.place(page, segment.index * this.segmentPages + at + 1)
  }

  /** Its pages go with their segments; until then they are nobody's. */
  disown(place: number): void {
    const segment = this.segmentOf(place)
    segment.owners[(place - 1) % this.segmentPages] = undefined
  }

  releaseEmpty(): void {
    for (const segment of [...this.#queue]) {
      if (segment.pins > 0 || segment.owners.some((owner) => owner !== undefined)) continue
      this.#queue.splice(this.#queue.indexOf(segment), 1)
      this.#table[segment.index] = undefined
      this.#freeNumbers.push(segment.index)
      if (this.#newest === segment) this.#newest = undefined
    }
  }
}

/** A reader that comes back where it stopped. */
type Stream = { readonly ahead: number; readonly windowBytes: number }

class CacheView implements CachedDevice {
  readonly #cache: LogCache
  readonly #below: BlockDevice
  readonly #leaves = new Map<number, Leaf>()
  #lastLeafIndex = -1
  #lastLeaf: Leaf | undefined
  /** Pages on their way. */
  readonly #loading = new Map<number, Promise<void>>()
  /** By the offset where the reader is expected next; oldest first. */
  readonly #streams = new Map<number, Stream>()
  #isClosed = false
  readonly sizeBytes: number
  readonly blockBytes: number
  readonly readOnly: boolean = true
  readonly thin: boolean = false

  constructor(cache: LogCache, below: BlockDevice) {
    assert(below.readOnly, 'only what never changes is kept')
    this.#cache = cache
    this.#below = below
    this.sizeBytes = below.sizeBytes
    this.blockBytes = below.blockBytes
  }

  read(offset: number, target: Uint8Array): Pending {
    assertRange(this, offset, target.byteLength)
    if (this.#cache.segmentPages === 0) return this.#below.read(offset, target)
    const loading = this.#require(offset, target.byteLength)
    if (loading === undefined) return this.#copy(offset, target)
    return loading.then(() => this.#copy(offset, target)) as Promise<void>
  }

  lend(offset: number, bytes: number, piece: (bytes: Uint8Array) => void): boolean {
    assertRange(this, offset, bytes)
    if (this.#cache.segmentPages === 0 || bytes === 0) return false
    // What has to come from below is asked for already: if it comes at once it can be lent, if not a read joins the wait.
    const loading = this.#require(offset, bytes)
    if (loading !== undefined) {
      // The read that follows waits for the same loads, and is told of a failure.
      loading.catch(() => undefined)
      return false
    }
    const end = offset + bytes
    const lastPage = Math.floor((end - 1) / pageBytes)
    // A small cache may have dropped the first pages for the last.
    for (let page = Math.floor(offset / pageBytes); page <= lastPage; page++) if (this.#find(page) === 0) return false
    for (let at = offset; at < end; ) {
      const part = this.#stretch(at, end)
      piece(part)
      at += part.byteLength
    }
    return true
  }

  write(): Pending {
    throw readOnlyError('a golden image')
  }

  flush(): Pending {
    return undefined
  }

  writeZeroes(): Pending {
    throw readOnlyError('a golden image')
  }

  discard(): Pending {
    return undefined
  }

  extent(offset: number, bytes: number): Extent | Promise<Extent> {
    return this.#below.extent(offset, bytes)
  }

  close(): Promise<void> {
    this.#isClosed = true
    for (const leaf of this.#leaves.values())
      for (const place of leaf.places) if (place !== 0) this.#cache.disown(place)
    this.#cache.leafCount -= this.#leaves.size
    this.#leaves.clear()
    this.#lastLeaf = undefined
    this.#cache.releaseEmpty()
    return this.#below.close()
  }

  prefetch(offset: number, bytes: number): Pending {
    if (this.#cache.segmentPages === 0) return undefined
    const end = Math.min(offset + bytes, this.sizeBytes)
    try {
      return this.#load(Math.floor(offset / pageBytes), Math.ceil(end / pageBytes))?.catch(() => undefined)
    } catch {
      // Nobody asked for these bytes yet; whoever does is told.
      return undefined
    }
  }

  /** The page is here from now on. */
  place(page: number, place: number): void {
    const index = Math.floor(page / leafPages)
    let leaf = this.#leaves.get(index)
    if (leaf === undefined) {
      leaf = new Leaf()
      this.#leaves.set(index, leaf)
      this.#cache.leafCount++
      this.#lastLeafIndex = -1
    }
    if (leaf.places[page % leafPages] === 0) leaf.liveCount++
    leaf.places[page % leafPages] = place
  }

  forget(page: number): void {
    const index = Math.floor(page / leafPages)
    const leaf = this.#leaves.get(index)
    if (leaf === undefined) return
    leaf.places[page % leafPages] = 0
    if (--leaf.liveCount > 0) return
    this.#leaves.delete(index)
    this.#cache.leafCount--
    this.#lastLeafIndex = -1
  }

  #find(page: number): number {
    const index = Math.floor(page / leafPages)
    if (index !== this.#lastLeafIndex) {
      this.#lastLeaf = this.#leaves.get(index)
      this.#lastLeafIndex = index
    }
    return this.#lastLeaf?.places[page % leafPages] ?? 0
  }

  /** What is at `at`, as far as it lies in one piece in memory, at most to `end`. */
  #stretch(at: number, end: number): Uint8Array {
    const first = Math.floor(at / pageBytes)
    const place = this.#find(first)
    const { segmentPages } = this.#cache
    const segment = this.#cache.segmentOf(place)
    const index = (place - 1) % segmentPages
    const endPage = Math.ceil(end / pageBytes)
    let count = 1
    segment.marks[index] = 1
    while (first + count < endPage && index + count < segmentPages && this.#find(first + count) === place + count) {
      segment.marks[index + count] = 1
      count++
    }
    const start = index * pageBytes + (at % pageBytes)
    return segment.bytes.subarray(start, Math.min((index + count) * pageBytes, start + end - at))
  }

  /** Undefined when all of the range is in memory; else when it is. */
  #require(offset: number, bytes: number): Pending {
    const end = offset + bytes
    const endPage = Math.ceil(end / pageBytes)
    let page = Math.floor(offset / pageBytes)
    while (page < endPage && this.#find(page) !== 0) page++
    let pending: Pending
    if (page === endPage) this.#cache.statistics.hitCount++
    else {
      this.#cache.statistics.missCount++
      pending = this.#load(page, endPage)
    }
    if (pending !== undefined || this.#streams.size > 0) this.#readAhead(offset, end, pending !== undefined)
    return pending
  }

  #copy(offset: number, target: Uint8Array): Pending {
    const end = offset + target.byteLength
    let pending: Pending
    for (let at = offset; at < end; ) {
      if (this.#find(Math.floor(at / pageBytes)) === 0) {
        // Dropped again before it could be copied: the cache is smaller than what is being read through it at once.
        const bytes = Math.min(end - at, pageBytes - (at % pageBytes))
        pending = both(pending, this.#below.read(at, target.subarray(at - offset, at - offset + bytes)))
        at += bytes
      } else {
        const part = this.#stretch(at, end)
        target.set(part, at - offset)
        at += part.byteLength
      }
    }
    return pending
  }

  /** Reads what is neither here nor on its way of the pages from `first` to before `end`; waits for what is. */
  #load(first: number, end: number): Pending {
    let pending: Pending
    try {
      for (let page = first; page < end; ) {
        const underway = this.#loading.get(page)
        if (underway !== undefined) {
          pending = both(pending, underway)
          // Neighbours are mostly on their way together.
          while (page < end && this.#loading.get(page) === underway) page++
        } else if (this.#find(page) !== 0) page++
        else {
          let stop = page + 1
          while (stop < end && this.#find(stop) === 0 && !this.#loading.has(stop)) stop++
          const segment = this.#cache.room()
          const count = Math.min(stop - page, this.#cache.segmentPages - segment.filledPages)
          pending = both(pending, this.#fetch(segment, page, count))
          page += count
        }
      }
    } catch (error) {
      return failed(pending, error)
    }
    return pending
  }

  #fetch(segment: Segment, page: number, count: number): Pending {
    const at = segment.filledPages
    segment.filledPages += count
    const start = page * pageBytes
    const bytes = Math.min(count * pageBytes, this.sizeBytes - start)
    this.#cache.statistics.fetchedBytes += bytes
    const reading = this.#below.read(start, segment.bytes.subarray(at * pageBytes, at * pageBytes + bytes))
    if (reading === undefined) {
      for (let i = 0; i < count; i++) this.#cache.publish(segment, at + i, this, page + i)
      return undefined
    }
    segment.pins++
    const ended = (): void => {
      segment.pins--
      for (let i = 0; i < count; i++) this.#loading.delete(page + i)
    }
    const done = reading.then(
      () => {
        ended()
        if (this.#isClosed) return
        for (let i = 0; i < count; i++) this.#cache.publish(segment, at + i, this, page + i)
      },
      (error: unknown) => {
        ended()
        throw error
      },
    )
    for (let i = 0; i < count; i++) this.#loading.set(page + i, done)
    return done
  }

  /** Called for every request while somebody reads in order; `waited` when this one had to wait for the disk. */
  #readAhead(offset: number, end: number, waited: boolean): void {
    const stream = this.#streams.get(offset)
    if (stream === undefined && !waited) return
    this.#streams.delete(offset)
    if (this.#streams.size >= readAheadStreamsMax) {
      for (const oldest of this.#streams.keys()) {
        this.#streams.delete(oldest)
        break
      }
    }
    if (stream === undefined) {
      this.#streams.set(end, { ahead: end, windowBytes: readAheadBytesFirst })
      return
    }
    const { windowBytes } = stream
    const ahead = Math.max(stream.ahead, end)
    // More is asked for when half of the last window is used up, so that the disk never rests.
    if (ahead - end > windowBytes / 2) {
      this.#streams.set(end, stream)
      return
    }
    this.#streams.set(end, { ahead: ahead + windowBytes, windowBytes: Math.min(windowBytes * 2, readAheadBytesMax) })
    if (ahead < this.sizeBytes) void this.prefetch(ahead, windowBytes)
  }
}
