import { spawn } from 'node:child_process'
import { gunzip, zstdDecompress } from 'node:zlib'
import { messageOf, OperationError } from '../base/errors.ts'
import type { Packing, Unpacker } from '../ports/unpack.ts'

/** What Node does not know is left to the program of that name, which reads and writes pipes. */
const programs: Readonly<Partial<Record<Packing, readonly string[]>>> = {
  xz: ['xz', '-dc', '--format=xz'],
  lzma: ['xz', '-dc', '--format=lzma'],
  bzip2: ['bzip2', '-dc'],
  lz4: ['lz4', '-dc'],
  lzop: ['lzop', '-dc'],
}
const waitMsMax = 60_000

export const systemUnpacker: Unpacker = {
  unpack: async (packing, packed, bytesMax) => {
    const command = programs[packing]
    if (command !== undefined) return byProgram(command, packed, bytesMax)
    return new Promise((resolve, reject) => {
      const settle = (error: Error | null, output: Uint8Array): void => {
        if (error === null) resolve(output)
        else reject(failed(packing, error))
      }
      if (packing === 'gzip') gunzip(packed, { maxOutputLength: bytesMax }, settle)
      else zstdDecompress(packed, { maxOutputLength: bytesMax }, settle)
    })
  },
}

function byProgram(
  [program = '', ...args]: readonly string[],
  packed: Uint8Array,
  bytesMax: number,
): Promise<Uint8Array | undefined> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'ignore'], timeout: waitMsMax })
    const chunks: Uint8Array[] = []
    let bytes = 0
    child.once('error', (error) => {
      if ('code' in error && error.code === 'ENOENT') resolve(undefined)
      else reject(failed(program, error))
    })
    // It may have read all it needs before all is written: that is no failure.
    child.stdin.on('error', () => {})
    child.stdout.on('data', (chunk: Uint8Array) => {
      bytes += chunk.byteLength
      if (bytes > bytesMax) child.kill()
      else chunks.push(chunk)
    })
    child.once('close', (code) => {
      if (bytes > bytesMax) reject(failed(program, new Error(`more than ${bytesMax} bytes`)))
      // lz4 and zstd complain of zeroes behind the end, which an initramfs may have; what came before is good.
      else if (code === 0 || bytes > 0) resolve(Buffer.concat(chunks))
      else reject(failed(program, new Error(`${program} ended with ${code}`)))
    })
    child.stdin.end(packed)
  })
}

function failed(what: string, cause: unknown): OperationError {
  const hint = 'The file is damaged or not what it seems; make it again in the image (update-initramfs -u).'
  return new OperationError('unpackFailed', `${what}: ${messageOf(cause)}`, hint, { cause })
}
