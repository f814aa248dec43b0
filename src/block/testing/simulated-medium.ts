/**
 * The sectors of a simulated disk: each has what is on stable storage, and what was put there since. After a power cut it
 * holds the first or any of the others.
 */
import { assert } from '../../base/assert.ts'

const sectorBytes = 512

/** Undefined: a hole. `operation` is the number of the operation that put it there. */
type Version = { readonly bytes: Uint8Array | undefined; readonly operation: number }
type Sector = { durable: Uint8Array | undefined; readonly since: Version[] }

export class SimulatedMedium {
  readonly #sectors = new Map<number, Sector>()
  readonly #dirty = new Set<number>()
  #usedSectors = 0
  sizeBytes: number = 0
  durableSizeBytes: number = 0

  /** All of it durable. */
  static of(content: Uint8Array): SimulatedMedium {
    const medium = new SimulatedMedium()
    medium.sizeBytes = content.byteLength
    medium.durableSizeBytes = content.byteLength
    for (let at = 0; at < content.byteLength; at += sectorBytes) {
      const piece = content.subarray(at, at + sectorBytes)
      if (!isZero(piece)) medium.#putDurable(at / sectorBytes, whole(piece))
    }
    return medium
  }

  get usedBytes(): number {
    return this.#usedSectors * sectorBytes
  }

  read(offset: number, target: Uint8Array): void {
    for (let done = 0; done < target.byteLength; ) {
      const within = (offset + done) % sectorBytes
      const bytes = Math.min(sectorBytes - within, target.byteLength - done)
      const content = this.#now((offset + done - within) / sectorBytes)
      if (content === undefined) target.fill(0, done, done + bytes)
      else target.set(content.subarray(within, within + bytes), done)
      done += bytes
    }
  }

  /** How many bytes of a write at `offset` fit when only so many bytes of sectors may be in use. */
  fitting(offset: number, bytes: number, capacityBytes: number): number {
    let freeSectors = Math.floor(capacityBytes / sectorBytes) - this.#usedSectors
    if (freeSectors * sectorBytes >= bytes + 2 * sectorBytes) return bytes
    for (let at = offset - (offset % sectorBytes); at < offset + bytes; at += sectorBytes) {
      if (this.#now(at / sectorBytes) !== undefined) continue
      if (freeSectors <= 0) return Math.max(0, at - offset)
      freeSectors--
    }
    return bytes
  }

  write(offset: number, source: Uint8Array, operation: number): void {
    for (let done = 0; done < source.byteLength; ) {
      const within = (offset + done) % sectorBytes
      const bytes = Math.min(sectorBytes - within, source.byteLength - done)
      const index = (offset + done - within) / sectorBytes
      const next = bytes === sectorBytes ? source.slice(done, done + bytes) : whole(this.#now(index))
      if (bytes < sectorBytes) next.set(source.subarray(done, done + bytes), within)
      this.#put(index, next, operation)
      done += bytes
    }
    this.sizeBytes = Math.max(this.sizeBytes, offset + source.byteLength)
  }

  punch(offset: number, end: number, operation: number): void {
    const first = Math.floor(offset / sectorBytes)
    const last = Math.floor((end - 1) / sectorBytes)
    // A hole may be far larger than what was ever written: walk whichever is fewer.
    if (last - first < this.#sectors.size)
      for (let i = first; i <= last; i++) this.#punchSector(i, offset, end, operation)
    else
      for (const i of [...this.#sectors.keys()])
        if (i >= first && i <= last) this.#punchSector(i, offset, end, operation)
  }

  resize(sizeBytes: number, operation: number): void {
    if (sizeBytes < this.sizeBytes) this.punch(sizeBytes, this.sizeBytes, operation)
    this.sizeBytes = sizeBytes
  }

  /** What an operation put there that `isCovered` is on stable storage from now on, and with it all that was there before. */
  settle(isCovered: (operation: number) => boolean): void {
    for (const index of this.#dirty) {
      const sector = this.#sectors.get(index)
      assert(sector !== undefined, 'a sector that changed is there')
      const last = sector.since.findLastIndex(({ operation }) => isCovered(operation))
      if (last === -1) continue
      sector.durable = sector.since[last]?.bytes
      sector.since.splice(0, last + 1)
      if (sector.since.length === 0) this.#dirty.delete(index)
    }
  }

  /** What a program sees now, all of it durable. Content is shared: nobody ever changes a sector's bytes. */
  fork(): SimulatedMedium {
    const copy = new SimulatedMedium()
    for (const index of this.#sectors.keys()) copy.#putDurable(index, this.#now(index))
    copy.sizeBytes = this.sizeBytes
    copy.durableSizeBytes = this.sizeBytes
    return copy
  }

  /** What may be left when the power goes now: of each sector what is durable, or anything put there since. */
  crash(random: () => number): SimulatedMedium {
    const left = new SimulatedMedium()
    const keepAll = random() < 0.1
    const share = keepAll ? 1 : random()
    left.sizeBytes = this.#sizeLeft(keepAll, random)
    left.durableSizeBytes = left.sizeBytes
    for (const [index, { durable, since }] of this.#sectors) {
      const restBytes = left.sizeBytes - index * sectorBytes
      if (restBytes <= 0) continue
      let kept = durable
      if (since.length > 0 && random() < share) {
        kept = since[keepAll ? since.length - 1 : Math.floor(random() * since.length)]?.bytes
      }
      left.#putDurable(index, restBytes < sectorBytes && kept !== undefined ? whole(kept.subarray(0, restBytes)) : kept)
    }
    return left
  }

  #sizeLeft(keepAll: boolean, random: () => number): number {
    const choice = keepAll ? 0 : random()
    if (choice < 0.4) return this.sizeBytes
    if (choice < 0.8) return this.durableSizeBytes
    const between = this.durableSizeBytes + random() * (this.sizeBytes - this.durableSizeBytes)
    return Math.max(Math.min(this.sizeBytes, this.durableSizeBytes), Math.floor(between / sectorBytes) * sectorBytes)
  }

  #now(index: number): Uint8Array | undefined {
    const sector = this.#sectors.get(index)
    if (sector === undefined) return undefined
    const { durable, since } = sector
    return since.length === 0 ? durable : since[since.length - 1]?.bytes
  }

  #put(index: number, bytes: Uint8Array | undefined, operation: number): void {
    const before = this.#now(index)
    let sector = this.#sectors.get(index)
    if (sector === undefined) {
      sector = { durable: undefined, since: [] }
      this.#sectors.set(index, sector)
    }
    sector.since.push({ bytes, operation })
    this.#dirty.add(index)
    if (before === undefined && bytes !== undefined) this.#usedSectors++
    if (before !== undefined && bytes === undefined) this.#usedSectors--
  }

  #putDurable(index: number, bytes: Uint8Array | undefined): void {
    if (bytes === undefined) return
    this.#sectors.set(index, { durable: bytes, since: [] })
    this.#usedSectors++
  }

  #punchSector(index: number, offset: number, end: number, operation: number): void {
    const content = this.#now(index)
    if (content === undefined) return
    const start = index * sectorBytes
    if (offset <= start && end >= start + sectorBytes) {
      this.#put(index, undefined, operation)
      return
    }
    const next = content.slice()
    next.fill(0, Math.max(0, offset - start), Math.min(sectorBytes, end - start))
    this.#put(index, next, operation)
  }
}

/** A sector of its own that begins with `piece`. */
function whole(piece: Uint8Array | undefined): Uint8Array {
  if (piece?.byteLength === sectorBytes) return piece.slice()
  const sector = new Uint8Array(sectorBytes)
  if (piece !== undefined) sector.set(piece)
  return sector
}

function isZero(bytes: Uint8Array): boolean {
  for (const byte of bytes) if (byte !== 0) return false
  return true
}
