/**
 * One connection of a target, from accept to close: frames, login, then a session. RFC 7143 §7.1 in short:
 *
 *   login ──complete──▶ session ──logout, fault, peer gone──▶ closed
 *     └─────────────── fail, timeout ──────────────────────────▲
 *
 * Everything that a PDU causes within one `onData` leaves in one write.
 */
import { unreachable } from '../base/assert.ts'
import { messageOf } from '../base/errors.ts'
import type { Clock, Timer } from '../ports/clock.ts'
import type { Hash } from '../ports/hash.ts'
import type { Random } from '../ports/random.ts'
import type { TcpConnection, TcpHandler } from '../ports/tcp.ts'
import { WireError } from '../wire/reader.ts'
import type { ChapFailures } from './chap-failures.ts'
import type { DataOutMemory } from './data-out-memory.ts'
import { FrameReader } from './frame.ts'
import { chapFailuresMax, lingerMs, loginWithinMs, sendQueueBytesToPause, sessionsMax } from './limits.ts'
import {
  initialLogin,
  type LoginAnswer,
  type LoginOutput,
  type LoginState,
  type LoginTerms,
  type LoginVerdict,
  loginStep,
} from './login.ts'
import {
  after,
  decodeInitiatorPdu,
  encodeTargetPdu,
  type Header,
  type LoginRequest,
  type LoginStatus,
  loginStatus,
  noTag,
  type Stage,
  stage,
} from './pdu.ts'
import type {
  IscsiEvents,
  LoginAttempt,
  LoginFailure,
  SessionEnd,
  SessionIdentity,
  TargetDirectory,
  TargetListing,
} from './policy.ts'
import { type SessionRegistry, sessionKey } from './registry.ts'
import { dataStart, framedBytes, Outbox, type SendMemory } from './send-memory.ts'
import { Session, type SessionHost } from './session.ts'

/** The target around all its connections. */
export interface ConnectionHost {
  readonly clock: Clock
  readonly random: Random
  readonly hash: Hash
  readonly directory: TargetDirectory
  readonly events: IscsiEvents
  readonly registry: SessionRegistry
  readonly memory: SendMemory
  readonly dataOut: DataOutMemory
  readonly chapFailures: ChapFailures
  /** Challenges sent and not answered yet, on any connection, in hexadecimal. */
  readonly openChallenges: Set<string>
  /** The login is over, one way or the other: no longer among those that must hurry. */
  loggedIn(connection: Connection): void
  closed(connection: Connection): void
}

type LoginPdu = { readonly request: LoginRequest; readonly text: Uint8Array; filledBytes: number }
type Complete = Extract<LoginOutput, { kind: 'complete' }>

export class Connection implements TcpHandler, SessionHost {
  readonly #host: ConnectionHost
  readonly #wire: TcpConnection
  readonly borrowsChunks = true
  readonly reader: FrameReader
  readonly outbox: Outbox
  readonly #loginTerms: LoginTerms
  readonly acceptedAtMs: number
  lastHeardAtMs: number

  #login: LoginState = initialLogin
  #arriving: LoginPdu | undefined
  /** The request that is being answered: its tags go into the answer. */
  #request: LoginRequest | undefined
  #attempt: LoginAttempt | undefined
  #statusNumber = 0
  #challenge: string | undefined
  #delay: Timer | undefined
  #linger: Timer | undefined
  session: Session | undefined
  #closing = false
  #paused = false
  /** Inside `onData`: what is pushed leaves at its end. */
  #inTurn = false

  constructor(host: ConnectionHost, wire: TcpConnection) {
    this.#host = host
    this.#wire = wire
    this.outbox = new Outbox(host.memory, wire, () => this.#drained())
    this.reader = new FrameReader({
      header: (header) => this.#loginHeader(header),
      data: (bytes) => this.#loginData(bytes),
      end: () => this.#loginEnd(),
    })
    this.acceptedAtMs = host.clock.nowMs()
    this.lastHeardAtMs = this.acceptedAtMs
    this.#loginTerms = {
      hash: host.hash,
      random: host.random,
      remote: wire.remote,
      local: wire.local,
      isOurChallenge: (bytes) => host.openChallenges.has(hexadecimal(bytes)),
    }
  }

  get remoteAddress(): string {
    return this.#wire.remote.address
  }

  get memory(): SendMemory {
    return this.#host.memory
  }

  get dataOut(): DataOutMemory {
    return this.#host.dataOut
  }

  // --- TcpHandler

  onData(chunk: Uint8Array): void {
    if (this.#closing) return
    this.lastHeardAtMs = this.#host.clock.nowMs()
    this.#inTurn = true
    try {
      this.reader.receive(chunk)
    } catch (error) {
      this.#fault(error)
    } finally {
      this.#inTurn = false
    }
    this.outbox.flush()
    if (this.outbox.queuedBytes > sendQueueBytesToPause && !this.#paused && !this.#closing) {
      this.#paused = true
      this.#wire.pause()
    }
  }

  /** The rest of a large write goes where it belongs without being copied. */
  receiveInto(): Uint8Array | undefined {
    return this.session?.receiveInto(this.reader.dataLeft)
  }

  onEnd(): void {
    this.#end('disconnected')
    this.#wire.end()
  }

  onClose(_reason: string): void {
    this.#end('disconnected')
    this.#linger?.cancel()
    this.outbox.drop()
    this.#host.closed(this)
  }

  #drained(): void {
    if (this.#closing) return
    if (this.#paused && this.outbox.queuedBytes <= sendQueueBytesToPause / 2) {
      this.#paused = false
      this.#wire.resume()
    }
    this.session?.drained()
  }

  #fault(error: unknown): void {
    if (error instanceof WireError) {
      if (this.session === undefined) this.#loginFailed('protocolError', error.message)
      else {
        this.#host.events({
          kind: 'rejected',
          session: this.session.identity,
          reason: 'protocolError',
          detail: error.message,
        })
        this.session.finish('protocolError')
      }
    } else {
      // Our own mistake: this session goes, and everybody hears of it.
      if (this.session === undefined) this.#loginFailed('unavailable', messageOf(error))
      else this.session.finish('fault')
    }
    this.hangUp()
    if (!(error instanceof WireError)) throw error
  }

  /** The peer is gone, or we have had enough of it. */
  #end(end: SessionEnd): void {
    if (this.session !== undefined) this.session.finish(end)
    else if (!this.#closing) this.#loginFailed('disconnected', 'the connection ended before the login did')
    this.#closing = true
    this.reader.stop()
    this.#forgetLogin()
  }

  // --- SessionHost

  flushSoon(): void {
    if (!this.#inTurn) this.outbox.flush()
  }

  hangUp(): void {
    if (this.#closing) return
    this.#closing = true
    this.reader.stop()
    this.#forgetLogin()
    this.outbox.flush()
    this.#wire.end()
    // A dead peer never answers our FIN, and its socket would stay for as long as TCP tries.
    this.#linger = this.#host.clock.after(lingerMs, () => this.#wire.destroy())
  }

  /** At once and without a word: for what will not listen. */
  destroy(): void {
    this.#end('disconnected')
    this.#wire.destroy()
  }

  sessionEnded(session: Session, end: SessionEnd): void {
    const { registry, events } = this.#host
    registry.remove(session)
    session.deviceServer?.detach(session.nexus)
    const { identity, commandCount, readBytes, writtenBytes } = session
    events({ kind: 'sessionClosed', session: identity, end, commandCount, readBytes, writtenBytes })
  }

  rejected(session: Session, reason: string, detail: string): void {
    this.#host.events({ kind: 'rejected', session: session.identity, reason, detail })
  }

  sharing(session: Session): readonly Session[] {
    return this.#host.registry.sharing(session)
  }

  listTargets(attempt: LoginAttempt): readonly TargetListing[] | Promise<readonly TargetListing[]> {
    return this.#host.directory.list(attempt)
  }

  // --- login

  #loginHeader(header: Header): void {
    const pdu = decodeInitiatorPdu(header)
    // §6.3: nothing but login requests before full-feature phase.
    if (pdu.kind !== 'login') throw new WireError('unknownOpcode', header.at)
    this.#arriving = { request: pdu, text: new Uint8Array(header.dataBytes), filledBytes: 0 }
  }

  #loginData(bytes: Uint8Array): void {
    if (this.#arriving === undefined) return
    this.#arriving.text.set(bytes, this.#arriving.filledBytes)
    this.#arriving.filledBytes += bytes.byteLength
  }

  #loginEnd(): void {
    const arriving = this.#arriving
    if (arriving === undefined) return
    this.#arriving = undefined
    const { request, text } = arriving
    if (this.#delay !== undefined || (this.#request !== undefined && this.#login.kind === 'resolving')) {
      throw new WireError('badValue', 0) // a request before the last one was answered
    }
    this.#request = request
    const { chapFailures, clock } = this.#host
    const isProof = this.#login.kind === 'negotiating' && this.#login.security.kind === 'challenged'
    const delayMs = isProof ? chapFailures.delayMs(this.remoteAddress, clock.nowMs()) : 0
    if (delayMs === 0) {
      this.#step({ kind: 'request', request, text })
      return
    }
    if (!chapFailures.beginWait(this.remoteAddress)) {
      this.#refuse(loginStatus.serviceUnavailable, 'tooManyAttempts', 'too many wrong secrets from this address')
      return
    }
    this.#delay = clock.after(delayMs, () => {
      this.#delay = undefined
      chapFailures.endWait(this.remoteAddress)
      this.#step({ kind: 'request', request, text })
      this.flushSoon()
    })
  }

  #step(input: Parameters<typeof loginStep>[2]): void {
    const { state, output } = loginStep(this.#loginTerms, this.#login, input)
    this.#login = state
    this.#closeChallenge()
    switch (output.kind) {
      case 'resolve':
        this.#resolve(output.attempt)
        return
      case 'respond':
        if (output.challenge !== undefined) {
          this.#challenge = hexadecimal(output.challenge)
          this.#host.openChallenges.add(this.#challenge)
        }
        this.#respond(output.answer, 0)
        return
      case 'fail':
        if (output.reason === 'wrongCredentials') this.#countFailure()
        this.#refuse(output.status, output.reason, output.detail, output.text)
        return
      case 'complete':
        this.#complete(output)
        return
      default:
        unreachable(output)
    }
  }

  #resolve(attempt: LoginAttempt): void {
    this.#attempt = attempt
    const { directory } = this.#host
    const discovery = attempt.targetName === undefined
    const asked = discovery ? directory.discover(attempt) : directory.resolve(attempt)
    const decided = (verdict: Awaited<typeof asked>): void => {
      if (this.#closing) return
      this.#step({ kind: 'verdict', verdict: { kind: discovery ? 'discovery' : 'normal', verdict } as LoginVerdict })
    }
    if (!(asked instanceof Promise)) {
      decided(asked)
      return
    }
    asked.then(decided, (error: unknown) => {
      if (!this.#closing) this.#refuse(loginStatus.targetError, 'unavailable', messageOf(error))
    })
  }

  /** Puts the session in its place, when nothing of a former one can still write. */
  #complete(output: Complete): void {
    const { registry } = this.#host
    if (output.accepted.kind === 'discovery') {
      this.#open(output, undefined)
      return
    }
    const { initiatorName, targetName = '', isid } = output.attempt
    const { targetPort = 1 } = output.accepted.verdict
    const key = sessionKey({ initiatorName, targetName, isid, targetPort })
    const former = registry.find(key)
    if (output.tsih !== 0) {
      // §6.3.4: a TSIH asks to join a session; with one connection that can only be to take its place.
      if (former === undefined || former.handle !== output.tsih) {
        this.#refuse(loginStatus.sessionMissing, 'sessionMissing', 'no such session')
        return
      }
      if (former.connectionId !== output.connectionId) {
        this.#refuse(loginStatus.tooManyConnections, 'tooManyConnections', 'one connection for a session')
        return
      }
    }
    // §6.3.5: the same initiator port again means that the old session is dead, whatever TCP believes.
    const formerId = former?.identity.sessionId
    former?.close('reinstated')
    registry.whenDrained(key, () => {
      if (!this.#closing) this.#open(output, key, formerId)
    })
  }

  #open(output: Complete, key: string | undefined, formerSessionId?: number): void {
    const { registry, events } = this.#host
    const { attempt, accepted } = output
    if (registry.size >= sessionsMax) {
      this.#refuse(loginStatus.outOfResources, 'tooManySessions', `${sessionsMax} sessions are open`)
      return
    }
    const { label } = accepted.verdict
    const { initiatorName, targetName, isid, remote } = attempt
    const identity: SessionIdentity = { sessionId: registry.nextId(), initiatorName, targetName, isid, remote, label }
    const handle = output.tsih === 0 ? registry.newHandle() : output.tsih
    const targetPort = accepted.kind === 'normal' ? (accepted.verdict.targetPort ?? 1) : 1
    const nexus = { initiatorPort: `${initiatorName},i,0x${isid}`, targetPort, initiatorName, isid }
    const deviceServer = accepted.kind === 'normal' ? accepted.verdict.deviceServer : undefined
    this.#respond(output.answer, handle)
    this.#request = undefined
    const session = new Session(
      {
        identity,
        attempt,
        key,
        handle,
        connectionId: output.connectionId,
        parameters: output.parameters,
        nexus,
        deviceServer,
        commandNumber: output.commandNumber,
        statusNumber: this.#statusNumber,
      },
      this,
    )
    this.session = session
    this.reader.taker = session
    registry.add(session)
    deviceServer?.attach(nexus)
    this.#forgetLogin()
    this.#host.loggedIn(this)
    events({ kind: 'sessionOpened', session: identity, authentication: output.authentication })
    if (formerSessionId !== undefined) events({ kind: 'sessionReinstated', session: identity, formerSessionId })
  }

  /** Called when the login has taken too long, or must make room. */
  giveUp(): void {
    if (this.session !== undefined || this.#closing) return
    this.#loginFailed('timedOut', `no login within ${loginWithinMs} ms`)
    this.#closing = true
    this.reader.stop()
    this.#forgetLogin()
    this.#wire.destroy()
  }

  #refuse(status: LoginStatus, reason: LoginFailure, detail: string, text: Uint8Array = noText): void {
    this.#loginFailed(reason, detail)
    const currentStage: Stage = this.#request?.currentStage === stage.operational ? stage.operational : stage.security
    this.#send({ transit: false, more: false, currentStage, nextStage: stage.security, text }, 0, status)
    this.hangUp()
  }

  #respond(answer: LoginAnswer, tsih: number): void {
    this.#send(answer, tsih, loginStatus.success)
  }

  #send(answer: LoginAnswer, tsih: number, status: LoginStatus): void {
    const request = this.#request
    const commandNumber = request?.commandNumber ?? 0
    const noDigests = { headerDigest: false, dataDigest: false }
    const region = this.memory.take(framedBytes(answer.text.byteLength, noDigests))
    if (region.slab === undefined) return
    // §11.13.4: StatSN means something only when the login has not failed.
    const statusNumber = status === loginStatus.success ? this.#statusNumber : 0
    encodeTargetPdu(
      region.slab.view,
      region.start,
      {
        kind: 'loginResponse',
        statusNumber,
        expectedCommandNumber: commandNumber,
        maxCommandNumber: commandNumber,
        transit: answer.transit,
        more: answer.more,
        currentStage: answer.currentStage,
        nextStage: answer.nextStage,
        versionMax: 0,
        versionActive: 0,
        isid: request?.isid ?? '000000000000',
        tsih: tsih === 0 ? (request?.tsih ?? 0) : tsih,
        initiatorTaskTag: request?.initiatorTaskTag ?? noTag,
        status,
      },
      answer.text.byteLength,
    )
    const from = dataStart(region.start, noDigests)
    region.bytes.fill(0, from, region.end)
    region.bytes.set(answer.text, from)
    this.#statusNumber = after(this.#statusNumber)
    this.outbox.push(region)
    this.flushSoon()
  }

  #countFailure(): void {
    const { chapFailures, clock, events } = this.#host
    const nowMs = clock.nowMs()
    const failureCount = chapFailures.failed(this.remoteAddress, nowMs)
    if (failureCount < chapFailuresMax) return
    const untilMs = clock.wallMs() + chapFailures.delayMs(this.remoteAddress, nowMs)
    events({ kind: 'addressSlowed', address: this.remoteAddress, failureCount, untilMs })
  }

  #loginFailed(reason: LoginFailure, detail: string): void {
    if (this.session !== undefined) return
    // A port that was only looked at (a health check, a scan) is no login.
    if (this.#request === undefined && this.#arriving === undefined && reason === 'disconnected') return
    this.#host.events({
      kind: 'loginFailed',
      reason,
      initiatorName: this.#attempt?.initiatorName,
      targetName: this.#attempt?.targetName,
      remote: this.#wire.remote,
      detail,
    })
  }

  #forgetLogin(): void {
    if (this.#delay !== undefined) this.#host.chapFailures.endWait(this.remoteAddress)
    this.#delay?.cancel()
    this.#delay = undefined
    this.#closeChallenge()
    this.#login = { kind: 'done' }
  }

  #closeChallenge(): void {
    if (this.#challenge !== undefined) this.#host.openChallenges.delete(this.#challenge)
    this.#challenge = undefined
  }
}

const noText = new Uint8Array(0)

function hexadecimal(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')
}
