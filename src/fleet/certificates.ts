/**
 * The certificates of machines. That who shows one has its key is checked by TLS; here stands which machine it was made for and
 * whether it is still good. What does not stand here is not known, whoever signed it: a store that was lost opens nothing. What
 * stands here is good also when the site has another authority by now.
 */
import type { Mac } from '../base/address.ts'

export type MachineCertificate = {
  /** SHA-256 of the whole, hex. */
  readonly fingerprint: string
  readonly mac: Mac
  /** Hex, as `openssl x509 -serial` prints it, in lower case. */
  readonly serial: string
  readonly issuedMs: number
  readonly notAfterMs: number
  readonly revokedMs: number | undefined
}

export interface CertificateStore {
  /** Oldest first. */
  certificates(): readonly MachineCertificate[]
  certificate(fingerprint: string): MachineCertificate | undefined
  /** Kept past kill -9 when it returns. @throws {OperationError} */
  putCertificate(certificate: MachineCertificate): void
}

/** Why a certificate opens nothing for a machine. unfit: its time is over, which TLS looks at only when a session begins. */
export type CertificateFault = 'unknown' | 'ofAnother' | 'revoked' | 'unfit'

/** `shown` is what is known of the certificate that was shown; undefined: it is good for this machine. `nowMs` is of the wall clock. */
export function faultOf(shown: MachineCertificate | undefined, mac: Mac, nowMs: number): CertificateFault | undefined {
  if (shown === undefined) return 'unknown'
  if (shown.mac !== mac) return 'ofAnother'
  if (shown.revokedMs !== undefined) return 'revoked'
  return nowMs < shown.notAfterMs ? undefined : 'unfit'
}
