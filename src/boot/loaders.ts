/** What each loader can do: what must be known of a program before it is handed to a firmware. */
import type { Architecture } from './client.ts'

export type Loader = {
  /** The name it is asked for by, without a folder. */
  readonly file: string
  readonly program: 'ipxe'
  /** bios: a PXE network boot program. efi: an EFI application. */
  readonly platform: 'bios' | 'efi'
  /** The processor it was built for; `bios` for a PXE network boot program. */
  readonly architecture: Architecture
  /** By the names of iPXE's features: 'iscsi', 'http', 'https', 'vlan'. */
  readonly features: ReadonlySet<string>
  /** Never puts the processor to rest, so U-Boot, which cannot wake it, may run it. */
  readonly runsUnderUboot: boolean
  /** One of ours, made for U-Boot from another that is here: what needs no change goes before it. */
  readonly isCopy: boolean
}

const plainFeatures: readonly string[] = ['iscsi', 'http', 'tftp', 'dns', 'menu']
const biosFeatures: ReadonlySet<string> = new Set([...plainFeatures, 'pxe', 'bzimage', 'vlan'])
const efiFeatures: ReadonlySet<string> = new Set([...plainFeatures, 'efi', 'vlan'])
const ownEfiFeatures: ReadonlySet<string> = new Set([...efiFeatures, 'https'])

/**
 * By file name, best first: how Debian and iPXE's makefiles name them. `snponly` uses the network card that the firmware
 * booted from through the firmware's own driver, so it works wherever PXE did; `ipxe` brings drivers and may not have
 * the right one. Debian's builds have no HTTPS (docs/quirks.md).
 */
const known: readonly Loader[] = [
  bios('undionly.kpxe'),
  bios('ipxe.pxe'),
  efi('snponly.efi', 'x86_64', efiFeatures, false),
  efi('ipxe.efi', 'x86_64', efiFeatures, false),
  efi('snponly-arm64.efi', 'arm64', efiFeatures, false),
  efi('ipxe-arm64.efi', 'arm64', efiFeatures, false),
  // U-Boot's README.iscsi has its reader build these two, with HTTPS and with NAP_NULL: they never rest.
  efi('snp.efi', 'x86_64', ownEfiFeatures, true),
  efi('snp-arm64.efi', 'arm64', ownEfiFeatures, true),
]

/** What a file of this name is taken for; undefined if nothing is known of it. */
export function knownLoader(file: string): Loader | undefined {
  return known.find((loader) => loader.file === file)
}

/** Those of `files` that are known, best first. */
export function loadersAmong(files: readonly string[]): readonly Loader[] {
  return known.filter((loader) => files.includes(loader.file))
}

/** What looking into a loader's bytes told; the trust room's description fits as it is. */
export type SeenLoader = {
  readonly kind: string
  readonly form: string
  readonly firmware: Architecture | undefined
  readonly can: Readonly<Record<'https' | 'http' | 'iscsi' | 'vlan' | 'tftp', 'yes' | 'no' | 'unknown'>>
  /** How often it rests the processor in a way that U-Boot never ends. */
  readonly sleepCount: number
}

/**
 * A loader by what is in it, whatever its name; undefined if no firmware can be handed it, or it is no iPXE. What cannot be
 * seen (BIOS builds are compressed) is taken from what is known of the name, else an iPXE is taken for a plain one.
 */
export function loaderFrom(file: string, seen: SeenLoader): Loader | undefined {
  const isBios = seen.firmware === 'bios' && seen.form === 'pxe'
  const isEfi = seen.firmware !== 'bios' && seen.form === 'efiApplication'
  if (seen.kind !== 'ipxe' || seen.firmware === undefined || (!isBios && !isEfi)) return undefined
  const assumed = knownLoader(file)?.features ?? (isBios ? biosFeatures : efiFeatures)
  const features = new Set(assumed)
  for (const [feature, ability] of Object.entries(seen.can)) {
    if (ability === 'yes') features.add(feature)
    if (ability === 'no') features.delete(feature)
  }
  return {
    file,
    program: 'ipxe',
    platform: isBios ? 'bios' : 'efi',
    architecture: seen.firmware,
    features,
    runsUnderUboot: isEfi && seen.sleepCount === 0,
    isCopy: false,
  }
}

/**
 * Best first. Names known here go in the order above; then whatever uses the firmware's own driver (snponly, snp), then
 * whatever brings its own; copies last.
 */
export function inOrder(loaders: readonly Loader[]): readonly Loader[] {
  const rank = ({ file, isCopy }: Loader): number => {
    const first = isCopy ? 1_000 : 0
    const index = known.findIndex((loader) => loader.file === file)
    if (index !== -1) return first + index
    return first + known.length + (/undionly|snponly/.test(file) ? 0 : /snp/.test(file) ? 1 : 2)
  }
  return loaders.toSorted((a, b) => rank(a) - rank(b) || (a.file < b.file ? -1 : 1))
}

function bios(file: string): Loader {
  return {
    file,
    program: 'ipxe',
    platform: 'bios',
    architecture: 'bios',
    features: biosFeatures,
    runsUnderUboot: false,
    isCopy: false,
  }
}

function efi(file: string, architecture: Architecture, features: ReadonlySet<string>, runsUnderUboot: boolean): Loader {
  return { file, program: 'ipxe', platform: 'efi', architecture, features, runsUnderUboot, isCopy: false }
}
