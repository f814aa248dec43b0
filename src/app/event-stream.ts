/** Records what happens in the journal, with whose it is, and writes it out in one piece a few times a second. */
import type { Mac } from '../base/address.ts'
import { messageOf } from '../base/errors.ts'
import type { EventSource, Happening } from '../journal/events.ts'
import type { Journal } from '../journal/journal.ts'
import type { Clock, Timer } from '../ports/clock.ts'
import type { Log } from '../ports/log.ts'
import { EventFlood, floodWindowMs } from './event-flood.ts'

/** Whose it is: by MAC where that is known, else by the address it spoke from. */
export type Whose = { readonly mac?: Mac | undefined; readonly address?: string | undefined }

/** A boot is some twenty events in as many seconds; a storm of boots shares a transaction. */
const writeAfterMs = 200

export class EventStream {
  readonly journal: Journal
  readonly #clock: Clock
  readonly #log: Log
  readonly #macOf: (address: string) => Mac | undefined
  readonly #flood = new EventFlood()
  #windowEndsMs = 0
  #windowTimer: Timer | undefined
  #timer: Timer | undefined

  /** `macOf` finds the machine behind an IPv4 address. */
  constructor(journal: Journal, clock: Clock, log: Log, macOf: (address: string) => Mac | undefined) {
    this.journal = journal
    this.#clock = clock
    this.#log = log
    this.#macOf = macOf
  }

  emit(whose: Whose, happening: Happening): void {
    const { address } = whose
    const mac = whose.mac ?? (address === undefined ? undefined : this.#macOf(address))
    const source = { mac, address }
    // What has no source is our own, and what is always kept nobody can make happen at will.
    const isOwn = mac === undefined && address === undefined
    if (isOwn || alwaysKept.has(happening.kind) || this.#admits(source)) this.#record(source, happening)
  }

  /** Writes what has not been written. A journal that cannot be written stops no boot. */
  flush(): void {
    this.#timer?.cancel()
    this.#timer = undefined
    try {
      this.journal.flush()
    } catch (error) {
      this.#log.error('the journal could not be written', { reason: messageOf(error) })
    }
  }

  /** Ends what runs by itself; what was left out so far is told. */
  close(): void {
    this.#endWindow()
    this.flush()
  }

  #record(source: EventSource, happening: Happening): void {
    this.journal.record(happening, source)
    this.#timer ??= this.#clock.after(writeAfterMs, () => this.flush())
  }

  #admits(source: EventSource): boolean {
    const nowMs = this.#clock.nowMs()
    if (nowMs >= this.#windowEndsMs) {
      this.#endWindow()
      this.#windowEndsMs = nowMs + floodWindowMs
    }
    if (this.#flood.admits(source)) return true
    // Without a timer the last flood would be told when somebody speaks next, which may be tomorrow.
    this.#windowTimer ??= this.#clock.after(this.#windowEndsMs - nowMs, () => this.#endWindow())
    return false
  }

  #endWindow(): void {
    this.#windowTimer?.cancel()
    this.#windowTimer = undefined
    this.#windowEndsMs = 0
    for (const { source, eventCount } of this.#flood.nextWindow()) {
      this.#record(source ?? { mac: undefined, address: undefined }, { kind: 'eventsLeftOut', eventCount })
    }
  }
}

/** What somebody must see whatever else goes on; a peer that has proved nothing cannot make these happen at will. */
const alwaysKept: ReadonlySet<Happening['kind']> = new Set([
  'admitted',
  'addressSlowed',
  'credentialsEnded',
  'diskFailed',
  'serviceFailed',
])
