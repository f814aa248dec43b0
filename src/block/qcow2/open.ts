import { OperationError } from '../../base/errors.ts'
import type { Compression } from '../../ports/compression.ts'
import type { RandomAccessFile } from '../../ports/file.ts'
import type { BlockDevice } from '../device.ts'
import { openRawDevice } from '../file.ts'
import { backingChainMax, clusterBitsMax } from '../limits.ts'
import { repairRefcounts } from './check.ts'
import { CompressedClusters } from './compressed.ts'
import { Qcow2Device } from './device.ts'
import { type BackingReference, corrupt, decodeHeader, isQcow2, type Qcow2Header } from './header.ts'
import { Mapping } from './mapping.ts'
import { RefcountStore } from './refcounts.ts'
import { type Qcow2Snapshot, readSnapshots } from './snapshots.ts'

/**
 * Turns the name of a backing file into something to read. Names come out of images, so they are looked up in a
 * catalogue and never opened as paths.
 */
export interface BackingResolver {
  /** @param from path of the image that names it; names are relative to it. Undefined: not in the catalogue. */
  resolve(reference: BackingReference, from: string): Promise<Backing | undefined>
}

export type Backing =
  /** Already open and shared, a cached golden image for one: is not closed with the image on top, unless it is its own. */
  | { readonly kind: 'device'; readonly device: BlockDevice; readonly isOwn?: boolean }
  /** Opened for this chain alone: read-only, closed with the image on top. `format` overrides what the header says. */
  | { readonly kind: 'file'; readonly file: RandomAccessFile; readonly format?: 'raw' | 'qcow2' }

/** For images that may not have a backing file. */
export const noBacking: BackingResolver = { resolve: () => Promise.resolve(undefined) }

export type Qcow2Options = {
  readonly compression: Compression
  readonly backing: BackingResolver
  readonly readOnly?: boolean
  /** Id or name of an internal snapshot to show instead of the disk as it is now; always read-only. */
  readonly snapshot?: string
}

export type Qcow2Info = {
  readonly header: Qcow2Header
  readonly snapshots: readonly Qcow2Snapshot[]
}

/**
 * Opens an image with its whole backing chain. A writable image that was not closed cleanly is repaired first.
 * The device owns `file` and closes it; when opening fails it is still the caller's.
 * @throws {OperationError} imageNotQcow2, imageUnsupported, imageCorrupt, backingUnknown, backingLoop, snapshotUnknown, ioError
 */
export async function openQcow2(file: RandomAccessFile, options: Qcow2Options): Promise<BlockDevice> {
  return openInChain(file, options, [])
}

/** What the image says of itself. @throws {OperationError} imageNotQcow2, imageUnsupported, imageCorrupt, ioError */
export async function describeQcow2(file: RandomAccessFile): Promise<Qcow2Info> {
  const header = await readHeader(file)
  const { snapshots } = await readSnapshots(file, header)
  return { header, snapshots }
}

/** 'qcow2' if the file begins like one, else 'raw'. Only for images that no machine could write to: a guest can write a header. */
export async function probeFormat(file: RandomAccessFile): Promise<'raw' | 'qcow2'> {
  const bytes = new Uint8Array(4)
  await file.read(0, bytes)
  return isQcow2(bytes) ? 'qcow2' : 'raw'
}

export async function readHeader(file: RandomAccessFile): Promise<Qcow2Header> {
  const first = new Uint8Array(Math.min(file.sizeBytes(), 4096))
  await file.read(0, first)
  // Most headers end within a page; only an image with larger clusters may need the rest of its first one.
  const clusterBits = isQcow2(first) && first.byteLength >= 24 ? (first[23] ?? 0) : 0
  const bytes = Math.min(file.sizeBytes(), clusterBits <= clusterBitsMax ? 2 ** clusterBits : 0)
  if (bytes <= first.byteLength) return decodeHeader(file.path, first, file.sizeBytes())
  const cluster = new Uint8Array(bytes)
  await file.read(0, cluster)
  return decodeHeader(file.path, cluster, file.sizeBytes())
}

async function openInChain(
  file: RandomAccessFile,
  options: Qcow2Options,
  above: readonly string[],
): Promise<Qcow2Device> {
  if (above.includes(file.path)) {
    throw new OperationError(
      'backingLoop',
      `${file.path} stands on itself: ${[...above, file.path].join(' -> ')}`,
      'Give it another backing file: qemu-img rebase -u -b GOLDEN -F raw FILE.',
    )
  }
  if (above.length >= backingChainMax) {
    throw new OperationError(
      'backingLoop',
      `more than ${backingChainMax} images stand on each other`,
      'Flatten the lower ones: qemu-img convert.',
    )
  }
  let header = await readHeader(file)
  const readOnly = options.readOnly === true || options.snapshot !== undefined || file.readOnly
  let refcounts: RefcountStore | undefined
  if (!readOnly) {
    if (header.corrupt) throw corrupt(file.path, 'it is marked as corrupt, and may only be read')
    if (header.dirty) {
      await repairRefcounts(file, header)
      header = await readHeader(file)
    }
    refcounts = await RefcountStore.open(file, header)
  }
  const shown = options.snapshot === undefined ? header : await findSnapshot(file, header, options.snapshot)
  const l1 = new Uint8Array(shown.l1Entries * 8)
  await file.read(shown.l1Offset, l1)
  const chain = [...above, file.path]
  const backing = header.backing === undefined ? undefined : await openBacking(file, header.backing, options, chain)
  return new Qcow2Device({
    file,
    header,
    mapping: new Mapping(file, header, shown.l1Offset, l1),
    compressed: new CompressedClusters(file, options.compression, header.compression, 2 ** header.clusterBits),
    backing: backing?.device,
    ownsBacking: backing?.isOwn ?? false,
    refcounts,
    sizeBytes: shown.sizeBytes,
  })
}

async function openBacking(
  file: RandomAccessFile,
  reference: BackingReference,
  options: Qcow2Options,
  chain: readonly string[],
): Promise<{ readonly device: BlockDevice; readonly isOwn: boolean }> {
  const found = await options.backing.resolve(reference, file.path)
  if (found === undefined) {
    throw new OperationError(
      'backingUnknown',
      `${file.path} stands on ${JSON.stringify(reference.name)}, which is not among the images`,
      'Add that image first, or name the right one: qemu-img rebase -u -b GOLDEN -F raw FILE.',
    )
  }
  if (found.kind === 'device') return { device: found.device, isOwn: found.isOwn === true }
  try {
    const format = found.format ?? reference.format ?? (await probeFormat(found.file))
    if (format !== 'raw' && format !== 'qcow2') {
      throw new OperationError(
        'imageUnsupported',
        `${file.path} stands on a ${format} image`,
        'Convert that one: qemu-img convert -O qcow2.',
      )
    }
    const { compression, backing } = options
    const device =
      format === 'raw'
        ? await openRawDevice(found.file, { readOnly: true })
        : await openInChain(found.file, { compression, backing, readOnly: true }, chain)
    return { device, isOwn: true }
  } catch (error) {
    await found.file.close()
    throw error
  }
}

async function findSnapshot(file: RandomAccessFile, header: Qcow2Header, wanted: string): Promise<Qcow2Snapshot> {
  const { snapshots } = await readSnapshots(file, header)
  const found = snapshots.find(({ id }) => id === wanted) ?? snapshots.find(({ name }) => name === wanted)
  if (found === undefined) {
    throw new OperationError(
      'snapshotUnknown',
      `${file.path} has no snapshot ${JSON.stringify(wanted)}`,
      'See what it has: qemu-img snapshot -l FILE.',
    )
  }
  return found
}
