/**
 * The login of one connection: its PDUs in and out, the questions to the directory, and the wait of who guesses secrets.
 * What is decided is decided in `login.ts`.
 */
import { unreachable } from '../base/assert.ts'
import { messageOf } from '../base/errors.ts'
import type { Clock, Timer } from '../ports/clock.ts'
import type { Hash } from '../ports/hash.ts'
import type { Random } from '../ports/random.ts'
import type { Endpoint } from '../ports/udp.ts'
import { WireError } from '../wire/reader.ts'
import type { ChapFailures } from './chap-failures.ts'
import { type LoginStatus, loginStatus, type Stage, stage } from './codes.ts'
import type { FrameTaker } from './frame.ts'
import { type Header, noTag } from './header.ts'
import { decodeInitiatorPdu, type LoginRequest } from './initiator-pdu.ts'
import { chapFailuresMax } from './limits.ts'
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
  ask,
  type DiscoveryVerdict,
  type IscsiEvents,
  type LoginAttempt,
  type LoginFailure,
  type TargetDirectory,
  type Verdict,
} from './policy.ts'
import { dataStart, framedBytes, type Outbox, type SendMemory } from './send-memory.ts'
import { after } from './serial-number.ts'
import { encodeTargetPdu } from './target-pdu.ts'

/** The target around all logins. */
export interface LoginHost {
  readonly clock: Clock
  readonly random: Random
  readonly hash: Hash
  readonly directory: TargetDirectory
  readonly events: IscsiEvents
  readonly memory: SendMemory
  readonly chapFailures: ChapFailures
  /** Challenges sent and not answered yet, on any connection, in hexadecimal. */
  readonly openChallenges: Set<string>
}

/** The connection under a login. */
export interface LoginConnection {
  readonly remote: Endpoint
  readonly local: Endpoint
  readonly outbox: Outbox
  flushSoon(): void
  hangUp(): void
  /** Everything is agreed: now the session has to find its place. */
  completed(output: CompleteLogin): void
}

export type CompleteLogin = Extract<LoginOutput, { kind: 'complete' }>
type LoginPdu = { readonly request: LoginRequest; readonly text: Uint8Array; filledBytes: number }
const noText = new Uint8Array(0)

export class LoginExchange implements FrameTaker {
  readonly #host: LoginHost
  readonly #connection: LoginConnection
  readonly #terms: LoginTerms
  #state: LoginState = initialLogin
  #arriving: LoginPdu | undefined
  /** The request that is being answered: its tags go into the answer. */
  #request: LoginRequest | undefined
  #attempt: LoginAttempt | undefined
  #challenge: string | undefined
  #delay: Timer | undefined
  #over = false
  statusNumber = 0

  constructor(host: LoginHost, connection: LoginConnection) {
    const { hash, random, openChallenges } = host
    const { remote, local } = connection
    this.#host = host
    this.#connection = connection
    const isOurChallenge = (bytes: Uint8Array): boolean => openChallenges.has(hexadecimal(bytes))
    this.#terms = { hash, random, remote, local, isOurChallenge }
  }

  // --- FrameTaker

  header(header: Header): void {
    const pdu = decodeInitiatorPdu(header)
    // §6.3: nothing but login requests before full-feature phase.
    if (pdu.kind !== 'login') throw new WireError('unknownOpcode', header.at)
    this.#arriving = { request: pdu, text: new Uint8Array(header.dataBytes), filledBytes: 0 }
  }

  data(bytes: Uint8Array): void {
    if (this.#arriving === undefined) return
    this.#arriving.text.set(bytes, this.#arriving.filledBytes)
    this.#arriving.filledBytes += bytes.byteLength
  }

  end(): void {
    const arriving = this.#arriving
    if (arriving === undefined) return
    this.#arriving = undefined
    const { request, text } = arriving
    if (this.#delay !== undefined || (this.#request !== undefined && this.#state.kind === 'resolving')) {
      throw new WireError('badValue', 0) // a request before the last one was answered
    }
    this.#request = request
    const { chapFailures, clock } = this.#host
    const { address } = this.#connection.remote
    const isProof = this.#state.kind === 'negotiating' && this.#state.security.kind === 'challenged'
    const delayMs = isProof ? chapFailures.delayMs(address, clock.nowMs()) : 0
    if (delayMs === 0) {
      this.#step({ kind: 'request', request, text })
      return
    }
    if (!chapFailures.beginWait(address)) {
      this.refuse(loginStatus.serviceUnavailable, 'tooManyAttempts', 'too many wrong secrets from this address')
      return
    }
    this.#delay = clock.after(delayMs, () => {
      this.#delay = undefined
      chapFailures.endWait(address)
      this.#step({ kind: 'request', request, text })
      this.#connection.flushSoon()
    })
  }

  #step(input: Parameters<typeof loginStep>[2]): void {
    const { state, output } = loginStep(this.#terms, this.#state, input)
    this.#state = state
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
        this.respond(output.answer, 0)
        return
      case 'fail':
        if (output.reason === 'wrongCredentials') this.#countFailure()
        this.refuse(output.status, output.reason, output.detail, output.text)
        return
      case 'complete':
        this.#connection.completed(output)
        return
      default:
        unreachable(output)
    }
  }

  #resolve(attempt: LoginAttempt): void {
    this.#attempt = attempt
    const { directory } = this.#host
    const discovery = attempt.targetName === undefined
    const asked = ask<DiscoveryVerdict | Verdict>(() =>
      discovery ? directory.discover(attempt) : directory.resolve(attempt),
    )
    const decided = (verdict: Awaited<typeof asked>): void => {
      if (this.#over) return
      this.#step({ kind: 'verdict', verdict: { kind: discovery ? 'discovery' : 'normal', verdict } as LoginVerdict })
    }
    if (!(asked instanceof Promise)) {
      decided(asked)
      return
    }
    asked.then(decided, (error: unknown) => {
      if (!this.#over) this.refuse(loginStatus.targetError, 'unavailable', messageOf(error))
    })
  }

  // --- answers

  respond(answer: LoginAnswer, tsih: number): void {
    this.#send(answer, tsih, loginStatus.success)
  }

  /** The last answer; the connection ends after it. */
  refuse(status: LoginStatus, reason: LoginFailure, detail: string, text: Uint8Array = noText): void {
    this.report(reason, detail)
    const currentStage: Stage = this.#request?.currentStage === stage.operational ? stage.operational : stage.security
    this.#send({ transit: false, more: false, currentStage, nextStage: stage.security, text }, 0, status)
    this.#connection.hangUp()
  }

  #send(answer: LoginAnswer, tsih: number, status: LoginStatus): void {
    const request = this.#request
    const commandNumber = request?.commandNumber ?? 0
    const noDigests = { headerDigest: false, dataDigest: false }
    const region = this.#host.memory.take(framedBytes(answer.text.byteLength, noDigests))
    if (region.slab === undefined) return
    // §11.13.4: StatSN means something only when the login has not failed.
    const statusNumber = status === loginStatus.success ? this.statusNumber : 0
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
    this.statusNumber = after(this.statusNumber)
    this.#connection.outbox.push(region)
    this.#connection.flushSoon()
  }

  #countFailure(): void {
    const { chapFailures, clock, events } = this.#host
    const { address } = this.#connection.remote
    const nowMs = clock.nowMs()
    const failureCount = chapFailures.failed(address, nowMs)
    if (failureCount < chapFailuresMax) return
    const untilMs = clock.wallMs() + chapFailures.delayMs(address, nowMs)
    events({ kind: 'addressSlowed', address, failureCount, untilMs })
  }

  /** Tells that there will be no session, and why. */
  report(reason: LoginFailure, detail: string): void {
    // A port that was only looked at (a health check, a scan) is no login.
    if (this.#request === undefined && this.#arriving === undefined && reason === 'disconnected') return
    this.#host.events({
      kind: 'loginFailed',
      reason,
      initiatorName: this.#attempt?.initiatorName,
      targetName: this.#attempt?.targetName,
      remote: this.#connection.remote,
      detail,
    })
  }

  /** It has ended, well or badly. Idempotent. */
  stop(): void {
    this.#over = true
    if (this.#delay !== undefined) this.#host.chapFailures.endWait(this.#connection.remote.address)
    this.#delay?.cancel()
    this.#delay = undefined
    this.#closeChallenge()
    this.#state = { kind: 'done' }
  }

  #closeChallenge(): void {
    if (this.#challenge !== undefined) this.#host.openChallenges.delete(this.#challenge)
    this.#challenge = undefined
  }
}

function hexadecimal(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')
}
