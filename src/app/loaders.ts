/**
 * The loaders that may be fetched: a catalogue made once from the loader directories, name -> bytes. Requests are looked up
 * here and never joined to a path, so nothing outside the catalogue can be asked for.
 *
 * Each is looked into, so that what it can do is known and not guessed. For an iPXE that U-Boot would never wake there is a
 * second entry, `uboot-NAME`: the copy that README.iscsi's nap.h is about, made without a compiler.
 *
 * What was added with `slipway loaders add` lies in the state directory and wins over everything else.
 */
import { messageOf, OperationError } from '../base/errors.ts'
import { inOrder, type Loader, loaderFrom } from '../boot/loaders.ts'
import { isDiskError, sourceOfBytes } from '../disk/source.ts'
import { type ListedFile, listFiles } from '../host/directory.ts'
import { openFile } from '../host/file.ts'
import type { Log } from '../ports/log.ts'
import { identifyLoader, type KnownRoot, type Loader as SeenLoader } from '../trust/loaders/identify.ts'
import { withoutSleep } from '../trust/loaders/patch.ts'

export type { SeenLoader }

/** What firmware loads over a network: PXE programs, EFI programs, SYSLINUX modules, boot scripts of U-Boot. */
export const loaderName: RegExp = /\.(kpxe|kkpxe|pxe|efi|0|c32|uimg)$/
/** The largest in use, an ipxe.efi with every driver and font, is 2 MB; UKIs go by HTTP from elsewhere. */
export const loaderBytesMax: number = 16 * 1024 * 1024
const loadersMax = 200
/** The folder of the state directory that `slipway loaders add` fills. */
export const addedLoadersFolder = 'loaders'

/** One file of the catalogue, and what is in it. */
export type CatalogueEntry = {
  readonly name: string
  readonly directory: string
  /** It is no file: it was made from this one, which lies there. */
  readonly madeFrom: string | undefined
  /** Undefined: nothing known is in it, such as a module or a menu. */
  readonly seen: SeenLoader | undefined
}

export interface LoaderCatalogue {
  /** Those that a firmware can be handed, best first. */
  readonly known: readonly Loader[]
  /** Everything that may be fetched by name, known or not. */
  readonly entries: readonly CatalogueEntry[]
  find(name: string): Uint8Array | undefined
}

/**
 * Directories named first win: where a name stands in two, and where two loaders would do. One that is not there is a
 * warning, not an end. `roots`: whose fingerprints are looked for, beside the public ones.
 */
export async function readLoaders(
  directories: readonly string[],
  log: Log,
  roots: readonly KnownRoot[] = [],
): Promise<LoaderCatalogue> {
  const files = new Map<string, Uint8Array>()
  const entries: CatalogueEntry[] = []
  const known: Loader[] = []
  for (const directory of directories) {
    const knownHere: Loader[] = []
    for (const file of await listOrWarn(directory, log)) {
      if (!loaderName.test(file.name) || file.sizeBytes > loaderBytesMax) continue
      if (files.has(file.name) || files.size >= loadersMax) continue
      const bytes = await readOrWarn(file, log)
      if (bytes === undefined) continue
      files.set(file.name, bytes)
      const seen = await recognise(bytes, roots)
      entries.push({ name: file.name, directory, madeFrom: undefined, seen })
      const loader = seen && loaderFrom(file.name, seen)
      if (loader === undefined) continue
      knownHere.push(loader)
      const awake = await forUboot(loader, bytes, log)
      if (awake === undefined) continue
      files.set(awake.loader.file, awake.bytes)
      entries.push({
        name: awake.loader.file,
        directory,
        madeFrom: file.name,
        seen: await recognise(awake.bytes, roots),
      })
      knownHere.push(awake.loader)
    }
    known.push(...inOrder(knownHere))
  }
  return { known, entries, find: (name) => files.get(name) }
}

async function listOrWarn(directory: string, log: Log): Promise<readonly ListedFile[]> {
  try {
    return await listFiles(directory)
  } catch (error) {
    log.warn('no loaders there', { directory, reason: messageOf(error) })
    return []
  }
}

async function readOrWarn({ path, sizeBytes }: ListedFile, log: Log): Promise<Uint8Array | undefined> {
  try {
    const file = await openFile(path, 'readOnly')
    const bytes = new Uint8Array(sizeBytes)
    await file.read(0, bytes)
    await file.close()
    return bytes
  } catch (error) {
    if (!(error instanceof OperationError)) throw error
    log.warn('a loader cannot be read', { path, reason: error.message })
    return undefined
  }
}

async function recognise(bytes: Uint8Array, roots: readonly KnownRoot[]): Promise<SeenLoader | undefined> {
  try {
    return await identifyLoader(sourceOfBytes(bytes), roots)
  } catch (error) {
    // Modules, menus, discs: a folder of loaders has other things in it, and they may be fetched all the same.
    if (error instanceof OperationError || isDiskError(error)) return undefined
    throw error
  }
}

type AwakeCopy = { readonly loader: Loader; readonly bytes: Uint8Array }

async function forUboot(loader: Loader, bytes: Uint8Array, log: Log): Promise<AwakeCopy | undefined> {
  if (loader.platform !== 'efi' || loader.runsUnderUboot) return undefined
  try {
    const copy = await withoutSleep(bytes)
    return {
      loader: { ...loader, file: `uboot-${loader.file}`, runsUnderUboot: true, isCopy: true },
      bytes: copy.bytes,
    }
  } catch (error) {
    if (!(error instanceof OperationError)) throw error
    log.info('U-Boot machines do not get this one', { loader: loader.file, reason: error.message })
    return undefined
  }
}
