/** A clone as `slipway up` makes it, for benches: qcow2 over the cache over a raw golden image. */
import { createBlockCache } from '../src/block/cache.ts'
import type { BlockDevice } from '../src/block/device.ts'
import { openRawDevice } from '../src/block/file.ts'
import { createClone } from '../src/block/qcow2/create.ts'
import { openQcow2 } from '../src/block/qcow2/open.ts'
import { nodeCompression } from '../src/host/compression.ts'
import { openFile } from '../src/host/file.ts'

const cacheBytes = 512 * 1024 * 1024

/** @param clonePath written over: the clone is always fresh */
export async function openFreshClone(goldenPath: string, clonePath: string): Promise<BlockDevice> {
  const golden = await openRawDevice(await openFile(goldenPath, 'readOnly'), { readOnly: true })
  const cached = createBlockCache(cacheBytes).attach(golden).reader()
  const file = await openFile(clonePath, 'createOrTruncate')
  await createClone(file, { sizeBytes: golden.sizeBytes, backing: { name: goldenPath, format: 'raw' } })
  const resolve = () => Promise.resolve({ kind: 'device' as const, device: cached })
  return openQcow2(file, { compression: nodeCompression, backing: { resolve } })
}
