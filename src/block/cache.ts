/**
 * Blocks of golden images in memory, shared by every clone of every version. A golden image never changes, so what is
 * here never changes either and can be lent: it goes from here to the socket without a copy.
 *
 *   asked for           what happens
 *   in memory           copied or lent, at once (`cache-memory.ts`: where it is, and what is dropped)
 *   on its way          one read for all who wait
 *   in the page cache   read straight to where it is wanted, the first time; kept the second (`touched-pages.ts`)
 *   on disk             read into memory here and kept; one after the other in a fair order (`fetch-queue.ts`)
 *
 * Only what was asked for is read, rounded to pages: a boot costs its own bytes once. A miss that had to wait for the
 * disk at the place where an earlier one ended is a sequential reader; for that one the cache reads ahead.
 */
import { assert } from '../base/assert.ts'
import { assertRange, readOnlyError } from './bounds.ts'
import { CacheMemory, type PageOwner, pageBytes, type Segment, touchesMax } from './cache-memory.ts'
import type { BlockDevice, Extent, Pending } from './device.ts'
import { Fetch, FetchQueue } from './fetch-queue.ts'
import { fetchBytesMax } from './limits.ts'
import { both, failed } from './pending.ts'
import { ReadAhead } from './read-ahead.ts'
import { TouchedPages } from './touched-pages.ts'

const leafPages = 256
const fetchPagesMax = fetchBytesMax / pageBytes

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
  /** Bytes read from below, kept or not, ahead or not. */
  fetchedBytes: number
}

export interface CachedDevice extends BlockDevice {
  /** Brings a range into memory, as far as it fits. Pending until it is there; failures are left to whoever reads. */
  prefetch(offset: number, bytes: number): Pending
  /**
   * The same blocks for one of many: it waits for the disk in turn with the others. Closing it closes nothing.
   * @param observe told of every range that is read through it, in order
   */
  reader(observe?: (offset: number, bytes: number) => void): BlockDevice
}

/** @param bytesMax 0 keeps nothing. */
export function createBlockCache(bytesMax: number): BlockCache {
  return new SharedCache(bytesMax)
}

class SharedCache implements BlockCache {
  readonly #memory: CacheMemory
  readonly statistics: CacheStatistics = { hitCount: 0, missCount: 0, fetchedBytes: 0 }

  constructor(bytesMax: number) {
    this.#memory = new CacheMemory(bytesMax)
  }

  get bytesMax(): number {
    return this.#memory.bytesMax
  }

  get usedBytes(): number {
    return this.#memory.usedBytes
  }

  attach(below: BlockDevice): CachedDevice {
    assert(below.readOnly, 'only what never changes is kept')
    return new AttachedDevice(new CachedImage(this.#memory, this.statistics, below))
  }
}

/** Places are numbered through all segments; 0 in here means that the page is not in memory. */
class Leaf {
  readonly places: Uint32Array = new Uint32Array(leafPages)
  liveCount: number = 0
}

/** What all readers of one image share. */
class CachedImage implements PageOwner {
  readonly memory: CacheMemory
  readonly below: BlockDevice
  readonly statistics: CacheStatistics
  readonly touched: TouchedPages
  readonly readAhead: ReadAhead = new ReadAhead((offset, bytes) => void this.prefetch(offset, bytes))
  readonly #leaves = new Map<number, Leaf>()
  #lastLeafIndex = -1
  #lastLeaf: Leaf | undefined
  /** Pages on their way. */
  readonly #loading = new Map<number, Fetch>()
  readonly #queue = new FetchQueue((fetch) => this.#start(fetch))
  #isClosed = false

  constructor(memory: CacheMemory, statistics: CacheStatistics, below: BlockDevice) {
    this.memory = memory
    this.statistics = statistics
    this.below = below
    this.touched = new TouchedPages(memory)
  }

  /** The first page from `page` to before `end` that is not in memory; `end` if all are. */
  firstMissing(page: number, end: number): number {
    while (page < end && this.find(page) !== 0) page++
    return page
  }

  /**
   * Whether nobody has read these pages lately, so that they are not worth keeping yet. A reader that comes back to the page it
   * ended in reads in pieces smaller than a page: that counts once.
   */
  isFirstTouch(page: number, end: number, lastPageOfReader: number): boolean {
    if (this.below.readNow === undefined) return false
    for (let each = page; each < end; each++) {
      if (each !== lastPageOfReader && this.touched.has(each)) return false
      if (this.#loading.size > 0 && this.#loading.has(each)) return false
    }
    return true
  }

  /** False if it would have to wait for the disk. */
  readPast(offset: number, target: Uint8Array): boolean {
    if (this.below.readNow?.(offset, target) !== true) return false
    this.statistics.fetchedBytes += target.byteLength
    const end = Math.ceil((offset + target.byteLength) / pageBytes)
    for (let page = Math.floor(offset / pageBytes); page < end; page++) this.touched.add(page)
    return true
  }

  prefetch(offset: number, bytes: number): Pending {
    if (this.memory.segmentPages === 0) return undefined
    const end = Math.min(offset + bytes, this.below.sizeBytes)
    try {
      return this.load(Math.floor(offset / pageBytes), Math.ceil(end / pageBytes), undefined)?.catch(() => undefined)
    } catch {
      // Nobody asked for these bytes yet; whoever does is told.
      return undefined
    }
  }

  close(): Promise<void> {
    this.#isClosed = true
    for (const leaf of this.#leaves.values())
      for (const place of leaf.places) if (place !== 0) this.memory.disown(place)
    this.memory.leafCount -= this.#leaves.size
    this.#leaves.clear()
    this.#lastLeaf = undefined
    this.touched.clear()
    this.memory.releaseEmpty()
    return this.below.close()
  }

  /** The page is here from now on. */
  place(page: number, place: number): void {
    const index = Math.floor(page / leafPages)
    let leaf = this.#leaves.get(index)
    if (leaf === undefined) {
      leaf = new Leaf()
      this.#leaves.set(index, leaf)
      this.memory.leafCount++
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
    this.memory.leafCount--
    this.#lastLeafIndex = -1
  }

  find(page: number): number {
    const index = Math.floor(page / leafPages)
    if (index !== this.#lastLeafIndex) {
      this.#lastLeaf = this.#leaves.get(index)
      this.#lastLeafIndex = index
    }
    return this.#lastLeaf?.places[page % leafPages] ?? 0
  }

  /** What is at `at`, as far as it lies in one piece in memory, at most to `end`. */
  stretch(at: number, end: number, lastPageOfReader: number): Uint8Array {
    const first = Math.floor(at / pageBytes)
    const place = this.find(first)
    const { segmentPages } = this.memory
    const segment = this.memory.segmentOf(place)
    const index = (place - 1) % segmentPages
    const endPage = Math.ceil(end / pageBytes)
    let count = 1
    if (first !== lastPageOfReader) touch(segment, index)
    while (first + count < endPage && index + count < segmentPages && this.find(first + count) === place + count) {
      touch(segment, index + count)
      count++
    }
    const start = index * pageBytes + (at % pageBytes)
    return segment.bytes.subarray(start, Math.min((index + count) * pageBytes, start + end - at))
  }

  /**
   * Fetches what is neither here nor on its way of the pages from `first` to before `end`; waits for what is.
   * @param reader undefined: nobody has asked for them yet
   */
  load(first: number, end: number, reader: object | undefined): Pending {
    let pending: Pending
    try {
      for (let page = first; page < end; ) {
        const underway = this.#loading.get(page)
        if (underway !== undefined) {
          if (reader !== undefined) this.#queue.want(underway, reader)
          pending = both(pending, underway.done)
          // Neighbours are mostly on their way together.
          while (page < end && this.#loading.get(page) === underway) page++
        } else if (this.find(page) !== 0) page++
        else {
          let stop = page + 1
          const stopMax = Math.min(end, page + fetchPagesMax)
          while (stop < stopMax && this.find(stop) === 0 && !this.#loading.has(stop)) stop++
          pending = both(pending, this.#fetch(page, stop - page, reader))
          page = stop
        }
      }
    } catch (error) {
      return failed(pending, error)
    }
    return pending
  }

  #fetch(page: number, count: number, reader: object | undefined): Pending {
    const mayStart = this.#queue.mayStart(reader)
    const reading = mayStart ? this.#read(page, count) : undefined
    if (mayStart && reading === undefined) return undefined
    const fetch = new Fetch(page, count, reader)
    for (let i = 0; i < count; i++) this.#loading.set(page + i, fetch)
    if (reading === undefined) this.#queue.wait(fetch)
    else {
      this.#queue.started(fetch)
      this.#follow(fetch, reading)
    }
    return fetch.done
  }

  /** Its turn in the queue has come. */
  #start(fetch: Fetch): void {
    try {
      this.#follow(fetch, this.#read(fetch.firstPage, fetch.pageCount) ?? Promise.resolve())
    } catch (error) {
      this.#follow(fetch, Promise.reject(error))
    }
  }

  #follow(fetch: Fetch, reading: Promise<void>): void {
    const wasAhead = fetch.reader === undefined
    const ended = (): void => {
      for (let i = 0; i < fetch.pageCount; i++) this.#loading.delete(fetch.firstPage + i)
      this.#queue.ended(wasAhead)
    }
    reading.then(
      () => {
        ended()
        fetch.succeed()
      },
      (error: unknown) => {
        ended()
        fetch.fail(error)
      },
    )
  }

  #read(page: number, count: number): Pending {
    let pending: Pending
    try {
      for (let done = 0; done < count; ) {
        const segment = this.memory.room()
        const some = Math.min(count - done, this.memory.segmentPages - segment.filledPages)
        pending = both(pending, this.#readInto(segment, page + done, some))
        done += some
      }
    } catch (error) {
      return failed(pending, error)
    }
    return pending
  }

  /** `count` pages at the end of what the segment has, which has room for them. */
  #readInto(segment: Segment, page: number, count: number): Pending {
    const at = segment.filledPages
    segment.filledPages += count
    const start = page * pageBytes
    const bytes = Math.min(count * pageBytes, this.below.sizeBytes - start)
    this.statistics.fetchedBytes += bytes
    const publish = (): void => {
      for (let i = 0; i < count; i++) {
        // Once it was read past the cache, now it is asked for again.
        this.memory.publish(segment, at + i, this, page + i, this.touched.has(page + i) ? 1 : 0)
      }
    }
    const reading = this.below.read(start, segment.bytes.subarray(at * pageBytes, at * pageBytes + bytes))
    if (reading === undefined) {
      publish()
      return undefined
    }
    segment.pins++
    return reading.then(
      () => {
        segment.pins--
        if (!this.#isClosed) publish()
      },
      (error: unknown) => {
        segment.pins--
        throw error
      },
    )
  }
}

function touch(segment: Segment, index: number): void {
  const touches = segment.touches[index] ?? 0
  if (touches < touchesMax) segment.touches[index] = touches + 1
}

/** One of an image's readers. */
class CacheReader implements BlockDevice {
  readonly image: CachedImage
  readonly #observe: ((offset: number, bytes: number) => void) | undefined
  /** Where its last request ended. */
  #lastPage = -1
  readonly sizeBytes: number
  readonly blockBytes: number
  readonly readOnly: boolean = true
  readonly thin: boolean = false

  constructor(image: CachedImage, observe?: (offset: number, bytes: number) => void) {
    this.image = image
    this.#observe = observe
    this.sizeBytes = image.below.sizeBytes
    this.blockBytes = image.below.blockBytes
  }

  read(offset: number, target: Uint8Array): Pending {
    assertRange(this, offset, target.byteLength)
    const { image } = this
    this.#observe?.(offset, target.byteLength)
    if (image.memory.segmentPages === 0) return image.below.read(offset, target)
    if (target.byteLength === 0) return undefined
    const end = offset + target.byteLength
    const endPage = Math.ceil(end / pageBytes)
    const missing = image.firstMissing(Math.floor(offset / pageBytes), endPage)
    let loading: Pending
    if (missing === endPage) image.statistics.hitCount++
    else {
      image.statistics.missCount++
      if (image.isFirstTouch(missing, endPage, this.#lastPage) && image.readPast(offset, target)) {
        image.readAhead.note(offset, end, false)
        this.#lastPage = endPage - 1
        return undefined
      }
      loading = image.load(missing, endPage, this)
    }
    image.readAhead.note(offset, end, loading !== undefined)
    if (loading === undefined) return this.#copy(offset, target)
    return loading.then(() => this.#copy(offset, target)) as Promise<void>
  }

  lend(offset: number, bytes: number, piece: (bytes: Uint8Array) => void): boolean {
    assertRange(this, offset, bytes)
    const { image } = this
    if (image.memory.segmentPages === 0 || bytes === 0) return false
    const end = offset + bytes
    const firstPage = Math.floor(offset / pageBytes)
    const endPage = Math.ceil(end / pageBytes)
    const missing = image.firstMissing(firstPage, endPage)
    if (missing < endPage) {
      if (image.isFirstTouch(missing, endPage, this.#lastPage)) return false
      // If what is asked for comes at once it can be lent; if not, the read that follows joins the wait.
      const loading = image.load(missing, endPage, this)
      if (loading !== undefined) {
        // The read that follows is told of a failure.
        loading.catch(() => undefined)
        return false
      }
      // A small cache may have dropped the first pages for the last.
      if (image.firstMissing(firstPage, endPage) < endPage) return false
      image.statistics.missCount++
    } else image.statistics.hitCount++
    image.readAhead.note(offset, end, false)
    this.#observe?.(offset, bytes)
    for (let at = offset; at < end; ) {
      const part = image.stretch(at, end, this.#lastPage)
      piece(part)
      at += part.byteLength
    }
    this.#lastPage = endPage - 1
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
    return this.image.below.extent(offset, bytes)
  }

  close(): Promise<void> {
    return Promise.resolve()
  }

  #copy(offset: number, target: Uint8Array): Pending {
    const { image } = this
    const end = offset + target.byteLength
    let pending: Pending
    for (let at = offset; at < end; ) {
      if (image.find(Math.floor(at / pageBytes)) === 0) {
        // Dropped again before it could be copied: the cache is smaller than what is being read through it at once.
        const bytes = Math.min(end - at, pageBytes - (at % pageBytes))
        pending = both(pending, image.below.read(at, target.subarray(at - offset, at - offset + bytes)))
        at += bytes
      } else {
        const part = image.stretch(at, end, this.#lastPage)
        target.set(part, at - offset)
        at += part.byteLength
      }
    }
    this.#lastPage = Math.ceil(end / pageBytes) - 1
    return pending
  }
}

/** The image itself, as it was attached. */
class AttachedDevice extends CacheReader implements CachedDevice {
  prefetch(offset: number, bytes: number): Pending {
    return this.image.prefetch(offset, bytes)
  }

  reader(observe?: (offset: number, bytes: number) => void): BlockDevice {
    return new CacheReader(this.image, observe)
  }

  override close(): Promise<void> {
    return this.image.close()
  }
}
