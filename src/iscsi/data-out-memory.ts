/**
 * Buffers in which the data of write commands is gathered. Sizes are powers of two, and used ones are kept for the next
 * command: fresh memory has to be zeroed and mapped, which costs more than the copy into it.
 */
import { assert } from '../base/assert.ts'
import { idleDataOutBytesMax, totalDataOutBytesMax } from './limits.ts'

const smallestBytes = 4_096

export class DataOutMemory {
  readonly #idle = new Map<number, Uint8Array[]>()
  /** Called when memory has come back, in the order they began to wait. */
  readonly #waiting = new Set<() => void>()
  #idleBytes = 0
  usedBytes = 0

  /** Somebody waits for it. */
  get isWanted(): boolean {
    return this.#waiting.size > 0
  }

  /** At least `bytes` long, with old content; undefined when all is in use, unless it is due (`isDue`). */
  take(bytes: number, isDue: boolean): Uint8Array | undefined {
    const size = sizeFor(bytes)
    if (!isDue && this.usedBytes + size > totalDataOutBytesMax) return undefined
    this.usedBytes += size
    const kept = this.#idle.get(size)?.pop()
    if (kept === undefined) return new Uint8Array(size)
    this.#idleBytes -= size
    return kept
  }

  give(buffer: Uint8Array): void {
    const size = buffer.byteLength
    if (this.#idleBytes + size <= idleDataOutBytesMax) {
      this.#idleBytes += size
      const kept = this.#idle.get(size)
      if (kept === undefined) this.#idle.set(size, [buffer])
      else kept.push(buffer)
    }
    this.usedBytes -= size
    assert(this.usedBytes >= 0, 'more data-out memory came back than was taken')
    if (this.#waiting.size === 0) return
    const waiting = [...this.#waiting]
    this.#waiting.clear()
    for (const again of waiting) again()
  }

  /** `again` is called once, when there may be room. */
  wait(again: () => void): void {
    this.#waiting.add(again)
  }

  stopWaiting(again: () => void): void {
    this.#waiting.delete(again)
  }
}

function sizeFor(bytes: number): number {
  return bytes <= smallestBytes ? smallestBytes : 2 ** Math.ceil(Math.log2(bytes))
}
