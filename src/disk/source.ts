/** Bytes at offsets: a disk, a partition, a file in it, a buffer. What every reader in this room reads from. */
import { OperationError } from '../base/errors.ts'
import type { BlockDevice } from '../block/device.ts'
import { DiskError, malformed } from './disk-error.ts'
import { wholeFileBytesMax } from './limits.ts'

export interface ByteSource {
  readonly sizeBytes: number
  /**
   * Exactly `bytes` bytes; borrowed: never write into them.
   * @throws {DiskError} malformed when the range is not inside; {OperationError} ioError
   */
  read(offset: number, bytes: number): Promise<Uint8Array>
}

export function sourceOfBytes(bytes: Uint8Array): ByteSource {
  return {
    sizeBytes: bytes.byteLength,
    read: async (offset, count) => {
      checkRange('bytes', bytes.byteLength, offset, count)
      return bytes.subarray(offset, offset + count)
    },
  }
}

/** Reads whole blocks of the device and cuts out what was asked. */
export function sourceOfDevice(device: BlockDevice): ByteSource {
  const { sizeBytes, blockBytes } = device
  return {
    sizeBytes,
    read: async (offset, count) => {
      checkRange('disk', sizeBytes, offset, count)
      const start = offset - (offset % blockBytes)
      const end = Math.min(Math.ceil((offset + count) / blockBytes) * blockBytes, sizeBytes)
      const target = new Uint8Array(end - start)
      if (target.byteLength > 0) await device.read(start, target)
      return target.subarray(offset - start, offset - start + count)
    },
  }
}

/** The part of `source` from `offset`; it may reach past the end of `source`, and reading there is malformed. */
export function sliceOf(source: ByteSource, offset: number, sizeBytes: number): ByteSource {
  return {
    sizeBytes,
    read: async (at, count) => {
      checkRange('partition', sizeBytes, at, count)
      return source.read(offset + at, count)
    },
  }
}

/** A piece of a file: `null` is a hole and reads as zeroes. */
export interface Run {
  readonly source: ByteSource | null
  readonly offset: number
  readonly bytes: number
}

/** A file in pieces, in order, together at least `sizeBytes`. */
export function sourceOfRuns(structure: string, runs: readonly Run[], sizeBytes: number): ByteSource {
  const starts: number[] = []
  let total = 0
  for (const run of runs) {
    starts.push(total)
    total += run.bytes
  }
  if (total < sizeBytes) throw malformed(structure, `a file of ${sizeBytes} bytes has blocks for only ${total}`)
  return {
    sizeBytes,
    read: async (offset, count) => {
      checkRange(structure, sizeBytes, offset, count)
      let index = lastAtOrBelow(starts, offset)
      const first = runs[index]
      if (first !== undefined && first.source !== null && offset + count <= (starts[index] ?? 0) + first.bytes) {
        return first.source.read(first.offset + offset - (starts[index] ?? 0), count)
      }
      const target = new Uint8Array(count)
      let done = 0
      while (done < count) {
        const run = runs[index]
        if (run === undefined) throw malformed(structure, 'a file ends before its size')
        const within = offset + done - (starts[index] ?? 0)
        const part = Math.min(run.bytes - within, count - done)
        if (run.source !== null) target.set(await run.source.read(run.offset + within, part), done)
        done += part
        index++
      }
      return target
    },
  }
}

/** @throws {DiskError} tooLarge past `bytesMax` */
export async function readWhole(source: ByteSource, bytesMax: number = wholeFileBytesMax): Promise<Uint8Array> {
  if (source.sizeBytes > bytesMax) {
    throw new DiskError('tooLarge', 'file', `${source.sizeBytes} bytes, and ${bytesMax} is the most that is read whole`)
  }
  return source.read(0, source.sizeBytes)
}

/** The source, chunk by chunk, in order. */
export async function* chunksOf(source: ByteSource, chunkBytes: number = 256 * 1024): AsyncGenerator<Uint8Array> {
  for (let offset = 0; offset < source.sizeBytes; offset += chunkBytes) {
    yield await source.read(offset, Math.min(chunkBytes, source.sizeBytes - offset))
  }
}

/** True for what a disk's bytes caused; an I/O error or a mistake of ours is neither and must be thrown on. */
export function isDiskError(error: unknown): error is DiskError {
  return error instanceof DiskError && error instanceof OperationError
}

function checkRange(structure: string, sizeBytes: number, offset: number, count: number): void {
  if (!(offset >= 0 && count >= 0 && offset + count <= sizeBytes)) {
    throw malformed(structure, `${count} bytes at ${offset} are not inside its ${sizeBytes}`)
  }
}

/** Index of the last element that is not above `value`; `sorted` starts with 0. */
function lastAtOrBelow(sorted: readonly number[], value: number): number {
  let low = 0
  let high = sorted.length
  while (high - low > 1) {
    const middle = (low + high) >>> 1
    if ((sorted[middle] ?? 0) <= value) low = middle
    else high = middle
  }
  return low
}
