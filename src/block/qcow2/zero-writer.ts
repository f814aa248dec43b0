/**
 * Ranges that read as zeroes. Whole subclusters are marked in their entry, and their cluster is given back where that is
 * allowed; the rest is written as data.
 */
import type { Pending } from '../device.ts'
import { zeroChunkBytes } from '../limits.ts'
import { after, both, failed } from '../pending.ts'
import type { ClusterWriter } from './cluster-writer.ts'
import type { Commits } from './commits.ts'
import { type Mapping, runKind } from './mapping.ts'
import type { RefcountStore } from './refcounts.ts'
import type { Slice } from './table-cache.ts'

export type ZeroWriterParts = {
  readonly version: 2 | 3
  readonly sizeBytes: number
  /** How far what is below reaches. */
  readonly backingBytes: number
  readonly mapping: Mapping
  readonly refcounts: RefcountStore
  readonly commits: Commits
  readonly writer: ClusterWriter
}

const zeroes = new Uint8Array(zeroChunkBytes)

export class ZeroWriter {
  readonly #version: 2 | 3
  readonly #sizeBytes: number
  readonly #backingBytes: number
  readonly #mapping: Mapping
  readonly #refcounts: RefcountStore
  readonly #commits: Commits
  readonly #writer: ClusterWriter
  readonly #clusterBytes: number
  readonly #subclusterBytes: number

  constructor(parts: ZeroWriterParts) {
    this.#version = parts.version
    this.#sizeBytes = parts.sizeBytes
    this.#backingBytes = parts.backingBytes
    this.#mapping = parts.mapping
    this.#refcounts = parts.refcounts
    this.#commits = parts.commits
    this.#writer = parts.writer
    this.#clusterBytes = parts.mapping.clusterBytes
    this.#subclusterBytes = parts.mapping.subclusterBytes
  }

  zero(offset: number, bytes: number, mayUnmap: boolean): Pending {
    const end = offset + bytes
    for (let at = offset; at < end; ) {
      const waiting = this.#commits.relieve()
      if (waiting !== undefined) return waiting.then(() => this.zero(at, end - at, mayUnmap))
      const next = Math.min(end, this.#nothingBelow(at, end))
      const pending = next > at ? undefined : this.#zeroInCluster(at, this.#endOfCluster(at, end), mayUnmap)
      const reached = next > at ? next : this.#endOfCluster(at, end)
      if (pending !== undefined) return pending.then(() => this.zero(reached, end - reached, mayUnmap))
      at = reached
    }
    return undefined
  }

  #endOfCluster(at: number, end: number): number {
    return Math.min(end, at - (at % this.#clusterBytes) + this.#clusterBytes)
  }

  /** How far from `at` there is neither a table nor anything below, so that it reads as zeroes already. */
  #nothingBelow(at: number, end: number): number {
    let reached = at
    const span = this.#mapping.tableSpanBytes
    while (reached < end && reached >= this.#backingBytes && !this.#mapping.hasTable(reached)) {
      reached = (Math.floor(reached / span) + 1) * span
    }
    return reached
  }

  /** at..end lies in one cluster. */
  #zeroInCluster(at: number, end: number, mayUnmap: boolean): Pending {
    const mapping = this.#mapping
    const slice = mapping.writableSlice(at)
    if (slice === undefined) {
      return after(mapping.prepare(at, this.#refcounts), () => this.#zeroInCluster(at, end, mayUnmap))
    }
    const size = this.#subclusterBytes
    const others = this.#writer.locks.conflict(Math.floor(at / size), Math.floor((end - 1) / size))
    if (others !== undefined) return others.then(() => this.#zeroInCluster(at, end, mayUnmap))

    const clusterStart = at - (at % this.#clusterBytes)
    const first = Math.ceil((at - clusterStart) / size)
    // The last subcluster of a disk that ends inside it is covered when the disk is.
    const last =
      end === this.#sizeBytes ? Math.ceil((end - clusterStart) / size) : Math.floor((end - clusterStart) / size)
    const wholeStart = clusterStart + first * size
    const wholeEnd = Math.min(end, clusterStart + last * size)
    if (first >= last) return this.#writeZeroBytes(at, end)
    const entry = mapping.entryAt(at)
    const whole = first === 0 && last === mapping.subclustersPerCluster
    const marked = this.#markZero(slice, entry, clusterStart, mapping.maskOf(first, last), whole, mayUnmap)
    if (!marked) return this.#writeZeroBytes(at, end)
    let pending: Pending
    try {
      if (at < wholeStart) pending = this.#writeZeroBytes(at, wholeStart)
      if (wholeEnd < end) pending = both(pending, this.#writeZeroBytes(wholeEnd, end))
    } catch (error) {
      return failed(pending, error)
    }
    return pending
  }

  /** Turns subclusters into zeroes by their entry. False if the format cannot say so for this one. */
  #markZero(slice: Slice, at: number, clusterStart: number, mask: number, whole: boolean, mayUnmap: boolean): boolean {
    const mapping = this.#mapping
    const high = slice.view.getUint32(at)
    const low = slice.view.getUint32(at + 4)
    const isCompressed = mapping.isCompressed(high)
    if (isCompressed && !whole) return false
    const host = isCompressed ? 0 : mapping.usedHostOf(high, low)
    const isOwn = host !== 0 && high >>> 31 === 1
    const hasBelow = clusterStart < this.#backingBytes
    const allocated = isCompressed ? 0 : mapping.allocatedMask(slice, at)
    const zero = isCompressed ? 0 : mapping.zeroMask(slice, at)
    const allocatedNow = (allocated & ~mask) >>> 0
    // Without anything below, a subcluster in no state at all reads as zeroes too, in version 2 as well.
    if (this.#version === 2 && hasBelow) return false
    let zeroNow = this.#version === 2 ? 0 : (zero | mask) >>> 0
    if (!hasBelow && whole && mayUnmap) zeroNow = 0
    const clusterFirst = (clusterStart / this.#clusterBytes) * mapping.subclustersPerCluster
    const isBusy =
      this.#writer.locks.conflict(clusterFirst, clusterFirst + mapping.subclustersPerCluster - 1) !== undefined
    // Somebody is writing another subcluster of it, and will set its bit: then the cluster has to stay.
    const keep = isOwn && (allocatedNow !== 0 || isBusy || (!mayUnmap && this.#version === 3))
    const isShared = host !== 0 && !isOwn
    if (isShared && allocatedNow !== 0) {
      mapping.markZero(slice, at, mask)
      return true
    }
    if (!isCompressed && allocatedNow === allocated && zeroNow === zero && (keep || host === 0)) return true
    if (!keep) this.#writer.releaseEntry(slice, at)
    mapping.setEntry(slice, at, keep ? host : 0, allocatedNow, zeroNow)
    return true
  }

  /** Zeroes that are written as data: parts of subclusters, and what the format cannot mark. */
  #writeZeroBytes(start: number, end: number): Pending {
    const mapping = this.#mapping
    if (!mapping.find(start, end - start)) {
      return after(mapping.load(start), () => this.#writeZeroBytes(start, end))
    }
    const bytes = Math.min(mapping.runBytes, zeroes.byteLength)
    const isZero = mapping.kind === runKind.zero || (mapping.kind === runKind.backing && start >= this.#backingBytes)
    const pending = isZero ? undefined : this.#writer.write(start, zeroes.subarray(0, bytes))
    if (start + bytes >= end) return pending
    return after(pending, () => this.#writeZeroBytes(start + bytes, end))
  }
}
