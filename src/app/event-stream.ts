/** Records what happens in the journal, with whose it is, and writes it out in one piece a few times a second. */
import type { Mac } from '../base/address.ts'
import { messageOf } from '../base/errors.ts'
import type { EventSource, Happening } from '../journal/events.ts'
import type { Journal } from '../journal/journal.ts'
import type { Clock, Timer } from '../ports/clock.ts'
import type { Log } from '../ports/log.ts'
import { EventFlood, floodWindowMs, reportLimits, trustLimits, trustOfAddressLimits } from './event-flood.ts'

/** Whose it is: by MAC where that is known, else by the address it spoke from. */
export type Whose = { readonly mac?: Mac | undefined; readonly address?: string | undefined }

/** A boot is some twenty events in as many seconds; a storm of boots shares a transaction. */
const writeAfterMs = 200

export class EventStream {
  readonly journal: Journal
  readonly #clock: Clock
  readonly #log: Log
  readonly #macOf: (address: string) => Mac | undefined
  readonly #noise = new EventFlood()
  readonly #reports = new EventFlood(reportLimits)
  readonly #trust = new EventFlood(trustLimits)
  readonly #trustOfAddresses = new EventFlood(trustOfAddressLimits)
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

  /** False: it was left out, for its source makes too much noise. */
  emit(whose: Whose, happening: Happening): boolean {
    const { address } = whose
    // Whose a report is it must have proved itself: who speaks from an address is a claim.
    const isUnproved = address === undefined || happening.kind === 'machineReported'
    const mac = whose.mac ?? (isUnproved ? undefined : this.#macOf(address))
    const source = { mac, address }
    // What has no source is our own, and what is always kept nobody can make happen at will.
    const isOwn = mac === undefined && address === undefined
    const isKept = isOwn || alwaysKept.has(happening.kind) || this.#admits(source, happening.kind)
    if (isKept) this.#record(source, happening)
    return isKept
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

  #admits(source: EventSource, kind: Happening['kind']): boolean {
    const nowMs = this.#clock.nowMs()
    if (nowMs >= this.#windowEndsMs) {
      this.#endWindow()
      this.#windowEndsMs = nowMs + floodWindowMs
    }
    if (this.#hasRoom(source, kind)) return true
    // Without a timer the last flood would be told when somebody speaks next, which may be tomorrow.
    this.#windowTimer ??= this.#clock.after(this.#windowEndsMs - nowMs, () => this.#endWindow())
    return false
  }

  #hasRoom(source: EventSource, kind: Happening['kind']): boolean {
    const { mac, address } = source
    if (kind === 'machineReported') return this.#reports.admits({ mac: undefined, address })
    if (!aboutTrust.has(kind)) return this.#noise.admits(source)
    const isOfMany = address !== undefined && !this.#trustOfAddresses.admits({ mac: undefined, address })
    return !isOfMany && this.#trust.admits(source, `${mac} ${address} ${kind}`)
  }

  #endWindow(): void {
    this.#windowTimer?.cancel()
    this.#windowTimer = undefined
    this.#windowEndsMs = 0
    for (const flood of [this.#noise, this.#reports, this.#trustOfAddresses, this.#trust]) {
      for (const { source, eventCount } of flood.nextWindow()) {
        this.#record(source ?? { mac: undefined, address: undefined }, { kind: 'eventsLeftOut', eventCount })
      }
    }
  }
}

/** What somebody must see whatever else goes on; a peer that has proved nothing cannot make these happen at will. */
const alwaysKept: ReadonlySet<Happening['kind']> = new Set([
  'addressSlowed',
  'credentialsEnded',
  'diskFailed',
  'serviceFailed',
])

/** What an audit is told from. Whoever asks can make most of these happen, so that they are counted, but apart from all else. */
const aboutTrust: ReadonlySet<Happening['kind']> = new Set([
  'admitted',
  'identityAlarm',
  'scriptServed',
  'credentialsMinted',
  'iscsiLogin',
  'certificateRefused',
  'signedIn',
  'signInFailed',
  'signInSlowed',
])
