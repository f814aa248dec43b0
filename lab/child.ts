/** A child process that cannot outlive us: the kernel ends it when this process ends, however that happens. */
import { type ChildProcess, spawn } from 'node:child_process'
import type { Readable } from 'node:stream'
import { OperationError } from '../src/base/errors.ts'

export type Exit = { readonly code: number | null; readonly signal: NodeJS.Signals | null }

export type ChildOptions = {
  /** What an error calls it: 'dnsmasq'. */
  readonly name: string
  /** Program and arguments that lead into a namespace; empty for none. */
  readonly enter?: readonly string[]
  readonly env?: NodeJS.ProcessEnv
  readonly cwd?: string
}

/** How much of standard error is kept for the error message. */
const keptErrorCharacters = 4000

export class Child {
  readonly name: string
  readonly exited: Promise<Exit>
  readonly #process: ChildProcess
  #errorText = ''
  #running = true

  constructor(command: readonly string[], options: ChildOptions) {
    this.name = options.name
    // Every step of the chain is an exec: the process id stays the program's own.
    const chain = [...(options.enter ?? []), 'setpriv', '--pdeathsig', 'KILL', '--', ...command]
    const child = spawn(chain[0] ?? '', chain.slice(1), {
      stdio: ['pipe', 'pipe', 'pipe'],
      // A group of its own: Ctrl-C at the terminal is for us, who stop our children in order.
      detached: true,
      env: options.env ?? process.env,
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    })
    this.#process = child
    this.exited = new Promise((resolve) => {
      const done = (exit: Exit): void => {
        this.#running = false
        resolve(exit)
      }
      child.on('error', (error) => {
        this.#errorText += error.message
        done({ code: null, signal: null })
      })
      child.on('close', (code, signal) => done({ code, signal }))
    })
    child.stdin?.on('error', () => {}) // EPIPE: `exited` tells the same
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#errorText = (this.#errorText + text).slice(-keptErrorCharacters)
    })
  }

  get running(): boolean {
    return this.#running
  }

  get processId(): number {
    return this.#process.pid ?? 0
  }

  /** Whoever reads it must keep reading; whoever does not calls `discardOutput`. */
  get output(): Readable {
    if (this.#process.stdout === null) throw new Error('standard output is a pipe')
    return this.#process.stdout
  }

  get errorText(): string {
    return this.#errorText.trim()
  }

  discardOutput(): void {
    this.output.resume()
  }

  write(text: string): void {
    this.#process.stdin?.write(text)
  }

  endInput(): void {
    this.#process.stdin?.end()
  }

  kill(signal: NodeJS.Signals): void {
    if (this.#running) this.#process.kill(signal)
  }

  /** Asks nicely, then does not ask. Resolves when the process is gone. */
  async stop(signal: NodeJS.Signals = 'SIGTERM', patienceMs = 3000): Promise<Exit> {
    this.kill(signal)
    const timer = setTimeout(() => this.kill('SIGKILL'), patienceMs)
    try {
      return await this.exited
    } finally {
      clearTimeout(timer)
    }
  }
}

/** Runs a command to its end. @throws {OperationError} commandFailed, with what it printed */
export async function runCommand(command: readonly string[], options: ChildOptions, input = ''): Promise<string> {
  const child = new Child(command, options)
  const chunks: Buffer[] = []
  child.output.on('data', (chunk: Buffer) => chunks.push(chunk))
  child.write(input)
  child.endInput()
  const { code } = await child.exited
  if (code !== 0) {
    throw new OperationError(
      'commandFailed',
      `${options.name} failed: ${child.errorText || `exit code ${code}`}`,
      `Run it by hand: ${command.join(' ')}`,
    )
  }
  return Buffer.concat(chunks).toString('utf8')
}
