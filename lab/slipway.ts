/** Slipway itself in the laboratory: the real command in a process of its own, its events read as they come. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import type { ChapMode } from '../src/app/config.ts'
import { OperationError } from '../src/base/errors.ts'
import type { BootEvent, EventKind } from '../src/journal/events.ts'
import { type Child, type Exit, runCommand } from './child.ts'
import { type LabNetwork, lab } from './namespace.ts'

export type SlipwayOptions = {
  readonly network: LabNetwork
  readonly imagePath: string
  /** Slipway's own DHCP, a proxy beside the one that is there, or that one alone. */
  readonly dhcp: 'own' | 'proxy' | 'off'
  readonly admit: 'ask' | 'all' | 'none'
  readonly chap?: ChapMode
  /** `slipway` commands on its state before it starts: ['ca', 'import', CERT, KEY]. */
  readonly before?: readonly (readonly string[])[]
  /** More of slipway.toml: tables other than [iscsi]. */
  readonly config?: string
  /** Where everything goes that it has to say beside its events. */
  readonly logPath?: string
  /** What it knows already; the caller's, and stays. A new one by default. */
  readonly stateFolder?: string
}

type EventOf<K extends EventKind> = Extract<BootEvent, { readonly kind: K }>

const command = resolve(import.meta.dirname, '..', 'bin', 'slipway')
const readyWithinMs = 15_000
/** One of each has to be ready before a machine is switched on. */
const services = ['tftp', 'http', 'iscsi']

export class SlipwayServer {
  readonly #folder: string
  readonly #state: string
  readonly #start: () => Child
  readonly #services: readonly string[]
  readonly #events: BootEvent[] = []
  readonly #listeners = new Set<(event: BootEvent) => void>()
  #child: Child

  private constructor(folder: string, state: string, services: readonly string[], start: () => Child) {
    this.#services = services
    this.#folder = folder
    this.#state = state
    this.#start = start
    this.#child = this.#startChild()
  }

  /** Ready for machines when it returns. @throws {OperationError} slipwayFailed */
  static async start(options: SlipwayOptions): Promise<SlipwayServer> {
    const folder = await mkdtemp(join(tmpdir(), 'slipway-server-'))
    const config = join(folder, 'slipway.toml')
    await writeFile(config, `[iscsi]\nchap = "${options.chap ?? 'mutual'}"\n${options.config ?? ''}`)
    const state = options.stateFolder ?? join(folder, 'state')
    for (const words of options.before ?? []) {
      await runCommand([command, ...words, '--state', state], { name: `slipway ${words[0]}` })
    }
    const range = `${lab.firstLease}-${lab.lastLease}`
    const line = [
      ...[command, 'up', options.imagePath],
      ...['--interface', lab.interfaceName, '--dhcp', options.dhcp === 'own' ? range : options.dhcp],
      ...['--admit', options.admit, '--state', state, '--config', config, '--json-events'],
    ]
    const { logPath } = options
    const logged = logPath === undefined ? line : ['sh', '-c', 'exec "$@" 2>>"$0"', logPath, ...line, '--verbose']
    const wanted = options.dhcp === 'off' ? services : ['dhcp', ...services]
    const server = new SlipwayServer(folder, state, wanted, () => options.network.start(logged, { name: 'slipway' }))
    try {
      await server.#becomesReady(0)
      return server
    } catch (error) {
      await server.stop()
      throw error
    }
  }

  /** Gone in the middle of whatever it did: kill -9. */
  async crash(): Promise<void> {
    this.#child.kill('SIGKILL')
    await this.#child.exited
  }

  /** After a crash, on the state it left. @throws {OperationError} slipwayFailed */
  async startAgain(): Promise<void> {
    const seen = this.#events.length
    this.#child = this.#startChild()
    await this.#becomesReady(seen)
  }

  #startChild(): Child {
    const child = this.#start()
    createInterface({ input: child.output }).on('line', (line) => {
      if (!line.endsWith('}')) return // cut off by a crash
      const event = JSON.parse(line) as BootEvent
      this.#events.push(event)
      for (const listener of [...this.#listeners]) listener(event)
    })
    return child
  }

  /** `seen`: events of an earlier life. */
  async #becomesReady(seen: number): Promise<void> {
    for (const service of this.#services) {
      await this.waitFor('serviceReady', readyWithinMs, (event) => {
        return event.service.toLowerCase().startsWith(service) && this.#events.indexOf(event) >= seen
      })
    }
  }

  get processId(): number {
    return this.#child.processId
  }

  get events(): readonly BootEvent[] {
    return this.#events
  }

  eventsOf<K extends EventKind>(kind: K): EventOf<K>[] {
    return this.#events.filter((event): event is EventOf<K> => event.kind === kind)
  }

  /** Calls back for every event from now on. */
  onEvent(listener: (event: BootEvent) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** One that has happened already, or the next. @throws {OperationError} slipwayFailed, notSeen */
  async waitFor<K extends EventKind>(
    kind: K,
    timeoutMs: number,
    suits: (event: EventOf<K>) => boolean = () => true,
  ): Promise<EventOf<K>> {
    const found = this.eventsOf(kind).find(suits)
    if (found !== undefined) return found
    return await new Promise((resolve, reject) => {
      const end = (): void => {
        clearTimeout(timer)
        stopListening()
      }
      const stopListening = this.onEvent((event) => {
        if (event.kind !== kind || !suits(event as EventOf<K>)) return
        end()
        resolve(event as EventOf<K>)
      })
      const timer = setTimeout(() => {
        end()
        const kinds = this.#events.map((event) => event.kind).join(', ')
        reject(new OperationError('notSeen', `no event ${kind} in ${timeoutMs / 1000} s; there were: ${kinds}`, ''))
      }, timeoutMs)
      void this.#child.exited.then(({ code }) => {
        end()
        const words = this.#child.errorText || 'it said nothing'
        reject(new OperationError('slipwayFailed', `slipway ended with exit code ${code}: ${words}`, 'Read its words.'))
      })
    })
  }

  /** Another `slipway` command on the same state: `admit`, `machines`. Returns what it printed. */
  async run(network: LabNetwork, words: readonly string[], input?: string): Promise<string> {
    const line = [command, ...words, '--state', this.stateDirectory]
    return await network.run(line, 'slipway', input)
  }

  get stateDirectory(): string {
    return this.#state
  }

  /** Ctrl-C, as a person would; its state is gone when it resolves. */
  async stop(): Promise<Exit> {
    const exit = await this.#child.stop('SIGINT', 10_000)
    await rm(this.#folder, { recursive: true, force: true })
    return exit
  }
}
