/** `slipway clone`: what machines wrote, from outside. A clone that a machine is using is locked, and left alone. */
import { type Mac, parseMac } from '../base/address.ts'
import { OperationError } from '../base/errors.ts'
import type { BlockDevice } from '../block/device.ts'
import { createClone } from '../block/qcow2/create.ts'
import { noBacking, openQcow2 } from '../block/qcow2/open.ts'
import { nodeCompression } from '../host/compression.ts'
import { removeIfThere, renameDurably } from '../host/directory.ts'
import { openFile } from '../host/file.ts'
import { openFleetStore } from '../host/fleet-store.ts'
import { type FileLock, lockFile } from '../host/lock.ts'
import { dirname, join, resolve } from '../host/path.ts'
import { writeSparse } from '../host/sparse-writer.ts'
import { formatReference } from '../images/catalogue.ts'
import { type CloneFile, listCloneFiles, removeClone } from './clone-files.ts'
import { contentOfDevice } from './disk-content.ts'
import { besideIt } from './golden.ts'
import type { ImageVersion, Library } from './library.ts'

export type ListedClone = CloneFile & {
  readonly machineName: string | undefined
  /** 'debian@3', or the path of a file that is not in the library. */
  readonly image: string
  /** A machine or a command has it open. */
  readonly inUse: boolean
}

/** By MAC address. @throws {OperationError} ioError */
export async function listClones(library: Library): Promise<ListedClone[]> {
  const names = namesOfMachines(library)
  return (await listCloneFiles(directoryOf(library))).map((clone) => {
    const version = library.store.versions().find((each) => library.pathOf(each) === clone.backingPath)
    const image = version === undefined ? (clone.backingPath ?? 'unreadable') : formatReference(version)
    const lock = lockFile(clone.path, 'mustBeThere')
    lock?.release()
    return { ...clone, machineName: names.get(clone.mac), image, inUse: lock === undefined }
  })
}

/** Takes away all that the machine wrote: its next boot begins afresh. @throws {OperationError} cloneBusy, cloneMissing */
export async function resetClone(library: Library, machine: string): Promise<readonly CloneFile[]> {
  const files = await clonesOf(library, machine)
  const locks: FileLock[] = []
  try {
    for (const { path } of files) locks.push(lockClone(path, machine))
    for (const { path } of files) await removeClone(path)
  } finally {
    for (const lock of locks) lock.release()
  }
  return files
}

/** The machine's disk becomes the next version of `name`. @throws {OperationError} cloneBusy, cloneMissing, noSpace, ... */
export async function commitClone(
  library: Library,
  machine: string,
  to: { readonly name: string; readonly signal: AbortSignal; onProgress(doneBytes: number, totalBytes: number): void },
): Promise<ImageVersion> {
  return withDisk(library, machine, (device, { mac }) =>
    library.addDisk({
      name: to.name,
      label: `the disk of ${mac}`,
      totalBytes: device.sizeBytes,
      chunks: contentOfDevice(device),
      signal: to.signal,
      onProgress: ({ writtenBytes }) => to.onProgress(writtenBytes, device.sizeBytes),
    }),
  )
}

/** The machine's disk as a file that stands alone: qcow2 if it is called so, else raw. @throws {OperationError} fileExists, ... */
export async function exportClone(library: Library, machine: string, to: string): Promise<{ sizeBytes: number }> {
  const path = resolve(to)
  return withDisk(library, machine, async (device) => {
    // Made first, so that nothing of that name is ever overwritten; renamed over when it is whole.
    await (await openFile(path, 'createNew')).close()
    const draft = `${path}.partial`
    try {
      if (path.endsWith('.qcow2')) await writeQcow2(draft, device)
      else {
        const file = await openFile(draft, 'createOrTruncate')
        await writeSparse(file, contentOfDevice(device), () => undefined).finally(() => file.close())
      }
      await renameDurably(draft, path)
      return { sizeBytes: device.sizeBytes }
    } catch (error) {
      await removeIfThere(draft)
      await removeIfThere(path)
      throw error
    }
  })
}

async function writeQcow2(path: string, from: BlockDevice): Promise<void> {
  const file = await openFile(path, 'createOrTruncate')
  await createClone(file, { sizeBytes: from.sizeBytes }).catch(async (error: unknown) => {
    await file.close()
    throw error
  })
  const device = await openQcow2(file, { compression: nodeCompression, backing: noBacking })
  try {
    let at = 0
    for await (const chunk of contentOfDevice(from)) {
      for (let start = 0; start < chunk.byteLength; start += 65_536) {
        const part = chunk.subarray(start, start + 65_536)
        if (part.some((byte) => byte !== 0)) await device.write(at + start, part)
      }
      at += chunk.byteLength
    }
    await device.flush()
  } finally {
    await device.close()
  }
}

async function withDisk<T>(
  library: Library,
  machine: string,
  action: (device: BlockDevice, clone: CloneFile) => Promise<T>,
): Promise<T> {
  const files = await clonesOf(library, machine)
  // Its own is what it keeps; else what its last boot had.
  const last = library.store.bootDisk(files[0]?.mac ?? '')?.file
  const clone = files.find(({ isOfOneBoot }) => !isOfOneBoot) ?? files.find(({ file }) => file === last) ?? files[0]
  if (clone === undefined) throw missing(machine)
  const lock = lockClone(clone.path, machine)
  try {
    const file = await openFile(clone.path, 'readOnly')
    const device = await openQcow2(file, { compression: nodeCompression, backing: besideIt, readOnly: true }).catch(
      async (error: unknown) => {
        await file.close()
        throw error
      },
    )
    return await action(device, clone).finally(() => device.close())
  } finally {
    lock.release()
  }
}

async function clonesOf(library: Library, machine: string): Promise<CloneFile[]> {
  const mac = macOf(library, machine)
  const files = (await listCloneFiles(directoryOf(library))).filter((clone) => clone.mac === mac)
  if (files.length === 0) throw missing(machine)
  return files
}

function macOf(library: Library, machine: string): Mac {
  const mac = parseMac(machine)
  if (mac !== undefined) return mac
  for (const [known, name] of namesOfMachines(library)) if (name === machine) return known
  throw missing(machine)
}

function namesOfMachines(library: Library): ReadonlyMap<Mac, string | undefined> {
  const store = openFleetStore(join(dirname(library.directory), 'fleet.db'))
  try {
    return new Map(store.machines().map(({ mac, name }) => [mac, name]))
  } finally {
    store.close()
  }
}

function lockClone(path: string, machine: string): FileLock {
  const lock = lockFile(path, 'mustBeThere')
  if (lock !== undefined) return lock
  const hint = 'Switch it off and wait 15 seconds: what it still writes would be lost or torn.'
  throw new OperationError('cloneBusy', `the disk of ${machine} is in use`, hint)
}

function missing(machine: string): OperationError {
  return new OperationError(
    'cloneMissing',
    `${machine} has no clone`,
    'See which machines have one: slipway clone list.',
  )
}

function directoryOf(library: Library): string {
  return join(dirname(library.directory), 'clones')
}
