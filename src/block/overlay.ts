/**
 * The ephemeral layer: a golden image below that is only ever read, and what one machine changed above it, gone when it
 * is closed. The changes live in a sparse file (unlinked on disk, or in memory): block n of the disk is block n of it.
 *
 *   state of a block of 4 KiB     read from        a write of part of it
 *   below                         golden           fills the rest from golden: the block becomes changed
 *   changed                       changes          goes straight there
 *   zero                          nowhere          fills the rest with zeroes: the block becomes changed
 *
 * Nothing here survives the process, so a flush has nothing to wait for.
 */
import { assert } from '../base/assert.ts'
import type { RandomAccessFile } from '../ports/file.ts'
import { assertRange } from './bounds.ts'
import type { BlockDevice, Extent, Pending } from './device.ts'
import { overlayBlockBytes, overlayLeafBlocks } from './limits.ts'
import { after, both, failed } from './pending.ts'
import { RangeLocks } from './range-locks.ts'

export type OverlayParts = {
  /** Shared with others; not closed with the overlay. */
  readonly golden: BlockDevice
  /** Empty, and the overlay's own: closed with it. `createMemoryFile` or an unlinked file. */
  readonly changes: RandomAccessFile
}

export interface Overlay extends BlockDevice {
  /** Memory that the layer takes beside the changes themselves. */
  readonly mapBytes: number
}

export function createOverlay(parts: OverlayParts): Overlay {
  return new OverlayDevice(parts)
}

const blockState = { below: 0, changed: 1, zero: 2 } as const
type BlockState = (typeof blockState)[keyof typeof blockState]

/** Shared by all regions in which nothing changed, and by all that were zeroed whole (a guest's mkfs trims everything). */
const untouchedLeaf = new Uint8Array(overlayLeafBlocks / 4)
const zeroLeaf = new Uint8Array(overlayLeafBlocks / 4).fill(blockState.zero * 0b01010101)

class OverlayDevice implements Overlay {
  readonly #golden: BlockDevice
  readonly #changes: RandomAccessFile
  readonly sizeBytes: number
  readonly blockBytes: number
  readonly readOnly: boolean = false
  readonly thin: boolean = true
  /** Two bits a block, four blocks a byte; a leaf is made when one of its blocks first changes. */
  readonly #leaves: Uint8Array[]
  #leafCount = 0
  readonly #locks = new RangeLocks()
  readonly #scratch: Uint8Array[] = []

  constructor({ golden, changes }: OverlayParts) {
    this.#golden = golden
    this.#changes = changes
    this.sizeBytes = golden.sizeBytes
    this.blockBytes = golden.blockBytes
    const blocks = Math.ceil(this.sizeBytes / overlayBlockBytes)
    this.#leaves = new Array<Uint8Array>(Math.ceil(blocks / overlayLeafBlocks)).fill(untouchedLeaf)
  }

  get mapBytes(): number {
    return this.#leaves.length * 8 + this.#leafCount * untouchedLeaf.byteLength
  }

  read(offset: number, target: Uint8Array): Pending {
    assertRange(this, offset, target.byteLength)
    let pending: Pending
    try {
      for (let done = 0; done < target.byteLength; ) {
        const bytes = this.#runBytes(offset + done, target.byteLength - done)
        const state = this.#state(Math.floor((offset + done) / overlayBlockBytes))
        const part = bytes === target.byteLength ? target : target.subarray(done, done + bytes)
        if (state === blockState.zero) part.fill(0)
        else
          pending = both(pending, (state === blockState.below ? this.#golden : this.#changes).read(offset + done, part))
        done += bytes
      }
    } catch (error) {
      return failed(pending, error)
    }
    return pending
  }

  lend(offset: number, bytes: number, piece: (bytes: Uint8Array) => void): boolean {
    assertRange(this, offset, bytes)
    if (this.#golden.lend === undefined) return false
    if (this.#state(Math.floor(offset / overlayBlockBytes)) !== blockState.below) return false
    return this.#runBytes(offset, bytes) === bytes && this.#golden.lend(offset, bytes, piece)
  }

  write(offset: number, source: Uint8Array): Pending {
    assertRange(this, offset, source.byteLength)
    if (source.byteLength === 0) return undefined
    const first = Math.floor(offset / overlayBlockBytes)
    const last = Math.floor((offset + source.byteLength - 1) / overlayBlockBytes)
    const others = this.#locks.conflict(first, last)
    if (others !== undefined) return others.then(() => this.write(offset, source))
    const settled = this.#stateHolds(first, last + 1, blockState.changed)
    if (settled) return this.#changes.write(offset, source)
    const pending = this.#writeBlocks(offset, source)
    return pending === undefined ? undefined : this.#locks.hold(first, last, pending)
  }

  flush(): Pending {
    return undefined
  }

  writeZeroes(offset: number, bytes: number): Pending {
    assertRange(this, offset, bytes)
    if (bytes === 0) return undefined
    const first = Math.floor(offset / overlayBlockBytes)
    const last = Math.floor((offset + bytes - 1) / overlayBlockBytes)
    const others = this.#locks.conflict(first, last)
    if (others !== undefined) return others.then(() => this.writeZeroes(offset, bytes))
    const pending = this.#zeroBlocks(offset, bytes)
    return pending === undefined ? undefined : this.#locks.hold(first, last, pending)
  }

  discard(offset: number, bytes: number): Pending {
    return this.writeZeroes(offset, bytes)
  }

  extent(offset: number, bytes: number): Extent | Promise<Extent> {
    assertRange(this, offset, bytes)
    const run = this.#runBytes(offset, bytes)
    const state = this.#state(Math.floor(offset / overlayBlockBytes))
    if (state === blockState.below) return this.#golden.extent(offset, run)
    return { allocated: state === blockState.changed, bytes: run }
  }

  close(): Promise<void> {
    return this.#changes.close()
  }

  /** Whole blocks go straight to the changes; a block of which only a part is written is filled up first. */
  #writeBlocks(offset: number, source: Uint8Array): Pending {
    const end = offset + source.byteLength
    const wholeStart = Math.ceil(offset / overlayBlockBytes) * overlayBlockBytes
    const wholeEnd = this.#wholeEnd(end)
    if (wholeStart > wholeEnd) return this.#writePart(offset, source)
    let pending: Pending
    try {
      if (offset < wholeStart) pending = this.#writePart(offset, source.subarray(0, wholeStart - offset))
      if (wholeStart < wholeEnd) {
        const whole = source.subarray(wholeStart - offset, wholeEnd - offset)
        const writing = this.#changes.write(wholeStart, whole)
        const mark = (): Pending => this.#mark(wholeStart, wholeEnd, blockState.changed)
        pending = both(pending, after(writing, mark))
      }
      if (wholeEnd < end) pending = both(pending, this.#writePart(wholeEnd, source.subarray(wholeEnd - offset)))
    } catch (error) {
      return failed(pending, error)
    }
    return pending
  }

  #zeroBlocks(offset: number, bytes: number): Pending {
    const end = offset + bytes
    const wholeStart = Math.ceil(offset / overlayBlockBytes) * overlayBlockBytes
    const wholeEnd = this.#wholeEnd(end)
    if (wholeStart > wholeEnd) return this.#zeroPart(offset, bytes)
    let pending: Pending
    try {
      if (offset < wholeStart) pending = this.#zeroPart(offset, wholeStart - offset)
      if (wholeStart < wholeEnd) pending = both(pending, this.#zeroWhole(wholeStart, wholeEnd))
      if (wholeEnd < end) pending = both(pending, this.#zeroPart(wholeEnd, end - wholeEnd))
    } catch (error) {
      return failed(pending, error)
    }
    return pending
  }

  /** Where whole blocks end: the last block of a disk that is no multiple of 4 KiB is whole as far as the disk goes. */
  #wholeEnd(end: number): number {
    return end === this.sizeBytes ? end : Math.floor(end / overlayBlockBytes) * overlayBlockBytes
  }

  /** `source` lies inside one block. */
  #writePart(offset: number, source: Uint8Array): Pending {
    const block = Math.floor(offset / overlayBlockBytes)
    const state = this.#state(block)
    if (state === blockState.changed) return this.#changes.write(offset, source)
    const start = block * overlayBlockBytes
    const scratch = this.#scratch.pop() ?? new Uint8Array(overlayBlockBytes)
    const filled = scratch.subarray(0, Math.min(overlayBlockBytes, this.sizeBytes - start))
    const filling = state === blockState.zero ? void filled.fill(0) : this.#golden.read(start, filled)
    const writing = after(filling, () => {
      filled.set(source, offset - start)
      return this.#changes.write(start, filled)
    })
    return after(writing, () => {
      if (this.#scratch.length < scratchBlocksMax) this.#scratch.push(scratch)
      return this.#mark(start, start + filled.byteLength, blockState.changed)
    })
  }

  #zeroPart(offset: number, bytes: number): Pending {
    if (this.#state(Math.floor(offset / overlayBlockBytes)) === blockState.zero) return undefined
    return this.#writePart(offset, zeroBlock.subarray(0, bytes))
  }

  #zeroWhole(start: number, end: number): Pending {
    const first = Math.floor(start / overlayBlockBytes)
    const endBlock = Math.ceil(end / overlayBlockBytes)
    let someChanged = false
    for (let block = first; block < endBlock && !someChanged; block++) {
      const leaf = this.#leaf(block)
      if (leaf === untouchedLeaf || leaf === zeroLeaf) block += overlayLeafBlocks - (block % overlayLeafBlocks) - 1
      else someChanged = this.#state(block) === blockState.changed
    }
    this.#mark(start, end, blockState.zero)
    if (!someChanged) return undefined
    // Whether the space really comes back is up to the file system; the blocks are zero either way.
    return this.#changes.punchHole(start, end - start).then(() => undefined)
  }

  /** How far from `offset`, at most `bytes`, all blocks have the state of the first. */
  #runBytes(offset: number, bytes: number): number {
    const first = Math.floor(offset / overlayBlockBytes)
    const endBlock = Math.ceil((offset + bytes) / overlayBlockBytes)
    const state = this.#state(first)
    let block = first + 1
    while (block < endBlock) {
      const leaf = this.#leaf(block)
      if (leaf === untouchedLeaf || leaf === zeroLeaf) {
        if (state !== (leaf === zeroLeaf ? blockState.zero : blockState.below)) break
        block += overlayLeafBlocks - (block % overlayLeafBlocks)
      } else if (this.#state(block) === state) block++
      else break
    }
    return Math.min(bytes, block * overlayBlockBytes - offset)
  }

  #stateHolds(first: number, endBlock: number, state: BlockState): boolean {
    for (let block = first; block < endBlock; block++) if (this.#state(block) !== state) return false
    return true
  }

  #leaf(block: number): Uint8Array {
    const leaf = this.#leaves[Math.floor(block / overlayLeafBlocks)]
    assert(leaf !== undefined, 'a block lies inside the disk')
    return leaf
  }

  #state(block: number): BlockState {
    const packed = this.#leaf(block)[(block % overlayLeafBlocks) >>> 2] ?? 0
    return ((packed >>> ((block & 3) * 2)) & 3) as BlockState
  }

  #mark(start: number, end: number, state: BlockState): undefined {
    const endBlock = Math.ceil(end / overlayBlockBytes)
    let block = Math.floor(start / overlayBlockBytes)
    while (block < endBlock) {
      const leafEnd = block - (block % overlayLeafBlocks) + overlayLeafBlocks
      if (state === blockState.zero && block + overlayLeafBlocks === leafEnd && leafEnd <= endBlock) {
        this.#leaves[block / overlayLeafBlocks] = zeroLeaf
      } else {
        const leaf = this.#ownLeaf(block)
        for (let b = block; b < Math.min(endBlock, leafEnd); b++) {
          const at = (b % overlayLeafBlocks) >>> 2
          const shift = (b & 3) * 2
          leaf[at] = ((leaf[at] ?? 0) & ~(3 << shift)) | (state << shift)
        }
      }
      block = leafEnd
    }
  }

  #ownLeaf(block: number): Uint8Array {
    const leaf = this.#leaf(block)
    if (leaf !== untouchedLeaf && leaf !== zeroLeaf) return leaf
    const own = leaf.slice()
    this.#leaves[Math.floor(block / overlayLeafBlocks)] = own
    this.#leafCount++
    return own
  }
}

/** Scratch blocks kept for the next partial write; more are made when more are in flight, and dropped. */
const scratchBlocksMax = 32
const zeroBlock = new Uint8Array(overlayBlockBytes)
