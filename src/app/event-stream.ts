/** One stream of everything that happens: numbered, timed, with whose it is, handed to whoever listens. */
import type { Mac } from '../base/address.ts'
import type { BootEvent, Happening } from '../journal/events.ts'
import type { Clock } from '../ports/clock.ts'

export type EventListener = (event: BootEvent) => void

/** Whose it is: by MAC where that is known, else by the address it spoke from. */
export type Whose = { readonly mac?: Mac | undefined; readonly address?: string | undefined }

export class EventStream {
  readonly #clock: Clock
  readonly #macOf: (address: string) => Mac | undefined
  readonly #listeners = new Set<EventListener>()
  #nextId: number

  /** `macOf` finds the machine behind an IPv4 address. */
  constructor(clock: Clock, macOf: (address: string) => Mac | undefined, firstId: number) {
    this.#clock = clock
    this.#macOf = macOf
    this.#nextId = firstId
  }

  /** Returns what stops listening. */
  listen(listener: EventListener): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  emit(whose: Whose, happening: Happening): void {
    const mac = whose.mac ?? (whose.address === undefined ? undefined : this.#macOf(whose.address))
    const event: BootEvent = {
      id: this.#nextId++,
      atMs: this.#clock.wallMs(),
      mac,
      address: whose.address,
      ...happening,
    }
    for (const listener of this.#listeners) listener(event)
  }
}
