/**
 * The HTTP server of boot files and scripts, on `ports`: the same for plain connections and for TLS, which is the
 * TcpNetwork's affair.
 */
import { assert } from '../base/assert.ts'
import type { Clock } from '../ports/clock.ts'
import type { TcpConnection, TcpHandler, TcpListener, TcpNetwork } from '../ports/tcp.ts'
import type { Endpoint } from '../ports/udp.ts'
import { httpDate } from './date.ts'
import { answerBufferBytes, defaultLimits, fileChunkBytes, type HttpLimits, idleChunksMax } from './limits.ts'
import type { HttpEvent, HttpHandler, HttpListener } from './policy.ts'
import { type ConnectionServer, ServedConnection } from './served-connection.ts'

export type HttpServerOptions = {
  /** Of plain TCP, or one whose connections are TLS: then `secure` is true. */
  readonly network: TcpNetwork
  readonly secure: boolean
  readonly clock: Clock
  readonly listen: Endpoint
  readonly handler: HttpHandler
  readonly onEvent: HttpListener
  readonly limits?: Partial<HttpLimits>
}

export interface HttpServer {
  readonly local: Endpoint
  readonly connectionCount: number
  /** Accepts no more, lets answers under way end (not longer than `graceMs`), and resolves when all are gone. */
  close(): Promise<void>
}

/** @throws {OperationError} portTaken, portForbidden, addressUnknown */
export async function serveHttp(options: HttpServerOptions): Promise<HttpServer> {
  const server = new Server(options)
  await server.open()
  return server
}

class Server implements HttpServer, ConnectionServer {
  readonly options: HttpServerOptions
  readonly limits: HttpLimits
  readonly #connections = new Set<ServedConnection>()
  readonly #perAddress = new Map<string, number>()
  readonly #freeChunks: Uint8Array[] = []
  readonly #freeAnswerBuffers: Uint8Array[] = []
  #listener: TcpListener | undefined
  #closing: { readonly done: () => void } | undefined
  #dateSecond = -1
  #date = ''

  constructor(options: HttpServerOptions) {
    this.options = options
    this.limits = { ...defaultLimits, ...options.limits }
  }

  async open(): Promise<void> {
    this.#listener = await this.options.network.listen(this.options.listen, (connection) => this.#accept(connection))
  }

  get local(): Endpoint {
    assert(this.#listener !== undefined, 'the server was opened')
    return this.#listener.local
  }

  get connectionCount(): number {
    return this.#connections.size
  }

  async close(): Promise<void> {
    if (this.#closing !== undefined) return
    const allGone = new Promise<void>((done) => {
      this.#closing = { done }
    })
    const listenerClosed = this.#listener?.close()
    for (const connection of this.#connections) connection.take({ kind: 'serverClosing' })
    const timer = this.options.clock.after(this.limits.graceMs, () => {
      for (const connection of this.#connections) connection.destroy()
    })
    if (this.#connections.size > 0) await allGone
    timer.cancel()
    await listenerClosed
  }

  #accept(tcp: TcpConnection): TcpHandler {
    const { connectionsMax, connectionsPerAddressMax } = this.limits
    const { address } = tcp.remote
    const ofAddress = this.#perAddress.get(address) ?? 0
    const full = this.#connections.size >= connectionsMax && !this.#makeRoom()
    if (full || ofAddress >= connectionsPerAddressMax || this.#closing !== undefined) {
      this.emit({ kind: 'dropped', from: tcp.remote, reason: 'tooManyConnections' })
      tcp.destroy()
      return { onData: () => {}, onClose: () => {} }
    }
    this.#perAddress.set(address, ofAddress + 1)
    const connection = new ServedConnection(this, tcp)
    this.#connections.add(connection)
    return connection
  }

  /**
   * Ends one that is not needed: first of those that were told all and only owe us a FIN, then of those that wait for a next
   * request, which can be made again. Of each, one of the address that has most: who asks like everybody keeps theirs.
   */
  #makeRoom(): boolean {
    const countOf = ({ address }: ServedConnection): number => this.#perAddress.get(address) ?? 0
    for (const kind of ['lingering', 'idle'] as const) {
      let found: ServedConnection | undefined
      for (const connection of this.#connections) {
        if (connection.kind !== kind) continue
        if (found === undefined || countOf(connection) > countOf(found)) found = connection
      }
      if (found === undefined) continue
      found.destroy()
      return true
    }
    return false
  }

  gone(connection: ServedConnection, address: string): void {
    if (!this.#connections.delete(connection)) return
    const count = (this.#perAddress.get(address) ?? 0) - 1
    if (count > 0) this.#perAddress.set(address, count)
    else this.#perAddress.delete(address)
    if (this.#connections.size === 0) this.#closing?.done()
  }

  emit(event: HttpEvent): void {
    this.options.onEvent(event)
  }

  /** Of the Date field; made anew once a second. */
  date(): string {
    const wallMs = this.options.clock.wallMs()
    const second = Math.floor(wallMs / 1_000)
    if (second !== this.#dateSecond) {
      this.#dateSecond = second
      this.#date = httpDate(wallMs)
    }
    return this.#date
  }

  takeChunk(): Uint8Array {
    return this.#freeChunks.pop() ?? new Uint8Array(fileChunkBytes)
  }

  takeAnswerBuffer(): Uint8Array {
    return this.#freeAnswerBuffers.pop() ?? new Uint8Array(answerBufferBytes)
  }

  giveAnswerBuffer(buffer: Uint8Array): void {
    if (this.#freeAnswerBuffers.length < idleChunksMax) this.#freeAnswerBuffers.push(buffer)
  }

  giveChunk(chunk: Uint8Array): void {
    if (this.#freeChunks.length < idleChunksMax) this.#freeChunks.push(chunk)
  }
}
