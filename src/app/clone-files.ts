/** The clones that lie in a state directory, as their own headers describe them. */
import { type Mac, parseMac } from '../base/address.ts'
import { OperationError } from '../base/errors.ts'
import { readHeader } from '../block/qcow2/open.ts'
import { listFiles, removeIfThere, takenBytes } from '../host/directory.ts'
import { codeOf, openFile } from '../host/file.ts'
import { dirname } from '../host/path.ts'
import { placeOf } from './golden.ts'

export type CloneFile = {
  readonly mac: Mac
  readonly path: string
  /** Its name in the directory. */
  readonly file: string
  /** Made for one boot; else the machine's own, kept from boot to boot. */
  readonly isOfOneBoot: boolean
  /** What it really takes on the disk. */
  readonly takenBytes: number
  /** Absolute path of what it stands on; undefined where its header cannot be read. */
  readonly backingPath: string | undefined
}

/** '52-54-00-12-34-56.qcow2', or '52-54-00-12-34-56~k3v9x2aq.qcow2' for one boot's. */
export function nameOfClone(mac: Mac, ofBoot?: string): string {
  return `${mac.replaceAll(':', '-')}${ofBoot === undefined ? '' : `~${ofBoot}`}.qcow2`
}

/** Where the clone's persistent reservations are kept (APTPL): beside it, and gone with it. */
export function reservationsPathOf(clonePath: string): string {
  return `${clonePath.slice(0, -'.qcow2'.length)}.reservations.json`
}

/** That it is being sanitized: beside it, and gone with it. */
export function sanitizePathOf(clonePath: string): string {
  return `${clonePath.replace(/\.qcow2$/, '')}.sanitize.json`
}

/** Reservations first: a clone that begins afresh under the same name must never find somebody's. @throws what Node throws */
export async function removeClone(clonePath: string): Promise<void> {
  await removeIfThere(reservationsPathOf(clonePath))
  await removeIfThere(sanitizePathOf(clonePath))
  await removeIfThere(clonePath)
}

/** By MAC address. @throws {OperationError} ioError */
export async function listCloneFiles(directory: string): Promise<CloneFile[]> {
  const files = await listFiles(directory).catch((error: unknown) => {
    if (codeOf(error) === 'ENOENT') return []
    throw error
  })
  const clones: CloneFile[] = []
  for (const { name, path } of files) {
    const match = /^([0-9a-f]{2}(?:-[0-9a-f]{2}){5})(~[^.]+)?\.qcow2$/.exec(name)
    const mac = parseMac(match?.[1]?.replaceAll('-', ':') ?? '')
    if (mac === undefined) continue
    clones.push({
      mac,
      path,
      file: name,
      isOfOneBoot: match?.[2] !== undefined,
      takenBytes: await takenBytes(path),
      backingPath: await backingPathOf(path),
    })
  }
  return clones
}

/** What a clone stands on. Undefined: it was never finished, or is damaged. */
export async function backingPathOf(path: string): Promise<string | undefined> {
  const file = await openFile(path, 'readOnly')
  try {
    const { backing } = await readHeader(file)
    return backing === undefined ? undefined : placeOf(dirname(path), backing.name)
  } catch (error) {
    if (error instanceof OperationError && error.code.startsWith('image')) return undefined
    throw error
  } finally {
    await file.close()
  }
}
