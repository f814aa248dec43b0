/**
 * The library of images in a state directory: the catalogue (images.db), and a file for each version in `images/`.
 *
 *   debian@3.raw       version 3; read-only, never changed
 *   debian@3.boot      what its first good boot read (`boot-traces.ts`)
 *   debian@adding      what is coming in; `debian@lock` is held by whoever brings it
 *
 * A version appears in the catalogue when its file is whole and on stable storage. What a kill leaves behind has no row
 * and nobody's lock, and the next command takes it away.
 */
import { OperationError } from '../base/errors.ts'
import { kindOf, listFiles, makeDirectory, removeIfThere } from '../host/directory.ts'
import type { ImageSource } from '../host/image-source.ts'
import { openImageStore } from '../host/image-store.ts'
import { type FileLock, lockFile } from '../host/lock.ts'
import { join, resolve } from '../host/path.ts'
import { makeStateDirectory } from '../host/state-directory.ts'
import type { BootDiskStore } from '../images/boot-disks.ts'
import { findVersion, type ImageStore, type ImageVersion, isImageName, parseReference } from '../images/catalogue.ts'

import { isLazyPath, mapSuffix } from './lazy-image.ts'
import { isNbdUri } from './nbd-disk.ts'

export type { ImagePolicy, ImageReference, ImageVersion } from '../images/catalogue.ts'
export {
  findVersion,
  formatReference,
  isImageName,
  nameFromSource,
  parseReference,
  versionsToRemove,
} from '../images/catalogue.ts'

export type AddProgress = {
  readonly receivedBytes: number
  readonly totalBytes: number | undefined
  readonly writtenBytes: number
}

export type AddOptions = {
  readonly name: string
  /** A path or a URL. */
  readonly source: string
  /** PEM: who alone may vouch for an https server. Undefined: who is trusted by this system. */
  readonly authority?: string | undefined
  /** In hexadecimal digits: what the publisher says of the file as it is fetched. */
  readonly sha256: string | undefined
  readonly signal: AbortSignal
  onProgress(progress: AddProgress): void
}

export type AddDisk = Pick<AddOptions, 'name' | 'signal' | 'onProgress'> & {
  /** For people: where it came from. */
  readonly label: string
  readonly totalBytes: number
  readonly chunks: AsyncIterable<Uint8Array>
  /** Changes the file, a raw image, before it is looked into and becomes a version. */
  finish?(draft: string): Promise<void>
}

export class Library {
  readonly store: ImageStore & BootDiskStore
  /** Absolute. */
  readonly directory: string

  private constructor(store: ImageStore & BootDiskStore, directory: string) {
    this.store = store
    this.directory = directory
  }

  /** @throws {OperationError} stateForbidden, databaseUnusable */
  static async open(stateDirectory: string): Promise<Library> {
    const state = makeStateDirectory(resolve(stateDirectory))
    const directory = join(state, 'images')
    await makeDirectory(directory)
    const library = new Library(openImageStore(join(state, 'images.db')), directory)
    await library.#sweep()
    return library
  }

  close(): void {
    this.store.close()
  }

  pathOf(version: ImageVersion): string {
    return isNbdUri(version.file) ? version.file : join(this.directory, version.file)
  }

  /** What a boot of it read, once a machine has booted from it. */
  tracePathOf(version: ImageVersion): string {
    return join(this.directory, traceFileOf(version))
  }

  /**
   * Brings an image in as the next version of its name. When it fails, however it fails, nothing was added.
   * @throws {OperationError} imageBusy, fileMissing, downloadFailed, unpackFailed, checksumWrong, imageCorrupt, noSpace, ...
   */
  async add(options: AddOptions): Promise<ImageVersion> {
    // Loaded here: a server that only serves keeps the memory.
    const { openImageSource } = await import('../host/image-source.ts')
    return this.#exclusively(options, () => {
      return openImageSource({ url: options.source, authority: options.authority }, options.signal)
    })
  }

  /** Brings in what no file holds: a machine's disk. @throws {OperationError} imageBusy, noSpace, ioError */
  async addDisk(disk: AddDisk): Promise<ImageVersion> {
    const { sourceOfChunks } = await import('../host/image-source.ts')
    return this.#exclusively({ ...disk, sha256: undefined }, async () => sourceOfChunks(disk, disk.signal))
  }

  /**
   * Brings in a file of a web server that stays there, and is fetched as machines read it.
   * @throws {OperationError} imageBusy, downloadFailed, rangesUnsupported, changesUnnoticed, imageUnsupported, ...
   */
  async addLazily(options: Pick<AddOptions, 'name' | 'source' | 'authority' | 'sha256'>): Promise<ImageVersion> {
    const { authority, name, source, sha256 } = options
    return this.#alone(name, async () => {
      const draft = join(this.directory, `${name}@adding`)
      const { bringInLazily, removeLazyDraft } = await import('./remote-intake.ts')
      return bringInLazily(this, { name, place: { url: source, authority }, sha256 }, draft).finally(() =>
        removeLazyDraft(draft),
      )
    })
  }

  /** Brings in an export of an NBD server, which stays there. @throws {OperationError} imageBusy, imageKnown, unreachable, ... */
  async addExport(name: string, uri: string): Promise<ImageVersion> {
    const { bringInExport } = await import('./remote-intake.ts')
    return this.#alone(name, () => bringInExport(this, name, uri))
  }

  #exclusively(
    options: Omit<AddOptions, 'source'> & Pick<AddDisk, 'finish'>,
    open: () => Promise<ImageSource>,
  ): Promise<ImageVersion> {
    const { name } = options
    return this.#alone(name, async () => {
      const draft = join(this.directory, `${name}@adding`)
      try {
        const { bringIn } = await import('./image-intake.ts')
        return await bringIn(this, await open(), options, draft)
      } finally {
        await removeIfThere(draft)
        await removeIfThere(`${draft}.converted`)
      }
    })
  }

  async #alone(name: string, add: () => Promise<ImageVersion>): Promise<ImageVersion> {
    const lock = this.#lock(name)
    if (lock === undefined) {
      const hint = 'Wait until it is done, or give this one another name: --name NAME.'
      throw new OperationError('imageBusy', `${name} is being added right now`, hint)
    }
    try {
      return await add()
    } finally {
      lock.release()
    }
  }

  async remove(versions: readonly ImageVersion[]): Promise<void> {
    for (const version of versions) {
      // The row first: a file without a row is swept, a row without a file would be an image that cannot be served.
      this.store.remove(version.name, version.version)
      if (!isNbdUri(version.file)) await removeIfThere(this.pathOf(version))
      if (isLazyPath(version.file)) await removeIfThere(`${this.pathOf(version)}${mapSuffix}`)
      await removeIfThere(this.tracePathOf(version))
    }
  }

  #lock(name: string): FileLock | undefined {
    return lockFile(join(this.directory, `${name}@lock`), 'make')
  }

  async #sweep(): Promise<void> {
    const known = new Set(this.store.versions().flatMap(filesOf))
    for (const { name: file, path } of await listFiles(this.directory)) {
      const [name = '', rest] = file.split('@')
      if (rest === undefined || rest === 'lock' || known.has(file) || !isImageName(name)) continue
      const lock = this.#lock(name)
      if (lock === undefined) continue // it is being added
      // It may have been finished since the catalogue was read.
      if (!this.store.versionsOf(name).flatMap(filesOf).includes(file)) await removeIfThere(path)
      lock.release()
    }
  }
}

function filesOf(version: ImageVersion): string[] {
  return [version.file, `${version.file}${mapSuffix}`, traceFileOf(version)]
}

function traceFileOf({ name, version }: ImageVersion): string {
  return `${name}@${version}.boot`
}

/**
 * Where the image is that `slipway up` would serve: a file, or what the library has by that name. What is neither is left as
 * it is, and is missing when it is opened. @throws {OperationError} imageUnknown
 */
export async function pathOfImage(stateDirectory: string, said: string): Promise<string> {
  const reference = parseReference(said)
  if (reference === undefined || (await kindOf(said)) === 'file') return said
  if ((await kindOf(join(stateDirectory, 'images.db'))) === undefined) return said
  const library = await Library.open(stateDirectory)
  try {
    const isKnown = library.store.versionsOf(reference.name).length > 0
    return isKnown ? library.pathOf(findVersion(library.store, reference)) : said
  } finally {
    library.close()
  }
}
