/** `slipway image check`: is a version's file what was added, and what would break in its system when it boots from afar? */
import { openDisk } from '../disk/inspect.ts'
import { sourceOfDevice } from '../disk/source.ts'
import { openFile } from '../host/file.ts'
import { sha256OfFile } from '../host/hash.ts'
import { systemUnpacker } from '../host/unpack.ts'
import { formatReference, type ImageVersion } from '../images/catalogue.ts'
import { checkImage } from '../images/check/check-image.ts'
import { error, type ImageFinding, ok } from '../images/check/finding.ts'
import { openGolden } from './golden.ts'
import type { Library } from './library.ts'

export type { ImageFinding } from '../images/check/finding.ts'

/** @throws {OperationError} fileMissing, ioError */
export async function checkVersion(library: Library, version: ImageVersion): Promise<ImageFinding[]> {
  return [await checkFile(library.pathOf(version), version), ...(await checkImageFile(library.pathOf(version)))]
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
