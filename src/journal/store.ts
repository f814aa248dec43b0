/** Where events and attempts outlive the process. */
import type { Mac } from '../base/address.ts'
import type { Attempt } from './attempt.ts'
import type { BootEvent } from './events.ts'

export interface JournalStore {
  /** The highest id ever given, or 0: ids go on from there. */
  lastEventId(): number
  /**
   * Keeps all of `events`; called once for many, so that one transaction holds them. May lose the last ones to a power
   * cut. @throws {OperationError}
   */
  append(events: readonly BootEvent[]): void
  /** Replaces by `attempt.id`. @throws {OperationError} */
  saveAttempts(attempts: readonly Attempt[]): void
  /** The newest of each machine, for going on after a restart; the one that spoke longest ago first. */
  currentAttempts(): readonly Attempt[]
  /** Newest first. */
  attempts(query: { readonly mac?: Mac; readonly countMax: number }): readonly Attempt[]
  /** Oldest first, ids above `afterId`. */
  events(query: { readonly mac?: Mac; readonly afterId: number; readonly countMax: number }): readonly BootEvent[]
}

/** Keeps nothing. */
export const forgetfulJournalStore: JournalStore = {
  lastEventId: () => 0,
  append: () => undefined,
  saveAttempts: () => undefined,
  currentAttempts: () => [],
  attempts: () => [],
  events: () => [],
}
