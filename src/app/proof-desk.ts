/**
 * What a request for a script proves: the certificate that came with it, or a person's name and password. Says what it found;
 * what follows from it is decided by boot/choose-script.ts.
 */
import type { Mac } from '../base/address.ts'
import { Secret } from '../base/secret.ts'
import type { CertificateTrouble } from '../boot/choose-script.ts'
import type { SignInTrouble } from '../boot/proof-scripts.ts'
import { type AccountStore, accountName } from '../fleet/accounts.ts'
import { type CertificateStore, faultOf } from '../fleet/certificates.ts'
import { SignInLimit } from '../fleet/sign-in-limit.ts'
import type { HttpRequest } from '../http/policy.ts'
import type { Clock } from '../ports/clock.ts'
import type { PasswordHash } from '../ports/password.ts'
import { parseBasic, type Typed } from './basic-auth.ts'
import type { EventStream } from './event-stream.ts'

export type ProofDeskParts = {
  readonly proofs: CertificateStore & AccountStore
  readonly passwords: PasswordHash
  readonly events: EventStream
  readonly clock: Clock
}

export type ShownCertificate =
  | { readonly kind: 'none' }
  | { readonly kind: 'good'; readonly fingerprint: string }
  | { readonly kind: CertificateTrouble; readonly fingerprint: string }

export type SignIn =
  | { readonly kind: 'none' }
  | { readonly kind: 'signedIn'; readonly account: string }
  | { readonly kind: 'refused'; readonly trouble: SignInTrouble }

/** Tries that wait for their turn: each takes a tenth of a second of one processor, one after the other. */
const triesWaitingMax = 32

export class ProofDesk {
  readonly #parts: ProofDeskParts
  readonly #limit = new SignInLimit()
  #triesWaiting = 0
  #turn: Promise<unknown> = Promise.resolve()
  /** Addresses with a try under way or waiting: one each, so that none fills the queue. */
  readonly #trying = new Set<string>()
  #decoy: Promise<Secret> | undefined

  constructor(parts: ProofDeskParts) {
    this.#parts = parts
  }

  /** What the certificate of this connection says about `mac`. */
  certificate(mac: Mac, request: HttpRequest): ShownCertificate {
    const { certificate: shown, from } = request
    if (shown === undefined) return { kind: 'none' }
    const { fingerprint } = shown
    const known = this.#parts.proofs.certificate(fingerprint)
    // One that was made here counts whoever signed it: the authority may have been replaced since. Of others TLS says more.
    const foreign = known === undefined && shown.kind === 'bad' ? shown.reason : undefined
    const fault = foreign === undefined ? faultOf(known, mac, this.#parts.clock.wallMs()) : 'unfit'
    if (fault === undefined) return { kind: 'good', fingerprint }
    const detail = fault === 'unfit' ? (foreign ?? 'it has ended') : undefined
    const whose = { mac, address: from.address }
    this.#parts.events.emit(whose, { kind: 'certificateRefused', fingerprint, reason: fault, detail })
    return { kind: fault, fingerprint }
  }

  /** Looks at the name and the password that came with a request by TLS. */
  async signIn(mac: Mac, request: HttpRequest): Promise<SignIn> {
    const typed = request.secure ? parseBasic(request.headers.get('authorization')) : undefined
    if (typed === undefined) return { kind: 'none' }
    const { clock } = this.#parts
    const { address } = request.from
    if (this.#trying.has(address) || this.#triesWaiting >= triesWaitingMax)
      return refusedUntil(clock.nowMs() + 1, clock)
    this.#trying.add(address)
    this.#triesWaiting++
    // One at a time: files are read by the same few threads.
    const tried = this.#turn.then(() => this.#tryNow({ mac, address }, typed))
    this.#turn = tried.catch(() => undefined)
    try {
      return await tried
    } finally {
      this.#triesWaiting--
      this.#trying.delete(address)
    }
  }

  /** From the first look at the limit to what is counted no other try comes between: many at once gain nothing. */
  async #tryNow(whose: { readonly mac: Mac; readonly address: string }, typed: Typed): Promise<SignIn> {
    const { clock, events, passwords, proofs } = this.#parts
    const { address } = whose
    const asked = accountName(typed.name)
    const before = asked === undefined ? undefined : proofs.account(asked)
    // Slowed alike whether there is such an account or not: what is answered does not tell.
    const tried = asked === undefined ? undefined : { name: asked, exists: before !== undefined }
    const slowed = this.#limit.slowed(address, tried, clock.nowMs())
    if (slowed !== undefined) return refusedUntil(slowed.untilMs, clock)
    this.#decoy ??= passwords.hash(new Secret('nobody has this one'))
    const kept = before?.password ?? (await this.#decoy)
    const matches = await passwords.verify(typed.password, kept)
    // Another process may have removed the account, or changed its password, while this one was looked at.
    const account = before && proofs.account(before.name)
    // What was typed for a name may be a password: only names that exist are ever told.
    const name = account?.name
    if (matches && name !== undefined && account?.password.reveal() === kept.reveal()) {
      this.#limit.succeeded(address)
      events.emit(whose, { kind: 'signedIn', account: name })
      return { kind: 'signedIn', account: name }
    }
    events.emit(whose, { kind: 'signInFailed', account: name })
    for (const { by, failureCount, untilMs } of this.#limit.failed(address, tried, clock.nowMs())) {
      if (by === 'account' && name === undefined) continue
      const waitMs = Math.ceil(untilMs - clock.nowMs())
      events.emit(whose, { kind: 'signInSlowed', by, account: name, failureCount, waitMs })
    }
    return { kind: 'refused', trouble: { kind: 'wrong' } }
  }
}

function refusedUntil(untilMs: number, clock: Clock): SignIn {
  const waitSeconds = Math.max(1, Math.ceil((untilMs - clock.nowMs()) / 1_000))
  return { kind: 'refused', trouble: { kind: 'slowed', waitSeconds } }
}
