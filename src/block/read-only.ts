import { readOnlyError } from './bounds.ts'
import type { BlockDevice, Extent, Pending } from './device.ts'

/** The same disk with no way to change it. Closing it closes what is below. */
export function readOnlyDevice(below: BlockDevice, name: string = 'this disk'): BlockDevice {
  return new ReadOnlyDevice(below, name)
}

class ReadOnlyDevice implements BlockDevice {
  readonly #below: BlockDevice
  readonly #name: string
  readonly sizeBytes: number
  readonly blockBytes: number
  readonly readOnly: boolean = true
  readonly thin: boolean = false

  constructor(below: BlockDevice, name: string) {
    this.#below = below
    this.#name = name
    this.sizeBytes = below.sizeBytes
    this.blockBytes = below.blockBytes
  }

  read(offset: number, target: Uint8Array): Pending {
    return this.#below.read(offset, target)
  }

  lend(offset: number, bytes: number, piece: (bytes: Uint8Array) => void): boolean {
    // What a writable layer lends it promises not to change, so it can be passed on.
    return this.#below.lend?.(offset, bytes, piece) ?? false
  }

  write(): Pending {
    throw readOnlyError(this.#name)
  }

  flush(): Pending {
    return undefined
  }

  writeZeroes(): Pending {
    throw readOnlyError(this.#name)
  }

  discard(): Pending {
    return undefined
  }

  extent(offset: number, bytes: number): Extent | Promise<Extent> {
    return this.#below.extent(offset, bytes)
  }

  close(): Promise<void> {
    return this.#below.close()
  }
}
