/** Notices who reads in order and had to wait, and says what to fetch before he asks. */
import { readAheadBytesFirst, readAheadBytesMax, readAheadStreamsMax } from './limits.ts'

/** A reader that comes back where it stopped. */
type Stream = { readonly ahead: number; readonly windowBytes: number }

export class ReadAhead {
  /** By the offset where the reader is expected next; oldest first. */
  readonly #streams = new Map<number, Stream>()
  readonly #fetch: (offset: number, bytes: number) => void

  constructor(fetch: (offset: number, bytes: number) => void) {
    this.#fetch = fetch
  }

  /** Called for every request; `waited` when it had to wait for the disk. */
  note(offset: number, end: number, waited: boolean): void {
    if (this.#streams.size === 0 && !waited) return
    const stream = this.#streams.get(offset)
    if (stream === undefined && !waited) return
    this.#streams.delete(offset)
    if (this.#streams.size >= readAheadStreamsMax) {
      for (const oldest of this.#streams.keys()) {
        this.#streams.delete(oldest)
        break
      }
    }
    if (stream === undefined) {
      this.#streams.set(end, { ahead: end, windowBytes: readAheadBytesFirst })
      return
    }
    const { windowBytes } = stream
    const ahead = Math.max(stream.ahead, end)
    // More is asked for when half of the last window is used up, so that the disk never rests.
    if (ahead - end > windowBytes / 2) {
      this.#streams.set(end, stream)
      return
    }
    this.#streams.set(end, { ahead: ahead + windowBytes, windowBytes: Math.min(windowBytes * 2, readAheadBytesMax) })
    this.#fetch(ahead, windowBytes)
  }
}
