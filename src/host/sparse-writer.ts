/** Writes a stream to a file from its start and leaves zeroes out, so that they take no space. */
import { createHash } from 'node:crypto'
import type { RandomAccessFile } from '../ports/file.ts'

/** A file system's own block: smaller holes take as much space as what they leave out. */
const holeBytes = 4096
const zeroes = new Uint8Array(holeBytes)
const batchBytes = 1024 * 1024

export type Written = { readonly sizeBytes: number; readonly sha256: string }

/** `file` must be empty. Resolves when all is on stable storage. @throws {OperationError} noSpace, ioError, and the stream's */
export async function writeSparse(
  file: RandomAccessFile,
  chunks: AsyncIterable<Uint8Array>,
  onChunk: (writtenBytes: number) => void,
): Promise<Written> {
  const hash = createHash('sha256')
  const batch = Buffer.alloc(batchBytes)
  let filled = 0
  let at = 0
  const writeBatch = async (): Promise<void> => {
    hash.update(batch.subarray(0, filled))
    await writeRuns(file, at, batch.subarray(0, filled))
    at += filled
    filled = 0
  }
  for await (const chunk of chunks) {
    for (let taken = 0; taken < chunk.byteLength; ) {
      const part = chunk.subarray(taken, taken + batchBytes - filled)
      batch.set(part, filled)
      filled += part.byteLength
      taken += part.byteLength
      if (filled === batchBytes) await writeBatch()
    }
    onChunk(at + filled)
  }
  await writeBatch()
  await file.truncate(at)
  await file.sync()
  return { sizeBytes: at, sha256: hash.digest('hex') }
}

async function writeRuns(file: RandomAccessFile, at: number, bytes: Buffer): Promise<void> {
  const isHole = (start: number): boolean => {
    const block = bytes.subarray(start, start + holeBytes)
    return block.equals(zeroes.subarray(0, block.byteLength))
  }
  for (let start = 0; start < bytes.byteLength; ) {
    let end = start + holeBytes
    if (!isHole(start)) {
      while (end < bytes.byteLength && !isHole(end)) end += holeBytes
      await file.write(at + start, bytes.subarray(start, Math.min(end, bytes.byteLength)))
    }
    start = end
  }
}
