/**
 * What a boot read of its golden image, in order: recorded once, and fetched ahead of the next machine's asking.
 *
 * Kept as a file (big-endian; a varint is 7 bits a byte, the lowest first, the top bit set but for the last byte):
 *
 *   0   8  'SLIPBOOT'
 *   8   2  version, 1
 *   10  2  reserved
 *   12  8  bytes of the disk
 *   20  4  number of ranges
 *   24     for each range: varint of where it begins, in pages, from where the one before it ended (zigzag: 0, -1, 1, -2 ...);
 *          varint of how many pages it has
 *   end 4  CRC-32C of all before
 */
import { u16, u32, u64 } from '../wire/big-endian.ts'
import { crc32c } from '../wire/crc32c.ts'
import { WireError } from '../wire/reader.ts'
import type { CachedDevice } from './cache.ts'
import { pageBytes } from './cache-memory.ts'
import type { Pending } from './device.ts'
import { traceBytesMax, traceFetchesMax, traceRangesMax, traceStepBytes } from './limits.ts'

export type BootTrace = {
  readonly diskBytes: number
  /** In the order in which they were first read; none overlaps another. Whole pages. */
  readonly ranges: readonly TraceRange[]
}

export type TraceRange = { readonly offset: number; readonly bytes: number }

const magic = 'SLIPBOOT'
const version = 1
const headBytes = 24
const tailBytes = 4

export function bytesOf({ ranges }: BootTrace): number {
  return ranges.reduce((sum, { bytes }) => sum + bytes, 0)
}

/** Takes down what is read for the first time, until it is full. */
export class TraceRecorder {
  readonly #diskPages: number
  readonly #diskBytes: number
  /** Pages read before, by 4096. */
  readonly #seen = new Map<number, Uint8Array>()
  readonly #firstPages: number[] = []
  readonly #pageCounts: number[] = []
  /** Of what was taken down. */
  pageCount: number = 0

  constructor(diskBytes: number) {
    this.#diskBytes = diskBytes
    this.#diskPages = Math.ceil(diskBytes / pageBytes)
  }

  /** More than a boot reads: nothing is taken down any more. */
  get isFull(): boolean {
    return this.#firstPages.length >= traceRangesMax || this.pageCount >= traceBytesMax / pageBytes
  }

  note(offset: number, bytes: number): void {
    const end = Math.min(Math.ceil((offset + bytes) / pageBytes), this.#diskPages)
    for (let page = Math.floor(offset / pageBytes); page < end; page++) {
      if (this.isFull) return
      if (this.#wasSeen(page)) continue
      const last = this.#firstPages.length - 1
      if (last >= 0 && (this.#firstPages[last] ?? 0) + (this.#pageCounts[last] ?? 0) === page) {
        this.#pageCounts[last] = (this.#pageCounts[last] ?? 0) + 1
      } else {
        this.#firstPages.push(page)
        this.#pageCounts.push(1)
      }
      this.pageCount++
    }
  }

  trace(): BootTrace {
    const ranges = this.#firstPages.map((page, index) => {
      const offset = page * pageBytes
      return { offset, bytes: Math.min((this.#pageCounts[index] ?? 0) * pageBytes, this.#diskBytes - offset) }
    })
    return { diskBytes: this.#diskBytes, ranges }
  }

  #wasSeen(page: number): boolean {
    const index = Math.floor(page / 4096)
    let chunk = this.#seen.get(index)
    if (chunk === undefined) {
      chunk = new Uint8Array(4096)
      this.#seen.set(index, chunk)
    }
    const wasSeen = chunk[page % 4096] === 1
    chunk[page % 4096] = 1
    return wasSeen
  }
}

export function encodeBootTrace({ diskBytes, ranges }: BootTrace): Uint8Array {
  const body: number[] = []
  const varint = (value: number): void => {
    let left = value
    for (; left >= 0x80; left = Math.floor(left / 0x80)) body.push((left % 0x80) | 0x80)
    body.push(left)
  }
  let expected = 0
  for (const { offset, bytes } of ranges) {
    const page = offset / pageBytes
    const pages = Math.ceil(bytes / pageBytes)
    const step = page - expected
    varint(step < 0 ? -2 * step - 1 : 2 * step)
    varint(pages)
    expected = page + pages
  }
  const encoded = new Uint8Array(headBytes + body.length + tailBytes)
  const view = new DataView(encoded.buffer)
  encoded.set(new TextEncoder().encode(magic))
  view.setUint16(8, version)
  view.setBigUint64(12, BigInt(diskBytes))
  view.setUint32(20, ranges.length)
  encoded.set(body, headBytes)
  const end = headBytes + body.length
  view.setUint32(end, crc32c(encoded.subarray(0, end)))
  return encoded
}

/** @throws {WireError} where it is not what `encodeBootTrace` makes, or of another version */
export function decodeBootTrace(encoded: Uint8Array): BootTrace {
  const end = encoded.byteLength - tailBytes
  if (end < headBytes) throw new WireError('truncated', encoded.byteLength)
  for (let i = 0; i < magic.length; i++) if (encoded[i] !== magic.charCodeAt(i)) throw new WireError('badValue', i)
  if (u16(encoded, 8) !== version) throw new WireError('badValue', 8)
  if (u32(encoded, end) !== crc32c(encoded.subarray(0, end))) throw new WireError('badValue', end)
  const diskBytes = u64(encoded, 12)
  const diskPages = Math.ceil(diskBytes / pageBytes)
  const count = u32(encoded, 20)
  // Two bytes a range at least: a count that cannot be true makes no array.
  if (count > traceRangesMax || count * 2 > end - headBytes) throw new WireError('badLength', 20)
  let at = headBytes
  const varint = (): number => {
    let value = 0
    for (let scale = 1; ; scale *= 0x80) {
      const byte = encoded[at]
      if (byte === undefined || at >= end) throw new WireError('truncated', at)
      if (scale > 2 ** 42) throw new WireError('badValue', at)
      at++
      value += (byte & 0x7f) * scale
      if (byte < 0x80) return value
    }
  }
  const ranges: TraceRange[] = []
  const recorder = new TraceRecorder(diskBytes)
  let expected = 0
  for (let i = 0; i < count; i++) {
    const start = at
    const zigzag = varint()
    const page = expected + (zigzag % 2 === 1 ? -(zigzag + 1) / 2 : zigzag / 2)
    const pages = varint()
    if (pages === 0 || page < 0 || page + pages > diskPages) throw new WireError('badValue', start)
    recorder.note(page * pageBytes, pages * pageBytes)
    if (recorder.isFull && i + 1 < count) throw new WireError('badLength', start)
    const offset = page * pageBytes
    ranges.push({ offset, bytes: Math.min(pages * pageBytes, diskBytes - offset) })
    expected = page + pages
  }
  if (at !== end) throw new WireError('badLength', at)
  const trace = { diskBytes, ranges }
  // What was read twice was not taken down twice: whoever says so would have us fetch more than there is.
  if (bytesOf(recorder.trace()) !== bytesOf(trace)) throw new WireError('badValue', headBytes)
  return trace
}

export type FetchTraceOptions = {
  /** No more than this is fetched: what does not fit would drive itself out. */
  readonly bytesMax: number
  /** Lets everybody else have his turn. */
  pause(): Promise<void>
  /** Asked between steps; true ends it. */
  isOver(): boolean
}

/** Brings into memory what the trace names, in its order, behind everybody who really asks. Returns the bytes it went through. */
export async function fetchTrace(
  device: Pick<CachedDevice, 'prefetch'>,
  { ranges }: BootTrace,
  { bytesMax, pause, isOver }: FetchTraceOptions,
): Promise<number> {
  const underway = new Set<Promise<void>>()
  let doneBytes = 0
  let sincePauseBytes = 0
  for (const range of ranges) {
    for (let at = 0; at < range.bytes; at += traceStepBytes) {
      if (isOver() || doneBytes >= bytesMax) break
      const bytes = Math.min(range.bytes - at, traceStepBytes)
      const pending: Pending = device.prefetch(range.offset + at, bytes)
      doneBytes += bytes
      sincePauseBytes += bytes
      if (pending !== undefined) {
        const step: Promise<void> = pending.then(() => void underway.delete(step))
        underway.add(step)
        if (underway.size >= traceFetchesMax) await Promise.race(underway)
      }
      if (sincePauseBytes >= traceStepBytes) {
        sincePauseBytes = 0
        await pause()
      }
    }
  }
  await Promise.all(underway)
  return doneBytes
}
