import type { BlockDevice } from '../block/device.ts'

const chunkBytes = 1024 * 1024

/** From start to end; borrowed until the next. */
export async function* contentOfDevice(device: BlockDevice): AsyncGenerator<Uint8Array> {
  const buffer = new Uint8Array(chunkBytes)
  for (let at = 0; at < device.sizeBytes; at += chunkBytes) {
    const part = buffer.subarray(0, Math.min(chunkBytes, device.sizeBytes - at))
    await device.read(at, part)
    yield part
  }
}
