/** Which script a machine gets when it asks for one: decided at that moment, for a person may have admitted it meanwhile. */
import type { Standing, Transport } from './plan.ts'

export type ScriptFacts = {
  readonly standing: Standing
  readonly transport: Transport
  /** The request came over TLS. */
  readonly secure: boolean
  /** Our HTTPS listener is up. */
  readonly httpsServed: boolean
  /** What the machine's iPXE said of itself by DHCP; undefined if it was never heard, or says nothing. */
  readonly features: ReadonlySet<string> | undefined
}

export type ScriptChoice =
  /** With credentials: the disk. */
  { readonly script: 'boot' } | { readonly script: 'held' } | { readonly script: 'refused'; readonly why: Refusal }

/**
 * machine: not admitted. needsTls: its policy wants TLS and the request came without. needsIscsi: its iPXE was built
 * without. noDisk: there is no image for it.
 */
export type Refusal = 'machine' | 'needsTls' | 'needsIscsi' | 'noDisk'

export function chooseScript(facts: ScriptFacts): ScriptChoice {
  if (facts.standing === 'refused') return { script: 'refused', why: 'machine' }
  if (facts.standing === 'held') return { script: 'held' }
  if (!mayCarrySecrets(facts)) return { script: 'refused', why: 'needsTls' }
  if (facts.features !== undefined && facts.features.size > 0 && !facts.features.has('iscsi')) {
    return { script: 'refused', why: 'needsIscsi' }
  }
  return { script: 'boot' }
}

/**
 * `auto` keeps a machine whose loader can do better from being talked down by whoever asks in its name without TLS. It is
 * no proof: that somebody can also claim to be an older loader. `strict` is.
 */
function mayCarrySecrets(facts: ScriptFacts): boolean {
  if (facts.secure || facts.transport === 'open') return true
  if (facts.transport === 'strict') return false
  return !(facts.httpsServed && facts.features?.has('https') === true)
}
