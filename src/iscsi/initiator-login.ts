/** An initiator's login: CHAP in both directions, operational keys, redirects. RFC 7143 §6, §12. */
import { OperationError } from '../base/errors.ts'
import { equalInConstantTime } from '../base/secret.ts'
import type { Endpoint } from '../ports/udp.ts'
import { AnswerText } from './answer-text.ts'
import { chapAlgorithms, respond } from './chap.ts'
import { loginStatus, stage } from './codes.ts'
import type { InitiatorOptions } from './initiator.ts'
import type { InitiatorWire } from './initiator-wire.ts'
import { chapBinaryBytesMax, receiveSegmentBytesMax } from './limits.ts'
import { defaultParameters, type Parameters } from './negotiation.ts'
import type { LoginResponse } from './target-pdu.ts'
import { encodeText, formatHexadecimal, type KeyValue, parseBinary, parseNumber, textValue } from './text.ts'

type Exchanged =
  | { readonly response: LoginResponse; readonly pairs: readonly KeyValue[] }
  | { readonly moved: Endpoint }

export type LoggedIn = { readonly tsih: number } | { readonly moved: Endpoint }

/** The login is one task. */
const loginTag = 0
const noData = new Uint8Array(0)

/** @throws {OperationError} loginRefused, impostor, connectionLost */
export function logIn(wire: InitiatorWire, options: InitiatorOptions): Promise<LoggedIn> {
  return new Login(wire, options).run()
}

class Login {
  readonly #wire: InitiatorWire
  readonly #options: InitiatorOptions
  readonly #isid: string

  constructor(wire: InitiatorWire, options: InitiatorOptions) {
    this.#wire = wire
    this.#options = options
    // §11.12.5: type "random" in the first byte.
    this.#isid = options.isid ?? `80${formatHexadecimal(options.random.bytes(5)).slice(2)}`
  }

  async run(): Promise<LoggedIn> {
    const { chap, initiatorName, targetName } = this.#options
    const names: KeyValue[] = [
      ['InitiatorName', initiatorName],
      ['SessionType', targetName === undefined ? 'Discovery' : 'Normal'],
    ]
    if (targetName !== undefined) names.push(['TargetName', targetName])
    if (chap === undefined) {
      const first = await this.#exchange(stage.security, stage.operational, [...names, ['AuthMethod', 'None']])
      if ('moved' in first) return first
    } else {
      const first = await this.#exchange(stage.security, undefined, [...names, ['AuthMethod', 'CHAP,None']])
      if ('moved' in first) return first
      if (textValue(first.pairs, 'AuthMethod') === 'CHAP') await this.#prove(chap)
      else if (chap.target !== undefined) throw impostor('the target does not prove who it is')
      else await this.#exchange(stage.security, stage.operational, [])
    }
    const last = await this.#exchange(stage.operational, stage.fullFeature, this.#operational())
    if ('moved' in last) return last
    this.#wire.settle(settled(last.pairs))
    return { tsih: last.response.tsih }
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
      throw impostor('the target does not know its own secret')
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

  /** One request and its whole answer, in as many PDUs as it takes. */
  async #exchange(currentStage: number, nextStage: number | undefined, pairs: readonly KeyValue[]): Promise<Exchanged> {
    const text = new AnswerText()
    const ask = (data: Uint8Array): void =>
      this.#wire.send(
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
          initiatorTaskTag: loginTag,
          connectionId: 0,
          ...this.#wire.currentNumbers,
        },
        data,
      )
    const response = await this.#wire.ask(
      loginTag,
      () => ask(encodeText(pairs)),
      (pdu, data) => {
        if (pdu.kind !== 'loginResponse') return undefined
        text.add(data)
        if (!pdu.more) return pdu
        ask(noData)
        return undefined
      },
    )
    const answers = text.pairs()
    if (response.status === loginStatus.movedTemporarily || response.status === loginStatus.movedPermanently) {
      return { moved: portalOf(textValue(answers, 'TargetAddress') ?? '') }
    }
    if (response.status !== loginStatus.success) throw refused(statusText(response.status), response.status)
    if (nextStage !== undefined && !response.transit) throw refused('the target does not let us go on')
    return { response, pairs: answers }
  }
}

/** @throws {OperationError} loginRefused, for a value out of the range of RFC 7143 §13 */
function settled(answers: readonly KeyValue[]): Parameters {
  const number = (key: string, otherwise: number, min: number, max: number): number => {
    const text = textValue(answers, key)
    const value = text === undefined ? otherwise : parseNumber(text)
    if (value === undefined || value < min || value > max) throw refused(`the target says ${key}=${text}`)
    return value
  }
  const bytes = (key: string, otherwise: number): number => number(key, otherwise, 512, 0xff_ffff)
  return {
    ...defaultParameters,
    headerDigest: textValue(answers, 'HeaderDigest') === 'CRC32C',
    dataDigest: textValue(answers, 'DataDigest') === 'CRC32C',
    initialReadyToTransfer: textValue(answers, 'InitialR2T') !== 'No',
    immediateData: textValue(answers, 'ImmediateData') !== 'No',
    peerSegmentBytesMax: bytes('MaxRecvDataSegmentLength', defaultParameters.peerSegmentBytesMax),
    burstBytesMax: bytes('MaxBurstLength', defaultParameters.burstBytesMax),
    firstBurstBytesMax: bytes('FirstBurstLength', defaultParameters.firstBurstBytesMax),
    outstandingReadyToTransferMax: number('MaxOutstandingR2T', 1, 1, 65_535),
  }
}

function impostor(detail: string): OperationError {
  return new OperationError('impostor', detail, 'Compare the reverse secrets on both sides.')
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
