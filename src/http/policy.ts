/** What the HTTP server asks of whoever knows what there is to fetch, and what it tells whoever follows a boot. */
import type { PeerCertificate } from '../ports/tcp.ts'
import type { Endpoint } from '../ports/udp.ts'

export type HttpRequest = {
  readonly from: Endpoint
  readonly local: Endpoint
  /** The connection is TLS. */
  readonly secure: boolean
  /** What the client has shown by TLS, if anything. */
  readonly certificate?: PeerCertificate | undefined
  readonly method: 'GET' | 'HEAD' | 'POST'
  /**
   * Percent-decoded and normal: begins with a slash, slashes single, no `.` or `..` segment, no control character.
   * It is to be looked up, never joined to a directory.
   */
  readonly path: string
  /** Decoded; of a name that stands twice, the first. */
  readonly query: ReadonlyMap<string, string>
  /** Names in lower case; fields that stand twice are joined with a comma (RFC 9110 §5.3). */
  readonly headers: ReadonlyMap<string, string>
  /** Of a POST, whole; otherwise empty. */
  readonly body: Uint8Array
}

/** A big body, read as the client takes it. */
export interface HttpFile {
  readonly sizeBytes: number
  /**
   * Fills all of `target` from `offset`; never asked for a byte at or past `sizeBytes`.
   * Undefined when the bytes are already there; a promise when the disk is slow.
   * @throws {OperationError} in the promise or at once: the connection is cut, for the length was promised already
   */
  read(offset: number, target: Uint8Array): Promise<void> | undefined
  /** Called once, when the answer is over, whatever its outcome. */
  close?(): void
}

export type HttpAnswer = {
  /** 200 to 599, never 3xx: no boot loader can be trusted to follow (U-Boot's lwIP wget does not). */
  readonly status: number
  /** Content-Type, ETag and the like. Lengths, ranges and connection handling are the server's. */
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: HttpBody
}

export type HttpBody =
  /** Sent as UTF-8; Content-Type is text/plain unless `headers` say otherwise. */
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'bytes'; readonly bytes: Uint8Array }
  | { readonly kind: 'file'; readonly file: HttpFile }

/** A throw or a rejection becomes 500 without a word of why; the event has the words. */
export type HttpHandler = (request: HttpRequest) => HttpAnswer | Promise<HttpAnswer>

export type HttpEvent =
  | {
      readonly kind: 'answered'
      readonly from: Endpoint
      readonly secure: boolean
      readonly method: string
      readonly path: string
      readonly status: number
      /** Of the body, handed to the network; short of the whole when the client left. */
      readonly sentBytes: number
      readonly bodyBytes: number
      readonly durationMs: number
      readonly userAgent?: string
    }
  /** No request that may be answered: `reason` is stable, `detail` says where and why. */
  | {
      readonly kind: 'refused'
      readonly from: Endpoint
      readonly status: number
      readonly reason: string
      readonly detail: string
    }
  | {
      readonly kind: 'dropped'
      readonly from: Endpoint
      readonly reason: 'tooManyConnections' | 'answerStalled'
    }
  | { readonly kind: 'handlerFailed'; readonly from: Endpoint; readonly path: string; readonly detail: string }
  | { readonly kind: 'fileFailed'; readonly from: Endpoint; readonly path: string; readonly detail: string }

export type HttpListener = (event: HttpEvent) => void
