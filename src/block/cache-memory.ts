/**
 * The memory of the cache: pages of all images in segments, and what is dropped when the bound is reached.
 *
 *   page      4 KiB: nothing smaller is read from below or found here
 *   segment   up to 2048 pages in one buffer, filled from start to end like a log; dropped whole, oldest first. The buffer
 *             itself is left to the garbage collector, because somebody may still be sending what he was lent.
 *
 * Two queues of segments, as in 2Q (Johnson and Shasha, 1994):
 *
 *   from below ──▶ newcomers ──asked for twice──▶ regulars ──asked for again──▶ the newest of the regulars
 *                      └──────── else ──▶ dropped    └──────── else ──▶ dropped
 *
 * When memory is short the newcomers are dropped first, down to a quarter of the bound. Somebody who reads a whole disk once
 * passes through that quarter; what all machines boot from stays where it is.
 *
 * One buffer for many pages, because a million small ones keep the garbage collector busier than the disk.
 */
import { assert } from '../base/assert.ts'
import { cacheLeafBytes, cacheSegmentBytesMax, cacheTouchedBytes } from './limits.ts'

export const pageBytes = 4096

/** Whose page it is; told when it moves or goes. */
export interface PageOwner {
  place(page: number, place: number): void
  forget(page: number): void
}

/** Times that a page was asked for since it came in, as far as it matters. */
export const touchesMax = 2

export class Segment {
  readonly bytes: Uint8Array
  /** Its number in the table of segments. */
  readonly index: number
  readonly owners: (PageOwner | undefined)[]
  readonly pages: Float64Array
  /** How often each page was asked for since it came in, up to `touchesMax`. */
  readonly touches: Uint8Array
  filledPages: number = 0
  /** Reads into it under way. */
  pins: number = 0

  constructor(index: number, pages: number) {
    this.bytes = new Uint8Array(pages * pageBytes)
    this.index = index
    this.owners = new Array<PageOwner | undefined>(pages).fill(undefined)
    this.pages = new Float64Array(pages)
    this.touches = new Uint8Array(pages)
  }
}

export class CacheMemory {
  readonly bytesMax: number
  readonly segmentPages: number
  leafCount: number = 0
  touchedChunkCount: number = 0
  /** By number; holes are free numbers. */
  readonly #table: (Segment | undefined)[] = []
  readonly #freeNumbers: number[] = []
  /** Oldest first, the one that is being filled last. */
  readonly #newcomers: Segment[] = []
  readonly #regulars: Segment[] = []

  constructor(bytesMax: number) {
    this.bytesMax = bytesMax
    // A small cache is several segments too, or there would be no order in which to drop.
    this.segmentPages = Math.floor(Math.min(cacheSegmentBytesMax, bytesMax / 4) / pageBytes)
  }

  get usedBytes(): number {
    return (
      (this.#newcomers.length + this.#regulars.length) * this.segmentPages * pageBytes +
      this.leafCount * cacheLeafBytes +
      this.touchedChunkCount * cacheTouchedBytes
    )
  }

  segmentOf(place: number): Segment {
    const segment = this.#table[Math.floor((place - 1) / this.segmentPages)]
    assert(segment !== undefined, 'a place lies in a segment')
    return segment
  }

  /** For what comes from below: a segment with a free page at least; `segmentPages - filledPages` are free. */
  room(): Segment {
    const segment = this.#roomIn(this.#newcomers)
    if (this.usedBytes > this.bytesMax) this.#shrink(segment)
    return segment
  }

  /** From now on the page is found there. */
  publish(segment: Segment, at: number, owner: PageOwner, page: number, touches: number): void {
    segment.owners[at] = owner
    segment.pages[at] = page
    segment.touches[at] = touches
    owner.place(page, segment.index * this.segmentPages + at + 1)
  }

  /** Its pages go with their segments; until then they are nobody's. */
  disown(place: number): void {
    const segment = this.segmentOf(place)
    segment.owners[(place - 1) % this.segmentPages] = undefined
  }

  releaseEmpty(): void {
    for (const queue of [this.#newcomers, this.#regulars]) {
      for (const segment of [...queue]) {
        if (segment.pins > 0 || segment.owners.some((owner) => owner !== undefined)) continue
        queue.splice(queue.indexOf(segment), 1)
        this.#free(segment)
      }
    }
  }

  #roomIn(queue: Segment[]): Segment {
    const newest = queue.at(-1)
    if (newest !== undefined && newest.filledPages < this.segmentPages) return newest
    const index = this.#freeNumbers.pop() ?? this.#table.length
    const segment = new Segment(index, this.segmentPages)
    this.#table[index] = segment
    queue.push(segment)
    return segment
  }

  #free(segment: Segment): void {
    this.#table[segment.index] = undefined
    this.#freeNumbers.push(segment.index)
  }

  #shrink(filling: Segment): void {
    // Each step drops one segment and makes one of the survivors at most, and of a regular one only half survives.
    while (this.usedBytes > this.bytesMax) {
      const newcomerBytes = this.#newcomers.length * this.segmentPages * pageBytes
      const isNewcomer = this.#regulars.length === 0 || newcomerBytes > this.bytesMax / 4
      const order = isNewcomer ? [this.#newcomers, this.#regulars] : [this.#regulars, this.#newcomers]
      if (!order.some((queue) => this.#dropOldest(queue, filling))) return
    }
  }

  #dropOldest(queue: Segment[], filling: Segment): boolean {
    const at = queue.findIndex((candidate) => candidate.pins === 0 && candidate !== filling)
    const [old] = at === -1 ? [] : queue.splice(at, 1)
    if (old === undefined) return false
    // If all regulars survived, a cache that is all in use would never take anything new.
    let survivorsLeft = queue === this.#regulars ? this.segmentPages / 2 : this.segmentPages
    for (let i = 0; i < old.filledPages; i++) {
      const owner = old.owners[i]
      const page = old.pages[i] ?? 0
      if (owner === undefined) continue
      if (old.touches[i] === touchesMax && survivorsLeft > 0) {
        survivorsLeft--
        const next = this.#roomIn(this.#regulars)
        const to = next.filledPages++
        next.bytes.set(old.bytes.subarray(i * pageBytes, (i + 1) * pageBytes), to * pageBytes)
        // It has to be asked for once more to survive the next time.
        this.publish(next, to, owner, page, touchesMax - 1)
      } else owner.forget(page)
    }
    this.#free(old)
    return true
  }
}
