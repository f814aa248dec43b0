import { createInterface } from 'node:readline/promises'
import type { Command } from 'commander'
import { decideUp } from '../app/config.ts'
import { type BootEvent, humanLine, jsonLine } from '../app/event-lines.ts'
import type { RunningServer } from '../app/up.ts'
import { createLog } from '../host/log.ts'
import { defaultStateDirectory } from '../host/state-directory.ts'
import { runUntilStopped } from './until-stopped.ts'
import { addUpOptions, readConfig, type UpCommandFlags, upFlags } from './up-options.ts'

type Flags = UpCommandFlags & { readonly jsonEvents?: boolean; readonly verbose?: boolean }

export function addUpCommand(program: Command): void {
  const command = program
    .command('up')
    .description('Serve a disk image to every admitted machine, each with its own copy-on-write clone.')
    .argument('[IMAGE]', 'disk image, raw or qcow2, opened read-only; or NAME or NAME@N of the library (slipway image)')
  addUpOptions(command)
    .option('--json-events', 'one event a line, as JSON, on standard output')
    .option('--verbose', 'log what the services do, on standard error')
    .action(async (image: string | undefined, flags: Flags) => {
      const config = decideUp(readConfig(flags.config), upFlags(image, flags), defaultStateDirectory())
      const print = (line: string): void => void process.stdout.write(`${line}\n`)
      const asking = config.admit === 'ask' && process.stdin.isTTY === true && flags.jsonEvents !== true
      // Loaded here, so that a command brings only what it needs into memory.
      const { startUp } = await import('../app/up.ts')
      let running: RunningServer | undefined
      const questions = asking ? new Questions(() => running) : undefined
      const onEvent = (event: BootEvent): void => {
        print(flags.jsonEvents === true ? jsonLine(event) : humanLine(event))
        if (event.kind === 'held' && event.mac !== undefined) questions?.ask(event.mac)
      }
      const start = async (): Promise<RunningServer> => {
        running = await startUp(config, onEvent, createLog(flags.verbose === true ? 'debug' : 'warn'))
        if (flags.jsonEvents !== true) {
          const { name, address } = running.network
          print(`Slipway serves ${config.imagePath} on ${name} (${address}). Ctrl-C stops it.`)
        }
        return running
      }
      await runUntilStopped(start, (line) => process.stderr.write(`${line}\n`))
      questions?.close()
    })
}

/** On a terminal: asks about each machine that waits, one after the other. */
class Questions {
  readonly #running: () => RunningServer | undefined
  readonly #terminal = createInterface({ input: process.stdin, output: process.stdout })
  readonly #asked = new Set<string>()
  #queue: Promise<void> = Promise.resolve()

  constructor(running: () => RunningServer | undefined) {
    this.#running = running
    this.#terminal.on('SIGINT', () => process.kill(process.pid, 'SIGINT'))
  }

  ask(mac: string): void {
    if (this.#asked.has(mac)) return
    this.#asked.add(mac)
    this.#queue = this.#queue.then(async () => {
      const answer = await this.#terminal.question(`Let ${mac} in? [y/N] `)
      const running = this.#running()
      if (/^y(es)?$/i.test(answer.trim())) running?.fleet.admit(mac, Date.now())
      this.#asked.delete(mac)
    })
  }

  close(): void {
    this.#terminal.close()
  }
}
