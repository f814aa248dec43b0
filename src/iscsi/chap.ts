/**
 * CHAP inside an iSCSI login: RFC 7143 §12.1.3, RFC 1994.
 *
 *   initiator            target
 *   CHAP_A=8,7,6,5  ->
 *                   <-   CHAP_A=8 CHAP_I=<id> CHAP_C=<challenge>
 *   CHAP_N CHAP_R   ->                                            [CHAP_I CHAP_C: asks for our proof, mutual]
 *                   <-   [CHAP_N CHAP_R]
 *
 * response = H(id, secret, challenge). Pure functions; who may log in is `policy.ts`.
 */
import { equalInConstantTime, type Secret } from '../base/secret.ts'
import type { Hash } from '../ports/hash.ts'
import { chapAlgorithmsMax, chapSecretBytesMin } from './limits.ts'
import type { ChapAlgorithm, InitiatorCredential } from './policy.ts'

type Algorithm = { readonly name: ChapAlgorithm; readonly number: number; readonly digestBytes: number }

/** IANA "iSCSI CHAP algorithms", strongest first: the order in which we choose. */
export const chapAlgorithms: readonly Algorithm[] = [
  { name: 'sha3-256', number: 8, digestBytes: 32 },
  { name: 'sha256', number: 7, digestBytes: 32 },
  { name: 'sha1', number: 6, digestBytes: 20 },
  { name: 'md5', number: 5, digestBytes: 16 },
]

/** The strongest that the initiator offers in its CHAP_A. Undefined if there is none, or the list is none. */
export function chooseAlgorithm(offer: string): Algorithm | undefined {
  const offered = offer.split(',')
  if (offered.length > chapAlgorithmsMax) return undefined
  return chapAlgorithms.find(({ number }) => offered.includes(String(number)))
}

/** MD5 and SHA-1 are what old firmware has; anything that offers better gets better. */
export function isDowngrade(algorithm: ChapAlgorithm): boolean {
  return algorithm === 'md5' || algorithm === 'sha1'
}

export type Challenge = {
  readonly algorithm: ChapAlgorithm
  readonly identifier: number
  readonly bytes: Uint8Array
}

export function respond(hash: Hash, challenge: Challenge, secret: Secret): Uint8Array {
  const key = new TextEncoder().encode(secret.reveal())
  return hash.digest(challenge.algorithm, [Uint8Array.of(challenge.identifier), key, challenge.bytes])
}

/**
 * The credential that the peer has proven. Every candidate is computed and compared, and a wrong name costs as much as a
 * wrong secret, so that time tells nothing about which names exist.
 */
export function verify(
  hash: Hash,
  challenge: Challenge,
  candidates: readonly InitiatorCredential[],
  proof: { readonly user: string; readonly response: Uint8Array },
): InitiatorCredential | undefined {
  let proven: InitiatorCredential | undefined
  for (const candidate of candidates) {
    const right = equalInConstantTime(respond(hash, challenge, candidate.secret), proof.response)
    if (right && candidate.user === proof.user) proven = candidate
  }
  return proven
}

/** RFC 7143 §9.2.1: 96 bits at least, and never one secret for both directions, or a reflected proof would do. */
export function unfitSecret(initiator: readonly InitiatorCredential[]): string | undefined {
  const encoder = new TextEncoder()
  const targets = initiator.flatMap(({ target }) => (target === undefined ? [] : [target]))
  for (const { user, secret } of [...initiator, ...targets]) {
    if (encoder.encode(secret.reveal()).byteLength < chapSecretBytesMin) {
      return `the CHAP secret of '${user}' is shorter than ${chapSecretBytesMin} bytes`
    }
  }
  for (const target of targets) {
    const same = initiator.find(({ secret }) => secret.reveal() === target.secret.reveal())
    if (same !== undefined) return `the CHAP secrets of '${same.user}' and '${target.user}' are equal`
  }
  return undefined
}
