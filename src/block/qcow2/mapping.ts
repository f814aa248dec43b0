/**
 * Where a byte of the disk lies: L1 table -> L2 table -> cluster (docs/interop/qcow2.rst, "Cluster mapping" and
 * "Extended L2 Entries"). An L2 entry is two 32-bit words here, big-endian in the file:
 *
 *   high: bit 31 COPIED (the only reference: may be written in place), bit 30 compressed, bits 0-23 offset 32-55
 *   low:  bits 9-31 offset 9-31, bit 0 reads as zeroes (not with extended entries)
 *   extended entries have two words more, one bit for each of 32 subclusters: reads as zeroes, then allocated
 *
 * Without extended entries a cluster counts as one subcluster here, so that there is one set of rules.
 */
import { assert } from '../../base/assert.ts'
import type { OperationError } from '../../base/errors.ts'
import type { RandomAccessFile } from '../../ports/file.ts'
import type { Pending } from '../device.ts'
import { tableSliceBytes } from '../limits.ts'
import { corrupt, type Qcow2Header } from './header.ts'
import type { RefcountStore } from './refcounts.ts'
import { type Slice, TableCache, type TableWrite } from './table-cache.ts'

export const runKind = { backing: 0, zero: 1, data: 2, compressed: 3 } as const
export type RunKind = (typeof runKind)[keyof typeof runKind]

export const copiedBit = 0x80000000
const compressedBit = 0x40000000
const allSubclusters = 0xffffffff

export class Mapping {
  readonly path: string
  readonly clusterBytes: number
  readonly subclusterBytes: number
  readonly subclustersPerCluster: 1 | 32
  readonly extended: boolean
  readonly cache: TableCache
  readonly #version: 2 | 3
  readonly #clusterBits: number
  readonly #file: RandomAccessFile
  readonly #l1: DataView
  readonly #l1Offset: number
  readonly #l1Dirty = new Set<number>()
  readonly #copying = new Map<number, Promise<void>>()
  /** Tables made since the image was opened, and which pieces of them were in memory once: the others are zeroes. */
  readonly #fresh = new Map<number, Uint8Array>()
  readonly #entryBytes: 8 | 16
  readonly #entriesPerTable: number
  readonly #sliceBytes: number
  readonly #entriesPerSlice: number
  /** The first byte that no cluster may reach: the end of the file, or of what was allocated since. */
  hostEnd: number

  /** What `find` found. Fields, not an object for each run: this is the path of every read. */
  kind: RunKind = runKind.backing
  runBytes: number = 0
  /** Offset in the file, for data. */
  host: number = 0
  /** Data whose cluster nobody else refers to: may be written in place. */
  writable: boolean = false
  /** The entry, for a compressed cluster. */
  entryHigh: number = 0
  entryLow: number = 0

  constructor(file: RandomAccessFile, header: Qcow2Header, l1Offset: number, l1: Uint8Array) {
    this.path = file.path
    this.#file = file
    this.#version = header.version
    this.#clusterBits = header.clusterBits
    this.clusterBytes = 2 ** header.clusterBits
    this.extended = header.extendedL2
    this.subclustersPerCluster = header.extendedL2 ? 32 : 1
    this.subclusterBytes = this.clusterBytes / this.subclustersPerCluster
    this.#entryBytes = header.extendedL2 ? 16 : 8
    this.#entriesPerTable = this.clusterBytes / this.#entryBytes
    this.#sliceBytes = Math.min(tableSliceBytes, this.clusterBytes)
    this.#entriesPerSlice = this.#sliceBytes / this.#entryBytes
    this.#l1Offset = l1Offset
    this.#l1 = new DataView(l1.buffer, l1.byteOffset, l1.byteLength)
    this.cache = new TableCache(file, this.#sliceBytes)
    this.hostEnd = file.sizeBytes()
  }

  /**
   * Describes the run of one kind that begins at `offset`, at most `bytes` long, in the fields. False when a piece of
   * table must be loaded first (`load`); then the fields mean nothing.
   * @throws {OperationError} imageCorrupt
   */
  find(offset: number, bytes: number): boolean {
    if (!this.#probe(offset)) return false
    const { kind, host, writable, entryHigh, entryLow } = this
    let total = this.runBytes
    while (total < bytes && kind !== runKind.compressed) {
      if (!this.#probe(offset + total) || this.kind !== kind) break
      if (kind === runKind.data && (this.host !== host + total || this.writable !== writable)) break
      total += this.runBytes
    }
    this.kind = kind
    this.host = host
    this.writable = writable
    this.entryHigh = entryHigh
    this.entryLow = entryLow
    this.runBytes = Math.min(total, bytes)
    if (kind === runKind.data && host >= this.hostEnd) {
      throw this.fault(`the cluster at ${host} lies behind the end of the file`)
    }
    return true
  }

  /** Loads the piece of table that `find` missed at `offset`. */
  load(offset: number): Pending {
    const cluster = Math.floor(offset / this.clusterBytes)
    const table = this.#tableOffset(Math.floor(cluster / this.#entriesPerTable))
    assert(table !== 0, 'only a table that is there is loaded')
    return this.#loadSlice(table, cluster)
  }

  #loadSlice(table: number, cluster: number): Pending {
    const offset = this.#sliceOffset(table, cluster)
    const asked = this.#fresh.get(table)
    const index = (offset - table) / this.#sliceBytes
    if (asked === undefined || asked[index] === 1) return this.cache.load(offset)
    asked[index] = 1
    this.cache.addEmpty(offset)
    return undefined
  }

  /**
   * The piece of table with the entry of the cluster at `offset`, if it is in memory and may be changed; otherwise
   * undefined, and `prepare` makes it so.
   */
  writableSlice(offset: number): Slice | undefined {
    const cluster = Math.floor(offset / this.clusterBytes)
    const l1Index = Math.floor(cluster / this.#entriesPerTable)
    if ((this.#l1.getUint32(l1Index * 8) & copiedBit) === 0) return undefined
    return this.cache.find(this.#sliceOffset(this.#tableOffset(l1Index), cluster))
  }

  /** Makes the table of the cluster at `offset` present, our own, and in memory. @throws {OperationError} noSpace, ioError */
  prepare(offset: number, refcounts: RefcountStore): Pending {
    const cluster = Math.floor(offset / this.clusterBytes)
    const l1Index = Math.floor(cluster / this.#entriesPerTable)
    const table = this.#tableOffset(l1Index)
    if (table !== 0 && (this.#l1.getUint32(l1Index * 8) & copiedBit) !== 0) {
      return this.#loadSlice(table, cluster)
    }
    const copying = this.#copying.get(l1Index)
    if (copying !== undefined) return copying
    // New tables lie behind everything ever written, so an absent one is zeroes without a write.
    const own = refcounts.allocateAtEnd(1) * this.clusterBytes
    this.hostEnd = refcounts.end * this.clusterBytes
    if (table === 0) {
      this.#setTable(l1Index, own)
      this.#fresh.set(own, new Uint8Array(this.clusterBytes / this.#sliceBytes))
      return this.#loadSlice(own, cluster)
    }
    const started = this.#copyTable(l1Index, table, own, refcounts)
    this.#copying.set(l1Index, started)
    return started
  }

  /** A table that a snapshot uses too is left to the snapshot. */
  async #copyTable(l1Index: number, table: number, own: number, refcounts: RefcountStore): Promise<void> {
    try {
      const bytes = new Uint8Array(this.clusterBytes)
      await this.#file.read(table, bytes)
      await this.#file.write(own, bytes)
      this.#setTable(l1Index, own)
      refcounts.release(table, this.clusterBytes)
    } finally {
      this.#copying.delete(l1Index)
    }
  }

  /** Byte of the slice where the entry of the cluster at `offset` stands. */
  entryAt(offset: number): number {
    return (Math.floor(offset / this.clusterBytes) % this.#entriesPerSlice) * this.#entryBytes
  }

  isCompressed(high: number): boolean {
    return (high & compressedBit) !== 0
  }

  /** Offset in the file that an entry names; 0 for none. @throws {OperationError} imageCorrupt */
  hostOf(high: number, low: number): number {
    const host = (high & 0x00ffffff) * 2 ** 32 + ((low & ~0x1ff) >>> 0)
    if (host % this.clusterBytes !== 0) throw this.fault(`a cluster at ${host} is not aligned`)
    return host
  }

  /** The same for whoever will write there or let go of it: the cluster must lie in the file. @throws {OperationError} imageCorrupt */
  usedHostOf(high: number, low: number): number {
    const host = this.hostOf(high, low)
    if (host >= this.hostEnd) throw this.fault(`the cluster at ${host} lies behind the end of the file`)
    return host
  }

  /** The stretch of the file with the compressed bytes that an entry names. @throws {OperationError} imageCorrupt */
  compressedAt(high: number, low: number): { readonly offset: number; readonly bytes: number } {
    // "Compressed Clusters Descriptor": offset in the low 62 - (cluster_bits - 8) bits, then the count of further sectors.
    const offsetBits = 62 - (this.#clusterBits - 8)
    const split = offsetBits - 32
    const offset = (high & (2 ** split - 1)) * 2 ** 32 + low
    const sectors = ((high & 0x3fffffff) >>> split) + 1
    if (offset >= this.hostEnd) throw this.fault(`compressed data at ${offset} lies behind the end of the file`)
    return { offset, bytes: Math.min(sectors * 512 - (offset % 512), this.hostEnd - offset) }
  }

  /** Writes a whole entry: `allocated` and `zero` have a bit for each subcluster (bit 0 alone without extended entries). */
  setEntry(slice: Slice, at: number, host: number, allocated: number, zero: number): void {
    const { view } = slice
    const flags = host === 0 ? 0 : copiedBit
    view.setUint32(at, (Math.floor(host / 2 ** 32) | flags) >>> 0)
    if (this.extended) {
      view.setUint32(at + 4, host % 2 ** 32)
      view.setUint32(at + 8, zero)
      view.setUint32(at + 12, allocated)
    } else view.setUint32(at + 4, (host % 2 ** 32) + (zero & 1))
    this.cache.touch(slice, at)
  }

  /** Marks subclusters that were written. The cluster has its place already. */
  addAllocated(slice: Slice, at: number, mask: number): void {
    const { view } = slice
    if (this.extended) {
      view.setUint32(at + 8, view.getUint32(at + 8) & ~mask)
      view.setUint32(at + 12, view.getUint32(at + 12) | mask)
    } else view.setUint32(at + 4, view.getUint32(at + 4) & ~1)
    this.cache.touch(slice, at)
  }

  /** Turns subclusters into zeroes and leaves the rest of the entry alone, for a cluster that others refer to too. */
  markZero(slice: Slice, at: number, mask: number): void {
    const { view } = slice
    view.setUint32(at + 8, view.getUint32(at + 8) | mask)
    view.setUint32(at + 12, view.getUint32(at + 12) & ~mask)
    this.cache.touch(slice, at)
  }

  /** Bits of the subclusters from `first` to before `end` of a cluster. */
  maskOf(first: number, end: number): number {
    if (!this.extended) return 1
    return ((end === 32 ? allSubclusters : 2 ** end - 1) & ~(2 ** first - 1)) >>> 0
  }

  get allMask(): number {
    return this.extended ? allSubclusters : 1
  }

  /** Subclusters whose content is in the cluster. */
  allocatedMask(slice: Slice, at: number): number {
    if (this.extended) return slice.view.getUint32(at + 12)
    const low = slice.view.getUint32(at + 4)
    return (low & 1) === 0 && this.hostOf(slice.view.getUint32(at), low) !== 0 ? 1 : 0
  }

  zeroMask(slice: Slice, at: number): number {
    return this.extended ? slice.view.getUint32(at + 8) : slice.view.getUint32(at + 4) & 1
  }

  takeDirty(writes: TableWrite[]): void {
    this.cache.takeDirty(writes)
    for (const l1Index of this.#l1Dirty) {
      const bytes = new Uint8Array(8)
      bytes.set(new Uint8Array(this.#l1.buffer, this.#l1.byteOffset + l1Index * 8, 8))
      writes.push({
        offset: this.#l1Offset + l1Index * 8,
        bytes,
        restore: () => this.#l1Dirty.add(l1Index),
        settled: () => undefined,
      })
    }
    this.#l1Dirty.clear()
  }

  /** Whether there is a table for `offset`, and how far the answer holds. */
  hasTable(offset: number): boolean {
    return this.#tableOffset(Math.floor(offset / this.clusterBytes / this.#entriesPerTable)) !== 0
  }

  /** Bytes of disk that one table maps. */
  get tableSpanBytes(): number {
    return this.#entriesPerTable * this.clusterBytes
  }

  fault(what: string): OperationError {
    return corrupt(this.path, what)
  }

  /** Kind and length of what begins at `offset`, to the end of its cluster at most (of its table if that is absent). */
  #probe(offset: number): boolean {
    const cluster = Math.floor(offset / this.clusterBytes)
    const l1Index = Math.floor(cluster / this.#entriesPerTable)
    const table = this.#tableOffset(l1Index)
    if (table === 0) {
      this.kind = runKind.backing
      this.runBytes = (l1Index + 1) * this.tableSpanBytes - offset
      return true
    }
    const slice = this.cache.find(this.#sliceOffset(table, cluster))
    if (slice === undefined) return false
    const at = (cluster % this.#entriesPerSlice) * this.#entryBytes
    const high = slice.view.getUint32(at)
    const low = slice.view.getUint32(at + 4)
    const within = offset - cluster * this.clusterBytes
    if ((high & compressedBit) !== 0) {
      this.kind = runKind.compressed
      this.entryHigh = high
      this.entryLow = low
      this.runBytes = this.clusterBytes - within
      return true
    }
    const host = this.hostOf(high, low)
    this.host = host + within
    this.writable = (high & copiedBit) !== 0
    if (this.extended) this.#probeSubclusters(slice.view.getUint32(at + 12), slice.view.getUint32(at + 8), host, within)
    else {
      const zero = (low & 1) !== 0
      if (zero && this.#version === 2) throw this.fault('version 2 has no zero clusters, but there is one')
      this.kind = zero ? runKind.zero : host === 0 ? runKind.backing : runKind.data
      this.runBytes = this.clusterBytes - within
    }
    return true
  }

  #probeSubclusters(allocated: number, zero: number, host: number, within: number): void {
    if ((allocated & zero) !== 0) throw this.fault('a subcluster is both allocated and zero')
    if (allocated !== 0 && host === 0) throw this.fault('a subcluster is allocated in no cluster')
    const first = Math.floor(within / this.subclusterBytes)
    const bit = 1 << first
    let same: number
    if ((allocated & bit) !== 0) {
      this.kind = runKind.data
      same = allocated
    } else if ((zero & bit) !== 0) {
      this.kind = runKind.zero
      same = zero
    } else {
      this.kind = runKind.backing
      same = ~(allocated | zero)
    }
    // The first bit from here on that differs ends the run.
    const others = ~same & (-1 << first)
    const end = others === 0 ? 32 : 31 - Math.clz32(others & -others)
    this.runBytes = end * this.subclusterBytes - within
  }

  /** @throws {OperationError} imageCorrupt */
  #tableOffset(l1Index: number): number {
    const at = l1Index * 8
    const offset = (this.#l1.getUint32(at) & 0x00ffffff) * 2 ** 32 + ((this.#l1.getUint32(at + 4) & ~0x1ff) >>> 0)
    if (offset === 0) return 0
    if (offset % this.clusterBytes !== 0 || offset >= this.hostEnd) {
      throw this.fault(`an L2 table lies at ${offset}`)
    }
    return offset
  }

  #setTable(l1Index: number, offset: number): void {
    this.#l1.setUint32(l1Index * 8, (Math.floor(offset / 2 ** 32) | copiedBit) >>> 0)
    this.#l1.setUint32(l1Index * 8 + 4, offset % 2 ** 32)
    this.#l1Dirty.add(l1Index)
  }

  #sliceOffset(table: number, cluster: number): number {
    const index = cluster % this.#entriesPerTable
    return table + Math.floor(index / this.#entriesPerSlice) * this.#sliceBytes
  }
}
