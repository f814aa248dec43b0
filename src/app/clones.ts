/**
 * Clones on disk: ordinary qcow2 files with a golden image behind them, in one directory. One that is open is locked, so
 * that `slipway clone` leaves it alone.
 */
import type { Mac } from '../base/address.ts'
import { OperationError } from '../base/errors.ts'
import type { BlockDevice } from '../block/device.ts'
import { createClone } from '../block/qcow2/create.ts'
import { type BackingResolver, openQcow2, readHeader } from '../block/qcow2/open.ts'
import { nodeCompression } from '../host/compression.ts'
import { kindOf, makeDirectory, takenBytesNow } from '../host/directory.ts'
import { openFile, openFileAlone } from '../host/file.ts'
import { type FileLock, lockFile } from '../host/lock.ts'
import { dirname, join, resolve } from '../host/path.ts'
import { openReservationFile } from '../host/reservation-file.ts'
import { openSanitizeFile } from '../host/sanitize-file.ts'
import type { RandomAccessFile } from '../ports/file.ts'
import type { ReservationStore } from '../scsi/reservations/store.ts'
import type { SanitizeStore } from '../scsi/sanitize-store.ts'
import type { BootTraces, TraceRecording } from './boot-traces.ts'
import { listCloneFiles, nameOfClone, removeClone, reservationsPathOf, sanitizePathOf } from './clone-files.ts'
import { type GoldenImage, placeOf } from './golden.ts'
import { cloneOfAnother, type ImageShelf, type MeantImage } from './shelf.ts'

export type Clone = {
  readonly device: BlockDevice
  readonly path: string
  /** Of the golden image it stands on. */
  readonly goldenPath: string
  /** What initiators reserved, kept for as long as the clone is. */
  readonly reservations: ReservationStore
  /** Whether a SANITIZE of it was cut off. */
  readonly sanitize: SanitizeStore
  /** What it reads of its golden image is being taken down. */
  readonly recording: TraceRecording | undefined
}

/** No clone is empty: it has its header and its tables. No system fits into what is left of this. */
const unwrittenBytesMax = 1024 * 1024

export class Clones {
  /** Absolute. Made when the first clone is. */
  readonly directory: string
  readonly #shelf: ImageShelf
  readonly #traces: BootTraces | undefined
  /** By the name of the file. */
  readonly #open = new Map<string, Promise<Clone & { readonly lock: FileLock }>>()

  /** `traces` takes down what fresh clones read. */
  constructor(directory: string, shelf: ImageShelf, traces?: BootTraces) {
    this.directory = resolve(directory)
    this.#shelf = shelf
    this.#traces = traces
  }

  /**
   * The machine's own clone, kept from boot to boot; made of `image` if it has none. One that is there stays on the version
   * it was made of. @throws {OperationError} cloneBusy, cloneOfAnother, fileMissing, noSpace, ...
   */
  async openOwn(mac: Mac, image: MeantImage): Promise<Clone> {
    const clone = await this.#share(nameOfClone(mac), image)
    if (this.#shelf.nameOf(clone.goldenPath) === this.#shelf.nameOf(image.path)) return clone
    await this.close(nameOfClone(mac))
    throw cloneOfAnother(clone.path, this.#shelf.labelOf(clone.goldenPath), image.label, mac)
  }

  /** A fresh one for the next boot. `readOnly`: only remembers which version that boot has. @throws {OperationError} */
  async make(file: string, image: MeantImage, readOnly: boolean): Promise<Clone> {
    return this.#share(file, image, readOnly)
  }

  /** One that must be there. @throws {OperationError} fileMissing, cloneBusy, imageCorrupt, ... */
  async reopen(file: string, readOnly: boolean): Promise<Clone> {
    return this.#share(file, undefined, readOnly)
  }

  /** Flushes it and lets go of it. */
  async close(file: string): Promise<void> {
    const clone = await this.#open.get(file)?.catch(() => undefined)
    this.#open.delete(file)
    clone?.recording?.end()
    await clone?.device.close()
    clone?.lock.release()
  }

  async discard(file: string): Promise<void> {
    await this.close(file)
    await removeClone(join(this.directory, file))
  }

  /** Whether the machine has a clone that it keeps, with so much in it that a system may have been installed there. */
  hasWritten(mac: Mac): boolean {
    return takenBytesNow(join(this.directory, nameOfClone(mac))) > unwrittenBytesMax
  }

  /** The machine's clones that were made for one boot. */
  async filesOfBoots(mac: Mac): Promise<string[]> {
    const all = await listCloneFiles(this.directory)
    return all.filter((clone) => clone.mac === mac && clone.isOfOneBoot).map(({ file }) => file)
  }

  async closeAll(): Promise<void> {
    for (const file of [...this.#open.keys()]) await this.close(file)
  }

  #share(file: string, image: MeantImage | undefined, readOnly = false): Promise<Clone> {
    const known = this.#open.get(file)
    if (known !== undefined) return known
    const opening = this.#openLocked(join(this.directory, file), image, readOnly)
    opening.catch(() => this.#open.delete(file)) // the next login tries again
    this.#open.set(file, opening)
    return opening
  }

  async #openLocked(
    path: string,
    image: MeantImage | undefined,
    readOnly: boolean,
  ): Promise<Clone & { readonly lock: FileLock }> {
    await makeDirectory(this.directory)
    let isFresh = false
    if (image !== undefined) {
      isFresh = (await kindOf(path)) === undefined
      if (isFresh) await removeClone(path)
      const golden = await this.#shelf.open(image.path)
      const made = await openOrMake(path, { ...golden, path: image.backingName }).catch((error: unknown) => {
        throw error instanceof OperationError && error.code === 'fileBusy' ? cloneBusy(error.message) : error
      })
      await made.close()
    }
    const lock = lockFile(path, 'mustBeThere')
    if (lock === undefined) throw cloneBusy(`${path} is in use by another slipway command`)
    const file = await openFile(path, readOnly ? 'readOnly' : 'readWrite')
    let recording: TraceRecording | undefined
    try {
      const reservations = await openReservationFile(reservationsPathOf(path))
      const sanitize = await openSanitizeFile(sanitizePathOf(path))
      let goldenPath = ''
      const backing: BackingResolver = {
        resolve: async ({ name }, from) => {
          goldenPath = placeOf(dirname(from), name)
          if (this.#shelf.nameOf(goldenPath) !== undefined) {
            const { device } = await this.#shelf.open(goldenPath)
            // One that was written to does not read all that a boot reads.
            if (isFresh) recording = await this.#traces?.record(goldenPath, device.sizeBytes)
            return { kind: 'device', device: device.reader(recording?.observe) }
          }
          throw cloneOfAnother(from, name, image?.label ?? 'anything that is served')
        },
      }
      const device = await openQcow2(file, { compression: nodeCompression, backing, readOnly })
      return { device, path, goldenPath, reservations, sanitize, recording, lock }
    } catch (error) {
      recording?.end()
      await file.close()
      lock.release()
      throw error
    }
  }
}

function cloneBusy(message: string): OperationError {
  return new OperationError('cloneBusy', message, 'Wait until that is done; the machine tries again by itself.')
}

/**
 * A clone kept in a file of its own, made if there is none.
 * @throws {OperationError} fileBusy: somebody writes to it; cloneOfAnother: its image is another; what opening qcow2 throws
 */
export async function openOrMakeClone(path: string, golden: GoldenImage): Promise<BlockDevice> {
  const file = await openOrMake(path, golden)
  try {
    return await openQcow2(file, { compression: nodeCompression, backing: onlyThis(golden) })
  } catch (error) {
    await file.close()
    throw error
  }
}

async function openOrMake(path: string, golden: GoldenImage): Promise<RandomAccessFile> {
  try {
    const file = await openFileAlone(path, 'readWrite')
    // Killed between making the file and writing its header: nothing was ever in it.
    if (file.sizeBytes() > 0 && (await isWhole(file))) return file
    await writeClone(file, golden)
    return file
  } catch (error) {
    if (!(error instanceof OperationError) || error.code !== 'fileMissing') throw error
  }
  const file = await openFileAlone(path, 'createNew')
  await writeClone(file, golden)
  return file
}

/** The header is written last: a file that begins with zeroes is one that was never finished. */
async function isWhole(file: RandomAccessFile): Promise<boolean> {
  const first = new Uint8Array(4)
  await file.read(0, first)
  if (first.every((byte) => byte === 0)) return false
  await readHeader(file)
  return true
}

async function writeClone(file: RandomAccessFile, golden: GoldenImage): Promise<void> {
  const backing = { name: golden.path, format: golden.backingFormat }
  await createClone(file, { sizeBytes: golden.device.sizeBytes, backing })
}

/** A clone may stand on the golden image it was made from, and on nothing else. */
function onlyThis(golden: GoldenImage): BackingResolver {
  return {
    resolve: async ({ name }, from) => {
      if (name === golden.path) return { kind: 'device', device: golden.device }
      throw cloneOfAnother(from, name, golden.path)
    },
  }
}
