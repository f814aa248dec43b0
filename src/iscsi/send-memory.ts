/**
 * Memory for what leaves: PDUs are written one behind the other into slabs, data-in with room for its header in front, so
 * that all PDUs of one event-loop turn are one piece for the kernel.
 *
 *   slab   | region | region |        region         | free ...
 *            PDU      PDU      header + data + padding
 *
 * A region is taken when its PDU is begun, and pushed to a connection's outbox when it may leave; regions that lie side
 * by side and are pushed in that order become one. A slab starts again from its beginning when none of its regions is in
 * use: as long as clients read what they are sent, the same memory serves every turn and stays in the processor's cache.
 */
import { assert } from '../base/assert.ts'
import type { TcpConnection } from '../ports/tcp.ts'
import { crc32c } from '../wire/crc32c.ts'
import { digestBytes, headerBytes, paddedBytes } from './header.ts'
import { idleSlabsMax, slabBytes, slabShareBytesMin } from './limits.ts'

export class Slab {
  readonly bytes: Uint8Array
  readonly view: DataView
  usedBytes = 0
  regionCount = 0

  constructor(bytes: number) {
    this.bytes = new Uint8Array(bytes)
    this.view = new DataView(this.bytes.buffer)
  }
}

/** A stretch of a slab, or of memory that was lent (`slab` undefined), on its way out. */
export class Region {
  readonly slab: Slab | undefined
  readonly bytes: Uint8Array
  readonly start: number
  end: number

  constructor(slab: Slab | undefined, bytes: Uint8Array, start: number, end: number) {
    this.slab = slab
    this.bytes = bytes
    this.start = start
    this.end = end
  }
}

/** One for all connections of a target. */
export class SendMemory {
  readonly #idle: Slab[] = []
  #current: Slab
  /** Taken and not released. */
  regionCount = 0
  /** What commands that execute may still take: of all sessions, and of those commands that did not end at once. */
  readingBytes = 0

  constructor() {
    this.#current = new Slab(slabBytes)
  }

  /** `bytes` in one piece, whatever was in them before still there. */
  take(bytes: number): Region {
    let slab = this.#current
    if (slab.usedBytes + bytes > slab.bytes.byteLength) {
      if (bytes > slabBytes) {
        slab = new Slab(bytes)
      } else {
        if (slab.regionCount === 0) slab.usedBytes = 0
        else slab = this.#idle.pop() ?? new Slab(slabBytes)
        this.#current = slab
      }
    }
    const start = slab.usedBytes
    slab.usedBytes += bytes
    slab.regionCount++
    this.regionCount++
    return new Region(slab, slab.bytes, start, slab.usedBytes)
  }

  /** The region has left, or never will. */
  release({ slab }: Region): void {
    if (slab !== undefined) this.#drop(slab)
  }

  #drop(slab: Slab): void {
    assert(slab.regionCount > 0, 'a region was released twice')
    slab.regionCount--
    this.regionCount--
    if (slab.regionCount > 0) return
    slab.usedBytes = 0
    if (slab === this.#current || slab.bytes.byteLength !== slabBytes) return
    if (this.#idle.length < idleSlabsMax) this.#idle.push(slab)
  }

  /** The same bytes in memory of their own; `region` is released. */
  detached(region: Region): Region {
    const bytes = region.bytes.slice(region.start, region.end)
    this.release(region)
    return new Region(undefined, bytes, 0, bytes.byteLength)
  }

  /** Makes two neighbours one. False if they are none. */
  merge(before: Region, next: Region): boolean {
    if (before.slab === undefined || before.slab !== next.slab || before.end !== next.start) return false
    before.end = next.end
    before.slab.regionCount--
    this.regionCount--
    return true
  }
}

/** What one connection is about to send, and how much of what it was given has not left yet. */
export class Outbox {
  readonly #memory: SendMemory
  readonly #wire: Pick<TcpConnection, 'write'>
  readonly #drained: () => void
  #regions: Region[] = []
  /** Pushed, and not yet taken by the kernel. */
  queuedBytes = 0
  /** Regions of lent memory among them. */
  lentPieces = 0
  /** Flushed, and not yet taken by the kernel; the slab of the last of it. */
  #leavingBytes = 0
  #leavingSlab: Slab | undefined

  constructor(memory: SendMemory, wire: Pick<TcpConnection, 'write'>, drained: () => void) {
    this.#memory = memory
    this.#wire = wire
    this.#drained = drained
  }

  push(region: Region): void {
    this.queuedBytes += region.end - region.start
    if (region.slab === undefined) this.lentPieces++
    const last = this.#regions.at(-1)
    if (last === undefined || !this.#memory.merge(last, region)) this.#regions.push(region)
  }

  flush(): void {
    if (this.#regions.length === 0) return
    const regions = this.#regions
    this.#regions = []
    for (const pushed of regions) {
      const region = this.#wouldPinSlab(pushed) ? this.#memory.detached(pushed) : pushed
      const bytes = region.end - region.start
      if (region.slab !== undefined) this.#leavingSlab = region.slab
      this.#leavingBytes += bytes
      this.#wire.write(region.bytes.subarray(region.start, region.end), () => {
        this.#leavingBytes -= bytes
        if (this.#leavingBytes === 0) this.#leavingSlab = undefined
        this.#forget(pushed)
        if (region === pushed) this.#memory.release(region)
        this.#drained()
      })
    }
  }

  /** Too small for the slab that it would keep: the client is behind, and the slab is not the one that it keeps already. */
  #wouldPinSlab({ slab, start, end }: Region): boolean {
    if (slab === undefined || this.#leavingBytes === 0 || slab === this.#leavingSlab) return false
    return end - start < slabShareBytesMin
  }

  #forget({ slab, start, end }: Region): void {
    this.queuedBytes -= end - start
    if (slab === undefined) this.lentPieces--
  }

  /** The connection is gone: nothing of this will leave. */
  drop(): void {
    for (const region of this.#regions) {
      this.#forget(region)
      this.#memory.release(region)
    }
    this.#regions = []
  }
}

/** Length of one PDU of ours with all digests. */
export function framedBytes(dataBytes: number, digests: Digests): number {
  const header = headerBytes + (digests.headerDigest ? digestBytes : 0)
  if (dataBytes === 0) return header
  return header + paddedBytes(dataBytes) + (digests.dataDigest ? digestBytes : 0)
}

/** Where the data of a PDU that begins at `start` is. */
export function dataStart(start: number, digests: Digests): number {
  return start + headerBytes + (digests.headerDigest ? digestBytes : 0)
}

export type Digests = { readonly headerDigest: boolean; readonly dataDigest: boolean }

/** Writes the digests of the one PDU in `region`, when nothing in it will change any more. RFC 7143 §11.2.3, §11.2.4. */
export function sealDigests(region: Region, digests: Digests): void {
  const { slab, bytes, start, end } = region
  if (slab === undefined) return
  const { view } = slab
  if (digests.headerDigest) {
    view.setUint32(start + headerBytes, crc32c(bytes.subarray(start, start + headerBytes)), true)
  }
  const from = dataStart(start, digests)
  if (digests.dataDigest && end > from) {
    view.setUint32(end - digestBytes, crc32c(bytes.subarray(from, end - digestBytes)), true)
  }
}
