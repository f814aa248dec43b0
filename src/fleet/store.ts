/** Where machines and credentials outlive the process. The store is the truth: `slipway admit` writes it from outside. */
import type { Mac } from '../base/address.ts'
import { type CredentialRing, emptyRing } from './credentials.ts'
import type { Machine } from './machine.ts'

export interface FleetStore {
  machine(mac: Mac): Machine | undefined
  /** By MAC. */
  machines(): readonly Machine[]
  /**
   * Keeps what `change` makes of what is known, and returns it. Nothing comes between reading and writing, not even
   * another process; kept past kill -9 when it returns. @throws {OperationError}
   */
  changeMachine(mac: Mac, change: (known: Machine | undefined) => Machine): Machine
  /** With everything that is kept about it. */
  removeMachine(mac: Mac): void
  /** How many machines are undecided. */
  undecidedCount(): number
  /**
   * Removes the machine seen longest ago of those that nobody has decided about, named, given a disk or made a certificate for, and that
   * have no boot under way. False if there is none.
   */
  removeStalestStranger(): boolean
  /** An empty ring for a machine without credentials. */
  credentials(mac: Mac): CredentialRing
  /**
   * Like `changeMachine`; the same ring back means nothing to write. Secrets are stored as they are: the file is readable
   * by its owner only. @throws {OperationError}
   */
  changeCredentials(mac: Mac, change: (ring: CredentialRing) => CredentialRing): void
  /**
   * Keeps the address that `choose` makes of the machine's own and of all that are taken; undefined keeps what was. Nothing
   * comes between.
   */
  changeStorageAddress(
    mac: Mac,
    choose: (known: number | undefined, taken: ReadonlySet<number>) => number | undefined,
  ): number | undefined
  /** Another number than before when another process has changed anything. Costs nothing to ask. */
  foreignChanges(): number
}

/** Keeps everything until the process ends. */
export class MemoryFleetStore implements FleetStore {
  readonly #machines = new Map<Mac, Machine>()
  readonly #rings = new Map<Mac, CredentialRing>()
  readonly #storageAddresses = new Map<Mac, number>()

  machine(mac: Mac): Machine | undefined {
    return this.#machines.get(mac)
  }

  machines(): readonly Machine[] {
    return [...this.#machines.values()].sort((a, b) => (a.mac < b.mac ? -1 : 1))
  }

  changeMachine(mac: Mac, change: (known: Machine | undefined) => Machine): Machine {
    const machine = change(this.#machines.get(mac))
    this.#machines.set(mac, machine)
    return machine
  }

  removeMachine(mac: Mac): void {
    this.#machines.delete(mac)
    this.#rings.delete(mac)
    this.#storageAddresses.delete(mac)
  }

  undecidedCount(): number {
    return this.#undecided().length
  }

  removeStalestStranger(): boolean {
    const strangers = this.#undecided().filter(
      ({ mac, name, assignment }) =>
        name === undefined && assignment === undefined && this.credentials(mac).active === undefined,
    )
    const stalest = strangers.reduce<Machine | undefined>(
      (oldest, machine) => (oldest === undefined || machine.lastSeenMs < oldest.lastSeenMs ? machine : oldest),
      undefined,
    )
    if (stalest === undefined) return false
    this.removeMachine(stalest.mac)
    return true
  }

  credentials(mac: Mac): CredentialRing {
    return this.#rings.get(mac) ?? emptyRing
  }

  changeCredentials(mac: Mac, change: (ring: CredentialRing) => CredentialRing): void {
    this.#rings.set(mac, change(this.credentials(mac)))
  }

  foreignChanges(): number {
    return 0
  }

  changeStorageAddress(
    mac: Mac,
    choose: (known: number | undefined, taken: ReadonlySet<number>) => number | undefined,
  ): number | undefined {
    const chosen = choose(this.#storageAddresses.get(mac), new Set(this.#storageAddresses.values()))
    if (chosen !== undefined) this.#storageAddresses.set(mac, chosen)
    return chosen
  }

  #undecided(): Machine[] {
    return [...this.#machines.values()].filter((machine) => machine.decision === 'undecided')
  }
}
