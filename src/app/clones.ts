/**
 * The machines' disks: for each machine one clone of the golden image, opened when it first logs in and kept open, so that
 * sessions come and go without the disk noticing.
 */

import type { Mac } from '../base/address.ts'
import type { BlockDevice } from '../block/device.ts'
import { createMemoryFile } from '../block/memory-file.ts'
import { createOverlay } from '../block/overlay.ts'
import type { GoldenImage } from './golden.ts'

export type Clone = { readonly device: BlockDevice; readonly path: string | undefined }

/** What an ephemeral clone may keep in memory. */
const ephemeralBytesMax = 4 * 1024 * 1024 * 1024

export class Clones {
  readonly #golden: GoldenImage
  readonly #open = new Map<Mac, Promise<Clone>>()

  constructor(golden: GoldenImage) {
    this.#golden = golden
  }

  /** The machine's clone; made if it has none. @throws {OperationError} */
  open(mac: Mac): Promise<Clone> {
    let clone = this.#open.get(mac)
    if (clone === undefined) {
      clone = this.#make()
      clone.catch(() => this.#open.delete(mac)) // the next login tries again
      this.#open.set(mac, clone)
    }
    return clone
  }

  /** Flushes and closes all of them. */
  async close(): Promise<void> {
    const all = await Promise.allSettled(this.#open.values())
    this.#open.clear()
    for (const clone of all) if (clone.status === 'fulfilled') await clone.value.device.close()
  }

  async #make(): Promise<Clone> {
    const changes = createMemoryFile(ephemeralBytesMax)
    return { device: createOverlay({ golden: this.#golden.device, changes }), path: undefined }
  }
}
