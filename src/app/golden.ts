/** Opening disk images. What everybody boots is opened read-only, always: nothing that comes out of here can write to it. */

import { gibibyte } from '../base/units.ts'
import { type BlockCache, type CachedDevice, createBlockCache } from '../block/cache.ts'
import { openRawDevice } from '../block/file.ts'
import type { BackingReference } from '../block/qcow2/header.ts'
import { type BackingResolver, openQcow2, probeFormat } from '../block/qcow2/open.ts'
import { nodeCompression } from '../host/compression.ts'
import { openFile } from '../host/file.ts'
import { dirname, isAbsolute, resolve } from '../host/path.ts'
import { isLazyPath, type LazyOptions, openLazyImage } from './lazy-image.ts'
import { formatNbdUri, isNbdUri, openNbdDisk, parseNbdUri } from './nbd-disk.ts'

/** What `slipway up IMAGE` calls its one image, where images have names. */
export const goldenImageName = 'golden'

/** Golden blocks kept in memory, at most, for all machines together. Takes memory only as far as they read. */
const cacheBytes = gibibyte / 2

export type GoldenImage = {
  /** Absolute, or an NBD address: clones name it as their backing file. */
  readonly path: string
  readonly format: 'raw' | 'qcow2'
  /** What clones say of its format: QEMU knows no lazy images, and must refuse one before it reads holes as zeroes. */
  readonly backingFormat: string
  readonly device: CachedDevice
}

export type GoldenOptions = LazyOptions & {
  readonly cache?: BlockCache
  /** The size that an image elsewhere is known to have: with it, one that is away now is opened all the same. */
  readonly expectedSizeBytes?: number | undefined
}

/**
 * Raw or qcow2, with whatever stands behind it, or an export of an NBD server.
 * @throws {OperationError} fileMissing, imageEmpty, imageCorrupt, unreachable, ...
 */
export async function openGolden(path: string, options: GoldenOptions = {}): Promise<GoldenImage> {
  const cache = options.cache ?? createBlockCache(cacheBytes)
  if (isNbdUri(path)) {
    const { expectedSizeBytes, onState } = options
    const device = await openNbdDisk(path, {
      readOnly: true,
      ...(expectedSizeBytes === undefined ? {} : { expectedSizeBytes }),
      ...(onState === undefined ? {} : { onState }),
    })
    return { path: formatNbdUri(parseNbdUri(path)), format: 'raw', backingFormat: 'raw', device: cache.attach(device) }
  }
  const absolute = resolve(path)
  const isLazy = isLazyPath(absolute)
  const file = isLazy ? await openLazyImage(absolute, options) : await openFile(absolute, 'readOnly')
  try {
    const format = await probeFormat(file)
    const device =
      format === 'raw'
        ? await openRawDevice(file, { readOnly: true })
        : await openQcow2(file, { compression: nodeCompression, backing: besideIt, readOnly: true })
    return { path: absolute, format, backingFormat: isLazy ? 'slipway-lazy' : format, device: cache.attach(device) }
  } catch (error) {
    await file.close()
    throw error
  }
}

/** What an image in `directory` calls another one: an NBD address as it is, or an absolute path. */
export function placeOf(directory: string, name: string): string {
  if (isNbdUri(name)) return formatNbdUri(parseNbdUri(name))
  return isAbsolute(name) ? name : resolve(directory, name)
}

/** A golden image was named by the person at the keyboard, who may have made it on top of another one. */
export const besideIt: BackingResolver = {
  resolve: async ({ name, format }: BackingReference, from: string) => {
    if (isNbdUri(name)) return { kind: 'device', device: await openNbdDisk(name, { readOnly: true }), isOwn: true }
    const path = placeOf(dirname(from), name)
    if (isLazyPath(path)) {
      const lazy = await openLazyImage(path)
      return { kind: 'file', file: lazy, format: await probeFormat(lazy) }
    }
    const file = await openFile(path, 'readOnly')
    return { kind: 'file', file, ...(format === 'raw' || format === 'qcow2' ? { format } : {}) }
  },
}
