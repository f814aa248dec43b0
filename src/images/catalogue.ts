/**
 * The library of images: names, and under each name versions that never change. One version of a name is published: it is
 * what a machine's next boot gets.
 */
import { OperationError } from '../base/errors.ts'
import type { DiskSummary } from '../disk/inspect.ts'
import { imageNameCharactersMax } from './limits.ts'

/** How the library keeps a disk. Everything else is converted when it comes in. */
export type ImageFormat = 'raw' | 'qcow2'

export type ImageVersion = {
  readonly name: string
  /** From 1; a number is never used again, not even after the version was removed. */
  readonly version: number
  /** Its file, in the library's directory; of an image on an NBD server, its address. */
  readonly file: string
  readonly format: ImageFormat
  /** Of the disk. */
  readonly sizeBytes: number
  /** Of the file as it is kept, in hexadecimal digits; undefined for an image that lives elsewhere. */
  readonly sha256: string | undefined
  /** Where it came from, without credentials. */
  readonly source: string
  /** Of what came, packed as it was: what its publisher's list of checksums says. */
  readonly sourceSha256: string | undefined
  readonly addedMs: number
  readonly contents: DiskSummary
}

/** What machines' disks are, as far as the library keeps it: room `fleet` says what each word means. */
export type ImagePolicy = 'ephemeral' | 'persistent' | 'readOnly'

/** What is remembered of images. The store is the truth; a file that it does not know is left over from a kill. */
export interface ImageStore {
  /** By name, then version. */
  versions(): readonly ImageVersion[]
  versionsOf(name: string): readonly ImageVersion[]
  version(name: string, version: number): ImageVersion | undefined
  /** The number that the next version of `name` gets. */
  nextVersion(name: string): number
  /** The first version of a name is published with it. */
  add(version: ImageVersion): void
  published(name: string): number | undefined
  publish(name: string, version: number, nowMs: number): void
  /** Publishes what was published before; undefined if nothing was. */
  rollback(name: string): number | undefined
  remove(name: string, version: number): void
  /** What machines' disks of this image are; undefined if that was never said. */
  policyOf(name: string): ImagePolicy | undefined
  setPolicy(name: string, policy: ImagePolicy | undefined): void
  close(): void
}

/** 'debian' or 'debian@3'. */
export type ImageReference = { readonly name: string; readonly version: number | undefined }

export function parseReference(text: string): ImageReference | undefined {
  const match = /^([^@]+)(?:@([1-9]\d{0,8}))?$/.exec(text)
  const name = match?.[1]
  if (name === undefined || !isImageName(name)) return undefined
  return { name, version: match?.[2] === undefined ? undefined : Number(match[2]) }
}

export function formatReference({ name, version }: ImageReference): string {
  return version === undefined ? name : `${name}@${version}`
}

/** Names are in scripts, URLs and names of files: what all of these take as it is. */
export function isImageName(text: string): boolean {
  return text.length <= imageNameCharactersMax && /^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$/.test(text)
}

/** '/srv/Debian 12.qcow2.xz' -> 'debian-12'; undefined where nothing is left. */
export function nameFromSource(source: string): string | undefined {
  const base = source.replace(/[?#].*$/, '').replace(/^.*\//, '')
  const stem = base
    .toLowerCase()
    .replace(/\.(gz|xz|zst)$/, '')
    .replace(/\.(img|raw|qcow2|vmdk|vhdx?|vdi|iso)$/, '')
  const name = stem
    .replaceAll(/[^a-z0-9._-]+/g, '-')
    .slice(0, imageNameCharactersMax)
    .replaceAll(/^[._-]+|[._-]+$/g, '')
  return isImageName(name) ? name : undefined
}

/** The version that `reference` means now. @throws {OperationError} imageUnknown */
export function findVersion(store: ImageStore, reference: ImageReference): ImageVersion {
  const { name } = reference
  const number = reference.version ?? store.published(name)
  const found = number === undefined ? undefined : store.version(name, number)
  if (found !== undefined) return found
  const known = store.versionsOf(name).map(({ version }) => formatReference({ name, version }))
  if (known.length > 0) {
    throw new OperationError(
      'imageUnknown',
      `there is no ${formatReference(reference)}`,
      `There is ${known.join(', ')}.`,
    )
  }
  const hint = 'See what there is: slipway image list. Add one: slipway image add FILE.'
  throw new OperationError('imageUnknown', `there is no image ${name}`, hint)
}

/** A clone, as far as the library must know it. */
export type Dependent = { readonly label: string; readonly file: string }

/**
 * Which versions `remove` takes away. `needed` by file: what stands on it.
 * @throws {OperationError} imageUnknown, imageNeeded, imagePublished
 */
export function versionsToRemove(
  store: ImageStore,
  reference: ImageReference,
  options: { readonly prune: boolean; readonly dependents: readonly Dependent[] },
): readonly ImageVersion[] {
  const { name } = reference
  const all = store.versionsOf(name)
  if (all.length === 0) findVersion(store, reference)
  const published = store.published(name)
  const dependentsOf = ({ file }: ImageVersion): readonly Dependent[] =>
    options.dependents.filter((dependent) => dependent.file === file)
  if (options.prune) return all.filter((each) => each.version !== published && dependentsOf(each).length === 0)
  const chosen = reference.version === undefined ? all : [findVersion(store, reference)]
  for (const each of chosen) {
    const needing = dependentsOf(each)
    if (needing.length === 0) continue
    const who = needing.map(({ label }) => label).join(', ')
    const hint = 'Let them go first: slipway clone reset MACHINE (what it wrote is lost), or clone export keeps it.'
    throw new OperationError('imageNeeded', `${formatReference(each)} is needed by the clones of ${who}`, hint)
  }
  if (reference.version !== undefined && reference.version === published && all.length > 1) {
    const hint = `Publish another one first: slipway image publish ${name}@N, or slipway image rollback ${name}.`
    throw new OperationError('imagePublished', `${formatReference(reference)} is the published version`, hint)
  }
  return chosen
}
