/**
 * Durability: an answer leaves only after its lease was kept (RFC 2131 §4.3.2 asks for it, a restart depends on it). While one
 * commit is under way the next leases gather, so under load many share one, and when idle none waits.
 */
import { messageOf, OperationError } from '../base/errors.ts'
import type { Log } from '../ports/log.ts'
import type { Endpoint } from '../ports/udp.ts'
import { answersWaitingMax, commitLeasesMax } from './limits.ts'
import type { DhcpEvent, DhcpEvents, LeaseStore, StoredLease } from './policy.ts'

/** Written already, as the request's bytes are only lent to us. */
export type WaitingAnswer = { readonly bytes: Uint8Array; readonly to: Endpoint; readonly event: DhcpEvent }

export class LeaseCommits {
  readonly #leases: LeaseStore
  readonly #events: DhcpEvents
  readonly #log: Log
  readonly #send: (bytes: Uint8Array, to: Endpoint) => void
  #changes: StoredLease[] = []
  #waiting: WaitingAnswer[] = []
  #committing: Promise<void> | undefined

  constructor(
    plugs: { readonly leases: LeaseStore; readonly events: DhcpEvents; readonly log: Log },
    send: (bytes: Uint8Array, to: Endpoint) => void,
  ) {
    this.#leases = plugs.leases
    this.#events = plugs.events
    this.#log = plugs.log
    this.#send = send
  }

  get hasRoom(): boolean {
    return this.#waiting.length < answersWaitingMax
  }

  /** Sends it once the changes that `keep` is given next are kept. */
  answerWhenKept(answer: WaitingAnswer): void {
    this.#waiting.push(answer)
  }

  keep(changes: readonly StoredLease[]): void {
    for (const change of changes) this.#changes.push(change)
    if (this.#committing === undefined) this.#commit()
  }

  async settled(): Promise<void> {
    while (this.#committing !== undefined) await this.#committing
  }

  /** Keeps what has gathered, then answers; again, until nothing is left. */
  #commit(): void {
    while (this.#changes.length > 0 || this.#waiting.length > 0) {
      const whole = this.#changes.length <= commitLeasesMax
      const changes = whole ? this.#changes : this.#changes.slice(0, commitLeasesMax)
      // Answers wait for the last of the changes gathered with them.
      const waiting = whole ? this.#waiting : []
      this.#changes = whole ? [] : this.#changes.slice(commitLeasesMax)
      if (whole) this.#waiting = []
      let done: Promise<void> | undefined
      try {
        done = this.#leases.commit(changes)
      } catch (error) {
        this.#onStoreFailed(error)
        continue
      }
      if (done !== undefined) {
        this.#committing = done
          .then(
            () => this.#answer(waiting),
            (error: unknown) => this.#onStoreFailed(error),
          )
          .finally(() => {
            this.#committing = undefined
            this.#commit()
          })
        return
      }
      this.#answer(waiting)
    }
  }

  #answer(waiting: readonly WaitingAnswer[]): void {
    for (const { bytes, to, event } of waiting) {
      this.#send(bytes, to)
      this.#events.emit(event)
    }
  }

  /** No answer goes out: a machine must not rely on a lease that a restart forgets. It asks again, and so do we. */
  #onStoreFailed(error: unknown): void {
    if (!(error instanceof OperationError)) throw error
    this.#log.error('leases could not be kept', { reason: messageOf(error), hint: error.hint })
    this.#events.emit({ kind: 'storeFailed', reason: messageOf(error) })
  }
}
