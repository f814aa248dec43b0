/** Slipway itself in the laboratory: the real command in a process of its own, its events read as they come. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import type { ChapMode } from '../src/app/config.ts'
import { OperationError } from '../src/base/errors.ts'
import type { BootEvent, EventKind } from '../src/journal/events.ts'
import type { Child, Exit } from './child.ts'
import { type LabNetwork, lab } from './namespace.ts'

export type SlipwayOptions = {
  readonly network: LabNetwork
  readonly imagePath: string
  /** Slipway's own DHCP, or a proxy beside the one that is there. */
  readonly dhcp: 'own' | 'proxy'
  readonly admit: 'ask' | 'all' | 'none'
  readonly chap?: ChapMode
  /** More of slipway.toml: tables other than [iscsi]. */
  readonly config?: string
}

type EventOf<K extends EventKind> = Extract<BootEvent, { readonly kind: K }>

const command = resolve(import.meta.dirname, '..', 'bin', 'slipway')
const readyWithinMs = 15_000
/** One of each has to be ready before a machine is switched on. */
const services = ['dhcp', 'tftp', 'http', 'iscsi']

export class SlipwayServer {
  readonly #child: Child
  readonly #folder: string
  readonly #events: BootEvent[] = []
  readonly #listeners = new Set<(event: BootEvent) => void>()

  private constructor(child: Child, folder: string) {
    this.#child = child
    this.#folder = folder
    createInterface({ input: child.output }).on('line', (line) => {
      const event = JSON.parse(line) as BootEvent
      this.#events.push(event)
      for (const listener of [...this.#listeners]) listener(event)
    })
  }

  /** Ready for machines when it returns. @throws {OperationError} slipwayFailed */
  static async start(options: SlipwayOptions): Promise<SlipwayServer> {
    const folder = await mkdtemp(join(tmpdir(), 'slipway-server-'))
    const config = join(folder, 'slipway.toml')
    await writeFile(config, `[iscsi]\nchap = "${options.chap ?? 'mutual'}"\n${options.config ?? ''}`)
    const range = `${lab.firstLease}-${lab.lastLease}`
    const child = options.network.start(
      [
        ...[command, 'up', options.imagePath],
        ...['--interface', lab.interfaceName, '--dhcp', options.dhcp === 'own' ? range : 'proxy'],
        ...['--admit', options.admit, '--state', join(folder, 'state'), '--config', config, '--json-events'],
      ],
      { name: 'slipway' },
    )
    const server = new SlipwayServer(child, folder)
    try {
      for (const service of services) {
        await server.waitFor('serviceReady', readyWithinMs, (event) => event.service.toLowerCase().startsWith(service))
      }
      return server
    } catch (error) {
      await server.stop()
      throw error
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
  async run(network: LabNetwork, words: readonly string[]): Promise<string> {
    const line = [command, ...words, '--state', join(this.#folder, 'state')]
    return await network.run(line, 'slipway')
  }

  /** Ctrl-C, as a person would; its state is gone when it resolves. */
  async stop(): Promise<Exit> {
    const exit = await this.#child.stop('SIGINT', 10_000)
    await rm(this.#folder, { recursive: true, force: true })
    return exit
  }
}
