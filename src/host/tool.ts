/** A program of the system's, run to its end: what it takes on standard input, what it says. */
import { spawn } from 'node:child_process'
import { OperationError } from '../base/errors.ts'
import { codeOf } from './file.ts'

export type ToolOptions = {
  readonly env: NodeJS.ProcessEnv
  readonly timeoutMs: number
  /** The Debian package that brings it, and what people call it. */
  readonly debianPackage: string
  readonly name: string
  readonly input?: string | Uint8Array | undefined
}

export type ToolEnd = { readonly code: number | null; readonly said: Buffer; readonly complained: string }

/** However it ends; what that means, each tool says in its own way. @throws {OperationError} toolMissing */
export function runTool(program: string, args: readonly string[], options: ToolOptions): Promise<ToolEnd> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { env: options.env, timeout: options.timeoutMs })
    const said: Buffer[] = []
    const complained: Buffer[] = []
    child.stdout.on('data', (chunk: Buffer) => said.push(chunk))
    child.stderr.on('data', (chunk: Buffer) => complained.push(chunk))
    child.stdin.on('error', () => {}) // It ended before it had read all: `close` tells how.
    child.once('error', (error) => {
      if (codeOf(error) !== 'ENOENT') return reject(error)
      const hint = `apt install ${options.debianPackage}`
      reject(new OperationError('toolMissing', `${options.name} is not installed`, hint, { cause: error }))
    })
    child.once('close', (code) => {
      resolve({ code, said: Buffer.concat(said), complained: Buffer.concat(complained).toString() })
    })
    child.stdin.end(options.input)
  })
}
