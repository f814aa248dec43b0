/**
 * HTTP/1.x requests out of a stream of bytes: RFC 9112 §2 to §6, and the header-less request of HTTP/0.9 that early
 * U-Boot sends.
 *
 *   method SP request-target SP HTTP-version CRLF      or   GET SP request-target CRLF  (HTTP/0.9, nothing follows)
 *   *( field-name ":" OWS field-value OWS CRLF )
 *   CRLF
 *   Content-Length bytes of body
 */
import { assert } from '../base/assert.ts'
import type { HttpLimits } from './limits.ts'

export type RawRequest = {
  readonly method: string
  readonly target: string
  readonly version: '0.9' | '1.0' | '1.1'
  /** Names in lower case; fields that stand twice joined with a comma. */
  readonly headers: ReadonlyMap<string, string>
  /** A copy: it outlives the receive buffer. */
  readonly body: Uint8Array
}

export type Refusal = {
  /** What to answer before closing. */
  readonly status: number
  /** Stable: 'badRequestLine'. */
  readonly reason: string
  /** For people: what stood there. */
  readonly detail: string
}

export type Parsed =
  | { readonly kind: 'needMore' }
  /** The client waits for our word before it sends the body (RFC 9110 §10.1.1): say 100, then ask again. */
  | { readonly kind: 'expectsContinue' }
  | { readonly kind: 'request'; readonly request: RawRequest }
  /** The stream cannot be followed any further. */
  | { readonly kind: 'refused'; readonly refusal: Refusal }

type Head = Omit<RawRequest, 'body'> & { readonly bodyBytes: number }

const lineFeed = 0x0a
const carriageReturn = 0x0d
const nothing: Uint8Array = new Uint8Array(0)
const needMore: Parsed = { kind: 'needMore' }
const tokenPattern = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/

/**
 * Holds what was received and not yet made into a request; at most one head and one body, beside the chunk given last.
 * `feed`, then `next` until it says needMore.
 */
export class RequestParser {
  readonly #limits: HttpLimits
  #bytes: Uint8Array = nothing
  /** `#bytes` is the network's chunk, not our own. */
  #isBorrowed = false
  /** Where the request begins, and where the line begins that has not ended yet. */
  #start = 0
  #line = 0
  /** Up to here there is no line feed in the unfinished line: no byte is looked at twice. */
  #scanned = 0
  #lines: string[] = []
  #head: Head | undefined
  #saidContinue = false

  constructor(limits: HttpLimits) {
    this.#limits = limits
  }

  /** Bytes that are part of a request that is not whole yet. */
  get isInside(): boolean {
    return this.#start < this.#bytes.byteLength || this.#head !== undefined
  }

  /** `chunk` is lent until `keep` is called. */
  feed(chunk: Uint8Array): void {
    if (this.#start === this.#bytes.byteLength) {
      this.#bytes = chunk
      this.#isBorrowed = true
      this.#line -= this.#start
      this.#scanned -= this.#start
      this.#start = 0
      return
    }
    const kept = this.#bytes.subarray(this.#start)
    const joined = new Uint8Array(kept.byteLength + chunk.byteLength)
    joined.set(kept)
    joined.set(chunk, kept.byteLength)
    this.#bytes = joined
    this.#line -= this.#start
    this.#scanned -= this.#start
    this.#start = 0
  }

  /** What is left of the chunk becomes our own. Not by `slice`: that of Node's Buffer does not copy. */
  keep(): void {
    if (!this.#isBorrowed) return
    this.#isBorrowed = false
    this.#bytes = this.#start === this.#bytes.byteLength ? nothing : new Uint8Array(this.#bytes.subarray(this.#start))
    this.#line -= this.#start
    this.#scanned -= this.#start
    this.#start = 0
  }

  next(): Parsed {
    if (this.#head === undefined) {
      const found = this.#nextHead()
      if (found === undefined) return needMore
      if ('status' in found) return { kind: 'refused', refusal: found }
      this.#head = found
      this.#saidContinue = false
    }
    const head = this.#head
    const end = this.#start + head.bodyBytes
    if (end > this.#bytes.byteLength) {
      const expects = head.version === '1.1' && head.headers.get('expect')?.toLowerCase() === '100-continue'
      if (!expects || this.#saidContinue) return needMore
      this.#saidContinue = true
      return { kind: 'expectsContinue' }
    }
    const body = head.bodyBytes === 0 ? nothing : new Uint8Array(this.#bytes.subarray(this.#start, end))
    this.#startAt(end)
    this.#head = undefined
    const { method, target, version, headers } = head
    return { kind: 'request', request: { method, target, version, headers, body } }
  }

  #startAt(offset: number): void {
    this.#start = offset
    this.#line = offset
    this.#scanned = offset
  }

  #nextHead(): Head | Refusal | undefined {
    for (;;) {
      const lineEnd = this.#bytes.indexOf(lineFeed, this.#scanned)
      const headBytes = (lineEnd === -1 ? this.#bytes.byteLength : lineEnd + 1) - this.#start
      if (headBytes > this.#limits.headBytesMax) {
        return this.#lines.length === 0
          ? { status: 414, reason: 'requestLineTooLong', detail: `over ${this.#limits.headBytesMax} bytes` }
          : { status: 431, reason: 'headTooLong', detail: `over ${this.#limits.headBytesMax} bytes` }
      }
      if (lineEnd === -1) {
        this.#scanned = this.#bytes.byteLength
        return undefined
      }
      // RFC 9112 §2.2: a line feed alone may be taken for a line's end.
      const isCrLf = lineEnd > this.#line && this.#bytes[lineEnd - 1] === carriageReturn
      const line = latin1(this.#bytes.subarray(this.#line, isCrLf ? lineEnd - 1 : lineEnd))
      this.#line = lineEnd + 1
      this.#scanned = this.#line
      if (line === '') {
        // RFC 9112 §2.2: empty lines before a request line are skipped.
        if (this.#lines.length === 0) {
          this.#start = this.#line
          continue
        }
        const lines = this.#lines
        this.#lines = []
        this.#start = this.#line
        return parseHead(lines, this.#limits)
      }
      if (this.#lines.length === 0 && isHeaderless(line)) {
        this.#start = this.#line
        return { method: 'GET', target: line.slice(4).trim(), version: '0.9', headers: new Map(), bodyBytes: 0 }
      }
      if (this.#lines.length > this.#limits.headerFieldsMax) {
        return { status: 431, reason: 'tooManyFields', detail: `over ${this.#limits.headerFieldsMax} header fields` }
      }
      this.#lines.push(line)
    }
  }
}

/** `GET /path`, and no version: HTTP/0.9 has no head, so the end of the line is the end of the request. */
function isHeaderless(line: string): boolean {
  return /^GET +\/[^ ]* *$/.test(line)
}

function parseHead(lines: readonly string[], limits: HttpLimits): Head | Refusal {
  const requestLine = lines[0] ?? ''
  const words = requestLine.split(' ')
  const [method = '', target = '', version = ''] = words
  const match = /^HTTP\/(\d)\.(\d)$/.exec(version)
  if (words.length !== 3 || !tokenPattern.test(method) || target === '' || match === null) {
    return { status: 400, reason: 'badRequestLine', detail: printable(requestLine) }
  }
  if (match[1] !== '1') return { status: 505, reason: 'badVersion', detail: printable(version) }
  const headers = parseFields(lines)
  if (!(headers instanceof Map)) return headers
  const isOld = match[2] === '0'
  // RFC 9112 §3.2: exactly one Host from HTTP/1.1 on; a second one was joined with a comma.
  const host = headers.get('host')
  if ((host === undefined && !isOld) || host?.includes(',')) {
    return { status: 400, reason: 'badHost', detail: host === undefined ? 'no Host' : printable(host) }
  }
  if (headers.has('transfer-encoding')) {
    // With Content-Length beside it this is how requests are smuggled (RFC 9112 §6.1); alone it is a body without a bound.
    return { status: 411, reason: 'noLength', detail: 'Transfer-Encoding is not taken' }
  }
  const bodyBytes = parseLength(headers.get('content-length'))
  if (bodyBytes === undefined) {
    return { status: 400, reason: 'badLength', detail: printable(headers.get('content-length') ?? '') }
  }
  if (bodyBytes > limits.bodyBytesMax) {
    return { status: 413, reason: 'bodyTooLarge', detail: `${bodyBytes} of ${limits.bodyBytesMax} bytes` }
  }
  return { method, target, version: isOld ? '1.0' : '1.1', headers, bodyBytes }
}

function parseFields(lines: readonly string[]): Map<string, string> | Refusal {
  const headers = new Map<string, string>()
  for (let i = 1; i < lines.length; i++) {
    const line = lines[i] ?? ''
    const colon = line.indexOf(':')
    const name = line.slice(0, Math.max(0, colon)).toLowerCase()
    const value = trimSpace(line.slice(colon + 1))
    // White space before the colon, or a folded line, lets two parsers read two different requests (RFC 9112 §5.1, §5.2).
    if (!tokenPattern.test(name) || hasControl(value)) {
      return { status: 400, reason: 'badField', detail: printable(line) }
    }
    const before = headers.get(name)
    headers.set(name, before === undefined ? value : `${before}, ${value}`)
  }
  return headers
}

/** RFC 9110 §8.6: a list of the same number is that number. */
function parseLength(text: string | undefined): number | undefined {
  if (text === undefined) return 0
  const numbers = new Set(text.split(',').map(trimSpace))
  const [only = ''] = numbers
  return numbers.size === 1 && /^\d{1,15}$/.test(only) ? Number(only) : undefined
}

/** OWS is spaces and tabs; `trim` would take more. */
function trimSpace(text: string): string {
  let start = 0
  let end = text.length
  while (start < end && isSpace(text.charCodeAt(start))) start++
  while (end > start && isSpace(text.charCodeAt(end - 1))) end--
  return text.slice(start, end)
}

function isSpace(code: number): boolean {
  return code === 0x20 || code === 0x09
}

function hasControl(text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if ((code < 0x20 && code !== 0x09) || code === 0x7f) return true
  }
  return false
}

/** Each byte one character; a head is bounded, so the arguments fit. */
function latin1(bytes: Uint8Array): string {
  assert(bytes.byteLength <= 65_536, 'a line is not longer than a head may be')
  return String.fromCharCode.apply(null, bytes as unknown as number[])
}

/** For logs: what is not printable ASCII as \xHH, and not more than fits a line. */
export function printable(text: string): string {
  let shown = ''
  for (const character of text.slice(0, 120)) {
    const code = character.charCodeAt(0)
    shown += code >= 0x20 && code < 0x7f ? character : `\\x${code.toString(16).padStart(2, '0')}`
  }
  return shown
}
