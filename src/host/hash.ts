import { createHash } from 'node:crypto'
import type { Hash } from '../ports/hash.ts'

export const systemHash: Hash = {
  digest: (algorithm, parts) => {
    const hash = createHash(algorithm)
    for (const part of parts) hash.update(part)
    return new Uint8Array(hash.digest())
  },
}
