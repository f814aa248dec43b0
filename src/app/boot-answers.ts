/** What is answered in more than one place to a machine that boots. */
import type { HttpAnswer } from '../http/policy.ts'

/** The same for a name that there is not, a wrong key, and a boot that is over. */
export const nothingThere: HttpAnswer = {
  status: 404,
  body: { kind: 'text', text: 'Slipway has nothing by that name.\n' },
}

/** For TFTP and HTTP alike. */
export type MemoryFile = { readonly sizeBytes: number; read(offset: number, target: Uint8Array): undefined }

export function bytesFile(bytes: Uint8Array): MemoryFile {
  return {
    sizeBytes: bytes.byteLength,
    read: (offset, target) => {
      target.set(bytes.subarray(offset, offset + target.byteLength))
      return undefined
    },
  }
}
