/** Opening disk images. What everybody boots is opened read-only, always: nothing that comes out of here can write to it. */

import { gibibyte } from '../base/units.ts'
import { type BlockCache, type CachedDevice, createBlockCache } from '../block/cache.ts'
import { openRawDevice } from '../block/file.ts'
import type { BackingReference } from '../block/qcow2/header.ts'
import { type BackingResolver, openQcow2, probeFormat } from '../block/qcow2/open.ts'
import { nodeCompression } from '../host/compression.ts'
import { openFile } from '../host/file.ts'
import { dirname, isAbsolute, resolve } from '../host/path.ts'

/** What `slipway up IMAGE` calls its one image, where images have names. */
export const goldenImageName = 'golden'

/** Golden blocks kept in memory, at most, for all machines together. Takes memory only as far as they read. */
const cacheBytes = gibibyte / 2

export type GoldenImage = {
  /** Absolute: clones name it as their backing file. */
  readonly path: string
  readonly format: 'raw' | 'qcow2'
  readonly device: CachedDevice
}

/** Raw or qcow2, with whatever stands behind it. @throws {OperationError} fileMissing, imageEmpty, imageCorrupt, ... */
export async function openGolden(path: string, cache: BlockCache = createBlockCache(cacheBytes)): Promise<GoldenImage> {
  const absolute = resolve(path)
  const file = await openFile(absolute, 'readOnly')
  try {
    const format = await probeFormat(file)
    const device =
      format === 'raw'
        ? await openRawDevice(file, { readOnly: true })
        : await openQcow2(file, { compression: nodeCompression, backing: besideIt, readOnly: true })
    return { path: absolute, format, device: cache.attach(device) }
  } catch (error) {
    await file.close()
    throw error
  }
}

/** A golden image was named by the person at the keyboard, who may have made it on top of another one. */
export const besideIt: BackingResolver = {
  resolve: async ({ name, format }: BackingReference, from: string) => {
    const path = isAbsolute(name) ? name : resolve(dirname(from), name)
    const file = await openFile(path, 'readOnly')
    return { kind: 'file', file, ...(format === 'raw' || format === 'qcow2' ? { format } : {}) }
  },
}
