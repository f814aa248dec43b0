/** The iSCSI target as a whole: portals, who is connected, and the clock's share of the work. Written against `ports`. */
import type { Clock, Timer } from '../ports/clock.ts'
import type { Hash } from '../ports/hash.ts'
import type { Random } from '../ports/random.ts'
import type { TcpConnection, TcpHandler, TcpListener, TcpNetwork } from '../ports/tcp.ts'
import type { Endpoint } from '../ports/udp.ts'
import { ChapFailures } from './chap-failures.ts'
import { Connection, type ConnectionHost } from './connection.ts'
import { DataOutMemory } from './data-out-memory.ts'
import {
  connectionsMax,
  discoverySilenceMs,
  lingerMs,
  loginWithinMs,
  pendingLoginsMax,
  pingAfterMs,
  sweepEveryMs,
} from './limits.ts'
import type { IscsiEvents, SessionIdentity, TargetDirectory } from './policy.ts'
import { SessionRegistry } from './registry.ts'
import { SendMemory } from './send-memory.ts'

export interface IscsiTargetOptions {
  readonly network: TcpNetwork
  readonly clock: Clock
  readonly random: Random
  readonly hash: Hash
  readonly directory: TargetDirectory
  readonly events?: IscsiEvents
}

export interface IscsiTarget {
  /** Opens a portal; there may be several. @throws {OperationError} portTaken, portForbidden, addressUnknown */
  listen(binding: Endpoint): Promise<TcpListener>
  sessions(): readonly SessionIdentity[]
  /** Ends sessions: their machine is no longer admitted, their target is no longer there. Returns how many. */
  drop(choose: (session: SessionIdentity) => boolean): number
  /**
   * Resolves when nothing of the sessions that have ended by now, of those that `choose` names, executes any more. Until then
   * their disk may still be written to: it must neither be closed nor given to anybody else.
   */
  drained(choose: (session: SessionIdentity) => boolean): Promise<void>
  /**
   * Stops accepting, asks every initiator to log out, ends what is left after `graceMs`. Resolves when no command
   * executes any more; flushing is the block device's.
   */
  close(graceMs: number): Promise<void>
}

export function createIscsiTarget(options: IscsiTargetOptions): IscsiTarget {
  return new Target(options)
}

class Target implements IscsiTarget, ConnectionHost {
  readonly clock: Clock
  readonly random: Random
  readonly hash: Hash
  readonly directory: TargetDirectory
  readonly events: IscsiEvents
  readonly registry: SessionRegistry = new SessionRegistry()
  readonly memory: SendMemory = new SendMemory()
  readonly dataOut: DataOutMemory = new DataOutMemory()
  readonly chapFailures: ChapFailures = new ChapFailures()
  readonly openChallenges: Set<string> = new Set()
  readonly #network: TcpNetwork
  readonly #listeners: TcpListener[] = []
  readonly #connections = new Set<Connection>()
  /** Those that have not logged in, oldest first. */
  readonly #pending = new Set<Connection>()
  #sweep: Timer | undefined
  #emptied: (() => void) | undefined

  constructor(options: IscsiTargetOptions) {
    this.#network = options.network
    this.clock = options.clock
    this.random = options.random
    this.hash = options.hash
    this.directory = options.directory
    this.events = options.events ?? ((): void => {})
  }

  async listen(binding: Endpoint): Promise<TcpListener> {
    const listener = await this.#network.listen(binding, (wire) => this.#accept(wire))
    this.#listeners.push(listener)
    return listener
  }

  sessions(): readonly SessionIdentity[] {
    return this.registry.all().map(({ identity }) => identity)
  }

  drop(choose: (session: SessionIdentity) => boolean): number {
    const chosen = this.registry.all().filter(({ identity }) => choose(identity))
    for (const session of chosen) session.close('shutdown')
    return chosen.length
  }

  drained(choose: (session: SessionIdentity) => boolean): Promise<void> {
    return this.registry.drained(({ identity }) => choose(identity))
  }

  async close(graceMs: number): Promise<void> {
    await Promise.all(this.#listeners.map((listener) => listener.close()))
    for (const connection of this.#pending) connection.giveUp()
    for (const session of this.registry.all()) session.requestLogout(Math.ceil(graceMs / 1_000))
    if (this.#connections.size > 0) await this.#untilEmpty(graceMs)
    for (const session of this.registry.all()) session.close('shutdown')
    await this.registry.drained(() => true)
    if (this.#connections.size > 0) await this.#untilEmpty(lingerMs)
    for (const connection of this.#connections) connection.destroy()
    this.#sweep?.cancel()
    this.#sweep = undefined
  }

  loggedIn(connection: Connection): void {
    this.#pending.delete(connection)
  }

  closed(connection: Connection): void {
    this.#pending.delete(connection)
    this.#connections.delete(connection)
    if (this.#connections.size > 0) return
    this.#sweep?.cancel()
    this.#sweep = undefined
    this.#emptied?.()
  }

  #accept(wire: TcpConnection): TcpHandler {
    if (this.#connections.size >= connectionsMax) {
      this.events({ kind: 'connectionRefused', remote: wire.remote, reason: 'tooManyConnections' })
      wire.destroy()
      return { onData: () => {}, onClose: () => {} }
    }
    const connection = new Connection(this, wire)
    this.#connections.add(connection)
    this.#pending.add(connection)
    if (this.#pending.size > pendingLoginsMax) this.#makeRoom()
    if (this.#sweep === undefined) this.#scheduleSweep()
    return connection
  }

  /** Ends the oldest login of the address that has most of them: a flood pushes itself out before anybody else. */
  #makeRoom(): void {
    const counts = new Map<string, number>()
    let worst = ''
    for (const { remoteAddress } of this.#pending) {
      const count = (counts.get(remoteAddress) ?? 0) + 1
      counts.set(remoteAddress, count)
      if (count > (counts.get(worst) ?? 0) || worst === '') worst = remoteAddress
    }
    for (const connection of this.#pending) {
      if (connection.remoteAddress !== worst) continue
      this.#pending.delete(connection)
      connection.giveUp()
      return
    }
  }

  #scheduleSweep(): void {
    this.#sweep = this.clock.after(sweepEveryMs, () => {
      const nowMs = this.clock.nowMs()
      for (const connection of this.#pending) {
        // In order of acceptance: the first that has time left ends the search.
        if (nowMs - connection.acceptedAtMs < loginWithinMs) break
        this.#pending.delete(connection)
        connection.giveUp()
      }
      for (const connection of this.#connections) {
        const { session, lastHeardAtMs } = connection
        if (session === undefined) continue
        if (session.key === undefined) {
          if (nowMs - lastHeardAtMs >= discoverySilenceMs) session.close('idle')
        } else if (nowMs - lastHeardAtMs >= pingAfterMs) {
          connection.lastHeardAtMs = nowMs
          session.ping()
        }
      }
      if (this.dataOut.isWanted) for (const session of this.registry.all()) session.othersWait(sweepEveryMs)
      this.#scheduleSweep()
    })
  }

  #untilEmpty(withinMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = this.clock.after(withinMs, () => {
        this.#emptied = undefined
        resolve()
      })
      this.#emptied = () => {
        timer.cancel()
        this.#emptied = undefined
        resolve()
      }
    })
  }
}
