import { assert } from '../../base/assert.ts'
import type { RandomAccessFile } from '../../ports/file.ts'
import { l1BytesMax } from '../limits.ts'
import { encodeHeader } from './header.ts'

export type CloneOptions = {
  /** Size of the disk; a whole number of 512-byte blocks. Usually the golden image's. */
  readonly sizeBytes: number
  /** As it will stand in the header: an absolute path, or one relative to the clone. */
  readonly backing?: { readonly name: string; readonly format: string }
  /**
   * Default 17: with 32 subclusters each that is 4 KiB, what a guest's file system writes, so that such a write copies
   * nothing. 14 to 21.
   */
  readonly clusterBits?: number
  /** Default true: subclusters. Images for readers older than QEMU 5.2 need false. */
  readonly extendedL2?: boolean
}

/**
 * Writes a fresh image over whatever `file` holds: a few hundred bytes, however large the disk. It is an ordinary qcow2
 * file: header | table of reference counts | first block of counts | L1 table, a cluster each (L1 may take more).
 * Durable with the first flush of the device that opens it.
 * @throws {OperationError} nameTooLong, noSpace, ioError
 */
export async function createClone(file: RandomAccessFile, options: CloneOptions): Promise<void> {
  const clusterBits = options.clusterBits ?? 17
  const extendedL2 = options.extendedL2 ?? true
  const clusterBytes = 2 ** clusterBits
  assert(options.sizeBytes > 0 && options.sizeBytes % 512 === 0, 'a disk is a whole number of blocks')
  assert(clusterBits >= (extendedL2 ? 14 : 9) && clusterBits <= 21, 'clusters are 512 bytes to 2 MiB')
  const tableSpanBytes = (clusterBytes / (extendedL2 ? 16 : 8)) * clusterBytes
  const l1Entries = Math.ceil(options.sizeBytes / tableSpanBytes)
  assert(l1Entries * 8 <= l1BytesMax, 'the disk fits an L1 table')
  const l1Clusters = Math.ceil((l1Entries * 8) / clusterBytes)
  const countsPerBlock = clusterBytes / 2
  // The L1 table of a huge disk with tiny clusters needs more than one block to be counted.
  let blocks = 1
  while (blocks * countsPerBlock < 2 + blocks + l1Clusters) blocks++
  const header = encodeHeader({
    clusterBits,
    sizeBytes: options.sizeBytes,
    refcountTableOffset: clusterBytes,
    refcountTableClusters: 1,
    l1Offset: (2 + blocks) * clusterBytes,
    l1Entries,
    extendedL2,
    backing: options.backing,
  })
  assert(header.byteLength <= clusterBytes && blocks * 8 <= clusterBytes, 'header and table fit a cluster')

  const used = 2 + blocks + l1Clusters
  const table = new DataView(new ArrayBuffer(blocks * 8))
  for (let i = 0; i < blocks; i++) table.setUint32(i * 8 + 4, (2 + i) * clusterBytes)
  const counts = new DataView(new ArrayBuffer(used * 2))
  for (let i = 0; i < used; i++) counts.setUint16(i * 2, 1)
  if (file.sizeBytes() > 0) await file.truncate(0)
  await file.write(clusterBytes, new Uint8Array(table.buffer))
  await file.write(2 * clusterBytes, new Uint8Array(counts.buffer))
  await file.truncate(used * clusterBytes)
  // Last: a file that a crash left half made has no header, and is no image.
  await file.write(0, header)
}
