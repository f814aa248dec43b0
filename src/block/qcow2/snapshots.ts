/**
 * Internal snapshots: a table of entries of variable length (docs/interop/qcow2.rst, "Snapshots").
 *
 *   0 l1_table_offset 8 | 8 l1_size 4 | 12 id length 2 | 14 name length 2 | 16 seconds 4 | 20 nanoseconds 4 |
 *   24 guest time 8 | 32 VM state 4 | 36 extra length 4 | extra (48: disk size 8) | id | name | padding to 8
 */
import type { RandomAccessFile } from '../../ports/file.ts'
import { l1BytesMax, snapshotTableBytesMax } from '../limits.ts'
import { corrupt, type Qcow2Header, u64 } from './header.ts'

export type Qcow2Snapshot = {
  readonly id: string
  readonly name: string
  /** Seconds since 1970-01-01 UTC. */
  readonly takenAtSeconds: number
  readonly sizeBytes: number
  readonly l1Offset: number
  readonly l1Entries: number
}

const entryBytesMin = 40

/** The table's length in bytes comes with it: a check counts its clusters. @throws {OperationError} imageCorrupt, ioError */
export async function readSnapshots(
  file: RandomAccessFile,
  header: Qcow2Header,
): Promise<{ readonly snapshots: readonly Qcow2Snapshot[]; readonly tableBytes: number }> {
  const snapshots: Qcow2Snapshot[] = []
  if (header.snapshotCount === 0) return { snapshots, tableBytes: 0 }
  const most = Math.min(snapshotTableBytesMax, file.sizeBytes() - header.snapshotsOffset)
  const bytes = new Uint8Array(most)
  await file.read(header.snapshotsOffset, bytes)
  const view = new DataView(bytes.buffer)
  let at = 0
  for (let i = 0; i < header.snapshotCount; i++) {
    if (at + entryBytesMin > most) throw corrupt(file.path, 'its snapshot table is cut off')
    const idBytes = view.getUint16(at + 12)
    const nameBytes = view.getUint16(at + 14)
    const extraBytes = view.getUint32(at + 36)
    const idAt = at + entryBytesMin + extraBytes
    const next = at + Math.ceil((entryBytesMin + extraBytes + idBytes + nameBytes) / 8) * 8
    if (next > most) throw corrupt(file.path, 'a snapshot runs over the end of its table')
    const decoder = new TextDecoder()
    snapshots.push({
      l1Offset: u64(view, at),
      l1Entries: view.getUint32(at + 8),
      takenAtSeconds: view.getUint32(at + 16),
      sizeBytes: extraBytes >= 16 ? u64(view, at + 48) : header.sizeBytes,
      id: decoder.decode(bytes.subarray(idAt, idAt + idBytes)),
      name: decoder.decode(bytes.subarray(idAt + idBytes, idAt + idBytes + nameBytes)),
    })
    at = next
  }
  for (const snapshot of snapshots) checkL1(file, header, snapshot)
  return { snapshots, tableBytes: at }
}

function checkL1(file: RandomAccessFile, header: Qcow2Header, snapshot: Qcow2Snapshot): void {
  const { l1Offset, l1Entries } = snapshot
  const clusterBytes = 2 ** header.clusterBits
  const isInside = l1Offset % clusterBytes === 0 && l1Offset + l1Entries * 8 <= file.sizeBytes()
  if (!isInside || l1Entries * 8 > l1BytesMax) throw corrupt(file.path, `snapshot ${snapshot.id} has a bad L1 table`)
  const spanBytes = (clusterBytes / (header.extendedL2 ? 16 : 8)) * clusterBytes
  if (l1Entries < Math.ceil(snapshot.sizeBytes / spanBytes) || snapshot.sizeBytes === 0) {
    throw corrupt(file.path, `the L1 table of snapshot ${snapshot.id} is too small for its disk`)
  }
}
