/**
 * A qcow2 image as a block device, read and written.
 *
 * Reading: `Mapping` says what a stretch of the disk is; neighbours of one kind are read together.
 *
 * Writing a subcluster (32 to a cluster with extended L2 entries, else the cluster itself):
 *   in a cluster of its own, allocated          straight there
 *   in a cluster of its own, not allocated      straight there, filled up if it is only a part; then its bit is set
 *   in no cluster                               as above, after a cluster was taken (at once: counts are written later)
 *   in a compressed or shared cluster           the whole cluster is written anew
 *
 * What makes a flush survive any crash, in this order (`#commit`):
 *   1. once after opening: the dirty bit, synced. From here on a crash may leave clusters counted but unused.
 *   2. reference counts that went up, the file's length; then a sync, which covers all data written before
 *   3. the L2 and L1 entries as they were when the flush began; then a sync
 *   4. only now are clusters that lost their last reference counted down, punched and used again
 * An entry on disk therefore never names a cluster whose data or count is not on disk, nor one that has another's data.
 */
import { OperationError } from '../../base/errors.ts'
import type { RandomAccessFile } from '../../ports/file.ts'
import { assertRange, readOnlyError } from '../bounds.ts'
import type { BlockDevice, Extent, Pending } from '../device.ts'
import { Flusher } from '../flusher.ts'
import { dirtyTableBytesHard, dirtyTableBytesSoft, zeroChunkBytes } from '../limits.ts'
import { after, both, failed, lastly } from '../pending.ts'
import { RangeLocks } from '../range-locks.ts'
import type { CompressedClusters } from './compressed.ts'
import { headerField, incompatible, type Qcow2Header } from './header.ts'
import { type Mapping, runKind } from './mapping.ts'
import type { RefcountStore } from './refcounts.ts'
import type { Slice, TableWrite } from './table-cache.ts'

export type Qcow2Parts = {
  readonly file: RandomAccessFile
  readonly header: Qcow2Header
  readonly mapping: Mapping
  readonly compressed: CompressedClusters
  /** What unallocated clusters show; undefined for zeroes. */
  readonly backing: BlockDevice | undefined
  /** Closed with this device: a backing image that was opened for it alone. */
  readonly ownsBacking: boolean
  /** Undefined makes it read-only. */
  readonly refcounts: RefcountStore | undefined
  readonly sizeBytes: number
}

const zeroes = new Uint8Array(zeroChunkBytes)

export class Qcow2Device implements BlockDevice {
  readonly header: Qcow2Header
  readonly sizeBytes: number
  readonly blockBytes: number = 512
  readonly readOnly: boolean
  readonly thin: boolean
  readonly #file: RandomAccessFile
  readonly #mapping: Mapping
  readonly #compressed: CompressedClusters
  readonly #backing: BlockDevice | undefined
  readonly #backingBytes: number
  readonly #ownsBacking: boolean
  readonly #refcounts: RefcountStore | undefined
  readonly #clusterBytes: number
  readonly #subclusterBytes: number
  /** Subclusters that somebody is filling or allocating. */
  readonly #locks = new RangeLocks()
  /** Reads and writes of the file's clusters under way: a cluster is not used again before they have ended. */
  readonly #inFlight = new Set<Promise<void>>()
  readonly #flusher = new Flusher(() => this.#commit())
  #unsynced = false
  /** The dirty bit is on disk. */
  #markedDirty: boolean
  /** A sync failed: nobody knows what is on disk. */
  #lost: unknown

  constructor(parts: Qcow2Parts) {
    this.#file = parts.file
    this.header = parts.header
    this.#mapping = parts.mapping
    this.#compressed = parts.compressed
    this.#backing = parts.backing
    this.#backingBytes = parts.backing?.sizeBytes ?? 0
    this.#ownsBacking = parts.ownsBacking
    this.#refcounts = parts.refcounts
    this.#clusterBytes = parts.mapping.clusterBytes
    this.#subclusterBytes = parts.mapping.subclusterBytes
    this.#markedDirty = parts.header.dirty
    this.sizeBytes = Math.ceil(parts.sizeBytes / this.blockBytes) * this.blockBytes
    this.readOnly = parts.refcounts === undefined
    this.thin = !this.readOnly
  }

  read(offset: number, target: Uint8Array): Pending {
    assertRange(this, offset, target.byteLength)
    return this.#read(offset, target)
  }

  lend(offset: number, bytes: number, piece: (bytes: Uint8Array) => void): boolean {
    assertRange(this, offset, bytes)
    if (this.#backing?.lend === undefined || offset + bytes > this.#backingBytes) return false
    const mapping = this.#mapping
    if (!mapping.find(offset, bytes) || mapping.kind !== runKind.backing || mapping.runBytes < bytes) return false
    return this.#backing.lend(offset, bytes, piece)
  }

  write(offset: number, source: Uint8Array): Pending {
    assertRange(this, offset, source.byteLength)
    this.#assertWritable()
    return this.#write(offset, source)
  }

  flush(): Pending {
    return this.#flusher.flush()
  }

  writeZeroes(offset: number, bytes: number, mayUnmap: boolean): Pending {
    assertRange(this, offset, bytes)
    this.#assertWritable()
    return this.#zero(offset, bytes, mayUnmap)
  }

  discard(offset: number, bytes: number): Pending {
    assertRange(this, offset, bytes)
    if (this.readOnly) return undefined
    return this.writeZeroes(offset, bytes, true)
  }

  extent(offset: number, bytes: number): Extent | Promise<Extent> {
    assertRange(this, offset, bytes)
    const mapping = this.#mapping
    if (!mapping.find(offset, bytes)) {
      const loading = mapping.load(offset)
      return loading === undefined ? this.extent(offset, bytes) : loading.then(() => this.extent(offset, bytes))
    }
    if (mapping.kind !== runKind.backing) return { allocated: mapping.kind !== runKind.zero, bytes: mapping.runBytes }
    const below = Math.min(offset + mapping.runBytes, this.#backingBytes) - offset
    if (this.#backing === undefined || below <= 0) return { allocated: false, bytes: mapping.runBytes }
    return this.#backing.extent(offset, below)
  }

  async close(): Promise<void> {
    try {
      if (!this.readOnly) await this.#finish()
    } finally {
      await this.#file.close()
      if (this.#ownsBacking) await this.#backing?.close()
    }
  }

  #assertWritable(): void {
    if (this.#refcounts === undefined) throw readOnlyError(this.#file.path)
    if (this.#lost !== undefined) throw this.#lost
  }

  #read(offset: number, target: Uint8Array): Pending {
    const mapping = this.#mapping
    let pending: Pending
    try {
      for (let done = 0; done < target.byteLength; ) {
        if (!mapping.find(offset + done, target.byteLength - done)) {
          const rest = done === 0 ? target : target.subarray(done)
          const at = offset + done
          const loading = mapping.load(at)
          if (loading === undefined) continue
          return both(
            pending,
            loading.then(() => this.#read(at, rest)),
          )
        }
        const bytes = mapping.runBytes
        const part = bytes === target.byteLength ? target : target.subarray(done, done + bytes)
        pending = both(pending, this.#readRun(offset + done, part))
        done += bytes
      }
    } catch (error) {
      return failed(pending, error)
    }
    return pending
  }

  /** `part` is as long as the run that `find` just found. */
  #readRun(offset: number, part: Uint8Array): Pending {
    const mapping = this.#mapping
    switch (mapping.kind) {
      case runKind.backing:
        return this.#readBacking(offset, part)
      case runKind.zero:
        part.fill(0)
        return undefined
      case runKind.data:
        return this.#track(this.#file.read(mapping.host, part))
      case runKind.compressed: {
        const packed = mapping.compressedAt(mapping.entryHigh, mapping.entryLow)
        return this.#track(this.#compressed.read(packed, offset % this.#clusterBytes, part))
      }
    }
  }

  #readBacking(offset: number, part: Uint8Array): Pending {
    const below = Math.max(0, Math.min(part.byteLength, this.#backingBytes - offset))
    if (this.#backing === undefined || below === 0) {
      part.fill(0)
      return undefined
    }
    if (below === part.byteLength) return this.#backing.read(offset, part)
    part.fill(0, below)
    return this.#backing.read(offset, part.subarray(0, below))
  }

  #track(pending: Pending): Pending {
    if (pending === undefined) return undefined
    const inFlight = this.#inFlight
    const ended = (): void => {
      inFlight.delete(pending)
    }
    inFlight.add(pending)
    pending.then(ended, ended)
    return pending
  }

  #write(offset: number, source: Uint8Array): Pending {
    if (this.#mapping.cache.changedBytes > dirtyTableBytesSoft) {
      const waiting = this.#writeBack()
      if (waiting !== undefined) return waiting.then(() => this.#write(offset, source))
    }
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
            loading.then(() => this.#write(at, rest)),
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
    this.#unsynced = true
    if (writing === undefined) return undefined
    return this.#track(
      writing.then(() => {
        this.#unsynced = true
      }),
    )
  }

  /** `part` lies in one cluster, and something of its mapping changes. */
  #writeCluster(offset: number, part: Uint8Array): Pending {
    const refcounts = this.#writableRefcounts()
    const mapping = this.#mapping
    const slice = mapping.writableSlice(offset)
    if (slice === undefined) {
      const preparing = mapping.prepare(offset, refcounts)
      return after(preparing, () => this.#write(offset, part))
    }
    const first = Math.floor(offset / this.#subclusterBytes)
    const last = Math.floor((offset + part.byteLength - 1) / this.#subclusterBytes)
    const others = this.#locks.conflict(first, last)
    if (others !== undefined) return others.then(() => this.#write(offset, part))

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
    if (isOwn && mapping.extended) return this.#locks.hold(first, last, pending)
    const perCluster = mapping.subclustersPerCluster
    const clusterFirst = Math.floor(offset / this.#clusterBytes) * perCluster
    return this.#locks.hold(clusterFirst, clusterFirst + perCluster - 1, pending)
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
    const tail = bytes.subarray(end - start, Math.max(end, Math.min(stop, this.sizeBytes)) - start)
    let filling = headBytes > 0 ? this.#read(start, bytes.subarray(0, headBytes)) : undefined
    if (tail.byteLength > 0) {
      try {
        filling = both(filling, this.#read(end, tail))
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
      if (own === 0) this.#releaseEntry(slice, at)
      mapping.setEntry(slice, at, host, mapping.allMask, 0)
    }
    const abandon = (): void => {
      // Counted, and nothing refers to it: like a cluster that lost its last reference.
      if (own === 0) this.#refcounts?.release(host, this.#clusterBytes)
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

  #writableRefcounts(): RefcountStore {
    if (this.#refcounts === undefined) throw readOnlyError(this.#file.path)
    return this.#refcounts
  }

  #allocate(): number {
    const refcounts = this.#writableRefcounts()
    const host = refcounts.allocate() * this.#clusterBytes
    this.#mapping.hostEnd = Math.max(this.#mapping.hostEnd, refcounts.end * this.#clusterBytes)
    return host
  }

  /** Whatever the entry refers to in the file loses a reference, with the next commit. */
  #releaseEntry(slice: Slice, at: number): void {
    const mapping = this.#mapping
    const high = slice.view.getUint32(at)
    const low = slice.view.getUint32(at + 4)
    if (mapping.isCompressed(high)) {
      const packed = mapping.compressedAt(high, low)
      this.#compressed.forget(packed.offset)
      this.#refcounts?.release(packed.offset, packed.bytes)
      return
    }
    const host = mapping.usedHostOf(high, low)
    if (host !== 0) this.#refcounts?.release(host, this.#clusterBytes)
  }

  #zero(offset: number, bytes: number, mayUnmap: boolean): Pending {
    const end = offset + bytes
    for (let at = offset; at < end; ) {
      if (this.#mapping.cache.changedBytes > dirtyTableBytesSoft) {
        const waiting = this.#writeBack()
        if (waiting !== undefined) return waiting.then(() => this.#zero(at, end - at, mayUnmap))
      }
      const next = Math.min(end, this.#nothingBelow(at, end))
      const pending = next > at ? undefined : this.#zeroInCluster(at, this.#endOfCluster(at, end), mayUnmap)
      const reached = next > at ? next : this.#endOfCluster(at, end)
      if (pending !== undefined) return pending.then(() => this.#zero(reached, end - reached, mayUnmap))
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
      return after(mapping.prepare(at, this.#writableRefcounts()), () => this.#zeroInCluster(at, end, mayUnmap))
    }
    const size = this.#subclusterBytes
    const others = this.#locks.conflict(Math.floor(at / size), Math.floor((end - 1) / size))
    if (others !== undefined) return others.then(() => this.#zeroInCluster(at, end, mayUnmap))

    const clusterStart = at - (at % this.#clusterBytes)
    const first = Math.ceil((at - clusterStart) / size)
    // The last subcluster of a disk that ends inside it is covered when the disk is.
    const last =
      end === this.sizeBytes ? Math.ceil((end - clusterStart) / size) : Math.floor((end - clusterStart) / size)
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
    if (this.header.version === 2 && hasBelow) return false
    let zeroNow = this.header.version === 2 ? 0 : (zero | mask) >>> 0
    if (!hasBelow && whole && mayUnmap) zeroNow = 0
    const clusterFirst = (clusterStart / this.#clusterBytes) * mapping.subclustersPerCluster
    const isBusy = this.#locks.conflict(clusterFirst, clusterFirst + mapping.subclustersPerCluster - 1) !== undefined
    // Somebody is writing another subcluster of it, and will set its bit: then the cluster has to stay.
    const keep = isOwn && (allocatedNow !== 0 || isBusy || (!mayUnmap && this.header.version === 3))
    const isShared = host !== 0 && !isOwn
    if (isShared && allocatedNow !== 0) {
      mapping.markZero(slice, at, mask)
      return true
    }
    if (!isCompressed && allocatedNow === allocated && zeroNow === zero && (keep || host === 0)) return true
    if (!keep) this.#releaseEntry(slice, at)
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
    const pending = isZero ? undefined : this.#write(start, zeroes.subarray(0, bytes))
    if (start + bytes >= end) return pending
    return after(pending, () => this.#writeZeroBytes(start + bytes, end))
  }

  /** Tables changed faster than anybody flushes: starts to write them; above the hard bound, whoever changes more waits. */
  #writeBack(): Pending {
    const mustWait = this.#mapping.cache.changedBytes > dirtyTableBytesHard
    if (!mustWait && this.#flusher.isRunning) return undefined
    const flushing = this.#flusher.flush()
    if (flushing === undefined || mustWait) return flushing
    // Nothing is lost when it fails: what was not written stays changed, and the guest's next flush says why.
    flushing.catch(() => undefined)
    return undefined
  }

  #commit(): Pending {
    if (this.#lost !== undefined) throw this.#lost
    const refcounts = this.#refcounts
    if (refcounts === undefined) return undefined
    const writes: TableWrite[] = []
    this.#mapping.takeDirty(writes)
    if (writes.length === 0 && !refcounts.hasDifferences && !refcounts.hasReleased) {
      if (!this.#unsynced) return undefined
      this.#unsynced = false
      return this.#sync()
    }
    return this.#commitTables(refcounts, writes, refcounts.takeReleased())
  }

  async #commitTables(
    refcounts: RefcountStore,
    writes: readonly TableWrite[],
    released: ReturnType<RefcountStore['takeReleased']>,
  ): Promise<void> {
    try {
      this.#unsynced = false
      await this.#markDirty()
      await refcounts.settle()
      const bytes = refcounts.end * this.#clusterBytes
      // Not `truncate`: writes go on meanwhile, into clusters that were taken after `end` was asked for.
      await this.#file.grow(bytes)
      await this.#sync()
      if (writes.length > 0) {
        for (const { offset, bytes } of writes) await this.#file.write(offset, bytes)
        await this.#sync()
      }
    } catch (error) {
      for (const write of writes) write.restore()
      refcounts.restoreReleased(released)
      this.#unsynced = true
      throw error
    } finally {
      for (const write of writes) write.settled()
    }
    if (released.length === 0) return
    await Promise.allSettled(this.#inFlight)
    refcounts.countDown(released)
    await refcounts.settle()
  }

  async #markDirty(): Promise<void> {
    if (this.#markedDirty || this.header.version === 2) return
    await this.#setIncompatible(this.header.incompatibleLow | incompatible.dirty)
    // Bitmaps would have to follow every write; without their bit whoever knows them knows that they are stale.
    if (this.header.hasAutoclear) await this.#file.write(headerField.autoclearFeatures, new Uint8Array(8))
    await this.#sync()
    this.#markedDirty = true
  }

  async #setIncompatible(low: number): Promise<void> {
    const bytes = new Uint8Array(4)
    new DataView(bytes.buffer).setUint32(0, low)
    await this.#file.write(headerField.incompatibleFeatures + 4, bytes)
  }

  async #sync(): Promise<void> {
    try {
      await this.#file.sync()
    } catch (error) {
      this.#lost = new OperationError(
        'ioError',
        `${this.#file.path} could not be brought to stable storage`,
        'Look at the disk (dmesg); what was written since the last flush may be lost. Then start again.',
        { cause: error },
      )
      throw this.#lost
    }
  }

  /** After a clean end nothing is counted that is not used, and the file says so. */
  async #finish(): Promise<void> {
    if (this.#lost !== undefined) return
    await this.flush()
    // A table that moved releases its old place only when the move is durable.
    while (this.#refcounts?.hasDifferences || this.#refcounts?.hasReleased) await this.flush()
    if (!this.#markedDirty || this.header.version === 2) return
    await this.#sync()
    await this.#setIncompatible(this.header.incompatibleLow & ~incompatible.dirty)
    await this.#sync()
    this.#markedDirty = false
  }
}
