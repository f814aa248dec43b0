/**
 * What the iSCSI target asks of the house, and what it tells. `app` plugs `fleet` in here; this room decides nothing
 * about who may have which disk.
 */
import type { Secret } from '../base/secret.ts'
import type { Endpoint } from '../ports/udp.ts'
import type { DeviceServer } from '../scsi/task.ts'

/** Who knocks, before anything it says has been proven. */
export interface LoginAttempt {
  /** As sent, normalised to lower case: 'iqn.2026-01.lab.client:m1'. */
  readonly initiatorName: string
  /** Undefined in a discovery session. */
  readonly targetName: string | undefined
  /** 12 hexadecimal digits. */
  readonly isid: string
  readonly remote: Endpoint
  /** The portal it came to: what SendTargets and redirects are told relative to. */
  readonly local: Endpoint
}

export interface ChapCredential {
  readonly user: string
  readonly secret: Secret
}

export interface InitiatorCredential extends ChapCredential {
  /**
   * What we answer this user with when it asks for our proof (mutual CHAP). Each boot has secrets of its own for both
   * directions, so which one is ours follows from CHAP_N.
   */
  readonly target?: ChapCredential
}

/** What the initiator must prove, and what we prove to it. RFC 7143 §9.2.1, §12.1.3. */
export type Authentication =
  | { readonly kind: 'none' }
  | {
      readonly kind: 'chap'
      /** The initiator proves one of these: several while credentials are being changed. CHAP_N says which. */
      readonly initiator: readonly InitiatorCredential[]
      /** Refuse an initiator that does not ask for our proof: it would talk to any impostor. */
      readonly mutualRequired?: boolean
    }

export type Verdict =
  | {
      readonly kind: 'accept'
      readonly authentication: Authentication
      readonly deviceServer: DeviceServer
      /** TargetAlias: for people, in the initiator's listings. */
      readonly alias?: string
      /** Relative target port and target portal group tag, 1..65535. Default 1. */
      readonly targetPort?: number
      /** Comes back in the events of this session: the machine, the boot attempt. */
      readonly label?: string
    }
  | { readonly kind: 'refuse'; readonly reason: RefusalReason }
  /** 'Target moved': the initiator goes to `to` for this login only, or from now on. RFC 7143 §11.13.5. */
  | { readonly kind: 'redirect'; readonly to: Portal; readonly permanent: boolean }

/** notFound: no such target. forbidden: not for this initiator. unavailable: try again later. */
export type RefusalReason = 'notFound' | 'forbidden' | 'unavailable'

/** `group` is the target portal group tag. */
export interface Portal {
  readonly address: string
  readonly port: number
  readonly group?: number
}

export type DiscoveryVerdict =
  | { readonly kind: 'accept'; readonly authentication: Authentication; readonly label?: string }
  | { readonly kind: 'refuse'; readonly reason: RefusalReason }

/** One answer of SendTargets. */
export interface TargetListing {
  readonly targetName: string
  readonly portals: readonly Portal[]
}

export interface TargetDirectory {
  /** A normal session wants `attempt.targetName`. */
  resolve(attempt: LoginAttempt): Verdict | Promise<Verdict>
  /** A discovery session: SendTargets only. */
  discover(attempt: LoginAttempt): DiscoveryVerdict | Promise<DiscoveryVerdict>
  /** The targets this initiator may know of. In a normal session only its own target is told. */
  list(attempt: LoginAttempt): readonly TargetListing[] | Promise<readonly TargetListing[]>
}

/** What a directory is asked: one that throws and one whose promise is rejected are alike. */
export function ask<Answer>(question: () => Answer | Promise<Answer>): Answer | Promise<Answer> {
  try {
    return question()
  } catch (error) {
    return Promise.reject(error)
  }
}

/** RFC 7143 §12.1.3 and IANA's iSCSI CHAP algorithm registry, strongest last. */
export type ChapAlgorithm = 'md5' | 'sha1' | 'sha256' | 'sha3-256'

export type LoginFailure =
  /** Wrong user or wrong secret; which of the two is not told to the peer. */
  | 'wrongCredentials'
  | 'chapRequired'
  /** It wants to prove itself, and we have nothing to check that with. */
  | 'chapNotConfigured'
  | 'mutualChapRequired'
  | 'mutualChapNotConfigured'
  /** Our own challenge came back as the peer's: RFC 7143 §9.2.1. */
  | 'reflectedChallenge'
  /** The two directions have one secret, or a secret is shorter than 12 bytes: our configuration is at fault. */
  | 'secretUnfit'
  | 'noCommonAlgorithm'
  | 'tooManyAttempts'
  | 'targetNotFound'
  | 'forbidden'
  | 'unavailable'
  | 'protocolError'
  | 'timedOut'
  | 'tooManySessions'
  | 'sessionMissing'
  | 'tooManyConnections'
  | 'redirected'
  | 'disconnected'

/** What identifies a session in events. */
export interface SessionIdentity {
  readonly sessionId: number
  readonly initiatorName: string
  readonly targetName: string | undefined
  readonly isid: string
  readonly remote: Endpoint
  readonly label: string | undefined
}

export type AuthenticationOutcome =
  | { readonly kind: 'none' }
  | {
      readonly kind: 'chap'
      readonly user: string
      readonly algorithm: ChapAlgorithm
      readonly mutual: boolean
      /** True when the initiator offered nothing stronger than an algorithm that we would rather not use (MD5, SHA-1). */
      readonly downgraded: boolean
    }

export type SessionEnd =
  | 'logout'
  | 'disconnected'
  | 'reinstated'
  | 'targetReset'
  | 'shutdown'
  | 'protocolError'
  /** A discovery session in which nothing was said. */
  | 'idle'
  /** It held memory that others waited for, and did not send what it was asked for. */
  | 'stalled'
  | 'fault'

export type IscsiEvent =
  | {
      readonly kind: 'loginFailed'
      readonly reason: LoginFailure
      /** Absent when the first login request was not understood. */
      readonly initiatorName: string | undefined
      readonly targetName: string | undefined
      readonly remote: Endpoint
      /** What was wrong, for people. */
      readonly detail: string
    }
  | {
      readonly kind: 'sessionOpened'
      readonly session: SessionIdentity
      readonly authentication: AuthenticationOutcome
    }
  | {
      readonly kind: 'sessionClosed'
      readonly session: SessionIdentity
      readonly end: SessionEnd
      readonly commandCount: number
      readonly readBytes: number
      readonly writtenBytes: number
    }
  /** A new login took the place of a session with the same name and ISID; its sessionClosed comes first. */
  | { readonly kind: 'sessionReinstated'; readonly session: SessionIdentity; readonly formerSessionId: number }
  /** The peer broke the protocol in full-feature phase and got a Reject. */
  | { readonly kind: 'rejected'; readonly session: SessionIdentity; readonly reason: string; readonly detail: string }
  /** Wrong secrets from one address passed the limit; it is slowed down until `untilMs` (wall clock). */
  | {
      readonly kind: 'addressSlowed'
      readonly address: string
      readonly failureCount: number
      readonly untilMs: number
    }
  /** The listener turned a connection away. */
  | { readonly kind: 'connectionRefused'; readonly remote: Endpoint; readonly reason: 'tooManyConnections' }

/** Called on the event loop, seldom; must not throw. */
export type IscsiEvents = (event: IscsiEvent) => void
