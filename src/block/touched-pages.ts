/**
 * Which pages of an image were read once without being kept. What the page cache of the operating system has is not copied
 * into ours by the first who reads it: only the second pays for that, and only then is it sure to be for others too.
 */
import type { CacheMemory } from './cache-memory.ts'
import { cacheTouchedBytes } from './limits.ts'

const chunkPages = 4096

export class TouchedPages {
  readonly #memory: CacheMemory
  readonly #chunksMax: number
  readonly #chunks = new Map<number, Uint32Array>()

  constructor(memory: CacheMemory) {
    this.#memory = memory
    this.#chunksMax = Math.max(1, Math.floor(memory.bytesMax / 64 / cacheTouchedBytes))
  }

  has(page: number): boolean {
    const word = this.#chunks.get(Math.floor(page / chunkPages))?.[(page % chunkPages) >>> 5] ?? 0
    return (word & (1 << (page & 31))) !== 0
  }

  add(page: number): void {
    const index = Math.floor(page / chunkPages)
    let chunk = this.#chunks.get(index)
    if (chunk === undefined) {
      // Who reads that much of a disk is told apart from those who come twice no more.
      if (this.#chunks.size >= this.#chunksMax) this.clear()
      chunk = new Uint32Array(chunkPages / 32)
      this.#chunks.set(index, chunk)
      this.#memory.touchedChunkCount++
    }
    const at = (page % chunkPages) >>> 5
    chunk[at] = (chunk[at] ?? 0) | (1 << (page & 31))
  }

  clear(): void {
    this.#memory.touchedChunkCount -= this.#chunks.size
    this.#chunks.clear()
  }
}
