/** A program of the system's, run to its end: what it takes on standard input, what it says. */
import { spawn } from 'node:child_process'
import { OperationError } from '../base/errors.ts'
import { codeOf } from './file.ts'

/** More than any of them says of an image, unless somebody wants our memory. */
const outputBytesMax = 64 * 1024 * 1024

export type ToolOptions = {
  readonly env: NodeJS.ProcessEnv
  readonly timeoutMs?: number
  /** Ends it. */
  readonly signal?: AbortSignal
  /** The Debian package that brings it, and what people call it. */
  readonly debianPackage: string
  readonly name: string
  /** What else would do, where it is missing. */
  readonly otherwise?: string
  readonly input?: string | Uint8Array | undefined
}

export type ToolEnd = { readonly code: number | null; readonly said: Buffer; readonly complained: string }

/** However it ends; what that means, each tool says in its own way. @throws {OperationError} toolMissing, interrupted */
export function runTool(program: string, args: readonly string[], options: ToolOptions): Promise<ToolEnd> {
  return new Promise((resolve, reject) => {
    const { env, timeoutMs: timeout, signal } = options
    const child = spawn(program, args, { env, timeout, signal })
    const said: Buffer[] = []
    const complained: Buffer[] = []
    let outputBytes = 0
    const hear = (words: Buffer[], chunk: Buffer): void => {
      outputBytes += chunk.byteLength
      if (outputBytes <= outputBytesMax) words.push(chunk)
      else child.kill('SIGKILL')
    }
    child.stdout.on('data', (chunk: Buffer) => hear(said, chunk))
    child.stderr.on('data', (chunk: Buffer) => hear(complained, chunk))
    child.stdin.on('error', () => {}) // It ended before it had read all: `close` tells how.
    child.once('error', (error) => {
      if (codeOf(error) === 'ABORT_ERR') {
        return reject(new OperationError('interrupted', `${options.name} was stopped`, 'Nothing was kept.'))
      }
      if (codeOf(error) !== 'ENOENT') return reject(error)
      const hint = [`apt install ${options.debianPackage}`, options.otherwise].filter(Boolean).join(', or ')
      reject(new OperationError('toolMissing', `${options.name} is not installed`, hint, { cause: error }))
    })
    child.once('close', (code) => {
      resolve({ code, said: Buffer.concat(said), complained: Buffer.concat(complained).toString() })
    })
    child.stdin.end(options.input)
  })
}
