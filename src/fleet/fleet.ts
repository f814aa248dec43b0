/** The fleet as the rest of the house sees it: each call reads the store, decides with the pure parts, and keeps the outcome. */
import type { Mac } from '../base/address.ts'
import { admitted, dismissed, type Encounter, meet, refused, stranger } from './admission.ts'
import {
  type BootCredentials,
  candidates,
  emptyRing,
  holds,
  mint,
  mintBytes,
  offer,
  offeredBoot,
  type Use,
  use,
  without,
} from './credentials.ts'
import { undecidedMachinesMax } from './limits.ts'
import type { AdmissionPolicy, Assignment, Claim, Decision, Machine, TransportPolicy } from './machine.ts'
import { initiatorNameOf, macOfTargetName, targetNameOf } from './names.ts'
import { admissionOnly, type Proof, type ProofKind } from './proof.ts'
import { chooseStorageAddress, type StorageAddressTerms } from './storage-addresses.ts'
import type { FleetStore } from './store.ts'

export type FleetTerms = {
  readonly policy: AdmissionPolicy
  /** 'iqn.2026-01.internal.slipway': what every name begins with. Checked with `parseIscsiName`. */
  readonly namingAuthority: string
  /** What a machine without an assignment of its own boots. */
  readonly assignment: Assignment
  /** What the configuration assigns to some machines; it holds over what was assigned before. */
  readonly assignments?: ReadonlyMap<Mac, Assignment>
  readonly transport: TransportPolicy
  /** What a machine must prove; undefined: that somebody admitted it. */
  readonly require?: ProofKind
  /** What the configuration says of some machines; it holds over the above. */
  readonly demands?: ReadonlyMap<Mac, Demands>
}

export type Demands = { readonly transport: TransportPolicy | undefined; readonly require: ProofKind | undefined }

/** A machine that the configuration names before it was ever seen. */
export type ConfiguredMachine = {
  readonly mac: Mac
  readonly name: string | undefined
  /** Undefined: that it is named admits it, unless a person has refused it. */
  readonly admit: boolean | undefined
}

export class Fleet {
  readonly terms: FleetTerms
  readonly #store: FleetStore
  readonly #random: (byteCount: number) => Uint8Array

  constructor(terms: FleetTerms, store: FleetStore, random: (byteCount: number) => Uint8Array) {
    this.terms = terms
    this.#store = store
    this.#random = random
  }

  /** Called for every request that says who asks. Repeats are cheap and change nothing. */
  meet(identity: Claim, nowMs: number): Encounter {
    const { policy } = this.terms
    const known = this.#store.machine(identity.mac)
    const encounter = meet(policy, known, identity, nowMs)
    // With `none` a stranger is nobody's business: not even remembered, so that a big network does not fill the store.
    if (known === undefined && encounter.standing === 'refused') return { ...encounter, notices: [], changed: false }
    if (known === undefined && this.#store.undecidedCount() >= undecidedMachinesMax) {
      // Nobody makes room who is up or has been given something: then the newcomer waits, and nothing is remembered of it.
      if (!this.#store.removeStalestStranger()) return { ...encounter, standing: 'held', notices: [], changed: false }
    }
    if (!encounter.changed) return encounter
    // Met again inside the change: a person may have decided about it meanwhile.
    const machine = this.#store.changeMachine(identity.mac, (now) => meet(policy, now, identity, nowMs).machine)
    return { ...encounter, machine }
  }

  /**
   * By MAC address, whether the machine was seen before or not. `uuid`: the board that is meant, in the form of `uuidOf`.
   * @throws {OperationError} uuidUnclear: two boards came, and it was not said which
   */
  admit(mac: Mac, nowMs: number, uuid?: string): Machine {
    return this.#change(mac, nowMs, (machine) => admitted(machine, uuid))
  }

  /** The other board that came with this MAC was an impostor. Undefined for a machine that is not known. */
  dismiss(mac: Mac): Machine | undefined {
    const known = this.#store.machine(mac)
    return known && this.#store.changeMachine(mac, (machine) => dismissed(machine ?? known))
  }

  /** The machine gets nothing more; its credentials end here. The caller ends its sessions. */
  refuse(mac: Mac, nowMs: number): Machine {
    this.release(mac)
    return this.#change(mac, nowMs, refused)
  }

  forget(mac: Mac): void {
    this.#store.removeMachine(mac)
  }

  /** What the iPXE that will ask for a script says of itself. Kept, so that a restart forgets nothing; repeats change nothing. */
  loaderTold(machine: Machine, hasHttps: boolean): void {
    // A stranger that nothing is remembered of stays one.
    const remembered = this.#store.machine(machine.mac)
    if (remembered === undefined || remembered.loaderHasHttps === hasHttps) return
    this.#store.changeMachine(machine.mac, (known) => ({ ...(known ?? machine), loaderHasHttps: hasHttps }))
  }

  /** What the configuration says holds over what was decided before. */
  configure(configured: ConfiguredMachine, nowMs: number): void {
    this.#change(configured.mac, nowMs, (machine) => ({
      ...machine,
      decision: decisionOf(configured.admit ?? machine.decision !== 'refused'),
      name: configured.name ?? machine.name,
    }))
  }

  /** Undefined goes back to what every machine gets. Takes effect at the next boot. */
  assign(mac: Mac, assignment: Assignment | undefined, nowMs: number): Machine {
    return this.#change(mac, nowMs, (machine) => ({ ...machine, assignment }))
  }

  machine(mac: Mac): Machine | undefined {
    return this.#store.machine(mac)
  }

  machines(): readonly Machine[] {
    return this.#store.machines()
  }

  assignmentOf(machine: Machine): Assignment {
    return this.terms.assignments?.get(machine.mac) ?? machine.assignment ?? this.terms.assignment
  }

  /** Of a machine that may not be known yet. */
  assignmentFor(mac: Mac): Assignment {
    return this.assignmentOf(this.machine(mac) ?? stranger({ mac, uuid: undefined, serial: undefined }, 0))
  }

  /** Who must prove something gets its script by TLS or not at all: nothing else carries the proof. */
  transportOf(machine: Machine): TransportPolicy {
    if (this.requiredOf(machine.mac) !== 'admission') return 'strict'
    return this.terms.demands?.get(machine.mac)?.transport ?? machine.transport ?? this.terms.transport
  }

  requiredOf(mac: Mac): ProofKind {
    return this.terms.demands?.get(mac)?.require ?? this.terms.require ?? 'admission'
  }

  /** For the script of one boot, which is the only place they go. `askedFrom`: the address that asked for it. */
  offerCredentials(mac: Mac, nowMs: number, proof: Proof = admissionOnly, askedFrom?: string): BootCredentials {
    const authority = this.terms.namingAuthority
    const names = { initiatorName: initiatorNameOf(authority, mac), targetName: targetNameOf(authority, mac) }
    const minted = mint({ mac, names, proof, random: this.#random(mintBytes), nowMs, askedFrom })
    this.#store.changeCredentials(mac, (ring) => offer(ring, minted, nowMs))
    return minted
  }

  /** On the storage VLAN; undefined when all are taken. */
  storageAddressOf(mac: Mac, terms: StorageAddressTerms): number | undefined {
    return this.#store.changeStorageAddress(mac, (known, taken) => chooseStorageAddress(terms, known, taken))
  }

  /** Whom a login to `targetName` may come from; empty for a target that is no machine's. */
  candidatesFor(targetName: string, nowMs: number): readonly BootCredentials[] {
    const mac = macOfTargetName(this.terms.namingAuthority, targetName)
    return mac === undefined ? [] : candidates(this.#store.credentials(mac), nowMs)
  }

  /** One whose script was handed out and that has not logged in yet; undefined: there is no such boot, or no longer. */
  offeredBoot(mac: Mac, bootId: string, nowMs: number): BootCredentials | undefined {
    return offeredBoot(this.#store.credentials(mac), bootId, nowMs)
  }

  /** A login to the machine's disk was proven with `user`'s secret. `ended` set: close that boot's sessions. */
  credentialsUsed(mac: Mac, user: string): Use {
    const ring = this.#store.credentials(mac)
    const used = use(ring, user)
    if (used.ring !== ring) this.#store.changeCredentials(mac, (now) => use(now, user).ring)
    return used
  }

  /**
   * A login to the machine's disk that nothing had to prove (CHAP is off): the newest script is the one that was used. Without
   * this, what was offered would run out under a machine that is up.
   */
  loggedInUnproven(mac: Mac, nowMs: number): Use {
    const ring = this.#store.credentials(mac)
    const [newest] = candidates(ring, nowMs)
    return newest === undefined
      ? { ring, boot: undefined, ended: undefined }
      : this.credentialsUsed(mac, newest.initiator.user)
  }

  /** Of a boot whose sessions are open: why they may not stay so; undefined while they may. */
  endOf(mac: Mac, bootId: string): 'released' | 'refused' | undefined {
    if (this.#store.machine(mac)?.decision === 'refused') return 'refused'
    return holds(this.#store.credentials(mac), bootId) ? undefined : 'released'
  }

  /** Whether that boot's secrets are still worth something: who names it has read its script. */
  holdsBoot(mac: Mac, bootId: string): boolean {
    return holds(this.#store.credentials(mac), bootId)
  }

  /** The boots of a machine that began with a proof which counts no more end now. */
  releaseProvedBy(mac: Mac, isVoid: (proof: Proof) => boolean): void {
    this.#store.changeCredentials(mac, (ring) => without(ring, isVoid))
  }

  /** All credentials of the machine end now. */
  release(mac: Mac): void {
    this.#store.changeCredentials(mac, () => emptyRing)
  }

  #change(mac: Mac, nowMs: number, change: (machine: Machine) => Machine): Machine {
    return this.#store.changeMachine(mac, (known) =>
      change(known ?? stranger({ mac, uuid: undefined, serial: undefined }, nowMs)),
    )
  }
}

function decisionOf(admit: boolean): Decision {
  return admit ? 'admitted' : 'refused'
}
