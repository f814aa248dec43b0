/** Records what happens in the journal, with whose it is, and writes it out in one piece a few times a second. */
import type { Mac } from '../base/address.ts'
import { messageOf } from '../base/errors.ts'
import type { Happening } from '../journal/events.ts'
import type { Journal } from '../journal/journal.ts'
import type { Clock, Timer } from '../ports/clock.ts'
import type { Log } from '../ports/log.ts'

/** Whose it is: by MAC where that is known, else by the address it spoke from. */
export type Whose = { readonly mac?: Mac | undefined; readonly address?: string | undefined }

/** A boot is some twenty events in as many seconds; a storm of boots shares a transaction. */
const writeAfterMs = 200

export class EventStream {
  readonly journal: Journal
  readonly #clock: Clock
  readonly #log: Log
  readonly #macOf: (address: string) => Mac | undefined
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
    this.journal.record(happening, { mac, address })
    this.#timer ??= this.#clock.after(writeAfterMs, () => this.flush())
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
}
