/**
 * The one stream of events: whoever sees something records it here, whoever wants to know reads it. Recording never waits
 * and never fails; what must be written goes out in one piece when `flush` is called, at the end of a turn.
 */
import type { Mac } from '../base/address.ts'
import { type Attempt, reduce } from './attempt.ts'
import type { BootEvent, EventSource, Happening } from './events.ts'
import { attemptsInMemoryMax, recentEventsMax, subscribersMax } from './limits.ts'
import type { JournalStore } from './store.ts'
import { sentence } from './text.ts'

/** Called for each event, in order. One that throws is a mistake of ours and is not shielded. */
export type Subscriber = (event: BootEvent, attempt: Attempt | undefined) => void

export class Journal {
  readonly #store: JournalStore
  readonly #wallMs: () => number
  readonly #subscribers = new Set<Subscriber>()
  readonly #recent: BootEvent[] = []
  /** By machine, the one that spoke longest ago first. */
  readonly #attempts = new Map<Mac, Attempt>()
  #nextId: number
  #unwritten: BootEvent[] = []
  #changed = new Map<number, Attempt>()

  constructor(store: JournalStore, wallMs: () => number) {
    this.#store = store
    this.#wallMs = wallMs
    this.#nextId = store.lastEventId() + 1
    // Sessions do not outlive the process; a machine that is up will log in again and go on where it was.
    for (const attempt of store.currentAttempts().slice(-attemptsInMemoryMax)) {
      this.#attempts.set(attempt.mac, { ...attempt, openSessions: [] })
    }
  }

  record(happening: Happening, source: EventSource): BootEvent {
    const event: BootEvent = { ...happening, ...source, id: this.#nextId++, atMs: this.#wallMs() }
    this.#recent.push(event)
    // Cut in batches: shifting a thousand for every event would be most of the work.
    if (this.#recent.length >= 2 * recentEventsMax) this.#recent.splice(0, recentEventsMax)
    this.#unwritten.push(event)
    const attempt = source.mac === undefined ? undefined : this.#reduce(event, source.mac)
    for (const subscriber of this.#subscribers) subscriber(event, attempt)
    return event
  }

  /** Returns what ends it. False: too many read already. */
  subscribe(subscriber: Subscriber): (() => void) | false {
    if (this.#subscribers.size >= subscribersMax) return false
    this.#subscribers.add(subscriber)
    return () => {
      this.#subscribers.delete(subscriber)
    }
  }

  /** The last events, oldest first: what a reader that comes late has missed. */
  recent(): readonly BootEvent[] {
    return this.#recent.slice(-recentEventsMax)
  }

  attempt(mac: Mac): Attempt | undefined {
    return this.#attempts.get(mac)
  }

  /** Each machine's current attempt. */
  attempts(): readonly Attempt[] {
    return [...this.#attempts.values()]
  }

  /** Whether `flush` has anything to do. */
  get hasUnwritten(): boolean {
    return this.#unwritten.length > 0
  }

  /** @throws {OperationError} what the store says; what could not be written is dropped, for the stream must not stop. */
  flush(): void {
    if (!this.hasUnwritten) return
    const events = this.#unwritten
    const attempts = [...this.#changed.values()]
    this.#unwritten = []
    this.#changed = new Map()
    this.#store.append(events)
    this.#store.saveAttempts(attempts)
  }

  #reduce(event: BootEvent, mac: Mac): Attempt {
    const { current, closed } = reduce(this.#attempts.get(mac), event, mac, sentence(event))
    if (closed !== undefined) this.#changed.set(closed.id, closed)
    this.#changed.set(current.id, current)
    this.#attempts.delete(mac)
    this.#attempts.set(mac, current)
    if (this.#attempts.size > attemptsInMemoryMax) {
      const quietest = this.#attempts.keys().next().value
      if (quietest !== undefined) this.#attempts.delete(quietest)
    }
    return current
  }
}
