/**
 * A small initiator: discovery, commands, task management over one connection, error recovery level 0, everything in order.
 * For tests, fuzzing and rehearsal. Written against `ports`.
 *
 *   connectInitiator ─▶ `logIn` (CHAP, keys, redirects) ─▶ InitiatorSession, both on an `InitiatorWire`
 */
import { OperationError } from '../base/errors.ts'
import type { Hash } from '../ports/hash.ts'
import type { Random } from '../ports/random.ts'
import type { TcpNetwork } from '../ports/tcp.ts'
import type { Endpoint } from '../ports/udp.ts'
import { WireError } from '../wire/reader.ts'
import { AnswerText } from './answer-text.ts'
import { logoutReason } from './codes.ts'
import { noTag } from './header.ts'
import { logIn } from './initiator-login.ts'
import { InitiatorWire } from './initiator-wire.ts'
import type { Parameters } from './negotiation.ts'
import type { ChapAlgorithm, ChapCredential } from './policy.ts'
import type { Residual, TargetPdu } from './target-pdu.ts'
import { encodeText, type KeyValue } from './text.ts'

export interface InitiatorOptions {
  readonly network: TcpNetwork
  readonly random: Random
  readonly hash: Hash
  readonly to: Endpoint
  readonly initiatorName: string
  /** Undefined: a discovery session. */
  readonly targetName?: string
  /** 12 hexadecimal digits. Random if absent. */
  readonly isid?: string
  readonly chap?: {
    readonly initiator: ChapCredential
    /** What the target must prove: mutual CHAP. */
    readonly target?: ChapCredential
    /** What we offer, best first. Default: all, strongest first. */
    readonly algorithms?: readonly ChapAlgorithm[]
  }
  readonly headerDigest?: boolean
  readonly dataDigest?: boolean
  /** Operational keys in place of ours: ['InitialR2T', 'Yes']. */
  readonly offers?: readonly KeyValue[]
}

export interface CommandRequest {
  readonly cdb: Uint8Array
  readonly lun?: Uint8Array
  /** Room for data-in. */
  readonly readBytes?: number
  readonly write?: Uint8Array
}

export interface CommandResult {
  readonly status: number
  readonly data: Uint8Array
  readonly sense: Uint8Array
  readonly residual: Residual
}

export interface InitiatorSession {
  readonly tsih: number
  readonly parameters: Parameters
  /** Rejects with OperationError connectionLost when the connection ends before the answer. */
  command(request: CommandRequest): Promise<CommandResult>
  /** The response code of RFC 7143 §11.6.1. */
  manage(request: {
    readonly function: number
    readonly lun?: Uint8Array
    readonly referencedTaskTag?: number
  }): Promise<number>
  /** Sends data and gets it back. */
  ping(data: Uint8Array): Promise<Uint8Array>
  text(pairs: readonly KeyValue[]): Promise<readonly KeyValue[]>
  /** Returns the response code; the connection is closed. */
  logout(): Promise<number>
  /** Closes without a word, as a power cut does. */
  destroy(): void
  /** PDUs that nobody asked for: asynchronous messages, rejects. */
  readonly unasked: readonly TargetPdu[]
  readonly closed: Promise<string>
}

/** How many times one login follows 'target moved'. */
const redirectsMax = 3

/** @throws {OperationError} loginRefused, impostor, connectionRefused, unreachable, connectionLost */
export async function connectInitiator(options: InitiatorOptions): Promise<InitiatorSession> {
  let to = options.to
  for (let redirects = 0; ; redirects++) {
    const wire = new InitiatorWire()
    await options.network.connect(to, (connection) => wire.opened(connection))
    let outcome: Awaited<ReturnType<typeof logIn>>
    try {
      outcome = await logIn(wire, options)
    } catch (error) {
      wire.destroy()
      throw error
    }
    if ('tsih' in outcome) return new Session(wire, outcome.tsih)
    wire.destroy()
    if (redirects === redirectsMax) {
      throw new OperationError(
        'loginRefused',
        `${to.address} sends us from one portal to the next`,
        'Ask its operator.',
      )
    }
    to = outcome.moved
  }
}

const noData = new Uint8Array(0)
const lunZero = new Uint8Array(8)

class Session implements InitiatorSession {
  readonly #wire: InitiatorWire
  readonly tsih: number
  readonly parameters: Parameters
  readonly unasked: readonly TargetPdu[]
  readonly closed: Promise<string>

  constructor(wire: InitiatorWire, tsih: number) {
    this.#wire = wire
    this.tsih = tsih
    this.parameters = wire.parameters
    this.unasked = wire.unasked
    this.closed = wire.closed
  }

  command({ cdb, lun = lunZero, readBytes = 0, write }: CommandRequest): Promise<CommandResult> {
    const tag = this.#wire.newTag()
    const { immediateData, firstBurstBytesMax, peerSegmentBytesMax } = this.parameters
    const padded = new Uint8Array(Math.max(16, cdb.byteLength))
    padded.set(cdb)
    const immediateBytes =
      write !== undefined && immediateData ? Math.min(write.byteLength, firstBurstBytesMax, peerSegmentBytesMax) : 0
    const read = new Uint8Array(readBytes)
    let filledBytes = 0
    if (write !== undefined) this.#wire.offer(tag, write)
    return this.#wire.ask(
      tag,
      () =>
        this.#wire.send(
          {
            kind: 'scsiCommand',
            immediate: false,
            final: true,
            read: readBytes > 0,
            write: write !== undefined,
            attribute: 'simple',
            lun,
            initiatorTaskTag: tag,
            expectedTransferBytes: write?.byteLength ?? readBytes,
            ...this.#wire.numbers(),
            cdb: padded,
          },
          write?.subarray(0, immediateBytes),
        ),
      (pdu, data): CommandResult | undefined => {
        if (pdu.kind === 'dataIn') {
          if (pdu.bufferOffset + data.byteLength > readBytes) throw new WireError('badLength', 40)
          read.set(data, pdu.bufferOffset)
          filledBytes = Math.max(filledBytes, pdu.bufferOffset + data.byteLength)
          if (pdu.status === undefined) return undefined
          const { status, residual } = pdu
          return { status, data: read.subarray(0, filledBytes), sense: noData, residual }
        }
        if (pdu.kind !== 'scsiResponse') return undefined
        const { status, residual } = pdu
        return { status, data: read.subarray(0, filledBytes), sense: data.subarray(2), residual }
      },
    )
  }

  manage(request: {
    readonly function: number
    readonly lun?: Uint8Array
    readonly referencedTaskTag?: number
  }): Promise<number> {
    const tag = this.#wire.newTag()
    return this.#wire.ask(
      tag,
      () =>
        this.#wire.send({
          kind: 'taskManagement',
          immediate: true,
          function: request.function,
          lun: request.lun ?? lunZero,
          initiatorTaskTag: tag,
          referencedTaskTag: request.referencedTaskTag ?? noTag,
          ...this.#wire.currentNumbers,
          referencedCommandNumber: 0,
        }),
      (pdu) => (pdu.kind === 'taskManagementResponse' ? pdu.response : undefined),
    )
  }

  ping(data: Uint8Array): Promise<Uint8Array> {
    const tag = this.#wire.newTag()
    return this.#wire.ask(
      tag,
      () =>
        this.#wire.send(
          {
            kind: 'nopOut',
            immediate: false,
            lun: lunZero,
            initiatorTaskTag: tag,
            targetTransferTag: noTag,
            ...this.#wire.numbers(),
          },
          data,
        ),
      (pdu, answer) => (pdu.kind === 'nopIn' ? answer : undefined),
    )
  }

  text(pairs: readonly KeyValue[]): Promise<readonly KeyValue[]> {
    const tag = this.#wire.newTag()
    const answer = new AnswerText()
    const ask = (targetTransferTag: number, data: Uint8Array): void =>
      this.#wire.send(
        {
          kind: 'text',
          immediate: false,
          final: true,
          more: false,
          lun: lunZero,
          initiatorTaskTag: tag,
          targetTransferTag,
          ...this.#wire.numbers(),
        },
        data,
      )
    return this.#wire.ask(
      tag,
      () => ask(noTag, encodeText(pairs)),
      (pdu, data) => {
        if (pdu.kind !== 'textResponse') return undefined
        answer.add(data)
        if (pdu.final) return answer.pairs()
        ask(pdu.targetTransferTag, noData)
        return undefined
      },
    )
  }

  async logout(): Promise<number> {
    const tag = this.#wire.newTag()
    const response = await this.#wire.ask(
      tag,
      () =>
        this.#wire.send({
          kind: 'logout',
          immediate: false,
          reason: logoutReason.closeSession,
          initiatorTaskTag: tag,
          connectionId: 0,
          ...this.#wire.numbers(),
        }),
      (pdu) => (pdu.kind === 'logoutResponse' ? pdu.response : undefined),
    )
    this.#wire.hangUp()
    return response
  }

  destroy(): void {
    this.#wire.destroy()
  }
}
