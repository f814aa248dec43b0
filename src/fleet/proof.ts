/**
 * What a machine must prove before it gets the secrets of a boot, and what it has proved. MAC, UUID and serial number are claims
 * and prove nothing; what a person decided about them is the weakest of these.
 */

/**
 * Strongest first. certificate: the key of a certificate of this site's, which is in a loader of the machine's own. login: a
 * person signed in at the machine. admission: a person let in whoever claims to be this machine.
 */
export type ProofKind = 'certificate' | 'login' | 'admission'

export type Proof =
  /** SHA-256 of the certificate, hex. */
  | { readonly kind: 'certificate'; readonly fingerprint: string }
  | { readonly kind: 'login'; readonly account: string }
  | { readonly kind: 'admission' }

export const admissionOnly: Proof = { kind: 'admission' }

const strength: Readonly<Record<ProofKind, number>> = { admission: 0, login: 1, certificate: 2 }

/** A stronger proof does where a weaker one is required. */
export function suffices(proved: ProofKind, required: ProofKind): boolean {
  return strength[proved] >= strength[required]
}
