/**
 * What does this firmware get next? A pure function from facts to a plan. The same question has the same answer, so a
 * repeated DISCOVER gets a repeated offer.
 */
import type { Client } from './client.ts'
import type { Loader } from './loaders.ts'

export type BootFacts = {
  readonly client: Client
  /** Whether the machine may boot. */
  readonly standing: 'admitted' | 'held' | 'refused'
  /** How its script may travel: fleet's transport policy. */
  readonly transport: 'strict' | 'auto' | 'open'
  /** What can be handed out, best first. */
  readonly loaders: readonly Loader[]
  /** Whether our HTTPS listener is up. */
  readonly httpsServed: boolean
  /** The machine's own firmware trusts our certificate (UEFI HTTP boot with our CA enrolled). */
  readonly firmwareTrustsUs: boolean
  /** A loader was given to an iPXE of this machine a moment ago, and it asks again: the loader did not help. */
  readonly loaderWasTried: boolean
}

export type Plan =
  /** Fetch this program and run it. */
  | { readonly kind: 'loader'; readonly file: string; readonly via: 'tftp' | 'http' | 'https'; readonly reason: string }
  /** An iPXE that can do all it takes: the machine's own script. */
  | { readonly kind: 'script'; readonly via: 'http' | 'https'; readonly reason: string }
  /** An address and nothing to boot for now; it will ask again. */
  | { readonly kind: 'hold'; readonly reason: string }
  /** An address and nothing to boot: an operating system, or a machine that is none of ours. */
  | { readonly kind: 'addressOnly'; readonly reason: string }
  /** Not a word. */
  | { readonly kind: 'ignore'; readonly reason: string }
