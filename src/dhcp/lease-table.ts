/**
 * Who has which address of one network. RFC 2131 §4.3; one machine is one MAC address, whatever client identifier its
 * firmware, loader and operating system each make up, or its address would change in the middle of a boot.
 *
 *                    ┌──────── expires, withdrawn ────────┐
 *                    ▼                                    │
 *   (never used) ─▶ free ──offer──▶ offered ──take──▶ bound ──take──▶ bound (renewed)
 *                    ▲ ▲               │                │ │
 *                    │ └───────────────┴─ expires ──────┘ ├── release ──▶ free (remembers the machine)
 *                    └── quarantine over ── declined ◀────┘ decline
 *
 * No clock and no disk here: the time comes in, changes that must be kept go out by `takeChanges`.
 * Invariant: an address is in one slot, a slot has one machine, and a slot that is offered or bound is given to nobody else
 * before `expiresAtSeconds`.
 */
import type { Mac } from '../base/address.ts'
import { assert } from '../base/assert.ts'
import { offerHoldSeconds, poolAddressesMax, quarantineSeconds, quarantineShareMax } from './limits.ts'
import type { RefusalReason, StoredLease } from './policy.ts'

export type PoolTerms = {
  /** First and last address that machines nobody reserved one for may get. Unsigned IPv4. */
  readonly from: number
  readonly to: number
  readonly leaseSeconds: number
  /** In the range, but somebody else's: our own address, the router's. */
  readonly excluded: ReadonlySet<number>
}

/** Which of the requests of RFC 2131 §4.3.2 it is. */
export type RequestKind = 'selecting' | 'rebooting' | 'renewing'

export type Taken =
  | { readonly kind: 'granted' }
  | { readonly kind: 'refused'; readonly reason: RefusalReason }
  /** Nothing is known of it, and nothing speaks against it: RFC 2131 §4.3.2 wants silence. */
  | { readonly kind: 'unknown' }

export type LeaseView = {
  readonly mac: Mac
  readonly address: number
  readonly kind: SlotKind
  readonly expiresAtSeconds: number
}

type SlotKind = 'free' | 'offered' | 'bound' | 'declined'

type Slot = {
  readonly address: number
  /** Who has it, or had it last. */
  mac: Mac | undefined
  kind: SlotKind
  expiresAtSeconds: number
  list: SlotList | undefined
  before: Slot | undefined
  after: Slot | undefined
}

export class LeaseTable {
  readonly #terms: PoolTerms
  readonly #slots: Map<number, Slot> = new Map()
  readonly #byMac: Map<Mac, Slot> = new Map()
  readonly #reservations: Map<Mac, number> = new Map()
  readonly #reservedFor: Map<number, Mac> = new Map()
  /** Each in the order of its expiry, as all of one kind last equally long. */
  readonly #free: SlotList = new SlotList()
  readonly #offered: SlotList = new SlotList()
  readonly #bound: SlotList = new SlotList()
  readonly #declined: SlotList = new SlotList()
  /** Addresses below it have been looked at once; most have a slot. */
  #neverUsed: number
  #changes: StoredLease[] = []

  constructor(terms: PoolTerms) {
    assert(terms.from <= terms.to && terms.to - terms.from < poolAddressesMax, 'the pool is a range of allowed size')
    this.#terms = terms
    this.#neverUsed = terms.from
  }

  /** What was kept of an earlier life. To be called before anything else; reservations come before it. */
  restore(leases: readonly StoredLease[], nowSeconds: number): void {
    const latest = new Map(leases.map((lease) => [lease.address, lease]))
    for (const lease of [...latest.values()].sort((a, b) => a.expiresAtSeconds - b.expiresAtSeconds)) {
      const isOurs = this.#inPool(lease.address) || this.#reservedFor.get(lease.address) === lease.mac
      if (!isOurs) continue
      const slot = this.#slotAt(lease.address)
      if (lease.kind === 'declined') {
        if (lease.expiresAtSeconds > nowSeconds) this.#move(slot, 'declined', undefined, lease.expiresAtSeconds)
        continue
      }
      const inUse = lease.kind === 'bound' && lease.expiresAtSeconds > nowSeconds
      this.#move(slot, inUse ? 'bound' : 'free', lease.mac, inUse ? lease.expiresAtSeconds : nowSeconds)
    }
  }

  /** `mac` gets `address` and nobody else does, from the next offer on. One machine, one address. */
  reserve(mac: Mac, address: number): void {
    this.unreserve(mac)
    const other = this.#reservedFor.get(address)
    if (other !== undefined) this.unreserve(other)
    this.#reservations.set(mac, address)
    this.#reservedFor.set(address, mac)
    const slot = this.#slots.get(address)
    if (slot?.kind === 'free') slot.list?.remove(slot)
  }

  unreserve(mac: Mac): void {
    const address = this.#reservations.get(mac)
    if (address === undefined) return
    this.#reservations.delete(mac)
    this.#reservedFor.delete(address)
    const slot = this.#slots.get(address)
    if (slot?.kind === 'free' && this.#inPool(address)) this.#free.append(slot)
  }

  /**
   * The address for a DISCOVER, held for `offerHoldSeconds`; the same one for the same machine as long as it is to be had.
   * Undefined when the pool is exhausted. `requested` is option 50, a wish.
   */
  offer(mac: Mac, requested: number | undefined, nowSeconds: number): number | undefined {
    this.#expire(nowSeconds)
    const slot = this.#choose(mac, requested)
    if (slot === undefined) return undefined
    if (slot.kind !== 'bound') this.#hold(slot, mac, nowSeconds)
    return slot.address
  }

  /** A REQUEST for `address`. */
  take(mac: Mac, address: number, request: RequestKind, nowSeconds: number): Taken {
    this.#expire(nowSeconds)
    const slot = this.#slots.get(address)
    const inUse = slot !== undefined && slot.kind !== 'free'
    const reservedFor = this.#reservedFor.get(address)
    if (inUse && slot.mac !== mac) return { kind: 'refused', reason: 'taken' }
    if (!inUse && reservedFor !== undefined && reservedFor !== mac) return { kind: 'refused', reason: 'taken' }
    const isItsOwn = slot?.mac === mac || reservedFor === mac
    if (!isItsOwn) {
      const current = this.#byMac.get(mac)
      if (current !== undefined && current.kind !== 'free') return { kind: 'refused', reason: 'notYours' }
      // A machine that took our offer may have to do with a server that was restarted since; one that renews shows by
      // that that it uses the address. Only who comes with an address from long ago is met with silence.
      if (request === 'rebooting' || !this.#inPool(address)) return { kind: 'unknown' }
    }
    this.#bind(this.#slotAt(address), mac, nowSeconds)
    return { kind: 'granted' }
  }

  /** It took another server's offer: ours is free again. */
  withdraw(mac: Mac, nowSeconds: number): void {
    const slot = this.#byMac.get(mac)
    if (slot?.kind === 'offered') this.#move(slot, 'free', mac, nowSeconds)
  }

  /** The machine found somebody else using its address. False if it never was its address. */
  decline(mac: Mac, address: number, nowSeconds: number): boolean {
    const slot = this.#slots.get(address)
    if (slot === undefined || slot.mac !== mac || (slot.kind !== 'bound' && slot.kind !== 'offered')) return false
    this.#move(slot, 'declined', undefined, nowSeconds + quarantineSeconds)
    this.#keep(slot, mac, 'declined')
    const declinedMax = Math.max(1, Math.floor((this.#terms.to - this.#terms.from + 1) * quarantineShareMax))
    while (this.#declined.size > declinedMax) this.#endQuarantine(this.#declined.first, nowSeconds)
    return true
  }

  /** The machine gives its address back. False if it was not its address. */
  release(mac: Mac, address: number, nowSeconds: number): boolean {
    const slot = this.#slots.get(address)
    if (slot === undefined || slot.mac !== mac || slot.kind !== 'bound') return false
    this.#move(slot, 'free', mac, nowSeconds)
    this.#keep(slot, mac, 'released')
    return true
  }

  /** What has to be kept since the last call, in the order it happened. */
  takeChanges(): readonly StoredLease[] {
    const changes = this.#changes
    if (changes.length > 0) this.#changes = []
    return changes
  }

  addressOf(mac: Mac): number | undefined {
    const slot = this.#byMac.get(mac)
    return slot?.kind === 'bound' ? slot.address : undefined
  }

  /** Everything that is not plainly free. */
  *leases(): Generator<LeaseView> {
    for (const { mac, address, kind, expiresAtSeconds } of this.#slots.values()) {
      if (kind !== 'free') yield { mac: mac ?? '', address, kind, expiresAtSeconds }
    }
  }

  #choose(mac: Mac, requested: number | undefined): Slot | undefined {
    const reserved = this.#reservations.get(mac)
    if (reserved !== undefined) {
      const slot = this.#slotAt(reserved)
      // Somebody else may still sit on it with an older lease; then the pool helps out until that has run out.
      if (slot.kind === 'free' || slot.mac === mac) return slot
    }
    const own = this.#byMac.get(mac)
    if (own !== undefined && this.#mayHave(own)) return own
    if (requested !== undefined && this.#inPool(requested) && !this.#reservedFor.has(requested)) {
      const slot = this.#slotAt(requested)
      if (slot.kind === 'free') return slot
    }
    return this.#nextNeverUsed() ?? this.#free.first
  }

  #mayHave(slot: Slot): boolean {
    const reservedFor = this.#reservedFor.get(slot.address)
    return reservedFor === undefined || reservedFor === slot.mac || slot.kind === 'bound'
  }

  #nextNeverUsed(): Slot | undefined {
    while (this.#neverUsed <= this.#terms.to) {
      const address = this.#neverUsed++
      if (this.#slots.has(address) || this.#reservedFor.has(address) || this.#terms.excluded.has(address)) continue
      return this.#slotAt(address)
    }
    return undefined
  }

  #inPool(address: number): boolean {
    return address >= this.#terms.from && address <= this.#terms.to && !this.#terms.excluded.has(address)
  }

  #slotAt(address: number): Slot {
    const known = this.#slots.get(address)
    if (known !== undefined) return known
    const slot: Slot = {
      address,
      mac: undefined,
      kind: 'free',
      expiresAtSeconds: 0,
      list: undefined,
      before: undefined,
      after: undefined,
    }
    this.#slots.set(address, slot)
    if (this.#mayBeChosen(slot)) this.#free.append(slot)
    return slot
  }

  #hold(slot: Slot, mac: Mac, nowSeconds: number): void {
    this.#leaveOther(slot, mac, nowSeconds)
    this.#move(slot, 'offered', mac, nowSeconds + offerHoldSeconds)
  }

  #bind(slot: Slot, mac: Mac, nowSeconds: number): void {
    this.#leaveOther(slot, mac, nowSeconds)
    this.#move(slot, 'bound', mac, nowSeconds + this.#terms.leaseSeconds)
    this.#keep(slot, mac, 'bound')
  }

  /**
   * What else the machine was offered or once had is free. A lease on another address (it had one before an address was
   * reserved for it) runs out by itself: the machine may still be using it.
   */
  #leaveOther(slot: Slot, mac: Mac, nowSeconds: number): void {
    const other = this.#byMac.get(mac)
    if (other === undefined || other === slot || other.kind === 'bound') return
    this.#move(other, 'free', undefined, nowSeconds)
  }

  #expire(nowSeconds: number): void {
    for (const list of [this.#offered, this.#bound]) {
      let slot = list.first
      while (slot !== undefined && slot.expiresAtSeconds <= nowSeconds) {
        const isLatest = slot.mac !== undefined && this.#byMac.get(slot.mac) === slot
        this.#move(slot, 'free', isLatest ? slot.mac : undefined, slot.expiresAtSeconds)
        slot = list.first
      }
    }
    let slot = this.#declined.first
    while (slot !== undefined && slot.expiresAtSeconds <= nowSeconds) {
      this.#endQuarantine(slot, nowSeconds)
      slot = this.#declined.first
    }
  }

  #endQuarantine(slot: Slot | undefined, nowSeconds: number): void {
    if (slot !== undefined) this.#move(slot, 'free', undefined, nowSeconds)
  }

  #mayBeChosen(slot: Slot): boolean {
    return this.#inPool(slot.address) && !this.#reservedFor.has(slot.address)
  }

  #move(slot: Slot, kind: SlotKind, mac: Mac | undefined, expiresAtSeconds: number): void {
    if (slot.mac !== mac) {
      if (slot.mac !== undefined && this.#byMac.get(slot.mac) === slot) this.#byMac.delete(slot.mac)
      slot.mac = mac
    }
    if (mac !== undefined) this.#byMac.set(mac, slot)
    slot.kind = kind
    slot.expiresAtSeconds = expiresAtSeconds
    slot.list?.remove(slot)
    if (kind === 'offered') this.#offered.append(slot)
    else if (kind === 'bound') this.#bound.append(slot)
    else if (kind === 'declined') this.#declined.append(slot)
    else if (this.#mayBeChosen(slot)) this.#free.append(slot)
  }

  #keep(slot: Slot, mac: Mac, kind: StoredLease['kind']): void {
    this.#changes.push({ mac, address: slot.address, kind, expiresAtSeconds: slot.expiresAtSeconds })
  }
}

/** A doubly linked list through the slots: any slot leaves it at once, wherever it stands. */
class SlotList {
  #first: Slot | undefined
  #last: Slot | undefined
  size = 0

  get first(): Slot | undefined {
    return this.#first
  }

  append(slot: Slot): void {
    assert(slot.list === undefined, 'a slot is in one list')
    slot.list = this
    slot.before = this.#last
    slot.after = undefined
    if (this.#last === undefined) this.#first = slot
    else this.#last.after = slot
    this.#last = slot
    this.size++
  }

  remove(slot: Slot): void {
    assert(slot.list === this, 'the slot is in this list')
    if (slot.before === undefined) this.#first = slot.after
    else slot.before.after = slot.after
    if (slot.after === undefined) this.#last = slot.before
    else slot.after.before = slot.before
    slot.list = undefined
    slot.before = undefined
    slot.after = undefined
    this.size--
  }
}
