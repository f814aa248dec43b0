/**
 * qcow2 images of kinds that Slipway reads and writes into but does not make: compressed clusters, internal snapshots,
 * version 2, counts of other widths. Made as the specification says, not by the code that is tested:
 *
 *   header | table of counts | blocks of counts | L1 | snapshot's L1 | snapshots | L2 tables | clusters | packed clusters
 */
import { assert } from '../../base/assert.ts'

export type HandmadeCluster =
  | { readonly kind: 'hole' | 'zero' }
  | { readonly kind: 'data'; readonly bytes: Uint8Array }
  | { readonly kind: 'packed'; readonly bytes: Uint8Array }

export type HandmadeImage = {
  readonly sizeBytes: number
  readonly clusterBits: number
  readonly version: 2 | 3
  readonly extendedL2?: boolean
  /** A count has 1 << this bits; 4 in version 2. */
  readonly refcountOrder?: number
  readonly compression?: 'deflate' | 'zstd'
  readonly backingName?: string
  /** Id and name '1' of a snapshot that shows the same as the disk. */
  readonly hasSnapshot?: boolean
  /** One for each cluster of the disk. */
  readonly clusters: readonly HandmadeCluster[]
}

/** The whole file. */
export function makeImage(image: HandmadeImage): Uint8Array {
  const layout = layOut(image)
  const file = new Uint8Array(layout.fileBytes)
  const view = new DataView(file.buffer)
  putHeader(view, image, layout)
  const references = image.hasSnapshot === true ? 2 : 1
  const counts = new Map<number, number>()
  const count = (offset: number, bytes: number, times: number): void => {
    const last = Math.floor((offset + bytes - 1) / layout.clusterBytes)
    for (let i = Math.floor(offset / layout.clusterBytes); i <= last; i++) counts.set(i, (counts.get(i) ?? 0) + times)
  }
  count(0, layout.l2Offset, 1)
  for (let table = 0; table < layout.l2Tables; table++) {
    const offset = layout.l2Offset + table * layout.clusterBytes
    count(offset, layout.clusterBytes, references)
    putEntry(view, layout.l1Offset + table * 8, offset, references === 1)
    if (references === 2) putEntry(view, layout.snapshotL1Offset + table * 8, offset, false)
  }
  for (const [index, cluster] of image.clusters.entries()) {
    const at = layout.l2Offset + index * layout.entryBytes
    const offset = layout.offsets[index] ?? 0
    const extended = image.extendedL2 === true
    if (cluster.kind === 'zero') view.setUint32(at + (extended ? 8 : 4), extended ? 0xffffffff : 1)
    if (cluster.kind !== 'data' && cluster.kind !== 'packed') continue
    file.set(cluster.bytes, offset)
    if (cluster.kind === 'data') {
      count(offset, layout.clusterBytes, references)
      putEntry(view, at, offset, references === 1)
      if (extended) view.setUint32(at + 12, 0xffffffff)
    } else {
      const start = offset - (offset % 512)
      const sectors = Math.ceil((offset + cluster.bytes.byteLength - start) / 512)
      count(start, Math.min(sectors * 512, layout.fileBytes - start), references)
      const split = 62 - (image.clusterBits - 8) - 32
      view.setUint32(at, (0x40000000 | ((sectors - 1) << split) | Math.floor(offset / 2 ** 32)) >>> 0)
      view.setUint32(at + 4, offset % 2 ** 32)
    }
  }
  if (references === 2) putSnapshot(view, image, layout)
  putCounts(file, image, layout, counts)
  return file
}

type Layout = {
  readonly clusterBytes: number
  readonly entryBytes: number
  readonly countBlocks: number
  readonly l1Offset: number
  readonly snapshotL1Offset: number
  readonly snapshotsOffset: number
  readonly l2Offset: number
  readonly l2Tables: number
  readonly offsets: readonly number[]
  readonly fileBytes: number
}

function layOut(image: HandmadeImage): Layout {
  const clusterBytes = 2 ** image.clusterBits
  const entryBytes = image.extendedL2 === true ? 16 : 8
  const l2Tables = Math.ceil((image.clusters.length * entryBytes) / clusterBytes)
  const tablesBytes = l2Tables * clusterBytes
  const l1Bytes = Math.ceil((l2Tables * 8) / clusterBytes) * clusterBytes
  const dataBytes = image.clusters.reduce((sum, { kind }) => sum + (kind === 'data' ? clusterBytes : 0), 0)
  const packedBytes = image.clusters.reduce(
    (sum, piece) => sum + (piece.kind === 'packed' ? piece.bytes.byteLength : 0),
    0,
  )
  const snapshotBytes = image.hasSnapshot === true ? l1Bytes + clusterBytes : 0
  const restBytes = l1Bytes + snapshotBytes + tablesBytes + dataBytes + packedBytes
  const countsPerBlock = (clusterBytes * 8) / 2 ** (image.refcountOrder ?? 4)
  let countBlocks = 1
  while (countBlocks * countsPerBlock < 2 + countBlocks + Math.ceil(restBytes / clusterBytes)) countBlocks++
  assert(countBlocks * 8 <= clusterBytes, 'a table of counts of one cluster is enough')
  const l1Offset = (2 + countBlocks) * clusterBytes
  const l2Offset = l1Offset + l1Bytes + snapshotBytes
  let dataAt = l2Offset + tablesBytes
  let packedAt = dataAt + dataBytes
  const offsets = image.clusters.map((cluster) => {
    const offset = cluster.kind === 'data' ? dataAt : cluster.kind === 'packed' ? packedAt : 0
    if (cluster.kind === 'data') dataAt += clusterBytes
    if (cluster.kind === 'packed') packedAt += cluster.bytes.byteLength
    return offset
  })
  return {
    clusterBytes,
    entryBytes,
    countBlocks,
    l1Offset,
    snapshotL1Offset: l1Offset + l1Bytes,
    snapshotsOffset: l1Offset + 2 * l1Bytes,
    l2Offset,
    l2Tables,
    offsets,
    fileBytes: packedAt,
  }
}

function putHeader(view: DataView, image: HandmadeImage, layout: Layout): void {
  const { version, clusterBits, refcountOrder = 4, extendedL2 = false, compression = 'deflate' } = image
  view.setUint32(0, 0x514649fb)
  view.setUint32(4, version)
  view.setUint32(20, clusterBits)
  putEntry(view, 24, image.sizeBytes, false)
  view.setUint32(36, layout.l2Tables)
  putEntry(view, 40, layout.l1Offset, false)
  putEntry(view, 48, layout.clusterBytes, false)
  view.setUint32(56, 1)
  if (image.hasSnapshot === true) {
    view.setUint32(60, 1)
    putEntry(view, 64, layout.snapshotsOffset, false)
  }
  if (image.backingName !== undefined) {
    const name = new TextEncoder().encode(image.backingName)
    putEntry(view, 8, 128, false)
    view.setUint32(16, name.byteLength)
    new Uint8Array(view.buffer).set(name, 128)
  }
  if (version === 2) return
  view.setUint32(76, (extendedL2 ? 16 : 0) | (compression === 'zstd' ? 8 : 0))
  view.setUint32(96, refcountOrder)
  view.setUint32(100, 112)
  view.setUint8(104, compression === 'zstd' ? 1 : 0)
}

function putSnapshot(view: DataView, image: HandmadeImage, layout: Layout): void {
  const at = layout.snapshotsOffset
  putEntry(view, at, layout.snapshotL1Offset, false)
  view.setUint32(at + 8, layout.l2Tables)
  view.setUint16(at + 12, 1)
  view.setUint16(at + 14, 1)
  view.setUint32(at + 36, 16)
  putEntry(view, at + 48, image.sizeBytes, false)
  view.setUint16(at + 56, 0x3131)
}

function putCounts(file: Uint8Array, image: HandmadeImage, layout: Layout, counts: ReadonlyMap<number, number>): void {
  const bits = 2 ** (image.refcountOrder ?? 4)
  const view = new DataView(file.buffer)
  const start = 2 * layout.clusterBytes
  for (let block = 0; block < layout.countBlocks; block++) {
    putEntry(view, layout.clusterBytes + block * 8, start + block * layout.clusterBytes, false)
  }
  for (const [cluster, count] of counts) {
    assert(count < 2 ** bits, 'a count has room')
    // Big-endian from 8 bits on, so the low byte is the last; below that the low bits come first.
    const at = start + Math.floor((cluster * bits) / 8)
    if (bits >= 8) for (let i = bits / 8 - 1, rest = count; rest > 0; i--, rest >>>= 8) file[at + i] = rest & 0xff
    else file[at] = (file[at] ?? 0) | (count << ((cluster * bits) % 8))
  }
}

/** Eight bytes, big-endian; the top bit says that nobody else refers to it. */
function putEntry(view: DataView, at: number, offset: number, isOnly: boolean): void {
  view.setUint32(at, (Math.floor(offset / 2 ** 32) | (isOnly ? 0x80000000 : 0)) >>> 0)
  view.setUint32(at + 4, offset % 2 ** 32)
}
