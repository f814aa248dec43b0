/** Opening the image that everybody boots. Read-only, always: nothing that comes out of here can write to it. */

import type { BlockDevice } from '../block/device.ts'
import { openRawDevice } from '../block/file.ts'
import { openFile } from '../host/file.ts'

/** What `slipway up IMAGE` calls its one image, where images have names. */
export const goldenImageName = 'golden'

export type GoldenImage = {
  readonly path: string
  readonly device: BlockDevice
}

/** @throws {OperationError} fileMissing, fileForbidden, notAFile, imageEmpty */
export async function openGolden(path: string): Promise<GoldenImage> {
  const file = await openFile(path, 'readOnly')
  return { path, device: await openRawDevice(file, { readOnly: true }) }
}
