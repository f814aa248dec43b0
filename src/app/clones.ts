/**
 * The machines' disks: for each machine one clone of the golden image, opened when it first logs in and kept open, so that
 * sessions come and go without the disk noticing. A clone is an ordinary qcow2 file with the golden image behind it.
 */
import type { Mac } from '../base/address.ts'
import { OperationError } from '../base/errors.ts'
import type { BlockDevice } from '../block/device.ts'
import { createClone } from '../block/qcow2/create.ts'
import { type BackingResolver, openQcow2, readHeader } from '../block/qcow2/open.ts'
import { nodeCompression } from '../host/compression.ts'
import { makeDirectory } from '../host/directory.ts'
import { openFile } from '../host/file.ts'
import { join, resolve } from '../host/path.ts'
import type { RandomAccessFile } from '../ports/file.ts'
import type { GoldenImage } from './golden.ts'

export type Clone = { readonly device: BlockDevice; readonly path: string }

export class Clones {
  readonly #directory: string
  readonly #golden: GoldenImage
  readonly #open = new Map<Mac, Promise<Clone>>()

  /** `directory` is made when the first clone is. */
  constructor(directory: string, golden: GoldenImage) {
    this.#directory = resolve(directory)
    this.#golden = golden
  }

  /** The machine's clone; made if it has none. @throws {OperationError} */
  open(mac: Mac): Promise<Clone> {
    let clone = this.#open.get(mac)
    if (clone === undefined) {
      clone = this.#openOrMake(mac)
      clone.catch(() => this.#open.delete(mac)) // the next login tries again
      this.#open.set(mac, clone)
    }
    return clone
  }

  /** Flushes and closes all of them. */
  async close(): Promise<void> {
    const all = await Promise.allSettled(this.#open.values())
    this.#open.clear()
    for (const clone of all) if (clone.status === 'fulfilled') await clone.value.device.close()
  }

  async #openOrMake(mac: Mac): Promise<Clone> {
    await makeDirectory(this.#directory)
    const path = join(this.#directory, `${mac.replaceAll(':', '-')}.qcow2`)
    return { path, device: await openOrMakeClone(path, this.#golden) }
  }
}

/**
 * A clone kept in a file of its own, made if there is none.
 * @throws {OperationError} cloneOfAnother: the file is a clone of another image; what opening qcow2 throws
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
    const file = await openFile(path, 'readWrite')
    // Killed between making the file and writing its header: nothing was ever in it.
    if (file.sizeBytes() > 0 && (await isWhole(file))) return file
    await writeClone(file, golden)
    return file
  } catch (error) {
    if (!(error instanceof OperationError) || error.code !== 'fileMissing') throw error
  }
  const file = await openFile(path, 'createNew')
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
  const backing = { name: golden.path, format: golden.format }
  await createClone(file, { sizeBytes: golden.device.sizeBytes, backing })
}

/** A clone may stand on the golden image it was made from, and on nothing else. */
function onlyThis(golden: GoldenImage): BackingResolver {
  return {
    resolve: async ({ name }, from) => {
      if (name === golden.path) return { kind: 'device', device: golden.device }
      const hint = `Serve ${name} as before, or move ${from} away: the machine then gets a fresh clone.`
      throw new OperationError('cloneOfAnother', `${from} is a clone of ${name}, not of ${golden.path}`, hint)
    },
  }
}
