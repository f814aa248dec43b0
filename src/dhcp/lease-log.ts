/**
 * Leases in two plain files of lines, one of which is being appended to; the other is empty or being made.
 *
 *   slipway-leases 1 generation 7
 *   bound 192.168.77.115 52:54:00:77:00:10 1790000000 5b1c9a02
 *   ...                                                              (a snapshot: one line for each address)
 *   complete                                                         (without it the file counts for nothing)
 *   released 192.168.77.115 52:54:00:77:00:10 1790000311 c21f0e77    (what happened since; the last line counts)
 *
 * A line is kind, address, machine, expiry in seconds since 1970, and a checksum of what stands before it. A commit is one
 * write: it has reached the kernel when it returns, so it survives kill -9, as Kea's memfile does; power loss may cost
 * the last seconds. When the lines since the snapshot outnumber the leases several times, a new snapshot goes
 * into the other file, and only when that is on stable storage is this one emptied. So at every instant the file with the
 * highest generation that says `complete` holds everything.
 */
import { formatIpv4, parseIpv4 } from '../base/address.ts'
import { assert } from '../base/assert.ts'
import { OperationError } from '../base/errors.ts'
import type { RandomAccessFile } from '../ports/file.ts'
import { compactionFactor, compactionLinesMin } from './limits.ts'
import { asciiText } from './option.ts'
import type { LeaseStore, StoredLease } from './policy.ts'

export interface LeaseLog extends LeaseStore {
  /** Finishes what is under way. The files stay open: whoever opened them closes them. */
  close(): Promise<void>
}

/** The two files must be on one file system and nobody else's. */
export function openLeaseLog(files: readonly [RandomAccessFile, RandomAccessFile]): LeaseLog {
  return new TwoFileLog(files)
}

class TwoFileLog implements LeaseLog {
  readonly #files: readonly [RandomAccessFile, RandomAccessFile]
  readonly #latest: Map<number, StoredLease> = new Map()
  #active: 0 | 1 = 0
  #generation = 0
  /** Where the next line goes. */
  #offset = 0
  #linesSinceSnapshot = 0
  #line: LineBuffer = new LineBuffer()
  /** Set while a snapshot is being made: what has happened since it was taken. */
  #sinceSnapshot: StoredLease[] | undefined
  #inFlight: Promise<void> | undefined
  /** Set while the active file changes: commits wait for it. */
  #switching: Promise<void> | undefined
  #compaction: Promise<void> = Promise.resolve()

  constructor(files: readonly [RandomAccessFile, RandomAccessFile]) {
    this.#files = files
  }

  async load(): Promise<readonly StoredLease[]> {
    const read = await Promise.all(this.#files.map(readLog))
    const [first, second] = read
    assert(first !== undefined && second !== undefined, 'two files were read')
    this.#active = second.generation > first.generation ? 1 : 0
    const active = this.#active === 0 ? first : second
    this.#generation = active.generation
    this.#offset = active.bytes
    this.#linesSinceSnapshot = active.leases.length
    for (const lease of active.leases) this.#latest.set(lease.address, lease)
    if (active.generation === 0) await this.#startFirst()
    return [...this.#latest.values()]
  }

  commit(batch: readonly StoredLease[]): Promise<void> | undefined {
    assert(this.#generation > 0, 'the log was loaded')
    if (this.#switching !== undefined) {
      const again = (): Promise<void> | undefined => this.commit(batch)
      return this.#switching.then(again, again)
    }
    this.#line.clear()
    for (const lease of batch) this.#line.addLease(lease)
    const bytes = this.#line.written()
    const done = this.#files[this.#active].write(this.#offset, bytes)
    if (done === undefined) {
      this.#committed(batch, bytes.byteLength)
      return undefined
    }
    this.#inFlight = done.then(() => this.#committed(batch, bytes.byteLength))
    return this.#inFlight
  }

  async close(): Promise<void> {
    await this.#compaction
  }

  /** Only now does the offset move on: a write that failed is overwritten by the next. */
  #committed(batch: readonly StoredLease[], bytes: number): void {
    this.#offset += bytes
    this.#linesSinceSnapshot += batch.length
    for (const lease of batch) this.#latest.set(lease.address, lease)
    this.#sinceSnapshot?.push(...batch)
    const lines = Math.max(compactionLinesMin, compactionFactor * this.#latest.size)
    if (this.#linesSinceSnapshot > lines && this.#sinceSnapshot === undefined) this.#compaction = this.#compact()
  }

  async #startFirst(): Promise<void> {
    this.#generation = 1
    this.#line.clear()
    this.#line.add(`${headerOf(1)}\n${completeLine}\n`)
    const bytes = this.#line.written()
    await this.#files[0].truncate(0)
    await this.#files[0].write(0, bytes)
    await this.#files[0].sync()
    this.#offset = bytes.byteLength
  }

  /** The disk may be full or failing: then the active file still has everything, and the commits tell of it. */
  async #compact(): Promise<void> {
    const next = this.#active === 0 ? 1 : 0
    this.#sinceSnapshot = []
    try {
      const snapshotBytes = await this.#writeSnapshot(this.#files[next])
      const old = this.#files[this.#active]
      this.#switching = this.#switchTo(next, snapshotBytes)
      await this.#switching
      await this.#files[next].sync()
      await old.truncate(0)
    } catch (error) {
      if (!(error instanceof OperationError)) throw error
      this.#linesSinceSnapshot = 0
    } finally {
      this.#switching = undefined
      this.#sinceSnapshot = undefined
    }
  }

  async #writeSnapshot(file: RandomAccessFile): Promise<number> {
    const snapshot = new LineBuffer()
    snapshot.add(`${headerOf(this.#generation + 1)}\n`)
    for (const lease of this.#latest.values()) snapshot.addLease(lease)
    await file.truncate(0)
    await file.write(0, snapshot.written())
    await file.sync()
    return snapshot.written().byteLength
  }

  /**
   * Adds what was committed while the snapshot was made, says `complete`, and goes on in the new file. Commits wait for
   * that; a line in the old file after `complete` stands in the new one would be lost.
   */
  async #switchTo(next: 0 | 1, snapshotBytes: number): Promise<void> {
    // Its failure is its caller's to tell.
    await this.#inFlight?.catch(() => undefined)
    const tail = new LineBuffer()
    for (const lease of this.#sinceSnapshot ?? []) tail.addLease(lease)
    tail.add(`${completeLine}\n`)
    await this.#files[next].write(snapshotBytes, tail.written())
    this.#active = next
    this.#generation++
    this.#offset = snapshotBytes + tail.written().byteLength
    this.#linesSinceSnapshot = 0
    this.#switching = undefined
  }
}

const completeLine = 'complete'
const headerWords = 'slipway-leases 1 generation'

function headerOf(generation: number): string {
  return `${headerWords} ${generation}`
}

type ReadLog = {
  /** 0 when the file has no whole snapshot. */
  readonly generation: number
  readonly bytes: number
  readonly leases: readonly StoredLease[]
}

/** Lines that are torn, or that a disk gave back as zeroes after power loss, are passed over. */
async function readLog(file: RandomAccessFile): Promise<ReadLog> {
  const content = new Uint8Array(file.sizeBytes())
  await file.read(0, content)
  let at = 0
  let generation = 0
  let isComplete = false
  let end = 0
  const leases: StoredLease[] = []
  while (at < content.byteLength) {
    const newline = content.indexOf(0x0a, at)
    if (newline === -1) break
    const line = newline - at <= lineBytesMax ? asciiText(content.subarray(at, newline)) : ''
    at = newline + 1
    end = at
    if (line.startsWith(headerWords)) generation = Number(line.slice(headerWords.length))
    else if (line === completeLine) isComplete = true
    else {
      const lease = parseLine(line)
      if (lease !== undefined) leases.push(lease)
    }
  }
  const isWhole = isComplete && Number.isSafeInteger(generation) && generation > 0
  return isWhole ? { generation, bytes: end, leases } : { generation: 0, bytes: 0, leases: [] }
}

const lineBytesMax = 160
const linePattern = /^((bound|released|declined) (\S+) (\S+) (\d{1,11})) ([0-9a-f]{8})$/

function parseLine(line: string): StoredLease | undefined {
  const match = linePattern.exec(line)
  if (match === null) return undefined
  const [, body = '', kind, address = '', mac = '', expiry, sum = ''] = match
  const number = parseIpv4(address)
  if (number === undefined || checksumOf(body) !== sum) return undefined
  return { kind: kind as StoredLease['kind'], address: number, mac, expiresAtSeconds: Number(expiry) }
}

/** FNV-1a of 32 bits: it only has to tell a torn line from a whole one. */
function checksumOf(text: string): string {
  let hash = 0x811c9dc5
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
  return (hash >>> 0).toString(16).padStart(8, '0')
}

/** Lines on their way into a file; grows, and is used again. */
class LineBuffer {
  #bytes: Uint8Array = new Uint8Array(4096)
  #size = 0

  clear(): void {
    this.#size = 0
  }

  /** Valid until the next line is added. */
  written(): Uint8Array {
    return this.#bytes.subarray(0, this.#size)
  }

  addLease({ kind, address, mac, expiresAtSeconds }: StoredLease): void {
    const body = `${kind} ${formatIpv4(address)} ${mac} ${expiresAtSeconds}`
    this.add(`${body} ${checksumOf(body)}\n`)
  }

  add(line: string): void {
    if (this.#size + line.length > this.#bytes.byteLength) {
      const larger = new Uint8Array(2 * this.#bytes.byteLength + line.length)
      larger.set(this.written())
      this.#bytes = larger
    }
    for (let i = 0; i < line.length; i++) this.#bytes[this.#size + i] = line.charCodeAt(i)
    this.#size += line.length
  }
}
