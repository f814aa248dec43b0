/** Which script a machine gets when it asks for one: decided at that moment, for a person may have admitted it meanwhile. */
import type { Standing, Transport } from './plan.ts'

export type ScriptFacts = {
  readonly standing: Standing
  readonly transport: Transport
  /** The request came over TLS. */
  readonly secure: boolean
  /** Our HTTPS listener is up. It is meant to be, always: what has HTTPS waits for it. */
  readonly httpsServed: boolean
  /** What the machine's iPXE said of itself by DHCP; undefined if it was never heard, or says nothing. */
  readonly features: ReadonlySet<string> | undefined
  /** What an earlier iPXE of this machine said, before a restart of ours or of its own; undefined: nothing. */
  readonly hadHttps: boolean | undefined
  /** What the machine must prove before it gets secrets. */
  readonly required: Proof
  /** The certificate that the request came with. */
  readonly certificate: 'none' | 'good' | CertificateTrouble
  /** It came by the port that asks for one. */
  readonly certificateAsked: boolean
  /** Somebody signed in with this request. */
  readonly signedIn: boolean
  readonly diskOnVlan: boolean
  /** It has asked before, and was told to wait. */
  readonly waited: boolean
}

/** Strongest first; the fleet room's kinds of proof fit as they are. */
export type Proof = 'certificate' | 'login' | 'admission'

/** unfit: another authority's, or out of date. */
export type CertificateTrouble = 'unknown' | 'ofAnother' | 'revoked' | 'unfit'

export type ScriptChoice =
  /** With credentials: the disk. */
  | { readonly script: 'boot'; readonly proved: Proof }
  | { readonly script: 'held' }
  /** Ask by HTTPS; not served: wait until it is. */
  | { readonly script: 'tls'; readonly served: boolean }
  /** Ask again where certificates are asked for. */
  | { readonly script: 'prove' }
  /** Somebody must sign in at the machine. */
  | { readonly script: 'signIn' }
  | { readonly script: 'refused'; readonly why: Refusal }

/**
 * machine: not admitted. needsTls: its policy wants TLS and the request came without. needsIscsi: its iPXE was built
 * without. needsVlan: its disk is on a VLAN and its iPXE cannot join one. noAddress: all addresses of that VLAN are taken.
 * noDisk: there is no image for it. needsCertificate: it has none to show. certificate...: the one it showed is not good,
 * which is worse than none.
 */
export type Refusal =
  | 'machine'
  | 'needsTls'
  | 'needsIscsi'
  | 'needsVlan'
  | 'noAddress'
  | 'noDisk'
  | 'needsCertificate'
  | 'certificateUnknown'
  | 'certificateOfAnother'
  | 'certificateRevoked'
  | 'certificateUnfit'

const troubles: Readonly<Record<CertificateTrouble, Refusal>> = {
  unknown: 'certificateUnknown',
  ofAnother: 'certificateOfAnother',
  revoked: 'certificateRevoked',
  unfit: 'certificateUnfit',
}

export function chooseScript(facts: ScriptFacts): ScriptChoice {
  if (facts.standing === 'refused') return { script: 'refused', why: 'machine' }
  const { certificate } = facts
  // Before anything else is told to it: somebody has a key that is not (or no longer) this machine's.
  if (certificate !== 'none' && certificate !== 'good') return { script: 'refused', why: troubles[certificate] }
  if (facts.standing === 'held') return { script: 'held' }
  const { httpsServed: served } = facts
  if (!mayCarrySecrets(facts) && hasHttps(facts) && (facts.waited || !served)) return { script: 'tls', served }
  if (!mayCarrySecrets(facts)) return { script: 'refused', why: 'needsTls' }
  // Some builds say nothing of themselves: they get the benefit of the doubt, and a script that tells how it went.
  if (facts.features !== undefined && facts.features.size > 0) {
    if (!facts.features.has('iscsi')) return { script: 'refused', why: 'needsIscsi' }
    if (facts.diskOnVlan && !facts.features.has('vlan')) return { script: 'refused', why: 'needsVlan' }
  }
  return chooseByProof(facts)
}

/** A stronger proof does where a weaker one is required. */
function chooseByProof({ required, certificate, certificateAsked, signedIn }: ScriptFacts): ScriptChoice {
  if (certificate === 'good') return { script: 'boot', proved: 'certificate' }
  if (required === 'certificate') {
    return certificateAsked ? { script: 'refused', why: 'needsCertificate' } : { script: 'prove' }
  }
  if (signedIn) return { script: 'boot', proved: 'login' }
  return required === 'login' ? { script: 'signIn' } : { script: 'boot', proved: 'admission' }
}

/**
 * `auto` keeps a machine whose loader can do better from being talked down by whoever asks in its name without TLS. It is
 * no proof: that somebody can also claim to be an older loader. `strict` is.
 */
function mayCarrySecrets(facts: ScriptFacts): boolean {
  if (facts.secure || facts.transport === 'open') return true
  if (facts.transport === 'strict') return false
  // Not by what we serve at this moment either: a port that somebody took would open every script.
  return !hasHttps(facts)
}

function hasHttps({ features, hadHttps }: ScriptFacts): boolean {
  return features?.has('https') ?? hadHttps === true
}
