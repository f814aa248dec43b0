import type { Endpoint } from './udp.ts'

export type PeerCertificate =
  /** Signed by the authority that was asked for, in its time, for a client; and its key was there. */
  | { readonly kind: 'good' /** SHA-256, hex. */; readonly fingerprint: string }
  /** `reason` is OpenSSL's: 'CERT_HAS_EXPIRED'. */
  | { readonly kind: 'bad'; readonly fingerprint: string; readonly reason: string }

/** One accepted or made connection. All callbacks come on one event loop, never inside a call made here. */
export interface TcpConnection {
  readonly remote: Endpoint
  readonly local: Endpoint
  /** What the other side has shown by TLS; absent where it was not asked for a certificate, or has none. */
  readonly certificate?: PeerCertificate | undefined
  /** Chunks given in one event-loop turn leave in one write. Bytes are lent until `release` (or for good if absent). */
  write(chunk: Uint8Array, release?: () => void): void
  /** Bytes accepted by `write` and not yet taken by the kernel. */
  readonly queuedBytes: number
  /** Stop and start calling `onData`: how a reader that falls behind is held. */
  pause(): void
  resume(): void
  /** Sends what is queued, then FIN. */
  end(): void
  /** RST, at once; queued bytes are dropped. */
  destroy(): void
}

export interface TcpHandler {
  /** True: a chunk is only lent until `onData` returns, which lets the network read into one buffer. */
  readonly borrowsChunks?: boolean
  /** `chunk` belongs to the handler from now on, unless it borrows. */
  onData(chunk: Uint8Array): void
  /**
   * For a handler that borrows: memory of its own (never empty) for the bytes of the next `onData`, asked for right before
   * them. A hint, which spares it copying what is large; undefined for the network's memory.
   */
  receiveInto?(): Uint8Array | undefined
  /** What was queued has drained below the write limit. */
  onDrain?(): void
  /** The peer sent FIN. */
  onEnd?(): void
  /** Nothing more will come; called exactly once. */
  onClose(reason: string): void
}

/** Makes one connection, to a place that is settled. @throws {OperationError} connectionRefused, unreachable */
export type Connect = (open: (connection: TcpConnection) => TcpHandler) => Promise<TcpConnection>

export interface TcpListener {
  readonly local: Endpoint
  /** Stops accepting; connections already made go on. */
  close(): Promise<void>
}

export interface TcpNetwork {
  /** @throws {OperationError} portTaken, portForbidden, addressUnknown */
  listen(binding: Endpoint, accept: (connection: TcpConnection) => TcpHandler): Promise<TcpListener>
  /** @throws {OperationError} connectionRefused, unreachable */
  connect(to: Endpoint, open: (connection: TcpConnection) => TcpHandler): Promise<TcpConnection>
}
