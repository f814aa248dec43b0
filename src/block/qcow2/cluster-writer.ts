/**
 * Writing a subcluster (32 to a cluster with extended L2 entries, else the cluster itself):
 *   in a cluster of its own, allocated          straight there
 *   in a cluster of its own, not allocated      straight there, filled up if it is only a part; then its bit is set
 *   in no cluster                               as above, after a cluster was taken (at once: counts are written later)
 *   in a compressed or shared cluster           the whole cluster is written anew
 */
import type { RandomAccessFile } from '../../ports/file.ts'
import type { Pending } from '../device.ts'
import { after, both, failed, lastly } from '../pending.ts'
import { RangeLocks } from '../range-locks.ts'
import type { Commits } from './commits.ts'
import type { CompressedClusters } from './compressed.ts'
import { type Mapping, runKind } from './mapping.ts'
import type { RefcountStore } from './refcounts.ts'
import type { Slice } from './table-cache.ts'

/** What the disk shows now: what a part of a subcluster is filled up with. */
export interface Shown {
  readonly sizeBytes: number
  read(offset: number, target: Uint8Array): Pending
}

export type ClusterWriterParts = {
  readonly file: RandomAccessFile
  readonly mapping: Mapping
  readonly refcounts: RefcountStore
  readonly compressed: CompressedClusters
  readonly commits: Commits
  readonly shown: Shown
}

/** Puts data where it belongs, and changes the mapping when it is there. */
export class ClusterWriter {
  /** Subclusters that somebody is filling or allocating. */
  readonly locks: RangeLocks = new RangeLocks()
  readonly #file: RandomAccessFile
  readonly #mapping: Mapping
  readonly #refcounts: RefcountStore
  readonly #compressed: CompressedClusters
  readonly #commits: Commits
  readonly #shown: Shown
  readonly #clusterBytes: number
  readonly #subclusterBytes: number

  constructor(parts: ClusterWriterParts) {
    this.#file = parts.file
    this.#mapping = parts.mapping
    this.#refcounts = parts.refcounts
    this.#compressed = parts.compressed
    this.#commits = parts.commits
    this.#shown = parts.shown
    this.#clusterBytes = parts.mapping.clusterBytes
    this.#subclusterBytes = parts.mapping.subclusterBytes
  }

  write(offset: number, source: Uint8Array): Pending {
    const waiting = this.#commits.relieve()
    if (waiting !== undefined) return waiting.then(() => this.write(offset, source))
    const mapping = this.#mapping
    let pending: Pending
    try {
      for (let done = 0; done < source.byteLength; ) {
        const at = offset + done
        const left = source.byteLength - done
        if (!mapping.find(at, left)) {
          const rest = done === 0 ? source : source.subarray(done)
          const loading = mapping.load(at)
          if (loading === undefined) continue
          return both(
            pending,
            loading.then(() => this.write(at, rest)),
          )
        }
        if (mapping.kind === runKind.data && mapping.writable) {
          const part = source.subarray(done, done + mapping.runBytes)
          pending = both(pending, this.#writeInPlace(mapping.host, part))
          done += part.byteLength
        } else {
          const bytes = Math.min(left, this.#clusterBytes - (at % this.#clusterBytes))
          pending = both(pending, this.#writeCluster(at, source.subarray(done, done + bytes)))
          done += bytes
        }
      }
    } catch (error) {
      return failed(pending, error)
    }
    return pending
  }

  #writeInPlace(host: number, part: Uint8Array): Pending {
    const writing = this.#file.write(host, part)
    const commits = this.#commits
    commits.wrote()
    if (writing === undefined) return undefined
    return commits.track(writing.then(() => commits.wrote()))
  }

  /** `part` lies in one cluster, and something of its mapping changes. */
  #writeCluster(offset: number, part: Uint8Array): Pending {
    const mapping = this.#mapping
    const slice = mapping.writableSlice(offset)
    if (slice === undefined) {
      const preparing = mapping.prepare(offset, this.#refcounts)
      return after(preparing, () => this.write(offset, part))
    }
    const first = Math.floor(offset / this.#subclusterBytes)
    const last = Math.floor((offset + part.byteLength - 1) / this.#subclusterBytes)
    const others = this.locks.conflict(first, last)
    if (others !== undefined) return others.then(() => this.write(offset, part))

    const at = mapping.entryAt(offset)
    const high = slice.view.getUint32(at)
    const low = slice.view.getUint32(at + 4)
    const host = mapping.isCompressed(high) ? 0 : mapping.usedHostOf(high, low)
    const isOwn = !mapping.isCompressed(high) && (host === 0 || high >>> 31 === 1)
    const pending =
      isOwn && mapping.extended
        ? this.#writeSubclusters(slice, at, host, offset, part)
        : this.#rewriteCluster(slice, at, isOwn ? host : 0, offset, part)
    if (pending === undefined) return undefined
    if (isOwn && mapping.extended) return this.locks.hold(first, last, pending)
    const perCluster = mapping.subclustersPerCluster
    const clusterFirst = Math.floor(offset / this.#clusterBytes) * perCluster
    return this.locks.hold(clusterFirst, clusterFirst + perCluster - 1, pending)
  }

  /** Only the subclusters that `part` touches are written; those that it covers in part are filled up from below. */
  #writeSubclusters(slice: Slice, at: number, host: number, offset: number, part: Uint8Array): Pending {
    const mapping = this.#mapping
    const size = this.#subclusterBytes
    const clusterStart = offset - (offset % this.#clusterBytes)
    const allocated = mapping.allocatedMask(slice, at)
    if (host === 0) {
      // Valid at once: a cluster of which no subcluster is allocated shows what is below.
      host = this.#allocate()
      mapping.setEntry(slice, at, host, 0, mapping.zeroMask(slice, at))
    }
    const end = offset + part.byteLength
    const first = Math.floor((offset - clusterStart) / size)
    const last = Math.floor((end - 1 - clusterStart) / size)
    const headStart = clusterStart + first * size
    const tailEnd = clusterStart + (last + 1) * size
    const start = (allocated & (1 << first)) !== 0 ? offset : headStart
    const stop = (allocated & (1 << last)) !== 0 ? end : tailEnd
    const mask = mapping.maskOf(first, last + 1)
    const hostStart = host + start - clusterStart
    const writing =
      start === offset && stop === end
        ? this.#writeInPlace(hostStart, part)
        : this.#writeFilled(hostStart, start, stop, offset, part)
    if (writing === undefined) {
      mapping.addAllocated(slice, at, mask)
      return undefined
    }
    mapping.cache.pin(slice)
    return lastly(
      writing.then(() => mapping.addAllocated(slice, at, mask)),
      () => mapping.cache.unpin(slice),
    )
  }

  /** Writes start..stop of the disk at `hostStart`: `part`, and around it what the disk shows there now. */
  #writeFilled(hostStart: number, start: number, stop: number, offset: number, part: Uint8Array): Pending {
    const bytes = new Uint8Array(stop - start)
    const end = offset + part.byteLength
    const headBytes = offset - start
    const tail = bytes.subarray(end - start, Math.max(end, Math.min(stop, this.#shown.sizeBytes)) - start)
    let filling = headBytes > 0 ? this.#shown.read(start, bytes.subarray(0, headBytes)) : undefined
    if (tail.byteLength > 0) {
      try {
        filling = both(filling, this.#shown.read(end, tail))
      } catch (error) {
        return failed(filling, error)
      }
    }
    return after(filling, () => {
      bytes.set(part, headBytes)
      return this.#writeInPlace(hostStart, bytes)
    })
  }

  /** The whole cluster goes to `own`, or to a new one if that is 0; what it was before is released. */
  #rewriteCluster(slice: Slice, at: number, own: number, offset: number, part: Uint8Array): Pending {
    const mapping = this.#mapping
    const host = own === 0 ? this.#allocate() : own
    const clusterStart = offset - (offset % this.#clusterBytes)
    const clusterEnd = clusterStart + this.#clusterBytes
    const ended = (): void => {
      if (own === 0) this.releaseEntry(slice, at)
      mapping.setEntry(slice, at, host, mapping.allMask, 0)
    }
    const abandon = (): void => {
      // Counted, and nothing refers to it: like a cluster that lost its last reference.
      if (own === 0) this.#refcounts.release(host, this.#clusterBytes)
    }
    let writing: Pending
    try {
      writing =
        part.byteLength === this.#clusterBytes
          ? this.#writeInPlace(host, part)
          : this.#writeFilled(host, clusterStart, clusterEnd, offset, part)
    } catch (error) {
      abandon()
      throw error
    }
    if (writing === undefined) {
      ended()
      return undefined
    }
    mapping.cache.pin(slice)
    return lastly(
      writing.then(ended, (error: unknown) => {
        abandon()
        throw error
      }),
      () => mapping.cache.unpin(slice),
    )
  }

  #allocate(): number {
    const refcounts = this.#refcounts
    const host = refcounts.allocate() * this.#clusterBytes
    this.#mapping.hostEnd = Math.max(this.#mapping.hostEnd, refcounts.end * this.#clusterBytes)
    return host
  }

  /** Whatever the entry refers to in the file loses a reference, with the next commit. */
  releaseEntry(slice: Slice, at: number): void {
    const mapping = this.#mapping
    const high = slice.view.getUint32(at)
    const low = slice.view.getUint32(at + 4)
    if (mapping.isCompressed(high)) {
      const packed = mapping.compressedAt(high, low)
      this.#compressed.forget(packed.offset)
      this.#refcounts.release(packed.offset, packed.bytes)
      return
    }
    const host = mapping.usedHostOf(high, low)
    if (host !== 0) this.#refcounts.release(host, this.#clusterBytes)
  }
}
