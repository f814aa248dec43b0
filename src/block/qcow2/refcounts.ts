/**
 * Who is using which cluster of the file (docs/interop/qcow2.rst, "Host cluster management"): a table of blocks of
 * counts, 1 to 64 bits each.
 *
 * Allocation is in memory and at once; what it changed is kept as differences and written by a commit. The order that
 * survives any crash: a count goes up on disk before anything refers to the cluster, and down after nothing does any more.
 * So the worst that a crash leaves is a cluster that is counted and unused.
 */
import { assert } from '../../base/assert.ts'
import type { RandomAccessFile } from '../../ports/file.ts'
import { freeRangesMax } from '../limits.ts'
import { corrupt, headerField, type Qcow2Header, setU64, u64 } from './header.ts'

const pieceBytesMax = 4096
/** The smallest piece that a disk writes whole or not at all. */
const sectorBytes = 512

type FreeRange = { first: number; count: number }
type Released = { readonly offset: number; readonly bytes: number }

export class RefcountStore {
  readonly #file: RandomAccessFile
  readonly #clusterBytes: number
  readonly #countBits: number
  readonly #countsPerBlock: number
  readonly #pieceBytes: number
  readonly #countsPerPiece: number
  /** Offsets of the blocks; 0 or past the end where there is none. Most tables in files have room for far more. */
  readonly #table: number[]
  #tableCapacity: number
  #tableOffset: number
  /** Blocks that the table in the file does not name yet, and a table that the header does not name yet. */
  readonly #unlinked = new Set<number>()
  #movedFrom: Released | undefined
  /** The first cluster that was never used: from here on the file is zeroes. */
  end: number
  readonly #free: FreeRange[] = []
  #differences = new Map<number, number>()
  /** Pieces whose last write failed, as they were before it. */
  readonly #unsure = new Map<number, Uint8Array>()
  #released: Released[] = []

  private constructor(file: RandomAccessFile, header: Qcow2Header, table: Float64Array) {
    this.#file = file
    this.#clusterBytes = 2 ** header.clusterBits
    this.#countBits = 2 ** header.refcountOrder
    this.#countsPerBlock = (this.#clusterBytes * 8) / this.#countBits
    this.#pieceBytes = Math.min(pieceBytesMax, this.#clusterBytes)
    this.#countsPerPiece = (this.#pieceBytes * 8) / this.#countBits
    this.#table = [...table.subarray(0, table.findLastIndex((offset) => offset !== 0) + 1)]
    this.#tableCapacity = table.length
    this.#tableOffset = header.refcountTableOffset
    this.end = Math.ceil(file.sizeBytes() / this.#clusterBytes)
  }

  /** Reads the table and finds the free clusters. @throws {OperationError} imageCorrupt, ioError */
  static async open(file: RandomAccessFile, header: Qcow2Header): Promise<RefcountStore> {
    const table = await readRefcountTable(file, header)
    const store = new RefcountStore(file, header, table)
    await store.#scan(header)
    return store
  }

  get hasDifferences(): boolean {
    return this.#differences.size > 0 || this.#unlinked.size > 0 || this.#movedFrom !== undefined
  }

  get hasReleased(): boolean {
    return this.#released.length > 0
  }

  /** A cluster for data; what it holds is anybody's guess. Counted from now on. */
  allocate(): number {
    const range = this.#free[this.#free.length - 1]
    if (range === undefined) return this.allocateAtEnd(1)
    const cluster = range.first
    range.first++
    range.count--
    if (range.count === 0) this.#free.pop()
    this.#add(cluster, 1)
    return cluster
  }

  /** Clusters in one stretch that were never written: they read as zeroes. */
  allocateAtEnd(count: number): number {
    const first = this.end
    this.end += count
    for (let i = 0; i < count; i++) this.#add(first + i, 1)
    return first
  }

  /** One reference less to every cluster that the bytes touch, once the next commit has made the loss of it durable. */
  release(offset: number, bytes: number): void {
    this.#released.push({ offset, bytes })
  }

  takeReleased(): Released[] {
    const released = this.#released
    this.#released = []
    return released
  }

  restoreReleased(released: readonly Released[]): void {
    this.#released.unshift(...released)
  }

  /** Nothing on disk refers to these any more, and nobody is reading them. */
  countDown(released: readonly Released[]): void {
    for (const { offset, bytes } of released) {
      const last = Math.floor((offset + bytes - 1) / this.#clusterBytes)
      for (let cluster = Math.floor(offset / this.#clusterBytes); cluster <= last; cluster++) this.#add(cluster, -1)
    }
  }

  /**
   * Writes all differences; they are durable with the next sync. Clusters whose count became zero are given back.
   * When it fails, what was not written is kept for the next call.
   * @throws {OperationError} noSpace, ioError, imageCorrupt
   */
  async settle(): Promise<void> {
    const differences = this.#differences
    this.#differences = new Map()
    const freed: number[] = []
    try {
      this.#makeRoom(differences)
      const clusters = [...differences.keys()].sort((a, b) => a - b)
      for (let i = 0; i < clusters.length; ) {
        let next = i + 1
        while (next < clusters.length && this.#pieceOf(clusters[next]) === this.#pieceOf(clusters[i])) next++
        await this.#writePiece(clusters.slice(i, next), differences, freed)
        i = next
      }
      await this.#link()
    } finally {
      for (const [cluster, difference] of differences) this.#add(cluster, difference)
      await this.#giveBack(freed)
    }
  }

  #add(cluster: number, difference: number): void {
    const sum = (this.#differences.get(cluster) ?? 0) + difference
    if (sum === 0) this.#differences.delete(cluster)
    else this.#differences.set(cluster, sum)
  }

  /** Blocks for all counts that change, and a longer table if theirs do not fit; these are counted themselves. */
  #makeRoom(differences: Map<number, number>): void {
    const take = (count: number): number => {
      const first = this.end
      this.end += count
      for (let i = 0; i < count; i++) differences.set(first + i, 1)
      return first * this.#clusterBytes
    }
    // The loop sees what `take` adds while it runs.
    for (const cluster of differences.keys()) {
      const index = Math.floor(cluster / this.#countsPerBlock)
      if (index >= this.#tableCapacity) this.#growTable(index, take)
      if ((this.#table[index] ?? 0) !== 0) continue
      while (this.#table.length < index) this.#table.push(0)
      this.#table[index] = take(1)
      this.#unlinked.add(index)
    }
  }

  #growTable(index: number, take: (count: number) => number): void {
    const entriesPerCluster = this.#clusterBytes / 8
    const clusters = Math.ceil(((index + 1) * 1.5) / entriesPerCluster) + 1
    const left = { offset: this.#tableOffset, bytes: this.#tableCapacity * 8 }
    // A table that has to grow twice before it was written once was never named by anybody.
    if (this.#movedFrom === undefined) this.#movedFrom = left
    else this.release(left.offset, left.bytes)
    this.#tableCapacity = clusters * entriesPerCluster
    this.#tableOffset = take(clusters)
  }

  #pieceOf(cluster: number | undefined): number {
    assert(cluster !== undefined, 'a cluster that changes has a number')
    return Math.floor(cluster / this.#countsPerPiece)
  }

  /** Applies the differences of clusters that share one piece, and takes them off the list. */
  async #writePiece(clusters: readonly number[], differences: Map<number, number>, freed: number[]): Promise<void> {
    const piece = this.#pieceOf(clusters[0])
    const at = this.#pieceAt(piece)
    const before = this.#unsure.get(piece) ?? new Uint8Array(this.#pieceBytes)
    if (!this.#unsure.has(piece)) await this.#file.read(at, before)
    const bytes = before.slice()
    const view = new DataView(bytes.buffer)
    const becameZero: number[] = []
    for (const cluster of clusters) {
      const index = cluster - piece * this.#countsPerPiece
      const count = readCount(view, index, this.#countBits) + (differences.get(cluster) ?? 0)
      if (count < 0 || count > 2 ** Math.min(this.#countBits, 52) - 1) {
        throw corrupt(this.#file.path, `the reference count of cluster ${cluster} would become ${count}`)
      }
      writeCount(view, index, this.#countBits, count)
      if (count === 0) becameZero.push(cluster)
    }
    // A write that fails may have written any part: what differs is added to what was there before it, not twice.
    this.#unsure.set(piece, before)
    await this.#file.write(at, bytes)
    this.#unsure.delete(piece)
    for (const cluster of clusters) differences.delete(cluster)
    freed.push(...becameZero)
  }

  #pieceAt(piece: number): number {
    const block = Math.floor((piece * this.#countsPerPiece) / this.#countsPerBlock)
    const offset = this.#table[block]
    assert(offset !== undefined && offset !== 0, 'a count that changes has a block')
    return offset + ((piece * this.#countsPerPiece - block * this.#countsPerBlock) * this.#countBits) / 8
  }

  /** A block is on stable storage before the table names it, and a table before the header does. */
  async #link(): Promise<void> {
    if (this.#unlinked.size === 0 && this.#movedFrom === undefined) return
    await this.#file.sync()
    if (this.#movedFrom === undefined) {
      const blocks = [...this.#unlinked].map((index) => ({ index, offset: this.#table[index] ?? 0 }))
      await linkBlocks(this.#file, this.#tableOffset, blocks)
      for (const { index } of blocks) this.#unlinked.delete(index)
      return
    }
    const entry = new Uint8Array(16)
    const view = new DataView(entry.buffer)
    const bytes = new Uint8Array(this.#tableCapacity * 8)
    const table = new DataView(bytes.buffer)
    for (const [index, offset] of this.#table.entries()) setU64(table, index * 8, offset)
    await this.#file.write(this.#tableOffset, bytes)
    await this.#file.sync()
    // Offset and length stand side by side in one sector: they change together.
    setU64(view, 0, this.#tableOffset)
    view.setUint32(8, bytes.byteLength / this.#clusterBytes)
    await this.#file.write(headerField.refcountTable, entry.subarray(0, 12))
    this.#unlinked.clear()
    this.release(this.#movedFrom.offset, this.#movedFrom.bytes)
    this.#movedFrom = undefined
  }

  /** Their space goes back to the file system; a file system that cannot is no reason not to use them again. */
  async #giveBack(clusters: readonly number[]): Promise<void> {
    for (let i = 0; i < clusters.length; ) {
      const first = clusters[i] ?? 0
      let count = 1
      while (clusters[i + count] === first + count) count++
      await this.#file.punchHole(first * this.#clusterBytes, count * this.#clusterBytes)
      this.#addFree(first, count)
      i += count
    }
  }

  #addFree(first: number, count: number): void {
    const top = this.#free[this.#free.length - 1]
    if (top !== undefined && top.first + top.count === first) top.count += count
    else if (this.#free.length < freeRangesMax) this.#free.push({ first, count })
  }

  async #scan(header: Qcow2Header): Promise<void> {
    const bytes = new Uint8Array(this.#pieceBytes)
    const view = new DataView(bytes.buffer)
    for (let first = 0; first < this.end; first += this.#countsPerPiece) {
      const block = Math.floor(first / this.#countsPerBlock)
      const last = Math.min(first + this.#countsPerPiece, this.end)
      if ((this.#table[block] ?? 0) === 0) {
        this.#addFree(first, last - first)
        continue
      }
      await this.#file.read(this.#pieceAt(first / this.#countsPerPiece), bytes)
      for (let cluster = first; cluster < last; cluster++) {
        if (readCount(view, cluster - first, this.#countBits) === 0) this.#addFree(cluster, 1)
      }
    }
    // Writing into a file whose own tables count as free would destroy it.
    for (const offset of [0, header.l1Offset, header.refcountTableOffset]) {
      const cluster = offset / this.#clusterBytes
      if (this.#free.some(({ first, count }) => cluster >= first && cluster < first + count)) {
        throw corrupt(this.#file.path, `the table at ${offset} counts as unused`)
      }
    }
  }
}

/**
 * Writes the table's entries for blocks that are on stable storage. A new block lies behind all that it counts, so it is
 * counted itself by a later one or by itself: the last goes first, and is durable before another that it counts. Within a
 * sector the order of the writes is enough.
 * @throws {OperationError} noSpace, ioError
 */
export async function linkBlocks(
  file: RandomAccessFile,
  tableOffset: number,
  blocks: readonly { readonly index: number; readonly offset: number }[],
): Promise<void> {
  const entry = new Uint8Array(8)
  let sector = -1
  for (const { index, offset } of blocks.toSorted((a, b) => b.index - a.index)) {
    const at = tableOffset + index * 8
    if (sector !== -1 && Math.floor(at / sectorBytes) !== sector) await file.sync()
    sector = Math.floor(at / sectorBytes)
    setU64(new DataView(entry.buffer), 0, offset)
    await file.write(at, entry)
  }
}

/** @throws {OperationError} imageCorrupt, ioError */
export async function readRefcountTable(file: RandomAccessFile, header: Qcow2Header): Promise<Float64Array> {
  const clusterBytes = 2 ** header.clusterBits
  const bytes = new Uint8Array(header.refcountTableClusters * clusterBytes)
  const at = header.refcountTableOffset
  if (at < clusterBytes || at % clusterBytes !== 0 || at + bytes.byteLength > file.sizeBytes()) {
    throw corrupt(file.path, `its reference count table lies at ${at}`)
  }
  await file.read(at, bytes)
  const view = new DataView(bytes.buffer)
  const table = new Float64Array(bytes.byteLength / 8)
  for (let i = 0; i < table.length; i++) {
    const offset = u64(view, i * 8)
    if (offset % clusterBytes !== 0 || offset >= file.sizeBytes()) {
      throw corrupt(file.path, `a block of reference counts lies at ${offset}`)
    }
    table[i] = offset
  }
  return table
}

/** Count number `index` of a block. Widths below a byte: bit 0 is the least significant. */
export function readCount(view: DataView, index: number, bits: number): number {
  switch (bits) {
    case 64:
      return u64(view, index * 8)
    case 32:
      return view.getUint32(index * 4)
    case 16:
      return view.getUint16(index * 2)
    case 8:
      return view.getUint8(index)
    default:
      return (view.getUint8((index * bits) >>> 3) >>> ((index * bits) & 7)) & (2 ** bits - 1)
  }
}

export function writeCount(view: DataView, index: number, bits: number, count: number): void {
  switch (bits) {
    case 64:
      setU64(view, index * 8, count)
      break
    case 32:
      view.setUint32(index * 4, count)
      break
    case 16:
      view.setUint16(index * 2, count)
      break
    case 8:
      view.setUint8(index, count)
      break
    default: {
      const at = (index * bits) >>> 3
      const shift = (index * bits) & 7
      const mask = (2 ** bits - 1) << shift
      view.setUint8(at, (view.getUint8(at) & ~mask) | (count << shift))
    }
  }
}
