/** One TCP connection of the server: carries out what `connection.ts` decides. */
import { unreachable } from '../base/assert.ts'
import { messageOf } from '../base/errors.ts'
import type { Clock, Timer } from '../ports/clock.ts'
import type { TcpConnection, TcpHandler } from '../ports/tcp.ts'
import { begin, type Input, mayKeep, type Output, type State, type Step, step } from './connection.ts'
import { FileSender } from './file-sender.ts'
import { answerBufferBytes, fileChunkBytes, type HttpLimits, joinedBodyBytesMax, queuedBytesMax } from './limits.ts'
import { parseTarget } from './path.ts'
import type { HttpAnswer, HttpBody, HttpEvent, HttpFile, HttpHandler, HttpRequest } from './policy.ts'
import { type RawRequest, type Refusal, RequestParser } from './request.ts'
import { type Plan, planAnswer } from './response.ts'

/** What all connections of a server share. */
export interface ConnectionServer {
  readonly options: { readonly secure: boolean; readonly clock: Clock; readonly handler: HttpHandler }
  readonly limits: HttpLimits
  gone(connection: ServedConnection, address: string): void
  emit(event: HttpEvent): void
  /** Of the Date field. */
  date(): string
  takeChunk(): Uint8Array
  giveChunk(chunk: Uint8Array): void
  takeAnswerBuffer(): Uint8Array
  giveAnswerBuffer(buffer: Uint8Array): void
}

const utf8 = new TextEncoder()
const emptyBytes = new Uint8Array(0)
/** A timer that comes a little early is not worth another one. */
const timerSlackMs = 1
const handledMethods: ReadonlySet<string> = new Set(['GET', 'HEAD', 'POST'])
/** RFC 9110 §9.1: known, and not for us: 405. What is not known at all: 501. */
const knownMethods: ReadonlySet<string> = new Set(['PUT', 'DELETE', 'CONNECT', 'OPTIONS', 'TRACE', 'PATCH'])

/** The answer that a connection is giving, for the event at its end. */
type Exchange = {
  readonly method: string
  readonly path: string
  readonly userAgent: string | undefined
  readonly startedMs: number
  readonly plan: Plan
  sentBytes: number
}

export class ServedConnection implements TcpHandler {
  readonly borrowsChunks = true
  readonly #server: ConnectionServer
  readonly #tcp: TcpConnection
  readonly #parser: RequestParser
  #state: State
  #exchange: Exchange | undefined
  #sender: FileSender | undefined
  #advancing = false
  /** We asked the network for no more bytes. */
  #held = false
  /** It will ask no more; what it asked before is still answered. */
  #peerEnded = false
  #gone = false
  #deadlineMs: number = Number.POSITIVE_INFINITY
  #firesAtMs: number = Number.POSITIVE_INFINITY
  #timer: Timer | undefined

  constructor(server: ConnectionServer, tcp: TcpConnection) {
    this.#server = server
    this.#tcp = tcp
    this.#parser = new RequestParser(server.limits)
    const first = begin(server.limits)
    this.#state = first.state
    this.#perform(first.outputs)
  }

  get kind(): State['kind'] {
    return this.#state.kind
  }

  get address(): string {
    return this.#tcp.remote.address
  }

  onData(chunk: Uint8Array): void {
    // Whatever comes after our last word is not read any more; the timer bounds how long it may go on.
    if (this.#gone || this.#state.kind === 'lingering' || this.#state.kind === 'closed') return
    this.#parser.feed(chunk)
    this.#advance()
    this.#parser.keep()
    // Held while an answer is under way: a client that pipelines cannot make us collect its requests.
    if (this.#state.kind !== 'answering') return
    this.#held = true
    this.#tcp.pause()
  }

  onEnd(): void {
    this.#peerEnded = true
    this.take({ kind: 'peerEnded' })
  }

  onClose(): void {
    this.#gone = true
    this.#state = { kind: 'closed' }
    this.#timer?.cancel()
    this.#sender?.abandon()
    this.#sayAnswered()
    this.#server.gone(this, this.#tcp.remote.address)
  }

  destroy(): void {
    this.#apply({ state: { kind: 'closed' }, outputs: [{ kind: 'destroy' }] })
  }

  take(input: Input): void {
    this.#apply(step(this.#server.limits, this.#state, input))
  }

  #apply({ state, outputs }: Step): void {
    this.#state = state
    this.#perform(outputs)
  }

  #perform(outputs: readonly Output[]): void {
    for (const output of outputs) {
      switch (output.kind) {
        case 'setTimer':
          this.#deadlineMs = this.#server.options.clock.nowMs() + output.afterMs
          if (this.#timer === undefined || this.#deadlineMs < this.#firesAtMs) this.#armTimer(output.afterMs)
          break
        case 'refuseSlowRequest':
          this.#refuse({
            status: 408,
            reason: 'requestTooSlow',
            detail: `not whole in ${this.#server.limits.requestMs} ms`,
          })
          break
        case 'sayStalled':
          this.#server.emit({ kind: 'dropped', from: this.#tcp.remote, reason: 'answerStalled' })
          break
        case 'end':
          this.#letIn()
          this.#tcp.end()
          break
        case 'destroy':
          this.#tcp.destroy()
          break
        default:
          unreachable(output)
      }
    }
  }

  /** The timer is not moved each time a deadline moves on: when it fires too early, it is set again for the rest. */
  #armTimer(afterMs: number): void {
    const { clock } = this.#server.options
    this.#timer?.cancel()
    this.#firesAtMs = clock.nowMs() + afterMs
    this.#timer = clock.after(afterMs, () => {
      this.#timer = undefined
      if (this.#gone) return
      const leftMs = this.#deadlineMs - clock.nowMs()
      if (leftMs > timerSlackMs) this.#armTimer(leftMs)
      else this.take({ kind: 'timerFired' })
    })
  }

  /** Takes requests out of what was received, one after the other, for as long as each is answered at once. */
  #advance(): void {
    if (this.#advancing) return
    this.#advancing = true
    while (this.#isReading()) {
      const parsed = this.#parser.next()
      if (parsed.kind === 'needMore') {
        if (this.#peerEnded) this.take({ kind: 'peerEnded' })
        else if (this.#parser.isInside) this.take({ kind: 'requestBegan' })
        break
      }
      if (parsed.kind === 'expectsContinue') {
        this.#tcp.write(utf8.encode('HTTP/1.1 100 Continue\r\n\r\n'))
        continue
      }
      if (parsed.kind === 'refused') {
        this.take({ kind: 'requestEnded', isLast: true })
        this.#refuse(parsed.refusal)
        break
      }
      this.take({ kind: 'requestEnded', isLast: false })
      this.#handle(parsed.request)
    }
    this.#advancing = false
  }

  #handle(raw: RawRequest): void {
    const startedMs = this.#server.options.clock.nowMs()
    const { method } = raw
    const target = parseTarget(raw.target)
    if (!handledMethods.has(method)) {
      const answer: HttpAnswer = knownMethods.has(method)
        ? { ...textAnswer(405, 'use GET, HEAD or POST'), headers: { Allow: 'GET, HEAD, POST' } }
        : textAnswer(501, 'this method is not known here')
      this.#answer(raw, answer, { path: raw.target, startedMs })
      return
    }
    if (target === undefined) {
      this.#answer(raw, textAnswer(400, 'this path cannot be looked up'), { path: raw.target, startedMs })
      return
    }
    const request: HttpRequest = {
      from: this.#tcp.remote,
      local: this.#tcp.local,
      secure: this.#server.options.secure,
      certificate: this.#tcp.certificate,
      method: method as HttpRequest['method'],
      path: target.path,
      query: target.query,
      headers: raw.headers,
      body: raw.body,
    }
    const about = { path: target.path, startedMs }
    try {
      const answer = this.#server.options.handler(request)
      if (answer instanceof Promise) {
        answer.then(
          (settled) => this.#answerOrFail(raw, settled, about),
          (error: unknown) => this.#fail(raw, error, about),
        )
      } else this.#answer(raw, answer, about)
    } catch (error) {
      this.#fail(raw, error, about)
    }
  }

  #answerOrFail(raw: RawRequest, answer: HttpAnswer, about: About): void {
    if (this.#state.kind !== 'answering') {
      closeBody(answer.body)
      return
    }
    try {
      this.#answer(raw, answer, about)
    } catch (error) {
      this.#fail(raw, error, about)
    }
  }

  /** The handler, or what it made, is broken: the client learns that much and no more. */
  #fail(raw: RawRequest, error: unknown, about: About): void {
    this.#server.emit({ kind: 'handlerFailed', from: this.#tcp.remote, path: about.path, detail: messageOf(error) })
    if (this.#state.kind === 'answering') this.#answer(raw, textAnswer(500, 'the server failed to answer'), about)
  }

  #refuse(refusal: Refusal): void {
    this.#server.emit({ kind: 'refused', from: this.#tcp.remote, ...refusal })
    const raw: RawRequest = { method: 'GET', target: '', version: '1.1', headers: new Map(), body: emptyBytes }
    const startedMs = this.#server.options.clock.nowMs()
    this.#answer(raw, textAnswer(refusal.status, refusal.reason), { path: '', startedMs })
  }

  #answer(raw: RawRequest, answer: HttpAnswer, { path, startedMs }: About): void {
    const body = bodyOf(answer)
    const bodyBytes = body.kind === 'file' ? body.file.sizeBytes : body.bytes.byteLength
    let plan: Plan
    try {
      plan = planAnswer({
        request: raw,
        answer,
        bodyBytes,
        contentType: answer.body?.kind === 'text' ? 'text/plain; charset=utf-8' : 'application/octet-stream',
        date: this.#server.date(),
        mayKeep: mayKeep(this.#server.limits, this.#state),
      })
    } catch (error) {
      closeBody(answer.body)
      throw error
    }
    const userAgent = raw.headers.get('user-agent')
    this.#exchange = { method: raw.method, path, userAgent, startedMs, plan, sentBytes: 0 }
    if (body.kind === 'bytes') this.#sendBytes(body.bytes, plan)
    else this.#sendFile(body.file, plan)
  }

  #sendBytes(all: Uint8Array, plan: Plan): void {
    const { offset, bytes } = plan.range
    const body = bytes === all.byteLength ? all : all.subarray(offset, offset + bytes)
    if (bytes <= joinedBodyBytesMax) {
      const joined = this.#joinedFor(plan)
      joined.bytes.set(body, plan.head.length)
      this.#sendJoined(joined, bytes)
      return
    }
    // In pieces, so that a slow client is seen to take them.
    this.#tcp.write(utf8.encode(plan.head))
    for (let at = 0; at < body.byteLength; at += fileChunkBytes) {
      const piece = body.subarray(at, at + fileChunkBytes)
      const isAll = at + fileChunkBytes >= body.byteLength
      this.#tcp.write(piece, () => this.#taken(piece.byteLength, isAll))
    }
  }

  /** Head and body in one; the next request waits for it only when the client is behind already. */
  #sendJoined({ bytes, pooled }: Joined, bodyBytes: number): void {
    const isBehind = this.#tcp.queuedBytes > queuedBytesMax
    this.#tcp.write(bytes, () => {
      if (pooled !== undefined) this.#server.giveAnswerBuffer(pooled)
      if (isBehind) this.#taken(bodyBytes, true)
    })
    if (!isBehind) this.#taken(bodyBytes, true)
  }

  /**
   * Room for head and body, the head written. From the pool only while nothing is queued: a client that takes nothing
   * must not make us hold a whole buffer for each small answer.
   */
  #joinedFor({ head, range }: Plan): Joined {
    const size = head.length + range.bytes // a head is ASCII
    const pooled =
      this.#tcp.queuedBytes === 0 && size <= answerBufferBytes ? this.#server.takeAnswerBuffer() : undefined
    const bytes = pooled === undefined ? new Uint8Array(size) : pooled.subarray(0, size)
    utf8.encodeInto(head, bytes)
    return { bytes, pooled }
  }

  #taken(bytes: number, isAll: boolean): void {
    if (this.#gone || this.#exchange === undefined) return
    this.#exchange.sentBytes += bytes
    if (isAll) this.#answered()
    else this.take({ kind: 'progressed' })
  }

  #sendFile(file: HttpFile, plan: Plan): void {
    const { offset, bytes } = plan.range
    if (bytes <= joinedBodyBytesMax) {
      const joined = this.#joinedFor(plan)
      let pending: Promise<void> | undefined
      try {
        pending = bytes === 0 ? undefined : file.read(offset, joined.bytes.subarray(plan.head.length))
      } catch (error) {
        this.#fileFailed(file, error)
        return
      }
      const send = (): void => {
        file.close?.()
        if (this.#state.kind === 'answering') this.#sendJoined(joined, bytes)
      }
      if (pending === undefined) send()
      else pending.then(send, (error: unknown) => this.#fileFailed(file, error))
      return
    }
    this.#tcp.write(utf8.encode(plan.head))
    this.#sender = new FileSender({
      file,
      from: offset,
      to: offset + bytes,
      tcp: this.#tcp,
      chunks: this.#server,
      taken: (chunkBytes, isAll) => {
        if (isAll) this.#sender = undefined
        this.#taken(chunkBytes, isAll)
      },
      failed: (error) => {
        this.#sender = undefined
        this.#fileFailed(undefined, error)
      },
    })
    this.#sender.send()
  }

  /** The head may be on its way already, with a length in it: the only honest end is a cut. */
  #fileFailed(file: HttpFile | undefined, error: unknown): void {
    file?.close?.()
    const path = this.#exchange?.path ?? ''
    this.#server.emit({ kind: 'fileFailed', from: this.#tcp.remote, path, detail: messageOf(error) })
    this.take({ kind: 'answerFailed' })
  }

  #answered(): void {
    const isLast = this.#exchange?.plan.isLast ?? true
    this.#sayAnswered()
    this.take({ kind: 'answered', isLast })
    if (this.#state.kind !== 'idle') return
    this.#advance()
    if (this.#isReading()) this.#letIn()
  }

  #isReading(): boolean {
    return this.#state.kind === 'idle' || this.#state.kind === 'receiving'
  }

  #letIn(): void {
    if (!this.#held) return
    this.#held = false
    this.#tcp.resume()
  }

  #sayAnswered(): void {
    const exchange = this.#exchange
    if (exchange === undefined) return
    this.#exchange = undefined
    const { options } = this.#server
    const { method, path, plan, sentBytes, startedMs, userAgent } = exchange
    this.#server.emit({
      kind: 'answered',
      from: this.#tcp.remote,
      secure: options.secure,
      method,
      path,
      status: plan.status,
      sentBytes,
      bodyBytes: plan.range.bytes,
      durationMs: options.clock.nowMs() - startedMs,
      ...(userAgent === undefined ? {} : { userAgent }),
    })
  }
}

/** A head and its body in one piece; `pooled` goes back when the network has taken it. */
type Joined = { readonly bytes: Uint8Array; readonly pooled: Uint8Array | undefined }

type About = { readonly path: string; readonly startedMs: number }

function textAnswer(status: number, text: string): HttpAnswer {
  return { status, body: { kind: 'text', text: `${text}\n` } }
}

type SendableBody = Exclude<HttpBody, { kind: 'text' }>

function bodyOf({ body }: HttpAnswer): SendableBody {
  if (body === undefined) return { kind: 'bytes', bytes: emptyBytes }
  return body.kind === 'text' ? { kind: 'bytes', bytes: utf8.encode(body.text) } : body
}

function closeBody(body: HttpBody | undefined): void {
  if (body?.kind === 'file') body.file.close?.()
}
