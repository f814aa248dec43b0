/**
 * Operational keys and how each is negotiated: RFC 7143 §6.2 and §13. One table; `negotiate` walks over what the peer
 * offered and says what we answer.
 */
import {
  burstBytesMax,
  firstBurstBytesMax,
  loginSegmentBytesMax,
  outstandingReadyToTransferMax,
  receiveSegmentBytesMax,
} from './limits.ts'
import { type KeyValue, parseNumber } from './text.ts'

/** What a connection runs with. Starts as RFC 7143's defaults. */
export type Parameters = {
  readonly headerDigest: boolean
  readonly dataDigest: boolean
  readonly initialReadyToTransfer: boolean // InitialR2T
  readonly immediateData: boolean
  /** The peer's MaxRecvDataSegmentLength: data segments that we send are no longer. */
  readonly peerSegmentBytesMax: number
  readonly burstBytesMax: number // MaxBurstLength
  readonly firstBurstBytesMax: number // FirstBurstLength
  readonly outstandingReadyToTransferMax: number // MaxOutstandingR2T
  readonly timeToWaitSeconds: number // DefaultTime2Wait
  readonly timeToRetainSeconds: number // DefaultTime2Retain
}

export const defaultParameters: Parameters = {
  headerDigest: false,
  dataDigest: false,
  initialReadyToTransfer: true,
  immediateData: true,
  peerSegmentBytesMax: loginSegmentBytesMax,
  burstBytesMax: 262_144,
  firstBurstBytesMax: 65_536,
  outstandingReadyToTransferMax: 1,
  timeToWaitSeconds: 2,
  timeToRetainSeconds: 20,
}

type Rule =
  /** The result is the first of the peer's list that we know. §6.2.1 */
  | { readonly kind: 'list'; readonly known: readonly string[] }
  /** Yes if both say yes. §6.2.2 */
  | { readonly kind: 'and'; readonly ours: boolean }
  /** Yes if one says yes. §6.2.2 */
  | { readonly kind: 'or'; readonly ours: boolean }
  /** The smaller of the two. */
  | { readonly kind: 'min'; readonly ours: number; readonly from: number; readonly to: number }
  /** The larger of the two. */
  | { readonly kind: 'max'; readonly ours: number; readonly from: number; readonly to: number }
  /** The peer tells; there is no answer. */
  | { readonly kind: 'declared'; readonly from: number; readonly to: number }
  /** Told for people or for those who care. */
  | { readonly kind: 'ignored' }
  /** Of former versions; the answer is always this. */
  | { readonly kind: 'fixed'; readonly answer: string }

const segmentRange = { from: 512, to: 0xffffff } as const
const digests = ['None', 'CRC32C'] as const

/** In the order of RFC 7143 §13, then RFC 7144 and what RFC 7143 made obsolete. */
const rulesByName: Readonly<Record<string, Rule>> = {
  HeaderDigest: { kind: 'list', known: digests }, // §13.1
  DataDigest: { kind: 'list', known: digests },
  MaxConnections: { kind: 'min', ours: 1, from: 1, to: 65_535 }, // §13.2
  InitiatorAlias: { kind: 'ignored' }, // §13.7
  InitialR2T: { kind: 'or', ours: false }, // §13.10
  ImmediateData: { kind: 'and', ours: true }, // §13.11
  MaxRecvDataSegmentLength: { kind: 'declared', ...segmentRange }, // §13.12
  MaxBurstLength: { kind: 'min', ours: burstBytesMax, ...segmentRange }, // §13.13
  FirstBurstLength: { kind: 'min', ours: firstBurstBytesMax, ...segmentRange }, // §13.14
  DefaultTime2Wait: { kind: 'max', ours: 0, from: 0, to: 3_600 }, // §13.15
  DefaultTime2Retain: { kind: 'min', ours: 0, from: 0, to: 3_600 }, // §13.16: level 0 keeps no task for a lost connection
  MaxOutstandingR2T: { kind: 'min', ours: outstandingReadyToTransferMax, from: 1, to: 65_535 }, // §13.17
  DataPDUInOrder: { kind: 'or', ours: true }, // §13.18
  DataSequenceInOrder: { kind: 'or', ours: true }, // §13.19
  ErrorRecoveryLevel: { kind: 'min', ours: 0, from: 0, to: 2 }, // §13.20
  TaskReporting: { kind: 'list', known: ['RFC3720'] }, // §13.23
  'X#NodeArchitecture': { kind: 'ignored' }, // §13.24
  iSCSIProtocolLevel: { kind: 'min', ours: 1, from: 0, to: 31 }, // §13.25
  IFMarker: { kind: 'fixed', answer: 'No' }, // §13.26
  OFMarker: { kind: 'fixed', answer: 'No' },
  IFMarkInt: { kind: 'fixed', answer: 'Irrelevant' },
  OFMarkInt: { kind: 'fixed', answer: 'Irrelevant' },
}
/** A map: a peer may name a key `constructor`, and an object would know it. */
const rules: ReadonlyMap<string, Rule> = new Map(Object.entries(rulesByName))

/** Keys that are not negotiated here: security, names, and what only we may say. */
const handledElsewhere: ReadonlySet<string> = new Set([
  'AuthMethod',
  'CHAP_A',
  'CHAP_I',
  'CHAP_C',
  'CHAP_N',
  'CHAP_R',
  'InitiatorName',
  'TargetName',
  'SessionType',
  'SendTargets',
])
const targetOnly: ReadonlySet<string> = new Set(['TargetAlias', 'TargetAddress', 'TargetPortalGroupTag'])

/** What an answer to an offer may be that is not a value: §6.2. */
const notUnderstood = 'NotUnderstood'
const rejected = 'Reject'

export type Negotiated = {
  readonly parameters: Parameters
  readonly answers: readonly KeyValue[]
}

/** During login: all keys. `MaxRecvDataSegmentLength` is not answered but told by us once, elsewhere. */
export function negotiate(before: Parameters, offers: readonly KeyValue[]): Negotiated {
  const answers: KeyValue[] = []
  let parameters = before
  for (const [key, offer] of offers) {
    if (handledElsewhere.has(key)) continue
    const rule = targetOnly.has(key) ? undefined : rules.get(key)
    const answer = targetOnly.has(key) ? rejected : rule === undefined ? notUnderstood : answerTo(rule, offer)
    if (answer !== undefined) answers.push([key, answer])
    if (answer !== rejected && answer !== notUnderstood)
      parameters = { ...parameters, ...effectOf(key, answer ?? offer) }
  }
  // §13.14: the first burst is part of a burst. Our answer must say so too, whichever key came first.
  if (parameters.firstBurstBytesMax > parameters.burstBytesMax) {
    parameters = { ...parameters, firstBurstBytesMax: parameters.burstBytesMax }
    const index = answers.findIndex(([key]) => key === 'FirstBurstLength')
    if (index !== -1) answers[index] = ['FirstBurstLength', String(parameters.firstBurstBytesMax)]
  }
  return { parameters, answers }
}

/** In full-feature phase only what the peer can receive may change; the rest was settled at login. §6.4, §13. */
export function renegotiate(before: Parameters, offers: readonly KeyValue[]): Negotiated {
  const answers: KeyValue[] = []
  let parameters = before
  for (const [key, offer] of offers) {
    if (key === 'SendTargets') continue
    if (key === 'MaxRecvDataSegmentLength') {
      const negotiated = negotiate(parameters, [[key, offer]])
      parameters = negotiated.parameters
      answers.push(...negotiated.answers)
    } else if (rules.get(key)?.kind !== 'ignored') {
      const known = rules.has(key) || handledElsewhere.has(key) || targetOnly.has(key)
      answers.push([key, known ? rejected : notUnderstood])
    }
  }
  return { parameters, answers }
}

/** What we tell without being asked, once, when operational parameters are first talked about. */
export const ourDeclarations: readonly KeyValue[] = [['MaxRecvDataSegmentLength', String(receiveSegmentBytesMax)]]

/** Undefined: taken, and no answer is due. */
function answerTo(rule: Rule, offer: string): string | undefined {
  switch (rule.kind) {
    case 'list':
      return offer.split(',').find((value) => rule.known.includes(value)) ?? rejected
    case 'and':
    case 'or': {
      if (offer !== 'Yes' && offer !== 'No') return rejected
      const theirs = offer === 'Yes'
      const result = rule.kind === 'and' ? theirs && rule.ours : theirs || rule.ours
      return result ? 'Yes' : 'No'
    }
    case 'min':
    case 'max': {
      const theirs = parseNumber(offer)
      if (theirs === undefined || theirs < rule.from || theirs > rule.to) return rejected
      return String(rule.kind === 'min' ? Math.min(theirs, rule.ours) : Math.max(theirs, rule.ours))
    }
    case 'declared': {
      const theirs = parseNumber(offer)
      return theirs === undefined || theirs < rule.from || theirs > rule.to ? rejected : undefined
    }
    case 'ignored':
      return undefined
    case 'fixed':
      return rule.answer
  }
}

function effectOf(key: string, value: string): Partial<Parameters> {
  switch (key) {
    case 'HeaderDigest':
      return { headerDigest: value === 'CRC32C' }
    case 'DataDigest':
      return { dataDigest: value === 'CRC32C' }
    case 'InitialR2T':
      return { initialReadyToTransfer: value === 'Yes' }
    case 'ImmediateData':
      return { immediateData: value === 'Yes' }
    case 'MaxRecvDataSegmentLength':
      return { peerSegmentBytesMax: Number(value) }
    case 'MaxBurstLength':
      return { burstBytesMax: Number(value) }
    case 'FirstBurstLength':
      return { firstBurstBytesMax: Number(value) }
    case 'MaxOutstandingR2T':
      return { outstandingReadyToTransferMax: Number(value) }
    case 'DefaultTime2Wait':
      return { timeToWaitSeconds: Number(value) }
    case 'DefaultTime2Retain':
      return { timeToRetainSeconds: Number(value) }
    default:
      return {}
  }
}
