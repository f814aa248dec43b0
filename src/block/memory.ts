import { assert } from '../base/assert.ts'
import { assertRange, readOnlyError } from './bounds.ts'
import type { BlockDevice, Extent, Pending } from './device.ts'
import { memoryDeviceBytesMax } from './limits.ts'

export type MemoryDeviceOptions = {
  readonly blockBytes?: 512 | 4096
  /** Only a read-only one can lend: what it lends must never change again. */
  readonly readOnly?: boolean
}

/** A disk in memory. `bytes` is its size, zeroed, or its content, which belongs to the device from now on. */
export function createMemoryDevice(bytes: number | Uint8Array, options: MemoryDeviceOptions = {}): BlockDevice {
  return new MemoryDevice(typeof bytes === 'number' ? allocate(bytes) : bytes, options)
}

function allocate(bytes: number): Uint8Array {
  assert(bytes <= memoryDeviceBytesMax, 'a memory device fits in memory')
  return new Uint8Array(bytes)
}

class MemoryDevice implements BlockDevice {
  readonly #content: Uint8Array
  readonly sizeBytes: number
  readonly blockBytes: number
  readonly readOnly: boolean
  readonly thin: boolean = false

  constructor(content: Uint8Array, options: MemoryDeviceOptions) {
    this.#content = content
    this.sizeBytes = content.byteLength
    this.blockBytes = options.blockBytes ?? 512
    this.readOnly = options.readOnly ?? false
  }

  read(offset: number, target: Uint8Array): Pending {
    assertRange(this, offset, target.byteLength)
    target.set(this.#content.subarray(offset, offset + target.byteLength))
    return undefined
  }

  lend(offset: number, bytes: number, piece: (bytes: Uint8Array) => void): boolean {
    assertRange(this, offset, bytes)
    if (!this.readOnly) return false
    piece(this.#content.subarray(offset, offset + bytes))
    return true
  }

  write(offset: number, source: Uint8Array): Pending {
    assertRange(this, offset, source.byteLength)
    if (this.readOnly) throw readOnlyError('this memory disk')
    this.#content.set(source, offset)
    return undefined
  }

  flush(): Pending {
    return undefined
  }

  writeZeroes(offset: number, bytes: number): Pending {
    assertRange(this, offset, bytes)
    if (this.readOnly) throw readOnlyError('this memory disk')
    this.#content.fill(0, offset, offset + bytes)
    return undefined
  }

  discard(offset: number, bytes: number): Pending {
    assertRange(this, offset, bytes)
    return undefined
  }

  extent(offset: number, bytes: number): Extent {
    assertRange(this, offset, bytes)
    return { allocated: true, bytes }
  }

  close(): Promise<void> {
    return Promise.resolve()
  }
}
