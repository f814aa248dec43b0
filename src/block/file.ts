/**
 * A raw image: byte n of the disk is byte n of the file.
 *
 * A file whose size is no multiple of the block size is a disk with one block more: what is missing of the last block
 * reads as zeroes, and a write there makes the file that long. (QEMU does the same; refusing would refuse images that
 * `truncate` and `cat` made.)
 */
import { OperationError } from '../base/errors.ts'
import type { RandomAccessFile } from '../ports/file.ts'
import { assertRange, readOnlyError } from './bounds.ts'
import type { BlockDevice, Extent, Pending } from './device.ts'
import { Flusher } from './flusher.ts'
import { zeroChunkBytes } from './limits.ts'

export type RawDeviceOptions = {
  readonly blockBytes?: 512 | 4096
  /** Refuses writes even where the file allows them. A golden image is always opened with it. */
  readonly readOnly?: boolean
}

/** The device owns `file` and closes it. @throws {OperationError} imageEmpty, ioError */
export async function openRawDevice(file: RandomAccessFile, options: RawDeviceOptions = {}): Promise<BlockDevice> {
  if (file.sizeBytes() === 0) {
    throw new OperationError(
      'imageEmpty',
      `${file.path} is empty`,
      'Give a disk image, or make one: truncate -s 8G FILE.',
    )
  }
  const readOnly = options.readOnly === true || file.readOnly
  // A hole behind the end changes nothing, and shows whether this file system can make any.
  const end = Math.ceil(file.sizeBytes() / 4096) * 4096
  const thin = !readOnly && (await file.punchHole(end, 4096))
  return new RawDevice(file, options.blockBytes ?? 512, readOnly, thin)
}

const zeroes = new Uint8Array(zeroChunkBytes)

class RawDevice implements BlockDevice {
  readonly #file: RandomAccessFile
  readonly sizeBytes: number
  readonly blockBytes: number
  readonly readOnly: boolean
  readonly thin: boolean
  /** Only where the file can tell. */
  readonly readNow?: (offset: number, target: Uint8Array) => boolean
  /** Something ended since the last sync began. */
  #unsynced = false
  #lost: unknown
  readonly #flusher = new Flusher(() => this.#sync())

  constructor(file: RandomAccessFile, blockBytes: number, readOnly: boolean, thin: boolean) {
    this.#file = file
    this.blockBytes = blockBytes
    this.readOnly = readOnly
    this.thin = thin
    this.sizeBytes = Math.ceil(file.sizeBytes() / blockBytes) * blockBytes
    if (file.readNow !== undefined) {
      this.readNow = (offset, target) => {
        assertRange(this, offset, target.byteLength)
        return file.readNow?.(offset, target) ?? false
      }
    }
  }

  read(offset: number, target: Uint8Array): Pending {
    assertRange(this, offset, target.byteLength)
    return this.#file.read(offset, target)
  }

  write(offset: number, source: Uint8Array): Pending {
    assertRange(this, offset, source.byteLength)
    if (this.readOnly) throw readOnlyError(this.#file.path)
    const pending = this.#file.write(offset, source)
    this.#unsynced = true
    return pending?.then(() => {
      this.#unsynced = true
    })
  }

  flush(): Pending {
    return this.#flusher.flush()
  }

  writeZeroes(offset: number, bytes: number, mayUnmap: boolean): Pending {
    assertRange(this, offset, bytes)
    if (this.readOnly) throw readOnlyError(this.#file.path)
    if (bytes === 0) return undefined
    return this.#zero(offset, bytes, mayUnmap && this.thin)
  }

  discard(offset: number, bytes: number): Pending {
    assertRange(this, offset, bytes)
    return this.thin && bytes > 0 ? this.#zero(offset, bytes, true) : undefined
  }

  extent(offset: number, bytes: number): Extent {
    assertRange(this, offset, bytes)
    const found = this.#file.extent?.(offset)
    if (found === undefined) return { allocated: true, bytes }
    const { blockBytes } = this
    const whole = Math.floor((found.end - offset) / blockBytes) * blockBytes
    // A block of which a part takes space takes space.
    return whole === 0
      ? { allocated: true, bytes: blockBytes }
      : { allocated: found.allocated, bytes: Math.min(bytes, whole) }
  }

  async close(): Promise<void> {
    try {
      await this.flush()
    } finally {
      await this.#file.close()
    }
  }

  async #zero(offset: number, bytes: number, punch: boolean): Promise<void> {
    if (!punch || !(await this.#file.punchHole(offset, bytes))) {
      for (let done = 0; done < bytes; done += zeroes.byteLength) {
        await this.#file.write(offset + done, zeroes.subarray(0, Math.min(zeroes.byteLength, bytes - done)))
      }
    }
    this.#unsynced = true
  }

  #sync(): Pending {
    if (this.#lost !== undefined) throw this.#lost
    if (!this.#unsynced) return undefined
    this.#unsynced = false
    return this.#file.sync().catch((error: unknown) => {
      this.#lost = error
      throw error
    })
  }
}
