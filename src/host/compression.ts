import { constants, inflateRaw, type ZlibOptions, type ZstdOptions, zstdDecompress } from 'node:zlib'
import { OperationError } from '../base/errors.ts'
import type { Compression } from '../ports/compression.ts'

/** node:zlib in its thread pool: the event loop goes on while a cluster is unpacked. */
export const nodeCompression: Compression = {
  inflateRaw(source, target) {
    // With Z_SYNC_FLUSH a stream whose end lies behind the bytes that are needed is no error; QEMU is as lenient.
    const options: ZlibOptions = { finishFlush: constants.Z_SYNC_FLUSH, maxOutputLength: outputMax(target) }
    return new Promise((resolve, reject) => {
      inflateRaw(source, options, (error, output) => settle('deflate', error, output, target, resolve, reject))
    })
  },
  unzstd(source, target) {
    const options: ZstdOptions = { maxOutputLength: outputMax(target) }
    return new Promise((resolve, reject) => {
      zstdDecompress(source, options, (error, output) => settle('zstd', error, output, target, resolve, reject))
    })
  },
}

/** A cluster never unpacks to much more than itself, unless somebody wants our memory. */
function outputMax(target: Uint8Array): number {
  return target.byteLength * 2
}

function settle(
  method: string,
  error: Error | null,
  output: Uint8Array,
  target: Uint8Array,
  resolve: () => void,
  reject: (error: OperationError) => void,
): void {
  if (error === null && output.byteLength >= target.byteLength) {
    target.set(output.subarray(0, target.byteLength))
    resolve()
    return
  }
  const hint = 'The image is damaged. Fetch it again, or look at it with: qemu-img check FILE.'
  reject(new OperationError('imageCorrupt', `a ${method} compressed cluster does not unpack`, hint, { cause: error }))
}
