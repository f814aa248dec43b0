/**
 * A small initiator: login (CHAP in both directions, digests), discovery, commands, task management. For tests, fuzzing and
 * rehearsal; one connection, error recovery level 0, everything in order. Written against `ports`.
 */
import { OperationError } from '../base/errors.ts'
import { equalInConstantTime } from '../base/secret.ts'
import type { Hash } from '../ports/hash.ts'
import type { Random } from '../ports/random.ts'
import type { TcpConnection, TcpHandler, TcpNetwork } from '../ports/tcp.ts'
import type { Endpoint } from '../ports/udp.ts'
import { crc32c } from '../wire/crc32c.ts'
import { WireError } from '../wire/reader.ts'
import { chapAlgorithms, respond } from './chap.ts'
import { loginStatus, logoutReason, stage } from './codes.ts'
import { FrameReader, type FrameTaker } from './frame.ts'
import { digestBytes, type Header, headerBytes, noTag } from './header.ts'
import { encodeInitiatorPdu, type InitiatorPdu } from './initiator-pdu.ts'
import { chapBinaryBytesMax, receiveSegmentBytesMax } from './limits.ts'
import { defaultParameters, type Parameters } from './negotiation.ts'
import type { ChapAlgorithm, ChapCredential } from './policy.ts'
import { after } from './serial-number.ts'
import { decodeTargetPdu, type LoginResponse, type Residual, type TargetPdu } from './target-pdu.ts'
import { encodeText, formatHexadecimal, type KeyValue, parseBinary, textValue } from './text.ts'

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
    const session = new Session({ ...options, to })
    const moved = await session.open()
    if (moved === undefined) return session
    if (redirects === redirectsMax) {
      throw new OperationError(
        'loginRefused',
        `${to.address} sends us from one portal to the next`,
        'Ask its operator.',
      )
    }
    to = moved
  }
}

type Waiting = { readonly answer: (pdu: TargetPdu, data: Uint8Array) => void; readonly lost: (error: Error) => void }
const noData = new Uint8Array(0)
const lunZero = new Uint8Array(8)

class Session implements InitiatorSession, TcpHandler, FrameTaker {
  readonly #options: InitiatorOptions
  readonly #isid: string
  readonly #reader: FrameReader = new FrameReader(this)
  readonly #waiting = new Map<number, Waiting>()
  readonly #transfers = new Map<number, Uint8Array>()
  readonly unasked: TargetPdu[] = []
  readonly closed: Promise<string>
  #ended: (reason: string) => void = () => {}
  #isClosed = false
  #wire: TcpConnection | undefined
  #pdu: TargetPdu | undefined
  #data = noData
  #filledBytes = 0
  #commandNumber = 1
  #expectedStatusNumber = 0
  #taskTag = 0
  tsih = 0
  parameters: Parameters = defaultParameters

  constructor(options: InitiatorOptions) {
    this.#options = options
    // §11.12.5: type "random" in the first byte.
    this.#isid = options.isid ?? `80${formatHexadecimal(options.random.bytes(5)).slice(2)}`
    this.closed = new Promise((resolve) => {
      this.#ended = resolve
    })
  }

  // --- TcpHandler

  onData(chunk: Uint8Array): void {
    try {
      this.#reader.receive(chunk)
    } catch (error) {
      if (!(error instanceof WireError)) throw error
      this.#wire?.destroy()
      this.#lost(error.message)
    }
  }

  onEnd(): void {
    this.#wire?.end()
    this.#lost('the target closed the connection')
  }

  onClose(reason: string): void {
    this.#lost(reason)
  }

  #lost(reason: string): void {
    if (this.#isClosed) return
    this.#isClosed = true
    const error = new OperationError('connectionLost', `connection lost: ${reason}`, 'See what the target says of it.')
    for (const { lost } of this.#waiting.values()) lost(error)
    this.#waiting.clear()
    this.#ended(reason)
  }

  // --- FrameTaker

  header(header: Header): void {
    this.#pdu = decodeTargetPdu(header)
    this.#data = new Uint8Array(header.dataBytes)
    this.#filledBytes = 0
  }

  data(bytes: Uint8Array): void {
    this.#data.set(bytes, this.#filledBytes)
    this.#filledBytes += bytes.byteLength
  }

  end(intact: boolean): void {
    if (!intact) throw new WireError('badValue', headerBytes)
    const pdu = this.#pdu
    if (pdu === undefined) return
    if (pdu.kind !== 'dataIn' || pdu.status !== undefined) {
      if (pdu.kind !== 'readyToTransfer') this.#expectedStatusNumber = after(pdu.statusNumber)
    }
    if (pdu.kind === 'readyToTransfer') {
      this.#transfer(pdu)
      return
    }
    if (pdu.kind === 'nopIn' && pdu.initiatorTaskTag === noTag) {
      this.#answerPing(pdu.targetTransferTag, pdu.lun)
      return
    }
    const tag = 'initiatorTaskTag' in pdu ? pdu.initiatorTaskTag : noTag
    const waiting = this.#waiting.get(tag)
    if (waiting === undefined) this.unasked.push(pdu)
    else waiting.answer(pdu, this.#data)
  }

  #transfer(pdu: Extract<TargetPdu, { kind: 'readyToTransfer' }>): void {
    const source = this.#transfers.get(pdu.initiatorTaskTag)
    if (source === undefined) return
    const end = pdu.bufferOffset + pdu.desiredBytes
    let dataNumber = 0
    for (let at = pdu.bufferOffset; at < end; ) {
      const bytes = Math.min(this.parameters.peerSegmentBytesMax, end - at)
      this.#send(
        {
          kind: 'dataOut',
          final: at + bytes === end,
          lun: pdu.lun,
          initiatorTaskTag: pdu.initiatorTaskTag,
          targetTransferTag: pdu.targetTransferTag,
          expectedStatusNumber: this.#expectedStatusNumber,
          dataNumber: dataNumber++,
          bufferOffset: at,
        },
        source.subarray(at, at + bytes),
      )
      at += bytes
    }
  }

  #answerPing(targetTransferTag: number, lun: Uint8Array): void {
    this.#send({
      kind: 'nopOut',
      immediate: true,
      lun,
      initiatorTaskTag: noTag,
      targetTransferTag,
      commandNumber: this.#commandNumber,
      expectedStatusNumber: this.#expectedStatusNumber,
    })
  }

  // --- sending

  #send(pdu: InitiatorPdu, data: Uint8Array = noData): void {
    const plain = encodeInitiatorPdu(pdu, data)
    const headerEnd = headerBytes + (plain[4] ?? 0) * 4
    if (pdu.kind === 'login') {
      this.#wire?.write(plain)
      return
    }
    const pieces = [plain.subarray(0, headerEnd)]
    if (this.parameters.headerDigest) pieces.push(digestOf(plain.subarray(0, headerEnd)))
    if (plain.byteLength > headerEnd) {
      pieces.push(plain.subarray(headerEnd))
      if (this.parameters.dataDigest) pieces.push(digestOf(plain.subarray(headerEnd)))
    }
    for (const piece of pieces) this.#wire?.write(piece)
  }

  #newTag(): number {
    this.#taskTag = (this.#taskTag + 1) % noTag
    return this.#taskTag
  }

  /** `take` returns what resolves the promise, or undefined to wait for more. */
  #ask<Answer>(
    tag: number,
    send: () => void,
    take: (pdu: TargetPdu, data: Uint8Array) => Answer | undefined,
  ): Promise<Answer> {
    return new Promise((resolve, reject) => {
      if (this.#isClosed) {
        reject(new OperationError('connectionLost', 'the connection is closed', 'Log in again.'))
        return
      }
      this.#waiting.set(tag, {
        answer: (pdu, data) => {
          const answer = take(pdu, data)
          if (answer === undefined) return
          this.#waiting.delete(tag)
          this.#transfers.delete(tag)
          resolve(answer)
        },
        lost: reject,
      })
      send()
    })
  }

  #numbers(): { readonly commandNumber: number; readonly expectedStatusNumber: number } {
    const commandNumber = this.#commandNumber
    this.#commandNumber = after(commandNumber)
    return { commandNumber, expectedStatusNumber: this.#expectedStatusNumber }
  }

  // --- InitiatorSession

  command({ cdb, lun = lunZero, readBytes = 0, write }: CommandRequest): Promise<CommandResult> {
    const tag = this.#newTag()
    const { immediateData, firstBurstBytesMax, peerSegmentBytesMax } = this.parameters
    const padded = new Uint8Array(Math.max(16, cdb.byteLength))
    padded.set(cdb)
    const immediateBytes =
      write !== undefined && immediateData ? Math.min(write.byteLength, firstBurstBytesMax, peerSegmentBytesMax) : 0
    const read = new Uint8Array(readBytes)
    let filledBytes = 0
    if (write !== undefined) this.#transfers.set(tag, write)
    return this.#ask(
      tag,
      () =>
        this.#send(
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
            ...this.#numbers(),
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
    const tag = this.#newTag()
    return this.#ask(
      tag,
      () =>
        this.#send({
          kind: 'taskManagement',
          immediate: true,
          function: request.function,
          lun: request.lun ?? lunZero,
          initiatorTaskTag: tag,
          referencedTaskTag: request.referencedTaskTag ?? noTag,
          commandNumber: this.#commandNumber,
          expectedStatusNumber: this.#expectedStatusNumber,
          referencedCommandNumber: 0,
        }),
      (pdu) => (pdu.kind === 'taskManagementResponse' ? pdu.response : undefined),
    )
  }

  ping(data: Uint8Array): Promise<Uint8Array> {
    const tag = this.#newTag()
    return this.#ask(
      tag,
      () =>
        this.#send(
          {
            kind: 'nopOut',
            immediate: false,
            lun: lunZero,
            initiatorTaskTag: tag,
            targetTransferTag: noTag,
            ...this.#numbers(),
          },
          data,
        ),
      (pdu, answer) => (pdu.kind === 'nopIn' ? answer : undefined),
    )
  }

  text(pairs: readonly KeyValue[]): Promise<readonly KeyValue[]> {
    const tag = this.#newTag()
    const pieces: Uint8Array[] = []
    const ask = (targetTransferTag: number, data: Uint8Array): void =>
      this.#send(
        {
          kind: 'text',
          immediate: false,
          final: true,
          more: false,
          lun: lunZero,
          initiatorTaskTag: tag,
          targetTransferTag,
          ...this.#numbers(),
        },
        data,
      )
    return this.#ask(
      tag,
      () => ask(noTag, encodeText(pairs)),
      (pdu, data) => {
        if (pdu.kind !== 'textResponse') return undefined
        pieces.push(data)
        if (pdu.final) return pairsOf(joined(pieces))
        ask(pdu.targetTransferTag, noData)
        return undefined
      },
    )
  }

  async logout(): Promise<number> {
    const tag = this.#newTag()
    const response = await this.#ask(
      tag,
      () =>
        this.#send({
          kind: 'logout',
          immediate: false,
          reason: logoutReason.closeSession,
          initiatorTaskTag: tag,
          connectionId: 0,
          ...this.#numbers(),
        }),
      (pdu) => (pdu.kind === 'logoutResponse' ? pdu.response : undefined),
    )
    this.#wire?.end()
    return response
  }

  destroy(): void {
    this.#wire?.destroy()
    this.#lost('destroyed')
  }

  // --- login

  /** Undefined when logged in; else where the target has moved to. */
  async open(): Promise<Endpoint | undefined> {
    const { network, to } = this.#options
    this.#reader.segmentBytesMax = receiveSegmentBytesMax
    await network.connect(to, (wire) => {
      this.#wire = wire
      return this
    })
    try {
      const moved = await this.#login()
      if (moved !== undefined) this.destroy()
      return moved
    } catch (error) {
      this.destroy()
      throw error
    }
  }

  async #login(): Promise<Endpoint | undefined> {
    const { chap, initiatorName, targetName } = this.#options
    const names: KeyValue[] = [
      ['InitiatorName', initiatorName],
      ['SessionType', targetName === undefined ? 'Discovery' : 'Normal'],
    ]
    if (targetName !== undefined) names.push(['TargetName', targetName])
    if (chap === undefined) {
      const first = await this.#exchange(stage.security, stage.operational, [...names, ['AuthMethod', 'None']])
      if ('moved' in first) return first.moved
    } else {
      const first = await this.#exchange(stage.security, undefined, [...names, ['AuthMethod', 'CHAP,None']])
      if ('moved' in first) return first.moved
      if (textValue(first.pairs, 'AuthMethod') === 'CHAP') await this.#prove(chap)
      else await this.#exchange(stage.security, stage.operational, [])
    }
    const last = await this.#exchange(stage.operational, stage.fullFeature, this.#operational())
    if ('moved' in last) return last.moved
    this.#settle(last.pairs)
    this.tsih = last.response.tsih
    return undefined
  }

  async #prove(chap: NonNullable<InitiatorOptions['chap']>): Promise<void> {
    const { hash, random } = this.#options
    const offered = (chap.algorithms ?? chapAlgorithms.map(({ name }) => name)).map(
      (name) => chapAlgorithms.find((algorithm) => algorithm.name === name)?.number ?? 0,
    )
    const challenged = await this.#exchange(stage.security, undefined, [['CHAP_A', offered.join(',')]])
    if ('moved' in challenged) throw refused('moved in the middle of a login')
    const number = Number(textValue(challenged.pairs, 'CHAP_A'))
    const algorithm = chapAlgorithms.find((one) => one.number === number)
    const bytes = parseBinary(textValue(challenged.pairs, 'CHAP_C') ?? '', chapBinaryBytesMax)
    const identifier = Number(textValue(challenged.pairs, 'CHAP_I'))
    if (algorithm === undefined || bytes === undefined) throw refused('a challenge that is none')
    const proof = respond(hash, { algorithm: algorithm.name, identifier, bytes }, chap.initiator.secret)
    const ours = { algorithm: algorithm.name, identifier: random.bytes(1)[0] ?? 0, bytes: random.bytes(16) }
    const asked: KeyValue[] = [
      ['CHAP_I', String(ours.identifier)],
      ['CHAP_C', formatHexadecimal(ours.bytes)],
    ]
    const proven = await this.#exchange(stage.security, stage.operational, [
      ['CHAP_N', chap.initiator.user],
      ['CHAP_R', formatHexadecimal(proof)],
      ...(chap.target === undefined ? [] : asked),
    ])
    if ('moved' in proven) throw refused('moved in the middle of a login')
    if (chap.target === undefined) return
    const theirs = parseBinary(textValue(proven.pairs, 'CHAP_R') ?? '', chapBinaryBytesMax)
    const wanted = respond(hash, ours, chap.target.secret)
    const right = theirs !== undefined && equalInConstantTime(theirs, wanted)
    if (!right || textValue(proven.pairs, 'CHAP_N') !== chap.target.user) {
      throw new OperationError('impostor', 'the target does not know its own secret', 'Compare the reverse secrets.')
    }
  }

  #operational(): readonly KeyValue[] {
    const { headerDigest = false, dataDigest = false, offers = [] } = this.#options
    const usual: readonly KeyValue[] = [
      ['HeaderDigest', headerDigest ? 'CRC32C,None' : 'None'],
      ['DataDigest', dataDigest ? 'CRC32C,None' : 'None'],
      ['MaxRecvDataSegmentLength', String(receiveSegmentBytesMax)],
      ['InitialR2T', 'Yes'],
      ['ImmediateData', 'Yes'],
      ['MaxBurstLength', '262144'],
      ['FirstBurstLength', '65536'],
      ['MaxOutstandingR2T', '4'],
      ['MaxConnections', '1'],
      ['DataPDUInOrder', 'Yes'],
      ['DataSequenceInOrder', 'Yes'],
      ['DefaultTime2Wait', '2'],
      ['DefaultTime2Retain', '0'],
      ['ErrorRecoveryLevel', '0'],
    ]
    return [...usual.filter(([key]) => textValue(offers, key) === undefined), ...offers]
  }

  #settle(answers: readonly KeyValue[]): void {
    const number = (key: string, otherwise: number): number => Number(textValue(answers, key) ?? otherwise)
    this.parameters = {
      ...defaultParameters,
      headerDigest: textValue(answers, 'HeaderDigest') === 'CRC32C',
      dataDigest: textValue(answers, 'DataDigest') === 'CRC32C',
      initialReadyToTransfer: textValue(answers, 'InitialR2T') !== 'No',
      immediateData: textValue(answers, 'ImmediateData') !== 'No',
      peerSegmentBytesMax: number('MaxRecvDataSegmentLength', defaultParameters.peerSegmentBytesMax),
      burstBytesMax: number('MaxBurstLength', defaultParameters.burstBytesMax),
      firstBurstBytesMax: number('FirstBurstLength', defaultParameters.firstBurstBytesMax),
      outstandingReadyToTransferMax: number('MaxOutstandingR2T', 1),
    }
    this.#reader.headerDigest = this.parameters.headerDigest
    this.#reader.dataDigest = this.parameters.dataDigest
  }

  /** One request and its whole answer, in as many PDUs as it takes. */
  async #exchange(
    currentStage: number,
    nextStage: number | undefined,
    pairs: readonly KeyValue[],
  ): Promise<{ readonly response: LoginResponse; readonly pairs: readonly KeyValue[] } | { readonly moved: Endpoint }> {
    const tag = this.#taskTag
    const pieces: Uint8Array[] = []
    const ask = (data: Uint8Array): void =>
      this.#send(
        {
          kind: 'login',
          transit: nextStage !== undefined,
          more: false,
          currentStage,
          nextStage: nextStage ?? 0,
          versionMax: 0,
          versionMin: 0,
          isid: this.#isid,
          tsih: 0,
          initiatorTaskTag: tag,
          connectionId: 0,
          commandNumber: this.#commandNumber,
          expectedStatusNumber: this.#expectedStatusNumber,
        },
        data,
      )
    const response = await this.#ask(
      tag,
      () => ask(encodeText(pairs)),
      (pdu, data) => {
        if (pdu.kind !== 'loginResponse') return undefined
        pieces.push(data)
        if (!pdu.more) return pdu
        ask(noData)
        return undefined
      },
    )
    const answers = pairsOf(joined(pieces))
    if (response.status === loginStatus.movedTemporarily || response.status === loginStatus.movedPermanently) {
      return { moved: portalOf(textValue(answers, 'TargetAddress') ?? '') }
    }
    if (response.status !== loginStatus.success) throw refused(statusText(response.status), response.status)
    if (nextStage !== undefined && !response.transit) throw refused('the target does not let us go on')
    return { response, pairs: answers }
  }
}

/** The status is in the code's place in the message: 'login refused: 0x0201'. */
function refused(detail: string, status?: number): OperationError {
  const hint =
    status === loginStatus.authenticationFailed
      ? 'Compare user name and secret on both sides.'
      : 'See what the target says of it.'
  return new OperationError('loginRefused', `login refused: ${detail}`, hint)
}

function statusText(status: number): string {
  const name = Object.entries(loginStatus).find(([, number]) => number === status)?.[0] ?? 'unknown'
  return `0x${status.toString(16).padStart(4, '0')} ${name}`
}

function portalOf(text: string): Endpoint {
  const match = /^\[?([^\]]+?)\]?(?::(\d+))?(?:,\d+)?$/.exec(text)
  const [, address = '', port = '3260'] = match ?? []
  return { address, port: Number(port) }
}

function pairsOf(bytes: Uint8Array): readonly KeyValue[] {
  // SendTargets answers repeat keys, which text of a negotiation may not.
  return new TextDecoder()
    .decode(bytes)
    .split('\0')
    .filter((pair) => pair.includes('='))
    .map((pair): KeyValue => [pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1)])
}

function joined(pieces: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.byteLength, 0))
  let at = 0
  for (const piece of pieces) {
    all.set(piece, at)
    at += piece.byteLength
  }
  return all
}

function digestOf(bytes: Uint8Array): Uint8Array {
  const digest = new Uint8Array(digestBytes)
  new DataView(digest.buffer).setUint32(0, crc32c(bytes), true)
  return digest
}
