/**
 * Blocks of golden images in memory, shared by every clone of every version. A golden image never changes, so what is
 * here never changes either and can be lent: it goes from here to the socket without a copy. When a line is dropped its
 * buffers are left to the garbage collector, because somebody may still be sending them.
 *
 *   line      64 KiB of one image: what is dropped together, oldest unused first (a clock)
 *   fragment  a stretch of pages of a line that was read in one go, in a buffer of its own
 *   page      4 KiB: nothing smaller is read from below
 *
 * Only what was asked for is read, rounded to pages: a boot costs its own bytes once. A miss that had to wait for the
 * disk at the place where an earlier one ended is a sequential reader; for that one the cache reads ahead.
 */
import { assert } from '../base/assert.ts'
import { assertRange, readOnlyError } from './bounds.ts'
import type { BlockDevice, Extent, Pending } from './device.ts'
import { cacheLineOverheadBytes, readAheadBytesFirst, readAheadBytesMax, readAheadStreamsMax } from './limits.ts'
import { both, failed } from './pending.ts'

const pageBytes = 4096
const lineBytes = 65_536

export interface BlockCache {
  readonly bytesMax: number
  /** Never above `bytesMax`, but for lines that are being read. */
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

export function createBlockCache(bytesMax: number): BlockCache {
  return new ClockCache(bytesMax)
}

type Fragment = { readonly start: number; readonly end: number; readonly bytes: Uint8Array }
type Loading = { readonly start: number; readonly end: number; readonly done: Promise<void> }

/** Offsets in here are bytes within the line. */
class Line {
  readonly owner: CacheView
  readonly index: number
  /** Asked for since the clock's hand last came by. */
  isUsed: boolean = true
  /** In order, without overlap. */
  readonly fragments: Fragment[] = []
  readonly loading: Loading[] = []

  constructor(owner: CacheView, index: number) {
    this.owner = owner
    this.index = index
  }

  fragmentAt(at: number): Fragment | undefined {
    for (const fragment of this.fragments) if (at >= fragment.start && at < fragment.end) return fragment
    return undefined
  }

  loadingAt(at: number): Loading | undefined {
    for (const loading of this.loading) if (at >= loading.start && at < loading.end) return loading
    return undefined
  }

  /** Where the next thing that is here, or on its way, begins: at most `end`. */
  gapEnd(at: number, end: number): number {
    let gapEnd = end
    for (const { start } of this.fragments) if (start > at && start < gapEnd) gapEnd = start
    for (const { start } of this.loading) if (start > at && start < gapEnd) gapEnd = start
    return gapEnd
  }

  holds(start: number, end: number): boolean {
    let at = start
    while (at < end) {
      const fragment = this.fragmentAt(at)
      if (fragment === undefined) return false
      at = fragment.end
    }
    return true
  }
}

class ClockCache implements BlockCache {
  readonly bytesMax: number
  readonly statistics: CacheStatistics = { hitCount: 0, missCount: 0, fetchedBytes: 0 }
  usedBytes: number = 0
  /** In the order of the clock's hand. */
  readonly #lines = new Set<Line>()

  constructor(bytesMax: number) {
    this.bytesMax = bytesMax
  }

  attach(below: BlockDevice): CachedDevice {
    return new CacheView(this, below)
  }

  add(line: Line): void {
    this.#lines.add(line)
    this.usedBytes += cacheLineOverheadBytes
  }

  keep(line: Line, fragment: Fragment): void {
    // Its owner may have been closed while it was read.
    if (!this.#lines.has(line)) return
    const index = line.fragments.findIndex(({ start }) => start > fragment.start)
    line.fragments.splice(index === -1 ? line.fragments.length : index, 0, fragment)
    this.usedBytes += fragment.bytes.byteLength
    this.#makeRoom(line)
  }

  drop(line: Line): void {
    if (!this.#lines.delete(line)) return
    this.usedBytes -= cacheLineOverheadBytes
    for (const { bytes } of line.fragments) this.usedBytes -= bytes.byteLength
  }

  #makeRoom(justFilled: Line): void {
    if (this.usedBytes <= this.bytesMax) return
    // Twice around at most: the first time may only take away the marks of use.
    let left = this.#lines.size * 2
    for (const line of this.#lines) {
      if (this.usedBytes <= this.bytesMax || left-- === 0) return
      if (line.isUsed || line === justFilled || line.loading.length > 0) {
        line.isUsed = false
        this.#lines.delete(line)
        this.#lines.add(line)
      } else {
        this.drop(line)
        line.owner.forget(line)
      }
    }
  }
}

/** A reader that comes back where it stopped. */
type Stream = { readonly ahead: number; readonly windowBytes: number }

class CacheView implements CachedDevice {
  readonly #cache: ClockCache
  readonly #below: BlockDevice
  readonly #lines = new Map<number, Line>()
  /** By the offset where the reader is expected next; oldest first. */
  readonly #streams = new Map<number, Stream>()
  readonly sizeBytes: number
  readonly blockBytes: number
  readonly readOnly: boolean = true
  readonly thin: boolean = false

  constructor(cache: ClockCache, below: BlockDevice) {
    assert(below.readOnly, 'only what never changes is kept')
    this.#cache = cache
    this.#below = below
    this.sizeBytes = below.sizeBytes
    this.blockBytes = below.blockBytes
  }

  read(offset: number, target: Uint8Array): Pending {
    assertRange(this, offset, target.byteLength)
    const loading = this.#require(offset, target.byteLength)
    if (loading === undefined) return this.#copy(offset, target)
    return loading.then(() => this.#copy(offset, target)) as Promise<void>
  }

  lend(offset: number, bytes: number, piece: (bytes: Uint8Array) => void): boolean {
    assertRange(this, offset, bytes)
    // What has to come from below is asked for already: if it comes at once it can be lent, if not a read joins the wait.
    const loading = this.#require(offset, bytes)
    if (loading !== undefined) {
      // The read that follows waits for the same loads, and is told of a failure.
      loading.catch(() => undefined)
      return false
    }
    const end = offset + bytes
    // A small cache may have dropped the first lines for the last.
    for (let at = offset; at < end; at = this.#lineEnd(at, end)) {
      if (!this.#holds(at, this.#lineEnd(at, end))) return false
    }
    for (let at = offset; at < end; ) {
      const fragment = this.#lines.get(Math.floor(at / lineBytes))?.fragmentAt(at % lineBytes)
      assert(fragment !== undefined, 'what is held has a fragment')
      const within = (at % lineBytes) - fragment.start
      const part = fragment.bytes.subarray(within, Math.min(fragment.bytes.byteLength, within + end - at))
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
    for (const line of this.#lines.values()) this.#cache.drop(line)
    this.#lines.clear()
    return this.#below.close()
  }

  prefetch(offset: number, bytes: number): Pending {
    const end = Math.min(offset + bytes, this.sizeBytes)
    let pending: Pending
    for (let at = offset; at < end; at = this.#lineEnd(at, end)) {
      try {
        pending = both(pending, this.#load(at, this.#lineEnd(at, end)))
      } catch {
        // Nobody asked for these bytes yet; whoever does is told.
        break
      }
    }
    return pending?.catch(() => undefined)
  }

  forget(line: Line): void {
    this.#lines.delete(line.index)
  }

  /** Undefined when all of the range is in memory; else when it is. */
  #require(offset: number, bytes: number): Pending {
    const end = offset + bytes
    let pending: Pending
    let isHit = true
    try {
      for (let at = offset; at < end; ) {
        const next = this.#lineEnd(at, end)
        if (!this.#holds(at, next)) {
          isHit = false
          pending = both(pending, this.#load(at, next))
        }
        at = next
      }
    } catch (error) {
      return failed(pending, error)
    }
    if (isHit) this.#cache.statistics.hitCount++
    else this.#cache.statistics.missCount++
    if (pending !== undefined || this.#streams.size > 0) this.#readAhead(offset, end, pending !== undefined)
    return pending
  }

  #copy(offset: number, target: Uint8Array): Pending {
    let pending: Pending
    for (let done = 0; done < target.byteLength; ) {
      const at = offset + done
      const fragment = this.#lines.get(Math.floor(at / lineBytes))?.fragmentAt(at % lineBytes)
      if (fragment === undefined) {
        // Dropped again before it could be copied: the cache is smaller than what is being read from it at once.
        const bytes = Math.min(target.byteLength - done, lineBytes - (at % lineBytes))
        pending = both(pending, this.#below.read(at, target.subarray(done, done + bytes)))
        done += bytes
        continue
      }
      const within = (at % lineBytes) - fragment.start
      const bytes = Math.min(target.byteLength - done, fragment.bytes.byteLength - within)
      target.set(
        bytes === fragment.bytes.byteLength ? fragment.bytes : fragment.bytes.subarray(within, within + bytes),
        done,
      )
      done += bytes
    }
    return pending
  }

  #lineEnd(at: number, end: number): number {
    return Math.min(end, (Math.floor(at / lineBytes) + 1) * lineBytes)
  }

  /** at..end lies in one line. */
  #holds(at: number, end: number): boolean {
    const line = this.#lines.get(Math.floor(at / lineBytes))
    if (line === undefined) return false
    const start = at % lineBytes
    if (!line.holds(start, start + end - at)) return false
    line.isUsed = true
    return true
  }

  /** Reads the pages of at..end, in one line, that are neither here nor on their way; waits for those that are. */
  #load(at: number, end: number): Pending {
    const index = Math.floor(at / lineBytes)
    const lineStart = index * lineBytes
    let line = this.#lines.get(index)
    if (line === undefined) {
      line = new Line(this, index)
      this.#lines.set(index, line)
      this.#cache.add(line)
    }
    const first = Math.floor((at - lineStart) / pageBytes) * pageBytes
    const last = Math.min(Math.ceil((end - lineStart) / pageBytes) * pageBytes, this.sizeBytes - lineStart)
    let pending: Pending
    try {
      for (let from = first; from < last; ) {
        const present = line.fragmentAt(from)
        const underway = present === undefined ? line.loadingAt(from) : undefined
        if (present !== undefined) from = present.end
        else if (underway !== undefined) {
          pending = both(pending, underway.done)
          from = underway.end
        } else {
          const to = line.gapEnd(from, last)
          pending = both(pending, this.#fetch(line, from, to))
          from = to
        }
      }
    } catch (error) {
      return failed(pending, error)
    }
    return pending
  }

  #fetch(line: Line, start: number, end: number): Pending {
    const bytes = new Uint8Array(end - start)
    this.#cache.statistics.fetchedBytes += bytes.byteLength
    const reading = this.#below.read(line.index * lineBytes + start, bytes)
    if (reading === undefined) {
      this.#cache.keep(line, { start, end, bytes })
      return undefined
    }
    const ended = (): void => {
      line.loading.splice(line.loading.indexOf(loading), 1)
    }
    const done = reading.then(
      () => {
        ended()
        this.#cache.keep(line, { start, end, bytes })
      },
      (error: unknown) => {
        ended()
        throw error
      },
    )
    const loading: Loading = { start, end, done }
    line.loading.push(loading)
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
