/**
 * The loaders that may be fetched: a catalogue made once from the loader directories, name -> file. Requests are looked up
 * here and never joined to a path, so nothing outside the catalogue can be asked for.
 */
import { messageOf, OperationError } from '../base/errors.ts'
import { type ListedFile, listFiles } from '../host/directory.ts'
import { openFile } from '../host/file.ts'
import type { Log } from '../ports/log.ts'

/** What firmware loads over a network: PXE programs, EFI programs, SYSLINUX modules, kernels for iPXE itself. */
const loaderName = /\.(kpxe|kkpxe|pxe|efi|lkrn|0|c32|bin|uimg)$/
/** A loader is kept in memory after its first use; the largest in use (an ipxe.efi with everything) is 2 MB. */
const loaderBytesMax = 64 * 1024 * 1024
const loadersMax = 1_000

export interface LoaderFile {
  readonly name: string
  readonly path: string
  readonly sizeBytes: number
  /** The whole file; read once, then kept. @throws {OperationError} fileMissing, fileForbidden, ioError */
  bytes(): Promise<Uint8Array>
}

export interface LoaderCatalogue {
  readonly names: ReadonlySet<string>
  find(name: string): LoaderFile | undefined
}

/** Directories named first win where a name stands in two. One that is not there is a warning, not an end. */
export async function readLoaders(directories: readonly string[], log: Log): Promise<LoaderCatalogue> {
  const files = new Map<string, LoaderFile>()
  for (const directory of directories) {
    let listed: readonly ListedFile[]
    try {
      listed = await listFiles(directory)
    } catch (error) {
      log.warn('no loaders there', { directory, reason: messageOf(error) })
      continue
    }
    for (const file of listed) {
      if (!loaderName.test(file.name) || file.sizeBytes > loaderBytesMax) continue
      if (!files.has(file.name) && files.size < loadersMax) files.set(file.name, createLoader(file))
    }
  }
  return { names: new Set(files.keys()), find: (name) => files.get(name) }
}

function createLoader({ name, path, sizeBytes }: ListedFile): LoaderFile {
  let loaded: Promise<Uint8Array> | undefined
  const load = async (): Promise<Uint8Array> => {
    const file = await openFile(path, 'readOnly')
    try {
      if (file.sizeBytes() !== sizeBytes) {
        const hint = 'Restart Slipway, so that it looks at its loaders again.'
        throw new OperationError('loaderChanged', `${path} changed since Slipway started`, hint)
      }
      const bytes = new Uint8Array(sizeBytes)
      await file.read(0, bytes)
      return bytes
    } finally {
      await file.close()
    }
  }
  return {
    name,
    path,
    sizeBytes,
    bytes: () => {
      loaded ??= load().catch((error: unknown) => {
        loaded = undefined // the next request tries again
        throw error
      })
      return loaded
    },
  }
}
