/**
 * The certificates of machines. That the authority signed one is checked by TLS; here stands which machine it was made for and
 * whether it is still good. What does not stand here is not known, whoever signed it: a store that was lost opens nothing.
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

/** Why a certificate opens nothing for a machine. */
export type CertificateFault = 'unknown' | 'ofAnother' | 'revoked'

/** `shown` is what is known of the certificate that was shown; undefined: it is good for this machine. */
export function faultOf(shown: MachineCertificate | undefined, mac: Mac): CertificateFault | undefined {
  if (shown === undefined) return 'unknown'
  if (shown.mac !== mac) return 'ofAnother'
  return shown.revokedMs === undefined ? undefined : 'revoked'
}
