/**
 * One connection of a target, from accept to close: frames, login, then a session. RFC 7143 §7.1 in short:
 *
 *   login ──complete──▶ session ──logout, fault, peer gone──▶ closed
 *     └─────────────── fail, timeout ──────────────────────────▲
 *
 * Everything that a PDU causes within one `onData` leaves in one write.
 */
import { messageOf } from '../base/errors.ts'
import type { Timer } from '../ports/clock.ts'
import type { TcpConnection, TcpHandler } from '../ports/tcp.ts'
import type { Endpoint } from '../ports/udp.ts'
import { WireError } from '../wire/reader.ts'
import { loginStatus } from './codes.ts'
import type { DataOutMemory } from './data-out-memory.ts'
import { FrameReader } from './frame.ts'
import { lingerMs, loginWithinMs, sendQueueBytesToPause, sessionsMax, sessionsOfAddressMax } from './limits.ts'
import { type CompleteLogin, type LoginConnection, LoginExchange, type LoginHost } from './login-exchange.ts'
import type { LoginAttempt, SessionEnd, SessionIdentity, TargetListing } from './policy.ts'
import { type SessionRegistry, sessionKey } from './registry.ts'
import { Outbox, type SendMemory } from './send-memory.ts'
import { Session, type SessionHost } from './session.ts'

/** The target around all its connections. */
export interface ConnectionHost extends LoginHost {
  readonly registry: SessionRegistry
  readonly dataOut: DataOutMemory
  /** The login is over, one way or the other: no longer among those that must hurry. */
  loggedIn(connection: Connection): void
  closed(connection: Connection): void
}

export class Connection implements TcpHandler, LoginConnection, SessionHost {
  readonly #host: ConnectionHost
  readonly #wire: TcpConnection
  readonly borrowsChunks = true
  readonly reader: FrameReader
  readonly outbox: Outbox
  readonly #login: LoginExchange
  readonly acceptedAtMs: number
  lastHeardAtMs: number

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
    this.#login = new LoginExchange(host, this)
    this.reader = new FrameReader(this.#login)
    this.acceptedAtMs = host.clock.nowMs()
    this.lastHeardAtMs = this.acceptedAtMs
  }

  get remote(): Endpoint {
    return this.#wire.remote
  }

  get local(): Endpoint {
    return this.#wire.local
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
    return this.session?.input.receiveInto(this.reader.dataLeft)
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
      if (this.session === undefined) this.#login.report('protocolError', error.message)
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
      if (this.session === undefined) this.#login.report('unavailable', messageOf(error))
      else this.session.finish('fault')
    }
    this.hangUp()
    if (!(error instanceof WireError)) throw error
  }

  /** The peer is gone, or we have had enough of it. */
  #end(end: SessionEnd): void {
    if (this.session !== undefined) this.session.finish(end)
    else if (!this.#closing) this.#login.report('disconnected', 'the connection ended before the login did')
    this.#closing = true
    this.reader.stop()
    this.#login.stop()
  }

  // --- SessionHost

  flushSoon(): void {
    if (!this.#inTurn) this.outbox.flush()
  }

  hangUp(): void {
    if (this.#closing) return
    this.#closing = true
    this.reader.stop()
    this.#login.stop()
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
    // A reservation must not end before the writes that it protects.
    session.whenQuiet(() => session.deviceServer?.detach(session.nexus))
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

  // --- from login to session: LoginConnection

  /** Puts the session in its place, when nothing of a former one can still write. */
  completed(output: CompleteLogin): void {
    if (output.accepted.kind === 'discovery') {
      if (output.tsih === 0) this.#open(output, undefined)
      else this.#login.refuse(loginStatus.sessionMissing, 'sessionMissing', 'no such session')
      return
    }
    const { initiatorName, targetName = '', isid } = output.attempt
    const { targetPort = 1 } = output.accepted.verdict
    this.#takePlace(output, sessionKey({ initiatorName, targetName, isid, targetPort }))
  }

  /** `formerSessionId`: of the session whose place this login has made free. */
  #takePlace(output: CompleteLogin, key: string, formerSessionId?: number): void {
    const { registry } = this.#host
    const former = registry.find(key)
    // §6.3.4: a TSIH asks to join a session; with one connection that can only be to take its place. When it has been made
    // free, another login may have been quicker.
    if (output.tsih !== 0 && (former !== undefined || formerSessionId === undefined)) {
      if (former === undefined || former.handle !== output.tsih) {
        this.#login.refuse(loginStatus.sessionMissing, 'sessionMissing', 'no such session')
        return
      }
      if (former.connectionId !== output.connectionId) {
        this.#login.refuse(loginStatus.tooManyConnections, 'tooManyConnections', 'one connection for a session')
        return
      }
    }
    // §6.3.5: the same initiator port again means that the old session is dead, whatever TCP believes.
    former?.close('reinstated')
    const formerId = former?.identity.sessionId ?? formerSessionId
    if (!registry.isDraining(key)) {
      this.#open(output, key, formerId)
      return
    }
    registry.whenDrained(key, () => {
      // Others may have waited as well: whoever is there by now is looked for again.
      if (!this.#closing) this.#takePlace(output, key, formerId)
    })
  }

  #open(output: CompleteLogin, key: string | undefined, formerSessionId?: number): void {
    const { registry, events } = this.#host
    const { attempt, accepted } = output
    if (registry.countFrom(this.remoteAddress) >= sessionsOfAddressMax) {
      const detail = `${sessionsOfAddressMax} sessions are open from this address`
      this.#login.refuse(loginStatus.outOfResources, 'tooManySessions', detail)
      return
    }
    if (registry.size >= sessionsMax) registry.leastMissed()?.close('idle')
    if (registry.size >= sessionsMax) {
      this.#login.refuse(loginStatus.outOfResources, 'tooManySessions', `${sessionsMax} sessions are open`)
      return
    }
    const { label } = accepted.verdict
    const { initiatorName, targetName, isid, remote } = attempt
    const identity: SessionIdentity = { sessionId: registry.nextId(), initiatorName, targetName, isid, remote, label }
    const handle = output.tsih === 0 ? registry.newHandle() : output.tsih
    const targetPort = accepted.kind === 'normal' ? (accepted.verdict.targetPort ?? 1) : 1
    const nexus = { initiatorPort: `${initiatorName},i,0x${isid}`, targetPort, initiatorName, isid }
    const deviceServer = accepted.kind === 'normal' ? accepted.verdict.deviceServer : undefined
    this.#login.respond(output.answer, handle)
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
        statusNumber: this.#login.statusNumber,
      },
      this,
    )
    this.session = session
    this.reader.taker = session.input
    registry.add(session)
    deviceServer?.attach(nexus)
    this.#login.stop()
    this.#host.loggedIn(this)
    events({ kind: 'sessionOpened', session: identity, authentication: output.authentication })
    if (formerSessionId !== undefined) events({ kind: 'sessionReinstated', session: identity, formerSessionId })
  }

  /** Called when the login has taken too long, or must make room. */
  giveUp(): void {
    if (this.session !== undefined || this.#closing) return
    this.#login.report('timedOut', `no login within ${loginWithinMs} ms`)
    this.#closing = true
    this.reader.stop()
    this.#login.stop()
    this.#wire.destroy()
  }
}
