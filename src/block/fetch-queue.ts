/**
 * Who may wait for the disk of one image, and in which order.
 *
 *   at once       while fewer than `fetchesInFlightMax` are under way, and nobody waits
 *   then          readers in turn, one fetch each, however many one of them asks for
 *   last          what nobody has asked for yet (reading ahead, a boot's trace), a few at a time and only while nobody waits
 *
 * The bound is for each image: a disk that does not answer keeps that many of the threads that read, and no more.
 */
import { fetchesAheadMax, fetchesInFlightMax } from './limits.ts'

/** Some pages of one image on their way into memory. */
export class Fetch {
  readonly firstPage: number
  readonly pageCount: number
  readonly done: Promise<void>
  /** Who gave it its place in the queue; undefined while nobody has asked for it. */
  reader: object | undefined
  isWaiting: boolean = false
  #resolve: () => void = () => undefined
  #reject: (error: unknown) => void = () => undefined

  constructor(firstPage: number, pageCount: number, reader: object | undefined) {
    this.firstPage = firstPage
    this.pageCount = pageCount
    this.reader = reader
    this.done = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    // Whoever waits is told; that nobody does is no fault.
    this.done.catch(() => undefined)
  }

  succeed(): void {
    this.#resolve()
  }

  fail(error: unknown): void {
    this.#reject(error)
  }
}

export class FetchQueue {
  readonly #start: (fetch: Fetch) => void
  #inFlight = 0
  #aheadInFlight = 0
  /** Readers in the order of their turns. */
  readonly #readers = new Map<object, Fetch[]>()
  #ahead: Fetch[] = []

  /** @param start must end with `ended`, now or later */
  constructor(start: (fetch: Fetch) => void) {
    this.#start = start
  }

  mayStart(reader: object | undefined): boolean {
    if (this.#inFlight >= fetchesInFlightMax || this.#readers.size > 0) return false
    return reader !== undefined || this.#aheadInFlight < fetchesAheadMax
  }

  started(fetch: Fetch): void {
    this.#inFlight++
    if (fetch.reader === undefined) this.#aheadInFlight++
  }

  wait(fetch: Fetch): void {
    fetch.isWaiting = true
    if (fetch.reader === undefined) this.#ahead.push(fetch)
    else this.#line(fetch.reader).push(fetch)
  }

  /** Somebody asks for what was to be fetched ahead: it takes its turn with what he asks for. */
  want(fetch: Fetch, reader: object): void {
    if (!fetch.isWaiting || fetch.reader !== undefined) return
    this.#ahead.splice(this.#ahead.indexOf(fetch), 1)
    fetch.reader = reader
    this.#line(reader).push(fetch)
    this.#startNext()
  }

  /** `wasAhead`: nobody had asked for it when it was started. */
  ended(wasAhead: boolean): void {
    this.#inFlight--
    if (wasAhead) this.#aheadInFlight--
    this.#startNext()
  }

  #startNext(): void {
    while (this.#inFlight < fetchesInFlightMax) {
      const next = this.#next()
      if (next === undefined) return
      next.isWaiting = false
      this.started(next)
      this.#start(next)
    }
  }

  #line(reader: object): Fetch[] {
    const known = this.#readers.get(reader)
    if (known !== undefined) return known
    const line: Fetch[] = []
    this.#readers.set(reader, line)
    return line
  }

  #next(): Fetch | undefined {
    for (const [reader, line] of this.#readers) {
      const next = line.shift()
      // The last in the order now, or in none until he asks again.
      this.#readers.delete(reader)
      if (line.length > 0) this.#readers.set(reader, line)
      return next
    }
    return this.#aheadInFlight < fetchesAheadMax ? this.#ahead.shift() : undefined
  }
}
