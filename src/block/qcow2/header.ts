/**
 * The header of a qcow2 image (QEMU docs/interop/qcow2.rst, "Header"). All numbers are big-endian. Every one of them is
 * hostile until checked here: what `decodeHeader` returns lies inside the file and inside the limits.
 *
 *     0 magic "QFI\xfb"          4 version             8 backing_file_offset   16 backing_file_size
 *    20 cluster_bits            24 size               32 crypt_method          36 l1_size
 *    40 l1_table_offset         48 refcount_table_offset                       56 refcount_table_clusters
 *    60 nb_snapshots            64 snapshots_offset
 *   version 3: 72 incompatible  80 compatible  88 autoclear  96 refcount_order  100 header_length  104 compression_type
 */
import { OperationError } from '../../base/errors.ts'
import {
  backingNameBytesMax,
  clusterBitsMax,
  l1BytesMax,
  qcow2SizeBytesMax,
  refcountTableBytesMax,
  snapshotsMax,
} from '../limits.ts'

export const headerField = {
  incompatibleFeatures: 72,
  autoclearFeatures: 88,
  refcountTable: 48,
} as const

/** Bits of incompatible_features; all are in its low word. */
export const incompatible = { dirty: 1, corrupt: 2, externalData: 4, compressionType: 8, extendedL2: 16 } as const
const incompatibleKnown = 0x1f

const extension = { end: 0, backingFormat: 0xe2792aca, featureNames: 0x6803f857, bitmaps: 0x23852875 } as const

export type Qcow2Header = {
  readonly version: 2 | 3
  readonly clusterBits: number
  /** Size of the disk as it stands there; may be no multiple of 512. */
  readonly sizeBytes: number
  readonly l1Offset: number
  readonly l1Entries: number
  readonly refcountTableOffset: number
  readonly refcountTableClusters: number
  /** Width of a reference count is 1 << refcountOrder bits. */
  readonly refcountOrder: number
  readonly snapshotCount: number
  readonly snapshotsOffset: number
  readonly dirty: boolean
  readonly corrupt: boolean
  readonly extendedL2: boolean
  /** The low word of incompatible_features, to write it back with a bit changed. */
  readonly incompatibleLow: number
  readonly hasAutoclear: boolean
  readonly hasBitmaps: boolean
  readonly compression: 'deflate' | 'zstd'
  readonly backing: BackingReference | undefined
}

/** As the header has it: nothing of it is trusted to be a path. */
export type BackingReference = { readonly name: string; readonly format: string | undefined }

export function isQcow2(firstBytes: Uint8Array): boolean {
  return firstBytes[0] === 0x51 && firstBytes[1] === 0x46 && firstBytes[2] === 0x49 && firstBytes[3] === 0xfb
}

/**
 * @param bytes the start of the file: its first cluster, or all there is of it
 * @throws {OperationError} imageNotQcow2, imageUnsupported, imageCorrupt
 */
export function decodeHeader(path: string, bytes: Uint8Array, fileBytes: number): Qcow2Header {
  const bad = (what: string): OperationError => corrupt(path, what)
  if (bytes.byteLength < 72 || !isQcow2(bytes)) {
    throw new OperationError(
      'imageNotQcow2',
      `${path} is no qcow2 image`,
      'If it is a raw image, say so: --format raw.',
    )
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const version = view.getUint32(4)
  if (version !== 2 && version !== 3)
    throw unsupported(path, `qcow2 version ${version}`, 'qemu-img amend -o compat=1.1')
  if (version === 3 && bytes.byteLength < 104) throw bad('its header is cut off')

  const clusterBits = view.getUint32(20)
  if (clusterBits < 9 || clusterBits > clusterBitsMax) throw bad(`cluster_bits is ${clusterBits}`)
  const clusterBytes = 2 ** clusterBits
  const firstCluster = bytes.subarray(0, Math.min(bytes.byteLength, clusterBytes))

  const sizeBytes = u64(view, 24)
  if (sizeBytes === 0 || sizeBytes > qcow2SizeBytesMax) throw bad(`its disk has ${sizeBytes} bytes`)
  const cryptMethod = view.getUint32(32)
  if (cryptMethod !== 0)
    throw unsupported(path, 'an encrypted image', 'qemu-img convert, with the secret, to a plain one')

  const features = version === 3 ? decodeFeatures(path, view, firstCluster) : featuresOfVersion2
  if (features.extendedL2 && clusterBits < 14) throw bad('extended L2 entries need clusters of 16 KiB or more')

  // A table lies on a cluster boundary, behind the header, and in the file.
  const checkTable = (name: string, offset: number, tableBytes: number, bytesMax: number): void => {
    if (tableBytes > bytesMax) throw bad(`its ${name} has ${tableBytes} bytes`)
    if (tableBytes === 0) return
    if (offset < clusterBytes || offset % clusterBytes !== 0) throw bad(`its ${name} lies at ${offset}`)
    if (offset + tableBytes > fileBytes) throw bad(`its ${name} ends behind the end of the file`)
  }
  const l1Entries = view.getUint32(36)
  const l1Offset = u64(view, 40)
  checkTable('L1 table', l1Offset, l1Entries * 8, l1BytesMax)
  const entryBytes = features.extendedL2 ? 16 : 8
  const bytesPerTable = (clusterBytes / entryBytes) * clusterBytes
  if (l1Entries < Math.ceil(sizeBytes / bytesPerTable)) throw bad('its L1 table is too small for its disk')

  const refcountTableOffset = u64(view, 48)
  const refcountTableClusters = view.getUint32(56)
  if (refcountTableClusters * clusterBytes > refcountTableBytesMax) throw bad('its reference count table is too big')
  const snapshotCount = view.getUint32(60)
  const snapshotsOffset = u64(view, 64)
  if (snapshotCount > snapshotsMax) throw bad(`it claims ${snapshotCount} snapshots`)
  // 40 bytes is the least a snapshot takes; the table is checked entry by entry when it is read.
  checkTable('snapshot table', snapshotsOffset, snapshotCount * 40, snapshotsMax * 40)

  return {
    version,
    clusterBits,
    sizeBytes,
    l1Offset,
    l1Entries,
    refcountTableOffset,
    refcountTableClusters,
    snapshotCount,
    snapshotsOffset,
    ...features,
    ...decodeBacking(path, view, firstCluster, features),
  }
}

type Features = Pick<
  Qcow2Header,
  | 'refcountOrder'
  | 'dirty'
  | 'corrupt'
  | 'extendedL2'
  | 'incompatibleLow'
  | 'hasAutoclear'
  | 'hasBitmaps'
  | 'compression'
> & { readonly headerBytes: number; readonly backingFormat: string | undefined }

const featuresOfVersion2: Features = {
  refcountOrder: 4,
  dirty: false,
  corrupt: false,
  extendedL2: false,
  incompatibleLow: 0,
  hasAutoclear: false,
  hasBitmaps: false,
  compression: 'deflate',
  headerBytes: 72,
  backingFormat: undefined,
}

function decodeFeatures(path: string, view: DataView, firstCluster: Uint8Array): Features {
  const headerBytes = view.getUint32(100)
  if (headerBytes < 104 || headerBytes % 8 !== 0 || headerBytes > firstCluster.byteLength) {
    throw corrupt(path, `header_length is ${headerBytes}`)
  }
  const extensions = decodeExtensions(path, view, firstCluster, headerBytes)
  const low = view.getUint32(headerField.incompatibleFeatures + 4)
  const high = view.getUint32(headerField.incompatibleFeatures)
  if ((low & incompatible.externalData) !== 0) {
    throw unsupported(path, 'an external data file', 'qemu-img convert -O qcow2')
  }
  if (high !== 0 || (low & ~incompatibleKnown) !== 0) {
    const bit = high === 0 ? 31 - Math.clz32(low & ~incompatibleKnown) : 63 - Math.clz32(high)
    const name = extensions.featureNames.get(bit) ?? `incompatible feature bit ${bit}`
    throw unsupported(path, name, 'qemu-img convert -O qcow2')
  }
  const compressionType = headerBytes > 104 ? view.getUint8(104) : 0
  const hasType = (low & incompatible.compressionType) !== 0
  if (hasType !== (compressionType !== 0)) throw corrupt(path, 'compression_type and its feature bit disagree')
  if (compressionType > 1) throw unsupported(path, `compression type ${compressionType}`, 'qemu-img convert -O qcow2')
  const refcountOrder = view.getUint32(96)
  if (refcountOrder > 6) throw corrupt(path, `refcount_order is ${refcountOrder}`)
  const autoclear = headerField.autoclearFeatures
  return {
    refcountOrder,
    dirty: (low & incompatible.dirty) !== 0,
    corrupt: (low & incompatible.corrupt) !== 0,
    extendedL2: (low & incompatible.extendedL2) !== 0,
    incompatibleLow: low,
    hasAutoclear: view.getUint32(autoclear) !== 0 || view.getUint32(autoclear + 4) !== 0,
    hasBitmaps: extensions.hasBitmaps,
    compression: compressionType === 1 ? 'zstd' : 'deflate',
    headerBytes,
    backingFormat: extensions.backingFormat,
  }
}

type Extensions = {
  readonly backingFormat: string | undefined
  readonly hasBitmaps: boolean
  readonly featureNames: ReadonlyMap<number, string>
}

/** "Header extensions": type, length, data, padding to 8 bytes; up to a zero type or the end of the first cluster. */
function decodeExtensions(path: string, view: DataView, firstCluster: Uint8Array, headerBytes: number): Extensions {
  let backingFormat: string | undefined
  let hasBitmaps = false
  const featureNames = new Map<number, string>()
  const nameOffset = u64(view, 8)
  const end = nameOffset > 0 ? Math.min(nameOffset, firstCluster.byteLength) : firstCluster.byteLength
  for (let at = headerBytes; at + 8 <= end; ) {
    const type = view.getUint32(at)
    const bytes = view.getUint32(at + 4)
    if (type === extension.end) break
    const data = at + 8
    if (data + bytes > end) throw corrupt(path, 'a header extension runs over the first cluster')
    if (type === extension.backingFormat) backingFormat = textOf(firstCluster.subarray(data, data + bytes))
    if (type === extension.bitmaps) hasBitmaps = true
    if (type === extension.featureNames) {
      // Byte 0: kind of feature (0 incompatible), 1: its bit, 2 to 47: the name.
      for (let entry = data; entry + 48 <= data + bytes; entry += 48) {
        const name = textOf(firstCluster.subarray(entry + 2, entry + 48))
        if (firstCluster[entry] === 0) featureNames.set(firstCluster[entry + 1] ?? 0, name)
      }
    }
    at = data + Math.ceil(bytes / 8) * 8
  }
  return { backingFormat, hasBitmaps, featureNames }
}

function decodeBacking(
  path: string,
  view: DataView,
  firstCluster: Uint8Array,
  features: Features,
): Pick<Qcow2Header, 'backing'> {
  const offset = u64(view, 8)
  if (offset === 0) return { backing: undefined }
  const bytes = view.getUint32(16)
  if (bytes === 0 || bytes > backingNameBytesMax) throw corrupt(path, `its backing file's name has ${bytes} bytes`)
  if (offset < features.headerBytes || offset + bytes > firstCluster.byteLength) {
    throw corrupt(path, "its backing file's name lies outside the header")
  }
  // Version 2 has no extensions by its specification, but QEMU reads and writes them there too.
  const format =
    features.backingFormat ?? decodeExtensions(path, view, firstCluster, features.headerBytes).backingFormat
  return { backing: { name: textOf(firstCluster.subarray(offset, offset + bytes)), format } }
}

export type NewHeader = {
  readonly clusterBits: number
  readonly sizeBytes: number
  readonly l1Offset: number
  readonly l1Entries: number
  readonly refcountTableOffset: number
  readonly refcountTableClusters: number
  readonly extendedL2: boolean
  readonly backing: { readonly name: string; readonly format: string } | undefined
}

/** A version 3 header with 16-bit reference counts, as createClone writes it. @throws {OperationError} nameTooLong */
export function encodeHeader(header: NewHeader): Uint8Array {
  const name = new TextEncoder().encode(header.backing?.name ?? '')
  const format = new TextEncoder().encode(header.backing?.format ?? '')
  if (name.byteLength > backingNameBytesMax) {
    throw new OperationError('nameTooLong', 'the name of the golden image is too long', 'Move it to a shorter path.')
  }
  const headerBytes = 112
  const formatBytes = header.backing === undefined ? 0 : 8 + Math.ceil(format.byteLength / 8) * 8
  const nameOffset = headerBytes + formatBytes + 8
  const bytes = new Uint8Array(nameOffset + name.byteLength)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, 0x514649fb)
  view.setUint32(4, 3)
  setU64(view, 8, header.backing === undefined ? 0 : nameOffset)
  view.setUint32(16, name.byteLength)
  view.setUint32(20, header.clusterBits)
  setU64(view, 24, header.sizeBytes)
  view.setUint32(36, header.l1Entries)
  setU64(view, 40, header.l1Offset)
  setU64(view, 48, header.refcountTableOffset)
  view.setUint32(56, header.refcountTableClusters)
  view.setUint32(headerField.incompatibleFeatures + 4, header.extendedL2 ? incompatible.extendedL2 : 0)
  view.setUint32(96, 4)
  view.setUint32(100, headerBytes)
  if (header.backing !== undefined) {
    view.setUint32(headerBytes, extension.backingFormat)
    view.setUint32(headerBytes + 4, format.byteLength)
    bytes.set(format, headerBytes + 8)
    bytes.set(name, nameOffset)
  }
  return bytes
}

/** Past 2^53 it is not exact, and that is far outside every file: comparisons with a file's size still say so. */
export function u64(view: DataView, at: number): number {
  return view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4)
}

export function setU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / 2 ** 32))
  view.setUint32(at + 4, value % 2 ** 32)
}

export function corrupt(path: string, what: string): OperationError {
  return new OperationError(
    'imageCorrupt',
    `${path} is damaged: ${what}`,
    'Look at it with: qemu-img check FILE. Fetch it again, or restore it.',
  )
}

function unsupported(path: string, what: string, remedy: string): OperationError {
  return new OperationError('imageUnsupported', `${path} uses ${what}, which is not supported`, `Try: ${remedy}.`)
}

function textOf(bytes: Uint8Array): string {
  const end = bytes.indexOf(0)
  return new TextDecoder().decode(end === -1 ? bytes : bytes.subarray(0, end))
}
