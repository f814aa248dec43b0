/**
 * What does this firmware get next? A pure function from facts to a plan. The same question has the same answer, so a
 * repeated DISCOVER gets a repeated offer.
 *
 *   PXE, UEFI HTTP, U-Boot ──▶ an iPXE made for it ──▶ iPXE asks ──▶ its script's URL
 *                                                        └─ cannot do what the boot takes ──▶ a better iPXE, once
 *
 * A held machine goes the same way: only a program of ours can say on its screen that it waits.
 */
import { unreachable } from '../base/assert.ts'
import { type Architecture, type Client, describeClient, type Program } from './client.ts'
import type { Loader } from './loaders.ts'

export type Standing = 'admitted' | 'held' | 'refused'
export type Transport = 'strict' | 'auto' | 'open'

export type BootFacts = {
  readonly client: Client
  /** Whether the machine may boot. */
  readonly standing: Standing
  /** How its script may travel. */
  readonly transport: Transport
  /** What can be handed out, best first. */
  readonly loaders: readonly Loader[]
  /** Our HTTPS listener is up. */
  readonly httpsServed: boolean
  /** The machine's own firmware trusts our certificate (UEFI HTTP boot with our CA enrolled). */
  readonly firmwareTrustsUs: boolean
  /** Its disk is on a VLAN of its own, which its iPXE has to join. */
  readonly diskOnVlan: boolean
  /** An iPXE of this machine was given a loader a moment ago, and an iPXE of it asks again: the loader did not help. */
  readonly loaderWasTried: boolean
}

export type Plan =
  /** Fetch this program and run it. */
  | { readonly kind: 'loader'; readonly file: string; readonly via: 'tftp' | 'http' | 'https'; readonly reason: string }
  /** To an iPXE: fetch the machine's own script. What it says is decided when it is fetched. */
  | { readonly kind: 'script'; readonly via: 'http' | 'https'; readonly reason: string }
  /** Nothing to boot, though it should have something: `reason` says what is missing. It will ask again. */
  | { readonly kind: 'hold'; readonly reason: string }
  /** An address and nothing to boot: an operating system, or a machine that is none of ours. */
  | { readonly kind: 'addressOnly'; readonly reason: string }

export function planBoot(facts: BootFacts): Plan {
  const { program } = facts.client
  if (program.kind === 'linuxIpconfig' || program.kind === 'other') {
    return { kind: 'addressOnly', reason: `${describeClient(facts.client)} does not boot from here` }
  }
  // Another server on this network may have something for it: stay out of the way, even of an iPXE.
  if (facts.standing === 'refused') return { kind: 'addressOnly', reason: 'the machine is not admitted' }
  switch (program.kind) {
    case 'pxe':
      return loaderFor(facts, 'tftp', (loader) => fits(loader, facts.client))
    case 'uefiHttp':
      return loaderFor(facts, facts.httpsServed && facts.firmwareTrustsUs ? 'https' : 'http', (loader) =>
        fits(loader, facts.client),
      )
    case 'uboot':
      return planUboot(facts)
    case 'ipxe':
      return planIpxe(facts, program)
    default:
      return unreachable(program)
  }
}

function loaderFor(facts: BootFacts, via: 'tftp' | 'http' | 'https', suits: (loader: Loader) => boolean): Plan {
  const loader = bestOf(facts, suits)
  const who = describeClient(facts.client)
  if (loader !== undefined) return { kind: 'loader', file: loader.file, via, reason: `${who} gets ${loader.file}` }
  return { kind: 'hold', reason: `no loader for ${who}: ${missingLoaderHint(facts.client.architecture)}` }
}

/** U-Boot runs EFI applications, and fetches by TFTP only. It says nothing of its processor on x86 (docs/quirks.md). */
function planUboot(facts: BootFacts): Plan {
  const architecture = facts.client.architecture === 'unknown' ? 'x86_64' : facts.client.architecture
  const client = { ...facts.client, architecture }
  const loader = bestOf(facts, (candidate) => fits(candidate, client) && candidate.runsUnderUboot)
  const who = describeClient(facts.client)
  if (loader !== undefined) {
    return { kind: 'loader', file: loader.file, via: 'tftp', reason: `${who} gets ${loader.file}` }
  }
  return facts.loaders.some((candidate) => fits(candidate, client))
    ? { kind: 'hold', reason: `${who} would never wake the iPXE that is there: add one built with NAP_NULL as snp.efi` }
    : { kind: 'hold', reason: `no loader for ${who}: ${missingLoaderHint(architecture)}` }
}

function planIpxe(facts: BootFacts, program: Extract<Program, { kind: 'ipxe' }>): Plan {
  const who = describeClient(facts.client)
  const wanted = featuresWanted(facts)
  const missing = wanted.filter((feature) => !program.features.has(feature))
  // Some builds say nothing of themselves; they get the benefit of the doubt, and a script that tells how it went.
  const isSilent = program.features.size === 0
  if (missing.length > 0 && !isSilent && !facts.loaderWasTried) {
    const better = facts.loaders.find(
      (loader) => fits(loader, facts.client) && wanted.every((feature) => loader.features.has(feature)),
    )
    if (better !== undefined) {
      const via = program.features.has('http') ? 'http' : 'tftp'
      return {
        kind: 'loader',
        file: better.file,
        via,
        reason: `${who} lacks ${missing.join(', ')}: gets ${better.file}`,
      }
    }
  }
  if (!program.features.has('http') && !program.features.has('https') && !isSilent) {
    return { kind: 'hold', reason: `${who} has no HTTP, and no loader that has it is there` }
  }
  if (facts.httpsServed && facts.transport !== 'open' && program.features.has('https')) {
    return { kind: 'script', via: 'https', reason: `${who} gets its script by HTTPS` }
  }
  return { kind: 'script', via: 'http', reason: `${who} gets its script by HTTP` }
}

/** The first that can do all the boot takes; else the first: its script will say what it lacks. */
function bestOf(facts: BootFacts, suits: (loader: Loader) => boolean): Loader | undefined {
  const suitable = facts.loaders.filter(suits)
  const wanted = featuresWanted(facts)
  return suitable.find((loader) => wanted.every((feature) => loader.features.has(feature))) ?? suitable[0]
}

function featuresWanted({ transport, diskOnVlan }: BootFacts): readonly string[] {
  return ['iscsi', 'http', ...(transport === 'strict' ? ['https'] : []), ...(diskOnVlan ? ['vlan'] : [])]
}

function fits(loader: Loader, client: Client): boolean {
  return loader.architecture === client.architecture
}

function missingLoaderHint(architecture: Architecture): string {
  if (architecture === 'bios') return 'put undionly.kpxe into the loaders folder (Debian: apt install ipxe)'
  if (architecture === 'x86_64') return 'put snponly.efi into the loaders folder (Debian: apt install ipxe)'
  return `put an iPXE built for it into the loaders folder (${architecture === 'arm64' ? 'snponly-arm64.efi' : 'none is known'})`
}
