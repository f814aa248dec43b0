/**
 * What the first good boot of an image version read is kept beside the version; when the next machine begins to boot from it,
 * those blocks are fetched ahead of its asking, through the cache that all machines share.
 *
 *   images/debian@3.boot     of a version in the library; goes with the version
 *   traces/IDENTITY.boot     of the one file that `slipway up FILE` serves; another file by that name has another identity
 *
 * A boot is good when its operating system has logged in by itself, or has written to its disk. The trace ends when the
 * machine has read nothing new for a while, so that it holds what the system reads while it starts, too.
 */
import { messageOf, OperationError } from '../base/errors.ts'
import {
  type BootTrace,
  bytesOf,
  decodeBootTrace,
  encodeBootTrace,
  fetchTrace,
  TraceRecorder,
} from '../block/boot-trace.ts'
import type { BlockCache } from '../block/cache.ts'
import { traceFileBytesMax } from '../block/limits.ts'
import { identityOf, listFiles, makeDirectory, removeIfThere } from '../host/directory.ts'
import { openFile } from '../host/file.ts'
import { join } from '../host/path.ts'
import { writeWholeFile } from '../host/whole-file.ts'
import type { Happening } from '../journal/events.ts'
import type { Clock, Timer } from '../ports/clock.ts'
import type { Log } from '../ports/log.ts'
import { WireError } from '../wire/reader.ts'
import type { ImageShelf } from './shelf.ts'

export type BootTracesParts = {
  readonly shelf: ImageShelf
  readonly cache: BlockCache
  /** Where the traces of files are that no library holds. Made when there is one. */
  readonly directory: string
  readonly clock: Clock
  readonly log: Log
  emit(happening: Happening): void
}

/** One boot that is being taken down. */
export interface TraceRecording {
  readonly observe: (offset: number, bytes: number) => void
  /** The operating system is up far enough to use its disk by itself. */
  isGood(): void
  /** The machine's disk is closed: what there is is all there will be. */
  end(): void
}

/** How often a recording looks whether the machine still reads what is new, and how long a boot may take in all. */
const lookMs = 5_000
const quietLooks = 2
const bootMsMax = 600_000
/** Traces of files that were served once and replaced since. */
const fileTracesMax = 8

export class BootTraces {
  readonly #parts: BootTracesParts
  /** By the path of the golden image: only one boot of each is taken down at a time. */
  readonly #recordings = new Map<string, Recording>()
  readonly #fetches = new Map<string, Promise<void>>()
  #isClosed = false
  #saving: Promise<void> = Promise.resolve()

  constructor(parts: BootTracesParts) {
    this.#parts = parts
  }

  /** A machine opens a fresh disk over that image; undefined when its boot need not be taken down. */
  async record(goldenPath: string, diskBytes: number): Promise<TraceRecording | undefined> {
    if (this.#isClosed || this.#recordings.has(goldenPath)) return undefined
    const recording = new Recording(diskBytes, this.#parts.clock, (trace) => this.#ended(goldenPath, trace))
    // Taken before the first wait, so that the next machine sees it.
    this.#recordings.set(goldenPath, recording)
    try {
      const file = await this.#fileOf(goldenPath)
      if (file !== undefined && (await this.#read(goldenPath, file, diskBytes)) === undefined) return recording
    } catch (error) {
      this.#parts.log.warn('a boot is not taken down', { reason: messageOf(error) })
    }
    recording.cancel()
    return undefined
  }

  /** A machine is about to boot from that image. Nobody waits for it. */
  expect(goldenPath: string): void {
    if (this.#isClosed || this.#fetches.has(goldenPath)) return
    const fetching = this.#fetch(goldenPath)
      .catch((error: unknown) => this.#parts.log.warn('a boot trace was not fetched', { reason: messageOf(error) }))
      .finally(() => this.#fetches.delete(goldenPath))
    this.#fetches.set(goldenPath, fetching)
  }

  /** Recordings end with what they have; nothing is fetched any more. */
  async close(): Promise<void> {
    this.#isClosed = true
    for (const recording of this.#recordings.values()) recording.end()
    await Promise.all(this.#fetches.values())
    await this.#saving
  }

  #ended(goldenPath: string, trace: BootTrace | undefined): void {
    this.#recordings.delete(goldenPath)
    if (trace === undefined || trace.ranges.length === 0) return
    this.#saving = this.#saving
      .then(() => this.#save(goldenPath, trace))
      .catch((error: unknown) => this.#parts.log.warn('a boot trace was not kept', { reason: messageOf(error) }))
  }

  async #save(goldenPath: string, trace: BootTrace): Promise<void> {
    const { directory, emit, shelf } = this.#parts
    const file = await this.#fileOf(goldenPath)
    // The version was removed meanwhile.
    if (file === undefined) return
    if (file.startsWith(directory)) {
      await makeDirectory(directory)
      const old = await listFiles(directory)
      for (const { path } of old.slice(0, Math.max(0, old.length + 1 - fileTracesMax))) await removeIfThere(path)
    }
    await writeWholeFile(file, encodeBootTrace(trace), 0o600)
    const [image, readCount, readBytes] = [shelf.labelOf(goldenPath), trace.ranges.length, bytesOf(trace)]
    emit({ kind: 'bootTraceRecorded', image, readCount, readBytes })
  }

  async #fetch(goldenPath: string): Promise<void> {
    const { cache, clock, emit, shelf } = this.#parts
    const golden = await shelf.open(goldenPath)
    const file = await this.#fileOf(goldenPath)
    const trace = file === undefined ? undefined : await this.#read(goldenPath, file, golden.device.sizeBytes)
    if (trace === undefined) return
    const beganMs = clock.nowMs()
    const fetchedBefore = cache.statistics.fetchedBytes
    const traceBytes = await fetchTrace(golden.device, trace, {
      // The other half is for what machines do beside booting.
      bytesMax: cache.bytesMax / 2,
      pause: () => new Promise((resolve) => clock.after(0, resolve)),
      isOver: () => this.#isClosed,
    })
    const fetchedBytes = cache.statistics.fetchedBytes - fetchedBefore
    // All of it was in memory already: nothing happened.
    if (fetchedBytes === 0) return
    const durationMs = clock.nowMs() - beganMs
    emit({ kind: 'bootTraceFetched', image: shelf.labelOf(goldenPath), traceBytes, durationMs })
  }

  async #fileOf(goldenPath: string): Promise<string | undefined> {
    const kept = this.#parts.shelf.tracePathOf(goldenPath)
    if (kept !== undefined) return kept
    const identity = await identityOf(goldenPath)
    return identity === undefined ? undefined : join(this.#parts.directory, `${identity}.boot`)
  }

  async #read(goldenPath: string, file: string, diskBytes: number): Promise<BootTrace | undefined> {
    try {
      const trace = await readTraceFile(file)
      if (trace === undefined || trace.diskBytes === diskBytes) return trace
      throw new WireError('badValue', 12)
    } catch (error) {
      if (!(error instanceof WireError)) throw error
      // Only a hint, and the next boot makes a new one.
      const image = this.#parts.shelf.labelOf(goldenPath)
      this.#parts.log.warn('a boot trace is damaged or not of this image; it was removed', {
        image,
        reason: error.message,
      })
      await removeIfThere(file)
      return undefined
    }
  }
}

/** Undefined if there is none. @throws {WireError} if it is none */
export async function readTraceFile(path: string): Promise<BootTrace | undefined> {
  try {
    const file = await openFile(path, 'readOnly')
    try {
      if (file.sizeBytes() > traceFileBytesMax) throw new WireError('badLength', traceFileBytesMax)
      const bytes = new Uint8Array(file.sizeBytes())
      await file.read(0, bytes)
      return decodeBootTrace(bytes)
    } finally {
      await file.close()
    }
  } catch (error) {
    if (error instanceof OperationError && error.code === 'fileMissing') return undefined
    throw error
  }
}

export type TraceSummary = { readonly readCount: number; readonly readBytes: number }

/** For people. Undefined if there is none, or none that can be used. */
export async function describeTrace(path: string): Promise<TraceSummary | undefined> {
  try {
    const trace = await readTraceFile(path)
    return trace === undefined ? undefined : { readCount: trace.ranges.length, readBytes: bytesOf(trace) }
  } catch (error) {
    if (!(error instanceof WireError)) throw error
    return undefined
  }
}

/**
 *   waiting ──isGood──▶ good ──nothing new for a while, disk closed, time is up──▶ ended, with a trace
 *      └──disk closed, time is up──▶ ended, without
 */
class Recording implements TraceRecording {
  readonly #recorder: TraceRecorder
  readonly #clock: Clock
  readonly #ended: (trace: BootTrace | undefined) => void
  #state: 'waiting' | 'good' | 'ended' = 'waiting'
  #timer: Timer
  #pagesAtLook = 0
  #quietLooks = 0
  readonly #beganMs: number

  constructor(diskBytes: number, clock: Clock, ended: (trace: BootTrace | undefined) => void) {
    this.#recorder = new TraceRecorder(diskBytes)
    this.#clock = clock
    this.#ended = ended
    this.#beganMs = clock.nowMs()
    this.#timer = clock.after(lookMs, () => this.#look())
  }

  readonly observe = (offset: number, bytes: number): void => {
    if (this.#state !== 'ended') this.#recorder.note(offset, bytes)
  }

  isGood(): void {
    if (this.#state === 'waiting') this.#state = 'good'
  }

  end(): void {
    this.#end(this.#state === 'good' ? this.#recorder.trace() : undefined)
  }

  cancel(): void {
    this.#end(undefined)
  }

  #end(trace: BootTrace | undefined): void {
    if (this.#state === 'ended') return
    this.#state = 'ended'
    this.#timer.cancel()
    this.#ended(trace)
  }

  #look(): void {
    const { pageCount } = this.#recorder
    this.#quietLooks = pageCount === this.#pagesAtLook ? this.#quietLooks + 1 : 0
    this.#pagesAtLook = pageCount
    const isOver = this.#clock.nowMs() - this.#beganMs >= bootMsMax
    if (isOver || (this.#state === 'good' && this.#quietLooks >= quietLooks)) this.end()
    else this.#timer = this.#clock.after(lookMs, () => this.#look())
  }
}
