/**
 * A disk for tests: answers at once or later, as a seed says; fails when told to; loses power. What was written and not
 * yet synced may be there after a crash or not, sector by sector, in any order: each sector holds its last synced
 * content or what any later write put there.
 */
import { assert } from '../../base/assert.ts'
import { OperationError } from '../../base/errors.ts'
import type { RandomAccessFile } from '../../ports/file.ts'

export type SimulatedFileOptions = {
  readonly content?: Uint8Array
  readonly path?: string
  readonly readOnly?: boolean
  /** 0 <= x < 1; decides what answers late. Absent: everything answers at once. */
  readonly random?: () => number
  /** Share of reads and writes that answer late. */
  readonly lateShare?: number
  readonly holes?: boolean
  /** The disk is full when more than this many bytes of sectors are in use. */
  readonly capacityBytes?: number
}

const sectorBytes = 512

/** One sector: what is on stable storage, and what was written since, oldest first. */
type Sector = { durable: Uint8Array | undefined; readonly since: (Uint8Array | undefined)[] }

export class SimulatedFile implements RandomAccessFile {
  readonly path: string
  readonly readOnly: boolean
  readonly #random: (() => number) | undefined
  readonly #lateShare: number
  readonly #holes: boolean
  readonly #sectors = new Map<number, Sector>()
  #sizeBytes: number
  #durableSizeBytes: number
  #dead = false
  #syncEpoch = 0
  /** Sectors changed since the last sync that ended. */
  readonly #dirty = new Set<number>()
  capacityBytes: number
  /** Set to make every following operation of the kind fail. */
  failReads: boolean = false
  failWrites: boolean = false
  failSyncs: boolean = false
  readCount: number = 0
  readBytes: number = 0
  writeCount: number = 0
  writtenBytes: number = 0
  syncCount: number = 0
  punchedBytes: number = 0
  closed: boolean = false

  constructor(options: SimulatedFileOptions = {}) {
    this.path = options.path ?? 'simulated'
    this.readOnly = options.readOnly ?? false
    this.#random = options.random
    this.#lateShare = options.lateShare ?? 0.5
    this.#holes = options.holes ?? true
    this.capacityBytes = options.capacityBytes ?? Number.MAX_SAFE_INTEGER
    const content = options.content ?? new Uint8Array(0)
    this.#sizeBytes = content.byteLength
    this.#durableSizeBytes = content.byteLength
    for (let at = 0; at < content.byteLength; at += sectorBytes) {
      const piece = new Uint8Array(sectorBytes)
      piece.set(content.subarray(at, at + sectorBytes))
      if (piece.some((byte) => byte !== 0)) this.#sectors.set(at / sectorBytes, { durable: piece, since: [] })
    }
  }

  sizeBytes(): number {
    return this.#sizeBytes
  }

  get usedBytes(): number {
    let used = 0
    for (const sector of this.#sectors.values()) if (now(sector) !== undefined) used += sectorBytes
    return used
  }

  read(offset: number, target: Uint8Array): Promise<void> | undefined {
    this.#alive()
    this.readCount++
    this.readBytes += target.byteLength
    const fill = (): void => {
      this.#alive()
      if (this.failReads) throw ioError('read')
      this.#copyOut(offset, target)
    }
    return this.#soonOrLate(fill)
  }

  write(offset: number, source: Uint8Array): Promise<void> | undefined {
    this.#alive()
    assert(!this.readOnly, 'nobody writes a file that was opened read-only')
    this.writeCount++
    this.writtenBytes += source.byteLength
    return this.#soonOrLate(() => {
      this.#alive()
      if (this.failWrites) throw ioError('write')
      this.#copyIn(offset, source)
    })
  }

  async sync(): Promise<void> {
    this.#alive()
    this.syncCount++
    // What ends while the sync runs may or may not be covered by it; here it is not.
    const covered: [number, number][] = []
    for (const index of this.#dirty) covered.push([index, this.#sectors.get(index)?.since.length ?? 0])
    const size = this.#sizeBytes
    const epoch = ++this.#syncEpoch
    if (this.#random !== undefined) await this.#turns()
    this.#alive()
    if (this.failSyncs) throw ioError('sync')
    assert(epoch === this.#syncEpoch, 'a test syncs one at a time')
    for (const [index, versions] of covered) {
      const sector = this.#sectors.get(index)
      if (sector === undefined || versions === 0) continue
      sector.durable = sector.since[versions - 1]
      sector.since.splice(0, versions)
      if (sector.since.length === 0) this.#dirty.delete(index)
    }
    this.#durableSizeBytes = size
  }

  async punchHole(offset: number, bytes: number): Promise<boolean> {
    this.#alive()
    if (!this.#holes) return false
    const end = Math.min(offset + bytes, this.#sizeBytes)
    if (offset < end) {
      this.punchedBytes += end - offset
      this.#copyIn(offset, new Uint8Array(end - offset), true)
    }
    return true
  }

  async truncate(sizeBytes: number): Promise<void> {
    this.#alive()
    if (sizeBytes < this.#sizeBytes) this.#copyIn(sizeBytes, new Uint8Array(this.#sizeBytes - sizeBytes), true)
    this.#sizeBytes = sizeBytes
  }

  async grow(sizeBytes: number): Promise<void> {
    this.#alive()
    this.#sizeBytes = Math.max(this.#sizeBytes, sizeBytes)
  }

  async close(): Promise<void> {
    this.closed = true
  }

  /** The whole content as a program sees it now. */
  content(): Uint8Array {
    const content = new Uint8Array(this.#sizeBytes)
    this.#copyOut(0, content)
    return content
  }

  /** Power goes: this file answers nothing any more, and what a disk may have kept of it is the content of a new one. */
  crash(random: () => number, options: SimulatedFileOptions = {}): SimulatedFile {
    this.#dead = true
    const keepAll = random() < 0.1
    const sizeBytes = keepAll || random() < 0.5 ? this.#sizeBytes : this.#durableSizeBytes
    const content = new Uint8Array(sizeBytes)
    const share = random()
    for (const [index, sector] of this.#sectors) {
      if (index * sectorBytes >= sizeBytes) continue
      let kept = sector.durable
      if (sector.since.length > 0 && (keepAll || random() < share)) {
        kept = sector.since[keepAll ? sector.since.length - 1 : Math.floor(random() * sector.since.length)]
      }
      if (kept !== undefined) content.set(kept.subarray(0, sizeBytes - index * sectorBytes), index * sectorBytes)
    }
    return new SimulatedFile({ path: this.path, ...options, content })
  }

  #alive(): void {
    if (this.#dead) throw ioError('use after the power went')
  }

  #soonOrLate(act: () => void): Promise<void> | undefined {
    if (this.#random === undefined || this.#random() >= this.#lateShare) {
      act()
      return undefined
    }
    return this.#turns().then(act)
  }

  async #turns(): Promise<void> {
    const count = 1 + Math.floor((this.#random?.() ?? 0) * 8)
    for (let i = 0; i < count; i++) await undefined
  }

  #copyOut(offset: number, target: Uint8Array): void {
    for (let done = 0; done < target.byteLength; ) {
      const within = (offset + done) % sectorBytes
      const bytes = Math.min(sectorBytes - within, target.byteLength - done)
      const sector = this.#sectors.get(Math.floor((offset + done) / sectorBytes))
      const content = sector === undefined ? undefined : now(sector)
      if (content === undefined) target.fill(0, done, done + bytes)
      else target.set(content.subarray(within, within + bytes), done)
      done += bytes
    }
  }

  #copyIn(offset: number, source: Uint8Array, hole: boolean = false): void {
    if (!hole) this.#claimSpace(offset, source.byteLength)
    for (let done = 0; done < source.byteLength; ) {
      const index = Math.floor((offset + done) / sectorBytes)
      const within = (offset + done) % sectorBytes
      const bytes = Math.min(sectorBytes - within, source.byteLength - done)
      const sector = this.#sectors.get(index) ?? { durable: undefined, since: [] }
      this.#sectors.set(index, sector)
      if (hole && bytes === sectorBytes) {
        if (now(sector) !== undefined) this.#remember(index, sector, undefined)
      } else {
        const next = now(sector)?.slice() ?? new Uint8Array(sectorBytes)
        next.set(source.subarray(done, done + bytes), within)
        this.#remember(index, sector, next)
      }
      done += bytes
    }
    if (!hole) this.#sizeBytes = Math.max(this.#sizeBytes, offset + source.byteLength)
  }

  #remember(index: number, sector: Sector, content: Uint8Array | undefined): void {
    sector.since.push(content)
    this.#dirty.add(index)
  }

  #claimSpace(offset: number, bytes: number): void {
    if (this.capacityBytes === Number.MAX_SAFE_INTEGER) return
    let more = 0
    for (let index = Math.floor(offset / sectorBytes); index * sectorBytes < offset + bytes; index++) {
      const sector = this.#sectors.get(index)
      if (sector === undefined || now(sector) === undefined) more += sectorBytes
    }
    if (this.usedBytes + more > this.capacityBytes)
      throw new OperationError('noSpace', 'the disk is full', 'Free some.')
  }
}

function now(sector: Sector): Uint8Array | undefined {
  return sector.since.length > 0 ? sector.since[sector.since.length - 1] : sector.durable
}

function ioError(what: string): OperationError {
  return new OperationError('ioError', `${what} failed on the simulated disk`, 'It was told to fail.')
}
