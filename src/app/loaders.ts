/**
 * The loaders that may be fetched: a catalogue made once from the loader directories, name -> bytes. Requests are looked up
 * here and never joined to a path, so nothing outside the catalogue can be asked for.
 *
 * Each is looked into, so that what it can do is known and not guessed. For an iPXE that U-Boot would never wake there is a
 * second entry, `uboot-NAME`: the copy that README.iscsi's nap.h is about, made without a compiler.
 */
import { messageOf, OperationError } from '../base/errors.ts'
import { inOrder, type Loader, loaderFrom } from '../boot/loaders.ts'
import { isDiskError, sourceOfBytes } from '../disk/source.ts'
import { type ListedFile, listFiles } from '../host/directory.ts'
import { openFile } from '../host/file.ts'
import type { Log } from '../ports/log.ts'
import { identifyLoader } from '../trust/loaders/identify.ts'
import { withoutSleep } from '../trust/loaders/patch.ts'

/** What firmware loads over a network: PXE programs, EFI programs, SYSLINUX modules, boot scripts of U-Boot. */
const loaderName = /\.(kpxe|kkpxe|pxe|efi|0|c32|uimg)$/
/** The largest in use, an ipxe.efi with every driver and font, is 2 MB; UKIs go by HTTP from elsewhere. */
const loaderBytesMax = 16 * 1024 * 1024
const loadersMax = 200

export interface LoaderCatalogue {
  /** Those that a firmware can be handed, best first. */
  readonly known: readonly Loader[]
  /** Everything that may be fetched by name, known or not. */
  find(name: string): Uint8Array | undefined
}

/** Directories named first win where a name stands in two. One that is not there is a warning, not an end. */
export async function readLoaders(directories: readonly string[], log: Log): Promise<LoaderCatalogue> {
  const files = new Map<string, Uint8Array>()
  const known: Loader[] = []
  for (const directory of directories) {
    for (const file of await listOrWarn(directory, log)) {
      if (!loaderName.test(file.name) || file.sizeBytes > loaderBytesMax) continue
      if (files.has(file.name) || files.size >= loadersMax) continue
      const bytes = await readOrWarn(file, log)
      if (bytes === undefined) continue
      files.set(file.name, bytes)
      const loader = await recognise(file.name, bytes)
      if (loader === undefined) continue
      known.push(loader)
      const awake = await forUboot(loader, bytes, log)
      if (awake === undefined) continue
      files.set(awake.loader.file, awake.bytes)
      known.push(awake.loader)
    }
  }
  return { known: inOrder(known), find: (name) => files.get(name) }
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

async function recognise(name: string, bytes: Uint8Array): Promise<Loader | undefined> {
  try {
    return loaderFrom(name, await identifyLoader(sourceOfBytes(bytes)))
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
    return { loader: { ...loader, file: `uboot-${loader.file}`, runsUnderUboot: true }, bytes: copy.bytes }
  } catch (error) {
    if (!(error instanceof OperationError)) throw error
    log.info('U-Boot machines do not get this one', { loader: loader.file, reason: error.message })
    return undefined
  }
}
