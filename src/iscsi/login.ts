/**
 * One login, seen from the target: RFC 7143 §6.3, §11.12, §11.13.
 *
 *   leading ──first request whole──▶ resolving ──accept──▶ negotiating ──▶ done
 *                                        │                    │   ▲
 *                                        │ refuse, redirect   └───┘ security: open ▶ chosen ▶ challenged ▶ proven
 *                                        ▼                          then operational, or straight on
 *                                      done
 *
 * Every input gives exactly one output. No sockets or clocks; `terms` brings hashing and fresh random bytes.
 * iPXE sets T in every request, also while it has not proven itself yet: T is a wish, and we grant it when we are ready.
 */
import { unreachable } from '../base/assert.ts'
import { equalInConstantTime } from '../base/secret.ts'
import type { Hash } from '../ports/hash.ts'
import type { Random } from '../ports/random.ts'
import { WireError } from '../wire/reader.ts'
import { type Challenge, chooseAlgorithm, isDowngrade, respond, unfitSecret, verify } from './chap.ts'
import { type LoginStatus, loginStatus, type Stage, stage } from './codes.ts'
import type { LoginRequest } from './initiator-pdu.ts'
import {
  chapBinaryBytesMax,
  chapChallengeBytes,
  loginRequestsMax,
  loginSegmentBytesMax,
  nameBytesMax,
  negotiationTextBytesMax,
} from './limits.ts'
import { defaultParameters, negotiate, ourDeclarations, type Parameters } from './negotiation.ts'
import type {
  Authentication,
  AuthenticationOutcome,
  ChapCredential,
  DiscoveryVerdict,
  LoginAttempt,
  LoginFailure,
  RefusalReason,
  Verdict,
} from './policy.ts'
import { formatPortal } from './portal.ts'
import {
  decodeText,
  encodeText,
  formatBase64,
  formatHexadecimal,
  type KeyValue,
  parseBinary,
  parseNumber,
  textValue,
} from './text.ts'

/** What never changes during one login. */
export type LoginTerms = {
  readonly hash: Hash
  readonly random: Random
  readonly remote: LoginAttempt['remote']
  readonly local: LoginAttempt['local']
  /** Whether these bytes are a challenge that we have sent on any connection and wait to see answered. */
  readonly isOurChallenge: (bytes: Uint8Array) => boolean
}

export type LoginVerdict =
  | { readonly kind: 'normal'; readonly verdict: Verdict }
  | { readonly kind: 'discovery'; readonly verdict: DiscoveryVerdict }

type Accepted =
  | { readonly kind: 'normal'; readonly verdict: Extract<Verdict, { kind: 'accept' }> }
  | { readonly kind: 'discovery'; readonly verdict: Extract<DiscoveryVerdict, { kind: 'accept' }> }

export type LoginState =
  | { readonly kind: 'leading'; readonly requestCount: number; readonly text: Uint8Array }
  | {
      readonly kind: 'resolving'
      readonly requestCount: number
      readonly leading: LoginRequest
      readonly request: LoginRequest
      readonly offers: readonly KeyValue[]
      readonly attempt: LoginAttempt
    }
  | Negotiating
  | { readonly kind: 'done' }

type Negotiating = {
  readonly kind: 'negotiating'
  readonly requestCount: number
  /** Text of requests with the C bit, until one comes without. */
  readonly text: Uint8Array
  readonly leading: LoginRequest
  readonly attempt: LoginAttempt
  readonly accepted: Accepted
  readonly stage: Stage
  readonly security: Security
  readonly parameters: Parameters
  /** Keys that were offered in this login; a second offer is a protocol error. */
  readonly offered: ReadonlySet<string>
  /** Whether what we tell of ourselves has been told. */
  readonly introduced: boolean
  readonly declared: boolean
  /** An answer that did not fit one PDU: what is left of it, and the request that it answers. */
  readonly unsent: { readonly text: Uint8Array; readonly transit: boolean; readonly nextStage: Stage } | undefined
}

type Security =
  | { readonly kind: 'open' }
  | { readonly kind: 'chosen' }
  | { readonly kind: 'challenged'; readonly challenge: Challenge }
  | { readonly kind: 'proven'; readonly outcome: AuthenticationOutcome }

export type LoginInput =
  | { readonly kind: 'request'; readonly request: LoginRequest; readonly text: Uint8Array }
  | { readonly kind: 'verdict'; readonly verdict: LoginVerdict }

/** An answer's share of a login response; numbers and tags are the connection's. */
export type LoginAnswer = {
  readonly transit: boolean
  readonly more: boolean
  readonly currentStage: Stage
  readonly nextStage: Stage
  readonly text: Uint8Array
}

export type LoginOutput =
  | { readonly kind: 'resolve'; readonly attempt: LoginAttempt }
  /** `challenge` is the one this answer carries, if it does. */
  | { readonly kind: 'respond'; readonly answer: LoginAnswer; readonly challenge: Uint8Array | undefined }
  /** The last answer says `status`, then the connection ends. */
  | {
      readonly kind: 'fail'
      readonly status: LoginStatus
      readonly reason: LoginFailure
      readonly detail: string
      readonly text: Uint8Array
    }
  /** Full-feature phase begins with this answer. */
  | {
      readonly kind: 'complete'
      readonly answer: LoginAnswer
      readonly attempt: LoginAttempt
      readonly accepted: Accepted
      readonly authentication: AuthenticationOutcome
      readonly parameters: Parameters
      readonly tsih: number
      readonly connectionId: number
      readonly commandNumber: number
    }

export type LoginStep = { readonly state: LoginState; readonly output: LoginOutput }

const noText = new Uint8Array(0)
export const initialLogin: LoginState = { kind: 'leading', requestCount: 0, text: noText }

export function loginStep(terms: LoginTerms, state: LoginState, input: LoginInput): LoginStep {
  switch (input.kind) {
    case 'request':
      return onRequest(terms, state, input.request, input.text)
    case 'verdict':
      if (state.kind !== 'resolving') return failed('protocolError', 'a verdict that nobody asked for')
      return onVerdict(terms, state, input.verdict)
    default:
      return unreachable(input)
  }
}

function onRequest(terms: LoginTerms, state: LoginState, request: LoginRequest, text: Uint8Array): LoginStep {
  if (state.kind === 'done' || state.kind === 'resolving') return failed('protocolError', 'a request out of turn')
  const wrong = faultOf(state, request)
  if (wrong !== undefined) return wrong
  const gathered = joined(state.text, text)
  const requestCount = state.requestCount + 1
  if (gathered.byteLength > negotiationTextBytesMax) return failed('protocolError', 'more login text than allowed')
  if (request.more) {
    const answer = plainAnswer(request.currentStage === stage.operational ? stage.operational : stage.security)
    return {
      state: { ...state, requestCount, text: gathered },
      output: { kind: 'respond', answer, challenge: undefined },
    }
  }
  let offers: KeyValue[]
  try {
    offers = decodeText(gathered)
  } catch (error) {
    if (error instanceof WireError) return failed('protocolError', `login text: ${error.message}`)
    throw error
  }
  if (state.kind === 'leading') return onLeading(terms, requestCount, request, offers)
  const next = { ...state, requestCount, text: noText }
  return state.unsent === undefined ? proceed(terms, next, request, offers) : sendRest(next, offers)
}

/** What is wrong with a request whatever its text says. §11.12. */
function faultOf(state: LoginState, request: LoginRequest): LoginStep | undefined {
  if (request.versionMin > 0) {
    return failed('protocolError', `version ${request.versionMin} or later wanted`, loginStatus.versionNotSupported)
  }
  if (state.kind !== 'done' && state.requestCount >= loginRequestsMax)
    return failed('protocolError', 'a login without end')
  if (request.transit && request.more) return failed('protocolError', 'T and C together')
  if (request.currentStage !== stage.security && request.currentStage !== stage.operational) {
    return failed('protocolError', `login in stage ${request.currentStage}`)
  }
  if (request.transit && (request.nextStage <= request.currentStage || request.nextStage === 2)) {
    return failed('protocolError', `from stage ${request.currentStage} to ${request.nextStage}`)
  }
  if (state.kind === 'negotiating') {
    const { isid, tsih, connectionId } = state.leading
    if (request.isid !== isid || request.tsih !== tsih || request.connectionId !== connectionId) {
      return failed('protocolError', 'ISID, TSIH or CID changed during login')
    }
    if (request.currentStage !== state.stage) return failed('protocolError', 'a stage that we are not in')
  }
  return undefined
}

function onLeading(
  terms: LoginTerms,
  requestCount: number,
  request: LoginRequest,
  offers: readonly KeyValue[],
): LoginStep {
  const initiatorName = textValue(offers, 'InitiatorName')?.toLowerCase()
  if (initiatorName === undefined) return failed('protocolError', 'no InitiatorName', loginStatus.parameterMissing)
  if (!isName(initiatorName)) return failed('protocolError', 'an InitiatorName that is none')
  const sessionType = textValue(offers, 'SessionType') ?? 'Normal'
  if (sessionType !== 'Normal' && sessionType !== 'Discovery') {
    return failed('protocolError', 'an unknown SessionType', loginStatus.sessionTypeNotSupported)
  }
  const targetName = sessionType === 'Discovery' ? undefined : textValue(offers, 'TargetName')?.toLowerCase()
  if (sessionType === 'Normal') {
    if (targetName === undefined) return failed('protocolError', 'no TargetName', loginStatus.parameterMissing)
    if (!isName(targetName)) return failed('targetNotFound', 'a TargetName that is none', loginStatus.targetNotFound)
  }
  const attempt: LoginAttempt = {
    initiatorName,
    targetName,
    isid: request.isid,
    remote: terms.remote,
    local: terms.local,
  }
  return {
    state: { kind: 'resolving', requestCount, leading: request, request, offers, attempt },
    output: { kind: 'resolve', attempt },
  }
}

function onVerdict(
  terms: LoginTerms,
  state: Extract<LoginState, { kind: 'resolving' }>,
  decided: LoginVerdict,
): LoginStep {
  const verdict: Verdict | DiscoveryVerdict = decided.verdict
  if (verdict.kind === 'refuse') return refused(verdict.reason)
  if (verdict.kind === 'redirect') {
    const status = verdict.permanent ? loginStatus.movedPermanently : loginStatus.movedTemporarily
    const text = encodeText([['TargetAddress', formatPortal(verdict.to)]])
    return failed('redirected', `moved to ${verdict.to.address}:${verdict.to.port}`, status, text)
  }
  const accepted: Accepted = 'deviceServer' in verdict ? { kind: 'normal', verdict } : { kind: 'discovery', verdict }
  const negotiating: Negotiating = {
    kind: 'negotiating',
    requestCount: state.requestCount,
    text: noText,
    leading: state.leading,
    attempt: state.attempt,
    accepted,
    stage: state.request.currentStage === stage.operational ? stage.operational : stage.security,
    security: { kind: 'open' },
    parameters: defaultParameters,
    offered: new Set(),
    introduced: false,
    declared: false,
    unsent: undefined,
  }
  return proceed(terms, negotiating, state.request, state.offers)
}

function proceed(terms: LoginTerms, state: Negotiating, request: LoginRequest, offers: readonly KeyValue[]): LoginStep {
  const again = offers.find(([key]) => state.offered.has(key))
  if (again !== undefined) return failed('protocolError', `${again[0]} was offered before`)

  const answers: KeyValue[] = []
  if (!state.introduced) answers.push(...introduction(state.accepted))
  let security = state.security
  if (security.kind !== 'proven') {
    const checked = authenticate(terms, state, offers)
    if ('output' in checked) return checked
    security = checked.security
    answers.push(...checked.answers)
  }
  const negotiated = negotiate(state.parameters, offers)
  answers.push(...negotiated.answers)
  const declares = state.stage === stage.operational && !state.declared
  if (declares) answers.push(...ourDeclarations)

  const next: Negotiating = {
    ...state,
    security,
    parameters: negotiated.parameters,
    offered: new Set([...state.offered, ...offers.map(([key]) => key)]),
    introduced: true,
    declared: state.declared || declares,
  }
  const nextStage = request.nextStage === stage.operational ? stage.operational : stage.fullFeature
  const transit = request.transit && security.kind === 'proven'
  const challenge = security.kind === 'challenged' ? security.challenge.bytes : undefined
  return answerWith(next, encodeText(answers), transit, nextStage, challenge)
}

/** Sends what fits one PDU; T is granted with the last piece only. */
function answerWith(
  state: Negotiating,
  text: Uint8Array,
  transit: boolean,
  nextStage: Stage,
  challenge: Uint8Array | undefined,
): LoginStep {
  if (text.byteLength > loginSegmentBytesMax) {
    const answer = { ...plainAnswer(state.stage), more: true, text: text.subarray(0, loginSegmentBytesMax) }
    const unsent = { text: text.subarray(loginSegmentBytesMax), transit, nextStage }
    return { state: { ...state, unsent }, output: { kind: 'respond', answer, challenge } }
  }
  const sent: Negotiating = { ...state, unsent: undefined }
  if (!transit) {
    return { state: sent, output: { kind: 'respond', answer: { ...plainAnswer(state.stage), text }, challenge } }
  }
  const answer: LoginAnswer = { transit: true, more: false, currentStage: state.stage, nextStage, text }
  if (nextStage !== stage.fullFeature) {
    return { state: { ...sent, stage: nextStage }, output: { kind: 'respond', answer, challenge: undefined } }
  }
  if (state.security.kind !== 'proven') return failed('protocolError', 'the end of a login that has not proven itself')
  return {
    state: { kind: 'done' },
    output: {
      kind: 'complete',
      answer,
      attempt: state.attempt,
      accepted: state.accepted,
      authentication: state.security.outcome,
      parameters: state.parameters,
      tsih: state.leading.tsih,
      connectionId: state.leading.connectionId,
      commandNumber: state.leading.commandNumber,
    },
  }
}

/** The peer's answer to a piece with C is an empty request. §6.2. */
function sendRest(state: Negotiating, offers: readonly KeyValue[]): LoginStep {
  if (state.unsent === undefined || offers.length > 0) return failed('protocolError', 'text while our answer goes on')
  const { text, transit, nextStage } = state.unsent
  return answerWith(state, text, transit, nextStage, undefined)
}

type Checked = { readonly security: Security; readonly answers: readonly KeyValue[] }

function authenticate(terms: LoginTerms, state: Negotiating, offers: readonly KeyValue[]): Checked | LoginStep {
  const authentication = state.accepted.verdict.authentication
  if (state.stage === stage.operational) {
    // §6.3.1: the initiator may skip the security stage; whether it may be believed is ours to say.
    if (authentication.kind === 'none') return { security: { kind: 'proven', outcome: { kind: 'none' } }, answers: [] }
    return failed('chapRequired', 'the security stage was skipped', loginStatus.authenticationFailed)
  }
  switch (state.security.kind) {
    case 'open':
      return chooseMethod(authentication, textValue(offers, 'AuthMethod'))
    case 'chosen':
      return challengeInitiator(terms, textValue(offers, 'CHAP_A'))
    case 'challenged':
      if (authentication.kind !== 'chap') return failed('protocolError', 'a proof that nobody asked for')
      return checkProof(terms, authentication, state.security.challenge, offers)
    case 'proven':
      return { security: state.security, answers: [] }
    default:
      return unreachable(state.security)
  }
}

function chooseMethod(authentication: Authentication, offer: string | undefined): Checked | LoginStep {
  const offered = (offer ?? 'None').split(',')
  if (authentication.kind === 'none') {
    if (!offered.includes('None')) {
      return failed('chapNotConfigured', `only ${offer} is offered`, loginStatus.authenticationFailed)
    }
    const answers: KeyValue[] = offer === undefined ? [] : [['AuthMethod', 'None']]
    return { security: { kind: 'proven', outcome: { kind: 'none' } }, answers }
  }
  const unfit = unfitSecret(authentication.initiator)
  if (unfit !== undefined) return failed('secretUnfit', unfit, loginStatus.authenticationFailed)
  if (!offered.includes('CHAP')) {
    return failed('chapRequired', `only ${offered.join(',')} is offered`, loginStatus.authenticationFailed)
  }
  return { security: { kind: 'chosen' }, answers: [['AuthMethod', 'CHAP']] }
}

function challengeInitiator(terms: LoginTerms, offer: string | undefined): Checked | LoginStep {
  if (offer === undefined) return failed('protocolError', 'CHAP without CHAP_A', loginStatus.parameterMissing)
  const algorithm = chooseAlgorithm(offer)
  if (algorithm === undefined) {
    return failed('noCommonAlgorithm', `CHAP_A=${offer} has none of ours`, loginStatus.authenticationFailed)
  }
  const fresh = terms.random.bytes(1 + chapChallengeBytes)
  const challenge: Challenge = { algorithm: algorithm.name, identifier: fresh[0] ?? 0, bytes: fresh.subarray(1) }
  return {
    security: { kind: 'challenged', challenge },
    answers: [
      ['CHAP_A', String(algorithm.number)],
      ['CHAP_I', String(challenge.identifier)],
      ['CHAP_C', formatHexadecimal(challenge.bytes)],
    ],
  }
}

function checkProof(
  terms: LoginTerms,
  authentication: Extract<Authentication, { kind: 'chap' }>,
  challenge: Challenge,
  offers: readonly KeyValue[],
): Checked | LoginStep {
  const user = textValue(offers, 'CHAP_N')
  const responseText = textValue(offers, 'CHAP_R')
  if (user === undefined || responseText === undefined) {
    return failed('protocolError', 'CHAP without CHAP_N and CHAP_R', loginStatus.parameterMissing)
  }
  const response = parseBinary(responseText, chapBinaryBytesMax)
  if (response === undefined) return failed('protocolError', 'a CHAP_R that is no binary item')
  const proven = verify(terms.hash, challenge, authentication.initiator, { user, response })
  if (proven === undefined) {
    // Without the name: that of a boot is as random as its secret, and is told to nobody but the machine.
    const isKnown = authentication.initiator.some((credential) => credential.user === user)
    const what = isKnown ? 'CHAP with a wrong secret' : 'CHAP with a user that is not, or no longer, known'
    return failed('wrongCredentials', what, loginStatus.authenticationFailed)
  }
  const mutual = proveOurselves(terms, authentication.mutualRequired === true, proven.target, challenge, offers)
  if ('output' in mutual) return mutual
  const outcome: AuthenticationOutcome = {
    kind: 'chap',
    user,
    algorithm: challenge.algorithm,
    mutual: mutual.answers.length > 0,
    downgraded: isDowngrade(challenge.algorithm),
  }
  return { security: { kind: 'proven', outcome }, answers: mutual.answers }
}

/** Mutual CHAP. The same initiator challenge at every boot is iPXE's (2019) way and no attack on us: our own is fresh. */
function proveOurselves(
  terms: LoginTerms,
  required: boolean,
  credential: ChapCredential | undefined,
  ours: Challenge,
  offers: readonly KeyValue[],
): { readonly answers: readonly KeyValue[] } | LoginStep {
  const identifierText = textValue(offers, 'CHAP_I')
  const challengeText = textValue(offers, 'CHAP_C')
  if (identifierText === undefined && challengeText === undefined) {
    if (!required) return { answers: [] }
    return failed('mutualChapRequired', 'our proof was not asked for', loginStatus.authenticationFailed)
  }
  const identifier = parseNumber(identifierText ?? '')
  const bytes = parseBinary(challengeText ?? '', chapBinaryBytesMax)
  if (identifier === undefined || identifier > 255 || bytes === undefined) {
    return failed('protocolError', 'CHAP_I or CHAP_C is missing or out of range')
  }
  if (equalInConstantTime(bytes, ours.bytes) || terms.isOurChallenge(bytes)) {
    return failed('reflectedChallenge', 'our own challenge came back', loginStatus.authenticationFailed)
  }
  if (credential === undefined) {
    return failed('mutualChapNotConfigured', 'our proof was asked for', loginStatus.authenticationFailed)
  }
  const proof = respond(terms.hash, { algorithm: ours.algorithm, identifier, bytes }, credential.secret)
  const format = challengeText?.toLowerCase().startsWith('0b') === true ? formatBase64 : formatHexadecimal
  return {
    answers: [
      ['CHAP_N', credential.user],
      ['CHAP_R', format(proof)],
    ],
  }
}

/** §13.9: the group tag belongs into the first answer of a normal session. */
function introduction(accepted: Accepted): KeyValue[] {
  if (accepted.kind === 'discovery') return []
  const { targetPort = 1, alias } = accepted.verdict
  const told: KeyValue[] = [['TargetPortalGroupTag', String(targetPort)]]
  if (alias !== undefined) told.push(['TargetAlias', alias])
  return told
}

function refused(reason: RefusalReason): LoginStep {
  switch (reason) {
    case 'notFound':
      return failed('targetNotFound', 'there is no such target', loginStatus.targetNotFound)
    case 'forbidden':
      return failed('forbidden', 'not for this initiator', loginStatus.forbidden)
    case 'unavailable':
      return failed('unavailable', 'not now', loginStatus.serviceUnavailable)
    default:
      return unreachable(reason)
  }
}

function failed(
  reason: LoginFailure,
  detail: string,
  status: LoginStatus = loginStatus.initiatorError,
  text: Uint8Array = noText,
): LoginStep {
  return { state: { kind: 'done' }, output: { kind: 'fail', status, reason, detail, text } }
}

function plainAnswer(currentStage: Stage): LoginAnswer {
  return { transit: false, more: false, currentStage, nextStage: stage.security, text: noText }
}

/** Wide on purpose: §4.2.7.2 wants iqn., eui. or naa., but people and emulators use other names. No spaces, no controls. */
function isName(text: string): boolean {
  return text.length > 0 && new TextEncoder().encode(text).byteLength <= nameBytesMax && !/[\s\p{Cc}]/u.test(text)
}

function joined(a: Uint8Array, b: Uint8Array): Uint8Array {
  if (a.byteLength === 0) return b
  const both = new Uint8Array(a.byteLength + b.byteLength)
  both.set(a)
  both.set(b, a.byteLength)
  return both
}
