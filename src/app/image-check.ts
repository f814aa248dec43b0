/** `slipway image check`: is a version's file what was added, and what would break in its system when it boots from afar? */
import { OperationError } from '../base/errors.ts'
import { openDisk } from '../disk/inspect.ts'
import { sourceOfDevice } from '../disk/source.ts'
import { openFile } from '../host/file.ts'
import { sha256OfFile } from '../host/hash.ts'
import { systemUnpacker } from '../host/unpack.ts'
import { formatReference, type ImageVersion } from '../images/catalogue.ts'
import { checkImage } from '../images/check/check-image.ts'
import { error, type ImageFinding, ok } from '../images/check/finding.ts'
import { openGolden } from './golden.ts'
import { isLazyPath, lazyStatus, openLazyImage } from './lazy-image.ts'
import type { Library } from './library.ts'
import { isNbdUri } from './nbd-disk.ts'

export type { ImageFinding } from '../images/check/finding.ts'

/** @throws {OperationError} fileMissing, ioError */
export async function checkVersion(library: Library, version: ImageVersion): Promise<ImageFinding[]> {
  const path = library.pathOf(version)
  const file = await checkFile(path, version)
  // What is wrong or away as a whole is not looked into.
  if (file.level === 'error' && isLazyPath(path)) return [file]
  return [file, ...(await checkImageFile(path))]
}

/** An image that is not in the library. @throws {OperationError} fileMissing, ioError, imageCorrupt */
export async function checkImageFile(path: string): Promise<ImageFinding[]> {
  const { device } = await openGolden(path)
  try {
    return await checkImage(await openDisk(sourceOfDevice(device)), systemUnpacker)
  } finally {
    await device.close()
  }
}

async function checkFile(path: string, version: ImageVersion): Promise<ImageFinding> {
  if (isNbdUri(path)) return ok('file', 'its bytes are with its NBD server: there is nothing to compare them with')
  if (isLazyPath(path)) return checkLazy(path, version)
  const file = await openFile(path, 'readOnly')
  try {
    const sha256 = await sha256OfFile(file)
    if (sha256 === version.sha256) return ok('file', `the file is what was added (SHA-256 ${sha256.slice(0, 12)}...)`)
    const next = `Do not serve it: add it again from ${version.source}, and look at the disk that held it (dmesg).`
    return error(
      'file',
      `${formatReference(version)} has changed since it was added`,
      'Its clones read wrong data.',
      next,
    )
  } finally {
    await file.close()
  }
}

/** Fetches what is not here yet: only the whole can be compared. */
async function checkLazy(path: string, version: ImageVersion): Promise<ImageFinding> {
  const file = await openLazyImage(path)
  try {
    await file.whole()
  } catch (failure) {
    if (!(failure instanceof OperationError)) throw failure
    return error('file', failure.message, 'Its clones read wrong data, or none.', failure.hint)
  } finally {
    await file.close()
  }
  const { hereBytes, sha256, sizeBytes } = await lazyStatus(path)
  if (hereBytes < sizeBytes)
    return ok('file', 'all of it could be fetched; what is kept is being kept by a server that runs')
  if (sha256 === undefined) return ok('file', 'all of it is here now; no checksum was given to compare it with')
  return ok(
    'file',
    `all of ${formatReference(version)} is here, and is what it must be (SHA-256 ${sha256.slice(0, 12)}...)`,
  )
}
