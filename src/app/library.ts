/**
 * The library of images in a state directory: the catalogue (images.db), and a file for each version in `images/`.
 *
 *   debian@3.raw       version 3; read-only, never changed
 *   debian@adding      what is coming in; `debian@lock` is held by whoever brings it
 *
 * A version appears in the catalogue when its file is whole and on stable storage. What a kill leaves behind has no row
 * and nobody's lock, and the next command takes it away.
 */
import { messageOf, OperationError } from '../base/errors.ts'
import { openRawDevice } from '../block/file.ts'
import { checkQcow2 } from '../block/qcow2/check.ts'
import { noBacking, openQcow2, readHeader } from '../block/qcow2/open.ts'
import { whatIsOn } from '../disk/inspect.ts'
import { systemClock } from '../host/clock.ts'
import { nodeCompression } from '../host/compression.ts'
import { kindOf, listFiles, makeDirectory, makeReadOnly, removeIfThere, renameDurably } from '../host/directory.ts'
import { openFile } from '../host/file.ts'
import { sha256OfFile } from '../host/hash.ts'
import { type ImageSource, openImageSource, sourceOfChunks } from '../host/image-source.ts'
import { openImageStore } from '../host/image-store.ts'
import { type FileLock, lockFile } from '../host/lock.ts'
import { join, resolve } from '../host/path.ts'
import { convertToRaw, type ForeignFormat } from '../host/qemu-img.ts'
import { writeSparse } from '../host/sparse-writer.ts'
import { makeStateDirectory } from '../host/state-directory.ts'
import type { BootDiskStore } from '../images/boot-disks.ts'
import {
  findVersion,
  type ImageFormat,
  type ImageStore,
  type ImageVersion,
  isImageName,
  parseReference,
} from '../images/catalogue.ts'
import { recognisedBytes, recogniseFormat } from '../images/foreign.ts'
import { imageBytesMax } from '../images/limits.ts'
import type { RandomAccessFile } from '../ports/file.ts'

export type { ImageReference, ImageVersion } from '../images/catalogue.ts'
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
    return join(this.directory, version.file)
  }

  /**
   * Brings an image in as the next version of its name. When it fails, however it fails, nothing was added.
   * @throws {OperationError} imageBusy, fileMissing, downloadFailed, unpackFailed, checksumWrong, imageCorrupt, noSpace, ...
   */
  async add(options: AddOptions): Promise<ImageVersion> {
    return this.#exclusively(options.name, async (draft) =>
      this.#bring(await openImageSource(options.source, options.signal), options, draft),
    )
  }

  /** Brings in what no file holds: a machine's disk. @throws {OperationError} imageBusy, noSpace, ioError */
  async addDisk(disk: AddDisk): Promise<ImageVersion> {
    const { name, label, totalBytes, chunks, signal, onProgress } = disk
    const source = sourceOfChunks({ label, totalBytes, chunks }, signal)
    return this.#exclusively(name, (draft) =>
      this.#bring(source, { name, sha256: undefined, signal, onProgress }, draft),
    )
  }

  async #exclusively(name: string, action: (draft: string) => Promise<ImageVersion>): Promise<ImageVersion> {
    const lock = this.#lock(name)
    if (lock === undefined) {
      const hint = 'Wait until it is done, or give this one another name: --name NAME.'
      throw new OperationError('imageBusy', `${name} is being added right now`, hint)
    }
    const draft = join(this.directory, `${name}@adding`)
    try {
      return await action(draft)
    } finally {
      await removeIfThere(draft)
      await removeIfThere(`${draft}.converted`)
      lock.release()
    }
  }

  async remove(versions: readonly ImageVersion[]): Promise<void> {
    for (const version of versions) {
      // The row first: a file without a row is swept, a row without a file would be an image that cannot be served.
      this.store.remove(version.name, version.version)
      await removeIfThere(this.pathOf(version))
    }
  }

  async #bring(
    from: ImageSource,
    { name, sha256, signal, onProgress }: Omit<AddOptions, 'source'>,
    draft: string,
  ): Promise<ImageVersion> {
    const written = await withFile(draft, 'createOrTruncate', (file) =>
      writeSparse(file, bounded(from.chunks()), (writtenBytes) => {
        onProgress({ receivedBytes: from.receivedBytes(), totalBytes: from.totalBytes, writtenBytes })
      }),
    )
    const sourceSha256 = from.sha256()
    if (sha256 !== undefined && sha256.toLowerCase() !== sourceSha256) {
      const hint = 'It was damaged on its way, or is not the file you mean. Nothing was kept.'
      throw new OperationError('checksumWrong', `${from.label} has SHA-256 ${sourceSha256}, not ${sha256}`, hint)
    }
    if (written.sizeBytes === 0) {
      throw new OperationError('imageEmpty', `${from.label} is empty`, 'Fetch it again. Nothing was kept.')
    }
    const whole = await this.#readable(draft, from.label, written.sha256, signal)
    const { sizeBytes, contents } = await inspect(whole.path, whole.format, from.label)
    await makeReadOnly(whole.path)
    const version = this.store.nextVersion(name)
    const file = `${name}@${version}.${whole.format}`
    await renameDurably(whole.path, join(this.directory, file))
    const added: ImageVersion = {
      name,
      version,
      file,
      format: whole.format,
      sizeBytes,
      sha256: whole.sha256,
      source: from.label,
      sourceSha256,
      addedMs: systemClock.wallMs(),
      contents,
    }
    this.store.add(added)
    return added
  }

  /** The draft as raw or qcow2; what is neither is converted. */
  async #readable(
    draft: string,
    label: string,
    sha256: string,
    signal: AbortSignal,
  ): Promise<{ path: string; format: ImageFormat; sha256: string }> {
    const head = new Uint8Array(recognisedBytes)
    await withFile(draft, 'readOnly', async (file) => file.read(0, head))
    const format = recogniseFormat(head)
    if (format === 'raw' || format === 'qcow2') return { path: draft, format, sha256 }
    if (format === 'vmdkDescriptor') {
      const hint = 'Make one file of it where its parts are: qemu-img convert -O qcow2 FILE.vmdk WHOLE.qcow2.'
      throw new OperationError('imageUnsupported', `${label} only describes a disk whose parts are other files`, hint)
    }
    const path = `${draft}.converted`
    await convertToRaw({ path: draft, format: format satisfies ForeignFormat }, path, signal)
    const rehashed = await withFile(path, 'readOnly', (file) => sha256OfFile(file))
    return { path, format: 'raw', sha256: rehashed }
  }

  #lock(name: string): FileLock | undefined {
    return lockFile(join(this.directory, `${name}@lock`), 'make')
  }

  async #sweep(): Promise<void> {
    const known = new Set(this.store.versions().map(({ file }) => file))
    for (const { name: file, path } of await listFiles(this.directory)) {
      const [name = '', rest] = file.split('@')
      if (rest === undefined || rest === 'lock' || known.has(file) || !isImageName(name)) continue
      const lock = this.#lock(name)
      if (lock === undefined) continue // it is being added
      // It may have been finished since the catalogue was read.
      if (!this.store.versionsOf(name).some((version) => version.file === file)) await removeIfThere(path)
      lock.release()
    }
  }
}

/**
 * Where the image is that `slipway up` would serve: a file, or what the library has by that name. What is neither is left as
 * it is, and is missing when it is opened. @throws {OperationError} imageUnknown
 */
export async function pathOfImage(stateDirectory: string, said: string): Promise<string> {
  const reference = parseReference(said)
  if (reference === undefined || (await kindOf(said)) !== undefined) return said
  if ((await kindOf(join(stateDirectory, 'images.db'))) === undefined) return said
  const library = await Library.open(stateDirectory)
  try {
    const isKnown = library.store.versionsOf(reference.name).length > 0
    return isKnown ? library.pathOf(findVersion(library.store, reference)) : said
  } finally {
    library.close()
  }
}

/** What the disk is, after making sure that all of it is there. @throws {OperationError} imageCorrupt, imageUnsupported */
async function inspect(
  path: string,
  format: ImageFormat,
  label: string,
): Promise<Pick<ImageVersion, 'sizeBytes' | 'contents'>> {
  const file = await openFile(path, 'readOnly')
  try {
    if (format === 'qcow2') await checkWhole(file, label)
    const device =
      format === 'raw'
        ? await openRawDevice(file, { readOnly: true })
        : await openQcow2(file, { compression: nodeCompression, backing: noBacking, readOnly: true })
    return { sizeBytes: device.sizeBytes, contents: await whatIsOn(device) }
  } catch (error) {
    // The draft's path means nothing to the person who named the source.
    if (!(error instanceof OperationError)) throw error
    throw new OperationError(error.code, error.message.replaceAll(path, label), error.hint, { cause: error })
  } finally {
    await file.close()
  }
}

async function checkWhole(file: RandomAccessFile, label: string): Promise<void> {
  const header = await readHeader(file)
  if (header.backing !== undefined) {
    const hint = 'Make one file of it where the other one is: qemu-img convert -O qcow2 FILE WHOLE.qcow2.'
    throw new OperationError('imageUnsupported', `${label} stands on another file, ${header.backing.name}`, hint)
  }
  const { errorCount, faults } = await checkQcow2(file, header)
  if (errorCount === 0) return
  const hint = 'It is damaged or was cut off: fetch it again, or look at it with qemu-img check FILE. Nothing was kept.'
  throw new OperationError('imageCorrupt', `${label} is not whole: ${faults[0] ?? `${errorCount} errors`}`, hint)
}

async function* bounded(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let bytes = 0
  for await (const chunk of chunks) {
    bytes += chunk.byteLength
    if (bytes > imageBytesMax) {
      throw new OperationError('imageUnsupported', `it unpacks to more than ${imageBytesMax} bytes`, 'Is it an image?')
    }
    yield chunk
  }
}

async function withFile<T>(
  path: string,
  mode: 'readOnly' | 'createOrTruncate',
  action: (file: RandomAccessFile) => Promise<T> | T,
): Promise<T> {
  const file = await openFile(path, mode)
  try {
    return await action(file)
  } finally {
    await file.close().catch((error: unknown) => {
      throw new OperationError(
        'ioError',
        `cannot close ${path}: ${messageOf(error)}`,
        'Look at the kernel log (dmesg).',
      )
    })
  }
}
