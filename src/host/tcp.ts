/**
 * TcpNetwork on real sockets.
 *
 * Chunks written in one turn are collected and leave in one writev, straight to the kernel; only what the kernel does not
 * take at once goes through Node's stream, whose bookkeeping costs more than the system call.
 */
import { createConnection, createServer, type Server, type Socket } from 'node:net'
import { TLSSocket } from 'node:tls'
import { OperationError } from '../base/errors.ts'
import type { PeerCertificate, TcpConnection, TcpHandler, TcpListener, TcpNetwork } from '../ports/tcp.ts'
import type { Endpoint } from '../ports/udp.ts'
import { takeInheritedSocket } from './activation.ts'
import { codeOf } from './file.ts'
import { native } from './native.ts'
import { type PolledConnection, type ReadHandle, TcpPoller } from './tcp-poll.ts'
import { describeListen } from './udp.ts'

/** Linux's UIO_MAXIOV is 1024; a turn rarely has more chunks than this. */
const chunksPerCallMax = 128
const iov = new Uint8Array(chunksPerCallMax * 16)
const iovView = new DataView(iov.buffer)
/** MSG_DONTWAIT | MSG_NOSIGNAL. */
const sendNow = 0x40 | 0x4000
const backlogConnections = 1024
/** The kernel would go on for two minutes. */
const connectMsMax = 10_000
const empty = new Uint8Array(0)

export const systemTcp: TcpNetwork = createSystemTcp({})

/** `segmentBytesMax`: in no segment of a connection to us is more data than that, in either direction (RFC 9293 §3.7.1). */
export function createSystemTcp({ segmentBytesMax }: { readonly segmentBytesMax?: number }): TcpNetwork {
  return {
    listen: async (binding, accept) => {
      const server = createServer({ noDelay: true, allowHalfOpen: true }, (socket) => adopt(socket, accept))
      const listener = await listenOn(server, binding)
      if (segmentBytesMax !== undefined) limitSegments(server, segmentBytesMax)
      return listener
    },
    connect: (to, open) => {
      const socket = createConnection({ host: to.address, port: to.port, noDelay: true })
      const hint = `Check that a server listens there: nc -vz ${to.address} ${to.port}.`
      return whenConnected(socket, `${to.address}:${to.port}`, hint, open)
    },
  }
}

const protocolTcp = 6
const tcpMaxSegment = 2

/** What is accepted inherits it. Without native calls segments are as large as the network lets them. */
function limitSegments(server: Server, bytes: number): void {
  const fd = descriptorOf(server)
  if (native !== undefined && fd !== undefined) {
    native.setsockopt(fd, protocolTcp, tcpMaxSegment, new Uint8Array(Uint32Array.of(bytes).buffer), 4)
  }
}

/** To a server on this machine. @throws {OperationError} connectionRefused, unreachable */
export function connectUnix(path: string, open: (connection: TcpConnection) => TcpHandler): Promise<TcpConnection> {
  const hint = `Check that the server runs, and who may use its socket: ls -l ${path}.`
  return whenConnected(createConnection({ path }), path, hint, open)
}

function whenConnected(
  socket: Socket,
  label: string,
  hint: string,
  open: (connection: TcpConnection) => TcpHandler,
): Promise<TcpConnection> {
  return new Promise((resolve, reject) => {
    const fail = (error: Error): void => {
      const code = codeOf(error) === 'ECONNREFUSED' ? 'connectionRefused' : 'unreachable'
      reject(new OperationError(code, `${label} does not answer (${codeOf(error)})`, hint, { cause: error }))
    }
    socket.once('error', fail)
    socket.setTimeout(connectMsMax, () => socket.destroy(Object.assign(new Error('no answer'), { code: 'ETIMEDOUT' })))
    socket.once('connect', () => {
      socket.setTimeout(0)
      socket.off('error', fail)
      resolve(adopt(socket, open))
    })
  })
}

/** Starts a Node server (plain or TLS) and turns it into a TcpListener. */
export function listenOn(server: Server, binding: Endpoint): Promise<TcpListener> {
  return new Promise((resolve, reject) => {
    server.once('error', (error) => {
      reject(describeListen({ protocol: 'TCP', port: binding.port, on: binding.address }, error))
    })
    const fd = takeInheritedSocket('tcp', binding.port)
    const place = fd === undefined ? { host: binding.address, port: binding.port } : { fd }
    server.listen({ ...place, backlog: backlogConnections }, () => {
      const local = server.address()
      const port = typeof local === 'object' && local !== null ? local.port : binding.port
      server.on('error', () => {}) // accept() failing (no descriptors left) must not end the program
      resolve({
        local: { address: binding.address, port },
        // Node lets go of the port at once and calls back only when the last connection has ended: that is not ours to
        // wait for, a machine's session may stay open for ever.
        close: async () => {
          server.close()
        },
      })
    })
  })
}

/** Makes a Node socket (plain or TLS) into a TcpConnection. */
export function adopt(
  socket: Socket,
  accept: (connection: TcpConnection) => TcpHandler,
  certificate?: PeerCertificate,
): TcpConnection {
  const connection = new SystemTcpConnection(socket, certificate)
  const handler = accept(connection)
  let reason = 'closed'
  const watch = handler.borrowsChunks ? connection.pollFor(handler) : undefined
  socket.on('data', (chunk: Uint8Array) => {
    handler.onData(chunk)
    watch?.()
  })
  socket.on('drain', () => handler.onDrain?.())
  socket.on('end', () => (handler.onEnd === undefined ? connection.end() : handler.onEnd()))
  socket.on('error', (error) => {
    reason = codeOf(error)
  })
  socket.on('close', () => {
    connection.closed()
    handler.onClose(reason)
  })
  return connection
}

let poller: TcpPoller | undefined

class SystemTcpConnection implements TcpConnection {
  readonly remote: Endpoint
  readonly local: Endpoint
  readonly certificate: PeerCertificate | undefined
  readonly #socket: Socket
  /** Undefined for TLS, and where there are no native calls: everything then goes through the stream. */
  readonly #fd: number | undefined
  #chunks: Uint8Array[] = []
  #releases: ((() => void) | undefined)[] = []
  #pendingBytes = 0
  #scheduled = false
  #releasing = false
  #ending = false
  #closed = false
  #paused = false
  #polled: PolledConnection | undefined
  readonly #flush = (): void => this.#flushNow()

  constructor(socket: Socket, certificate: PeerCertificate | undefined) {
    this.#socket = socket
    this.certificate = certificate
    this.remote = { address: plain(socket.remoteAddress), port: socket.remotePort ?? 0 }
    this.local = { address: plain(socket.localAddress), port: socket.localPort ?? 0 }
    this.#fd = native === undefined || 'encrypted' in socket ? undefined : descriptorOf(socket)
  }

  /** Undefined where it cannot be polled; otherwise to be called when Node heard something. */
  pollFor(handler: TcpHandler): (() => void) | undefined {
    const fd = this.#fd
    const handle = readHandleOf(this.#socket)
    if (native === undefined || fd === undefined || handle === undefined) return undefined
    poller ??= new TcpPoller(native)
    const taker = poller
    const polled: PolledConnection = { fd, handle, handler, isGone: () => this.#closed || this.#socket.destroyed }
    this.#polled = polled
    return () => {
      if (!this.#paused && !this.#ending && !polled.isGone()) taker.watch(polled)
    }
  }

  get queuedBytes(): number {
    return this.#pendingBytes + this.#socket.writableLength
  }

  write(chunk: Uint8Array, release?: () => void): void {
    if (this.#closed || this.#ending) {
      release?.()
      return
    }
    this.#chunks.push(chunk)
    this.#releases.push(release)
    this.#pendingBytes += chunk.byteLength
    if (this.#scheduled) return
    this.#scheduled = true
    // What a release writes waits for the next turn: a client that takes as fast as we give must not stop the loop.
    if (this.#releasing) setImmediate(this.#flush)
    else process.nextTick(this.#flush)
  }

  pause(): void {
    this.#paused = true
    this.#leavePolling()
    this.#socket.pause()
  }

  resume(): void {
    this.#paused = false
    this.#socket.resume()
  }

  end(): void {
    if (this.#closed || this.#ending) return
    this.#flushNow()
    this.#ending = true
    this.#leavePolling()
    this.#socket.end()
  }

  destroy(): void {
    if (this.#closed) return
    this.#leavePolling()
    // A unix socket knows no RST, and Node resets no TLS socket: it throws.
    if (this.#socket.remoteAddress === undefined || this.#socket instanceof TLSSocket) this.#socket.destroy()
    else this.#socket.resetAndDestroy()
  }

  closed(): void {
    this.#closed = true
    this.#dropPending()
  }

  #leavePolling(): void {
    if (this.#polled !== undefined) poller?.release(this.#polled)
  }

  #flushNow(): void {
    this.#scheduled = false
    if (this.#chunks.length === 0) return
    if (this.#closed || this.#socket.destroyed) {
      this.#dropPending()
      return
    }
    const chunks = this.#chunks
    const releases = this.#releases
    this.#chunks = []
    this.#releases = []
    this.#pendingBytes = 0
    let index = 0
    if (this.#fd !== undefined && this.#socket.writableLength === 0) index = this.#writeNow(this.#fd, chunks, releases)
    if (index === chunks.length) return
    this.#socket.cork()
    for (; index < chunks.length; index++) this.#socket.write(chunks[index] ?? empty, releases[index])
    this.#socket.uncork()
  }

  /** Gives the kernel what it takes; returns the index of the first chunk not wholly taken (made shorter by what was). */
  #writeNow(fd: number, chunks: Uint8Array[], releases: readonly ((() => void) | undefined)[]): number {
    let index = 0
    while (index < chunks.length) {
      const count = Math.min(chunks.length - index, chunksPerCallMax)
      const only = count === 1 ? chunks[index] : undefined
      let callBytes = only?.byteLength ?? 0
      for (let i = 0; i < count && only === undefined; i++) {
        const chunk = chunks[index + i] ?? empty
        iovView.setBigUint64(i * 16, native?.addressOf(chunk) ?? 0n, true)
        iovView.setUint32(i * 16 + 8, chunk.byteLength, true)
        callBytes += chunk.byteLength
      }
      // Errors (EAGAIN, ECONNRESET) are left to the stream: it waits, or reports them, as for any write.
      const written = (only ? native?.send(fd, only, callBytes, sendNow) : native?.writev(fd, iov, count)) ?? -1
      if (written < 0) return index
      let left = written
      for (let i = 0; i < count; i++) {
        const chunk = chunks[index] ?? empty
        if (left < chunk.byteLength) break
        left -= chunk.byteLength
        this.#releasing = true
        releases[index]?.()
        this.#releasing = false
        index++
      }
      if (written === callBytes) continue
      chunks[index] = (chunks[index] ?? empty).subarray(left)
      return index
    }
    return index
  }

  #dropPending(): void {
    for (const release of this.#releases) release?.()
    this.#chunks = []
    this.#releases = []
    this.#pendingBytes = 0
  }
}

/** Node keeps the descriptor on the handle; there is no public way to it. */
function descriptorOf(socket: Socket | Server): number | undefined {
  const handle: unknown = '_handle' in socket ? socket._handle : undefined
  if (typeof handle !== 'object' || handle === null || !('fd' in handle)) return undefined
  return typeof handle.fd === 'number' && handle.fd >= 0 ? handle.fd : undefined
}

function readHandleOf(socket: Socket): ReadHandle | undefined {
  const handle: unknown = '_handle' in socket ? socket._handle : undefined
  if (typeof handle !== 'object' || handle === null || !('readStart' in handle && 'readStop' in handle))
    return undefined
  return handle as ReadHandle
}

/** An IPv4 peer on a dual-stack socket comes as ::ffff:192.0.2.1. */
function plain(address: string | undefined): string {
  return (address ?? '').replace(/^::ffff:/, '')
}
