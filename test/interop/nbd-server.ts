/** Servers of strangers on a unix socket, started, killed and started again by tests. */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { onTestFinished } from 'vitest'

export class NbdServer {
  readonly socket: string
  readonly #program: string
  readonly #args: readonly string[]
  #child: ChildProcess | undefined
  #said = ''

  /** `{socket}` in an argument stands for the socket. */
  constructor(socket: string, program: string, args: readonly string[]) {
    this.socket = socket
    this.#program = program
    this.#args = args.map((word) => word.replaceAll('{socket}', socket))
    onTestFinished(() => this.kill())
  }

  uri(exportName = ''): string {
    return `nbd+unix:///${exportName}?socket=${this.socket}`
  }

  async start(): Promise<void> {
    rmSync(this.socket, { force: true })
    const child = spawn(this.#program, this.#args, { stdio: ['ignore', 'pipe', 'pipe'] })
    this.#child = child
    child.stderr.on('data', (text: Buffer) => (this.#said += text.toString()))
    for (let tries = 0; !(existsSync(this.socket) && (await answers(this.socket))); tries++) {
      if (tries > 1_000 || child.exitCode !== null) throw new Error(`${this.#program} did not start: ${this.#said}`)
      await sleep(10)
    }
  }

  /** kill -9, and waits until it is gone. */
  async kill(): Promise<void> {
    const child = this.#child
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    const gone = new Promise((resolve) => child.once('exit', resolve))
    child.kill('SIGKILL')
    await gone
  }
}

function answers(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const trying = connect({ path: socket })
    trying.once('error', () => resolve(false))
    trying.once('data', () => {
      trying.destroy()
      resolve(true)
    })
  })
}
