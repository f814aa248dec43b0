/** The reservations of one unit: who may do what, and changes one after the other, saved before they are acknowledged. */
import type { Access } from '../command.ts'
import type { Nexus } from '../task.ts'
import {
  apply,
  isExclusiveAccess,
  isForRegistrants,
  isHolder,
  keyOf,
  type Notice,
  type Outcome,
  type PortName,
  type Request,
  type ReservationState,
} from './state.ts'
import { fromSaved, type ReservationStore, toSaved } from './store.ts'

export class Reservations {
  readonly #store: ReservationStore | undefined
  readonly #notify: (notices: readonly Notice[]) => void
  #state: ReservationState
  #turn: Promise<unknown> = Promise.resolve()
  /** SPC-2 RESERVE (6): the nexus that has the unit to itself. Ends with the nexus. */
  legacyHolder: Nexus | undefined

  constructor(store: ReservationStore | undefined, notify: (notices: readonly Notice[]) => void) {
    this.#store = store
    this.#notify = notify
    this.#state = fromSaved(store?.saved)
  }

  get state(): ReservationState {
    return this.#state
  }

  /** PTPL_C: a registration can outlive a restart. */
  get canPersist(): boolean {
    return this.#store !== undefined
  }

  /** Nothing to look at: the hot path. */
  get isFree(): boolean {
    return this.legacyHolder === undefined && this.#state.reservation === undefined
  }

  /** Whether a command of this kind from this port conflicts. */
  conflicts(nexus: Nexus, port: PortName, access: Access): boolean {
    if (access === 'always' || access === 'own') return false
    if (this.legacyHolder !== undefined && this.legacyHolder !== nexus) return true
    const { reservation } = this.#state
    if (reservation === undefined || access === 'information') return false
    if (isHolder(this.#state, port)) return false
    if (isForRegistrants(reservation.type) && keyOf(this.#state, port) !== undefined) return false
    return access === 'write' || isExclusiveAccess(reservation.type)
  }

  /** Changes the state, and saves it first if it persists or did. One request at a time. */
  change(from: PortName, request: Request): Promise<Outcome> {
    const turn = this.#turn.then(() => this.#change(from, request))
    this.#turn = turn.catch(() => undefined)
    return turn
  }

  async #change(from: PortName, request: Request): Promise<Outcome> {
    const outcome = apply(this.#state, from, request)
    if (outcome.kind !== 'done') return outcome
    if (outcome.state !== this.#state && (outcome.state.persists || this.#state.persists)) {
      await this.#store?.save(toSaved(outcome.state))
    }
    this.#state = outcome.state
    this.#notify(outcome.notices)
    return outcome
  }
}
