/**
 * Is every cluster counted as often as it is used? Walks all tables of an image, counts, and compares with the counts
 * in the file; on request makes those right. This is what QEMU does with an image that has the dirty bit.
 */
import { OperationError } from '../../base/errors.ts'
import type { RandomAccessFile } from '../../ports/file.ts'
import { checkedClustersMax, describedFaultsMax } from '../limits.ts'
import { corrupt, headerField, incompatible, type Qcow2Header } from './header.ts'
import { linkBlocks, readCount, readRefcountTable, writeCount } from './refcounts.ts'
import { readSnapshots } from './snapshots.ts'

export type CheckReport = {
  /** Counted too low, referred to where nothing can be, or not as it must be: data is in danger. */
  readonly errorCount: number
  /** Counted and not used: only space is lost. */
  readonly leakCount: number
  /** The first few, in words. */
  readonly faults: readonly string[]
}

/** Reads only. @throws {OperationError} imageCorrupt, ioError */
export async function checkQcow2(file: RandomAccessFile, header: Qcow2Header): Promise<CheckReport> {
  const checker = new Checker(file, header)
  await checker.countAll()
  await checker.compare()
  return checker.report
}

/**
 * Makes the counts right, drops what lies behind the last used cluster, and takes the dirty bit away, durably and in an
 * order that may be interrupted: until the end the bit says that it must be done again.
 * @throws {OperationError} imageCorrupt, imageUnsupported, noSpace, ioError
 */
export async function repairRefcounts(file: RandomAccessFile, header: Qcow2Header): Promise<void> {
  if (header.hasBitmaps) {
    throw new OperationError(
      'imageUnsupported',
      `${file.path} was not closed cleanly and has bitmaps`,
      'Repair it first: qemu-img check -r all FILE.',
    )
  }
  const checker = new Checker(file, header)
  await checker.countAll()
  if (checker.report.errorCount > 0) throw corrupt(file.path, checker.report.faults[0] ?? 'its tables are wrong')
  await checker.rewrite()
}

/** Counts in pages: an image may claim to be far larger than anything it refers to. */
const pageCounts = 65_536
/** The smallest piece that a disk writes whole or not at all. */
const sectorBytes = 512

class Checker {
  readonly #file: RandomAccessFile
  readonly #header: Qcow2Header
  readonly #clusterBytes: number
  readonly #clusters: number
  readonly #pages = new Map<number, Uint32Array>()
  /** The page that was asked for last: counts are compared in order. */
  #lastIndex = -1
  #lastPage: Uint32Array | undefined
  readonly #faults: string[] = []
  #errorCount = 0
  #leakCount = 0
  #table: Float64Array = new Float64Array(0)

  constructor(file: RandomAccessFile, header: Qcow2Header) {
    this.#file = file
    this.#header = header
    this.#clusterBytes = 2 ** header.clusterBits
    this.#clusters = Math.ceil(file.sizeBytes() / this.#clusterBytes)
    if (this.#clusters > checkedClustersMax) throw corrupt(file.path, `it has ${this.#clusters} clusters`)
  }

  get report(): CheckReport {
    return { errorCount: this.#errorCount, leakCount: this.#leakCount, faults: this.#faults }
  }

  async countAll(): Promise<void> {
    const header = this.#header
    this.#count(0, this.#clusterBytes, 'the header')
    this.#count(header.refcountTableOffset, header.refcountTableClusters * this.#clusterBytes, 'the count table')
    this.#table = await readRefcountTable(this.#file, header)
    for (const block of this.#table) if (block !== 0) this.#count(block, this.#clusterBytes, 'a block of counts')
    await this.#countMap(header.l1Offset, header.l1Entries, true)
    const { snapshots, tableBytes } = await readSnapshots(this.#file, header)
    if (tableBytes > 0) this.#count(header.snapshotsOffset, tableBytes, 'the snapshot table')
    for (const { l1Offset, l1Entries } of snapshots) await this.#countMap(l1Offset, l1Entries, false)
  }

  async compare(): Promise<void> {
    const bits = 2 ** this.#header.refcountOrder
    const perBlock = (this.#clusterBytes * 8) / bits
    const bytes = new Uint8Array(this.#clusterBytes)
    const view = new DataView(bytes.buffer)
    const blocks = Math.max(Math.ceil(this.#clusters / perBlock), this.#table.length)
    for (let block = 0; block < blocks; block++) {
      const offset = this.#table[block] ?? 0
      if (offset !== 0) await this.#file.read(offset, bytes)
      else if (block * perBlock < this.#clusters) bytes.fill(0)
      else continue
      for (let i = 0; i < perBlock; i++) {
        const cluster = block * perBlock + i
        const counted = readCount(view, i, bits)
        const used = cluster < this.#clusters ? this.#usedCount(cluster) : 0
        if (counted < used) this.#fault(`cluster ${cluster} is used ${used} times and counted ${counted}`)
        else if (counted > used) this.#leakCount++
      }
    }
    await this.#checkCopied()
  }

  async rewrite(): Promise<void> {
    const header = this.#header
    const bits = 2 ** header.refcountOrder
    const perBlock = (this.#clusterBytes * 8) / bits
    let end = this.#lastUsed() + 1
    // Blocks that are missing go behind everything; a table that has no room for them is beyond this repair.
    const added: number[] = []
    for (let block = 0; block * perBlock < end; block++) {
      if ((this.#table[block] ?? 0) !== 0) continue
      if (block >= this.#table.length) throw corrupt(this.#file.path, 'its count table is too short')
      this.#table[block] = end * this.#clusterBytes
      this.#clusterUsed(end)
      added.push(block)
      end++
    }
    const bytes = new Uint8Array(this.#clusterBytes)
    const view = new DataView(bytes.buffer)
    for (const [block, offset] of this.#table.entries()) {
      if (offset === 0) continue
      if (added.includes(block)) bytes.fill(0)
      else await this.#file.read(offset, bytes)
      // Only the sectors that differ are written: a repair must be possible on a disk that is full.
      const changed = new Set<number>()
      for (let i = 0; i < perBlock; i++) {
        const used = this.#usedCount(block * perBlock + i)
        if (readCount(view, i, bits) === used) continue
        if (used > 2 ** Math.min(bits, 52) - 1) throw corrupt(this.#file.path, 'a cluster is used too often')
        writeCount(view, i, bits, used)
        changed.add(Math.floor((i * bits) / 8 / sectorBytes))
      }
      if (added.includes(block)) await this.#file.write(offset, bytes)
      else {
        for (const sector of changed) {
          const at = sector * sectorBytes
          await this.#file.write(offset + at, bytes.subarray(at, at + sectorBytes))
        }
      }
    }
    await this.#file.truncate(end * this.#clusterBytes)
    await this.#file.sync()
    const blocks = added.map((index) => ({ index, offset: this.#table[index] ?? 0 }))
    await linkBlocks(this.#file, header.refcountTableOffset, blocks)
    await this.#file.sync()
    const features = new Uint8Array(4)
    new DataView(features.buffer).setUint32(0, header.incompatibleLow & ~incompatible.dirty)
    await this.#file.write(headerField.incompatibleFeatures + 4, features)
    await this.#file.sync()
  }

  async #countMap(l1Offset: number, l1Entries: number, isActive: boolean): Promise<void> {
    if (l1Entries === 0) return
    this.#count(l1Offset, l1Entries * 8, isActive ? 'the L1 table' : "a snapshot's L1 table")
    const l1 = new Uint8Array(l1Entries * 8)
    await this.#file.read(l1Offset, l1)
    const view = new DataView(l1.buffer)
    const table = new Uint8Array(this.#clusterBytes)
    // A table named twice would be walked as often as a hostile L1 table names it.
    const seen = new Set<number>()
    for (let i = 0; i < l1Entries; i++) {
      const offset = this.#tableAt(view, i)
      if (offset === 0 || !this.#count(offset, this.#clusterBytes, 'an L2 table')) continue
      if (seen.has(offset)) {
        this.#fault(`the L2 table at ${offset} is named twice`)
        continue
      }
      seen.add(offset)
      await this.#file.read(offset, table)
      this.#countTable(new DataView(table.buffer))
    }
  }

  #tableAt(l1: DataView, index: number): number {
    return (l1.getUint32(index * 8) & 0x00ffffff) * 2 ** 32 + ((l1.getUint32(index * 8 + 4) & ~0x1ff) >>> 0)
  }

  #countTable(table: DataView): void {
    const entryBytes = this.#header.extendedL2 ? 16 : 8
    for (let at = 0; at < this.#clusterBytes; at += entryBytes) {
      const high = table.getUint32(at)
      const low = table.getUint32(at + 4)
      if ((high | low) === 0) continue
      if ((high & 0x40000000) !== 0) this.#countCompressed(high, low)
      else {
        const offset = hostOf(high, low)
        if (offset !== 0) this.#count(offset, this.#clusterBytes, 'a cluster')
      }
    }
  }

  #countCompressed(high: number, low: number): void {
    const split = 62 - (this.#header.clusterBits - 8) - 32
    const offset = (high & (2 ** split - 1)) * 2 ** 32 + low
    const sectors = ((high & 0x3fffffff) >>> split) + 1
    const start = Math.floor(offset / 512) * 512
    // The last sectors may be named and lie behind the end of the file; they are counted as far as it goes.
    const end = Math.min(start + sectors * 512, this.#clusters * this.#clusterBytes)
    if (offset >= end) this.#fault(`compressed data at ${offset} lies behind the end of the file`)
    else this.#countClusters(Math.floor(start / this.#clusterBytes), Math.floor((end - 1) / this.#clusterBytes))
  }

  #count(offset: number, bytes: number, what: string): boolean {
    const first = offset / this.#clusterBytes
    const last = Math.floor((offset + bytes - 1) / this.#clusterBytes)
    if (!Number.isInteger(first) || last >= this.#clusters) {
      this.#fault(`${what} at ${offset} is not aligned or lies behind the end of the file`)
      return false
    }
    this.#countClusters(first, last)
    return true
  }

  #countClusters(first: number, last: number): void {
    for (let cluster = first; cluster <= last; cluster++) this.#clusterUsed(cluster)
  }

  #clusterUsed(cluster: number): void {
    const index = Math.floor(cluster / pageCounts)
    let page = this.#pages.get(index)
    if (page === undefined) {
      page = new Uint32Array(pageCounts)
      this.#pages.set(index, page)
      this.#lastIndex = -1
    }
    page[cluster % pageCounts] = (page[cluster % pageCounts] ?? 0) + 1
  }

  #usedCount(cluster: number): number {
    const index = Math.floor(cluster / pageCounts)
    if (index !== this.#lastIndex) {
      this.#lastIndex = index
      this.#lastPage = this.#pages.get(index)
    }
    return this.#lastPage?.[cluster % pageCounts] ?? 0
  }

  #lastUsed(): number {
    let last = 0
    for (const [index, page] of this.#pages) {
      const within = page.findLastIndex((count) => count > 0)
      if (within !== -1) last = Math.max(last, index * pageCounts + within)
    }
    return last
  }

  /** COPIED promises that a write in place hurts nobody; it must stand where, and only where, a cluster is used once. */
  async #checkCopied(): Promise<void> {
    const l1 = new Uint8Array(this.#header.l1Entries * 8)
    await this.#file.read(this.#header.l1Offset, l1)
    const view = new DataView(l1.buffer)
    const bytes = new Uint8Array(this.#clusterBytes)
    const table = new DataView(bytes.buffer)
    const entryBytes = this.#header.extendedL2 ? 16 : 8
    for (let i = 0; i < this.#header.l1Entries; i++) {
      const offset = this.#tableAt(view, i)
      if (offset === 0 || offset >= this.#clusters * this.#clusterBytes) continue
      this.#checkFlag(view.getUint32(i * 8), offset, 'L2 table')
      await this.#file.read(offset, bytes)
      for (let at = 0; at < this.#clusterBytes; at += entryBytes) {
        const high = table.getUint32(at)
        const host = hostOf(high, table.getUint32(at + 4))
        if ((high & 0x40000000) === 0 && host !== 0) this.#checkFlag(high, host, 'cluster')
        if (entryBytes === 16 && (high & 0x40000000) === 0) this.#checkSubclusters(table, at, host)
      }
    }
  }

  #checkSubclusters(table: DataView, at: number, host: number): void {
    const allocated = table.getUint32(at + 12)
    if ((allocated & table.getUint32(at + 8)) !== 0) this.#fault('a subcluster is both allocated and zero')
    if (allocated !== 0 && host === 0) this.#fault('a subcluster is allocated in no cluster')
  }

  #checkFlag(high: number, offset: number, what: string): void {
    const isCopied = high >>> 31 === 1
    const isOnly = this.#usedCount(offset / this.#clusterBytes) === 1
    if (isCopied !== isOnly) this.#fault(`the ${what} at ${offset} is ${isOnly ? 'not ' : ''}marked as used once`)
  }

  #fault(words: string): void {
    this.#errorCount++
    if (this.#faults.length < describedFaultsMax) this.#faults.push(words)
  }
}

function hostOf(high: number, low: number): number {
  return (high & 0x00ffffff) * 2 ** 32 + ((low & ~0x1ff) >>> 0)
}
