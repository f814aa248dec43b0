import { createHash } from 'node:crypto'
import type { RandomAccessFile } from '../ports/file.ts'
import type { Hash } from '../ports/hash.ts'

export const systemHash: Hash = {
  digest: (algorithm, parts) => {
    const hash = createHash(algorithm)
    for (const part of parts) hash.update(part)
    return new Uint8Array(hash.digest())
  },
}

const readBytes = 1024 * 1024

/** Of a whole file, in hexadecimal digits. @throws {OperationError} ioError */
export async function sha256OfFile(file: RandomAccessFile): Promise<string> {
  const hash = createHash('sha256')
  const buffer = new Uint8Array(readBytes)
  for (let at = 0; at < file.sizeBytes(); at += readBytes) {
    const part = buffer.subarray(0, Math.min(readBytes, file.sizeBytes() - at))
    await file.read(at, part)
    hash.update(part)
  }
  return hash.digest('hex')
}
