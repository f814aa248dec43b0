/** One event as a line for programs, and as a line for people. */
import { unreachable } from '../base/assert.ts'
import { formatBytes } from '../base/units.ts'
import type { BootEvent, Happening, ProvedBy } from './events.ts'
import { foreignTextCharactersMax } from './limits.ts'

/** One line of JSON: `--json-events`. Begins with when and what, so that a person who looks can read it too. */
export function jsonLine(event: BootEvent): string {
  const { id, atMs, kind, mac, address, ...rest } = event
  return JSON.stringify({ at: isoTime(atMs), kind, mac, address, ...rest, id })
}

/** '12:04:31.250 52:54:00:77:00:10 logs in to its disk (iPXE, mutual CHAP with md5)'. Universal time. */
export function humanLine(event: BootEvent): string {
  const who = event.mac ?? event.address
  return `${isoTime(event.atMs).slice(11, 23)} ${who === undefined ? '' : `${who} `}${sentence(event)}`
}

/** What happened, without when and to whom. */
export function sentence(event: Happening): string {
  switch (event.kind) {
    case 'dhcpDiscover':
      // A plan's reason mostly begins with who gets it.
      return `asks for an address: ${event.plan.startsWith(event.firmware) ? event.plan : `${event.firmware}; ${event.plan}`}`
    case 'dhcpOffer':
      return `is offered ${offer(event.offeredAddress, event.file)}`
    case 'dhcpAck':
      return `has ${offer(event.leasedAddress, event.file)}`
    case 'dhcpNak':
      return `may not use ${event.requestedAddress}: ${event.reason}`
    case 'dhcpDeclined':
      return `found ${event.declinedAddress} in use by somebody else`
    case 'dhcpReleased':
      return `gave ${event.releasedAddress} back`
    case 'dhcpPoolExhausted':
      return 'gets no address: all are taken'
    case 'dhcpOtherServer':
      return `took the offer of another DHCP server, ${event.server}`
    case 'tftpStarted':
      return `fetches ${foreign(event.file)} by TFTP (${formatBytes(event.fileBytes)}, blocks of ${event.blockBytes}${event.windowBlocks > 1 ? `, windows of ${event.windowBlocks}` : ''})`
    case 'tftpDone':
      return `has ${foreign(event.file)} (${formatBytes(event.fileBytes)} in ${seconds(event.durationMs)})`
    case 'tftpProbed':
      return `asked how big ${foreign(event.file)} is`
    case 'tftpAborted':
      return `stopped fetching ${foreign(event.file)} after ${formatBytes(event.ackedBytes)}: ${foreign(event.reason)}`
    case 'tftpNotFound':
      return `asked by TFTP for ${foreign(event.file)}, which is not there`
    case 'tftpRefused':
      return `was refused ${foreign(event.file)} by TFTP: ${event.reason}`
    case 'httpServed':
      return `has ${foreign(event.path)} (${formatBytes(event.sentBytes)} in ${seconds(event.durationMs)}, ${event.encrypted ? 'HTTPS' : 'HTTP'})`
    case 'httpAborted':
      return `stopped fetching ${foreign(event.path)} after ${formatBytes(event.sentBytes)} of ${formatBytes(event.bodyBytes)}`
    case 'httpNotFound':
      return `asked by HTTP for ${foreign(event.path)}, which is not there`
    case 'tlsAgreed':
      return tlsSentence(event)
    case 'tlsFailed':
      return tlsFailure(event)
    case 'scriptServed':
      return scriptSentence(event)
    case 'rootUndescribed':
      return 'has U-Boot, where Linux is not told where its root is: start = "kernel" under [machine] tells it'
    case 'machineReported':
      return `says: ${event.step}${event.error === undefined ? '' : `, iPXE error ${event.error}`}`
    case 'iscsiLogin':
      return `logs in to its disk (${loginOf(event)})`
    case 'iscsiLoginFailed':
      return `could not log in to ${foreign(event.targetName ?? 'a disk')}: ${event.reason}, ${foreign(event.detail)}`
    case 'firstRead':
      return 'reads from its disk'
    case 'firstWrite':
      return 'writes to its disk'
    case 'progress':
      return `has read ${formatBytes(event.readBytes)} and written ${formatBytes(event.writtenBytes)}`
    case 'sessionClosed':
      return `left its disk: ${event.reason} (read ${formatBytes(event.readBytes)}, wrote ${formatBytes(event.writtenBytes)})`
    case 'addressSlowed':
      return `is slowed down after ${event.failureCount} wrong secrets`
    case 'machineSeen':
      return 'is a machine nobody has seen before'
    case 'held':
      return `waits for admission: ${event.reason}`
    case 'admitted':
      return `is admitted (${event.by})`
    case 'refused':
      return `is refused: ${event.reason}`
    case 'identityAlarm':
      return `ALARM: came with UUID ${event.seenUuid}, but was known with ${event.knownUuid}: another board, or an impostor`
    case 'certificateRefused':
      return `is refused: its certificate ${certificateFault(event)}`
    case 'signedIn':
      return `somebody signed in there as ${event.account}`
    case 'signInFailed':
      return `somebody could not sign in there: ${event.account === undefined ? 'no such account' : `wrong password of ${event.account}`}`
    case 'signInSlowed':
      return `${event.by === 'account' ? `account ${event.account ?? 'unknown'}` : 'this address'} is slowed down after ${event.failureCount} wrong passwords: ${seconds(event.waitMs)}`
    case 'credentialsMinted':
      return `gets credentials for boot ${event.bootId}`
    case 'credentialsEnded':
      return `the credentials of boot ${event.bootId} have ended (${event.reason})`
    case 'cloneReady':
      return `has a disk: ${foreign(event.image)}, ${event.policy}`
    case 'bootTraceRecorded':
      return `boot trace of ${foreign(event.image)} recorded: ${formatBytes(event.readBytes)} in ${event.readCount} reads`
    case 'bootTraceFetched':
      return `what a boot of ${foreign(event.image)} reads is in memory: ${formatBytes(event.traceBytes)} in ${seconds(event.durationMs)}`
    case 'diskFailed':
      return `its disk failed to ${event.operation}: ${event.reason}. ${event.hint}`
    case 'noLoader':
      return `${event.image} has no boot loader for this machine's firmware. ${foreign(event.reason)}`
    case 'imageAway':
      return `image ${event.image} is away: ${foreign(event.reason)}. Look at its server; Slipway tries it again all the time`
    case 'imageTrouble':
      return `image ${event.image}: ${foreign(event.reason)}. ${event.hint}`
    case 'imageBack':
      return `image ${event.image} is back after ${seconds(event.awayMs)}`
    case 'failed':
      return `failed at ${event.step}: ${event.reason}. ${event.hint}`
    case 'peerBroken':
      return `sent broken ${event.protocol}: ${foreign(event.detail)}`
    case 'eventsLeftOut':
      return `made more noise than is kept: ${event.eventCount} events were left out`
    case 'serviceReady':
      return `${event.service} is ready on ${event.endpoint}`
    case 'serviceFailed':
      return `${event.service} failed: ${event.reason}. ${event.hint}`
    case 'stopping':
      return 'Slipway is stopping'
    default:
      return unreachable(event)
  }
}

function offer(address: string | undefined, file: string | undefined): string {
  if (address === undefined) return file === undefined ? 'nothing' : `${foreign(file)} to boot`
  return file === undefined ? address : `${address} and ${foreign(file)} to boot`
}

function scriptSentence(event: Extract<Happening, { kind: 'scriptServed' }>): string {
  const how = event.encrypted ? 'by HTTPS' : 'by HTTP'
  switch (event.script) {
    case 'boot':
      return `gets its script ${how}${provedWords(event.proof)}: ${event.start === 'kernel' ? 'the kernel of ' : ''}${foreign(event.image ?? 'its disk')}`
    case 'held':
      return `is told by script to wait, ${how}`
    case 'prove':
      return `is asked by script for its certificate, ${how}`
    case 'signIn':
      return `waits for somebody to sign in, ${how}`
    case 'refused':
      return `is told by script to go on without, ${how}`
    case 'local':
      return `is sent to its own disk, ${how}`
    default:
      return unreachable(event.script)
  }
}

function provedWords(proof: ProvedBy | undefined): string {
  switch (proof?.kind) {
    case undefined:
    case 'admission':
      return ''
    case 'login':
      return `, for ${proof.account} signed in`
    case 'certificate':
      return `, for it proved itself by certificate ${proof.fingerprint.slice(0, 16)}`
  }
}

/** After 'its certificate'. */
export function certificateFault(event: Extract<Happening, { kind: 'certificateRefused' }>): string {
  const which = event.fingerprint.slice(0, 16)
  switch (event.reason) {
    case 'unknown':
      return `${which} was not made here`
    case 'ofAnother':
      return `${which} is another machine's`
    case 'revoked':
      return `${which} was revoked`
    case 'unfit':
      return `${which} does not hold: ${foreign(event.detail ?? '')}`
  }
}

function tlsSentence(event: Extract<Happening, { kind: 'tlsAgreed' }>): string {
  const old = event.compat === undefined ? '' : `, which [https] compat allows for ${event.compat}`
  const proof = event.clientFingerprint === undefined ? '' : ', and proved itself by certificate'
  return `speaks ${event.protocol.replace('TLSv', 'TLS ')} with ${event.cipher}${old}${proof}`
}

function tlsFailure({ reason, hint, offered }: Extract<Happening, { kind: 'tlsFailed' }>): string {
  const what = offered === undefined ? '' : ` (it offered ${foreign(offered)})`
  return `could not agree on TLS: ${foreign(reason)}${what}. ${hint}`
}

function loginOf(event: Extract<Happening, { kind: 'iscsiLogin' }>): string {
  const who = { firmware: 'firmware', ipxe: 'iPXE', system: 'operating system', unknown: 'initiator' }[event.stage]
  const chap = event.algorithm === undefined ? 'CHAP' : `CHAP with ${event.algorithm}`
  const proof = { none: 'no proof', oneWay: chap, mutual: `mutual ${chap}` }[event.authentication]
  const weak = event.downgraded === true ? ', for it offered nothing better' : ''
  return `${who}, ${proof}${weak}${event.reinstated ? ', in place of a session left behind' : ''}`
}

function seconds(durationMs: number): string {
  return `${(durationMs / 1000).toFixed(durationMs < 10_000 ? 2 : 1)} s`
}

/** Text that a peer had a hand in: no control characters on anybody's terminal, and no novels. */
export function foreign(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: exactly what must not reach a terminal
  const clean = text.replaceAll(/[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g, '?')
  return clean.length > foreignTextCharactersMax ? `${clean.slice(0, foreignTextCharactersMax - 1)}…` : clean
}

/** Milliseconds since 1970 as '2026-11-21T05:23:00.000Z'. Years 1970 to 9999; the proleptic Gregorian calendar. */
export function isoTime(atMs: number): string {
  const dayMs = 86_400_000
  const days = Math.floor(atMs / dayMs)
  const ms = atMs - days * dayMs
  // Days counted from 0000-03-01, so that the leap day is the last of its year (Howard Hinnant's civil_from_days).
  const shifted = days + 719_468
  const era = Math.floor(shifted / 146_097)
  const dayOfEra = shifted - era * 146_097
  const yearOfEra = Math.floor(
    (dayOfEra - Math.floor(dayOfEra / 1_460) + Math.floor(dayOfEra / 36_524) - Math.floor(dayOfEra / 146_096)) / 365,
  )
  const dayOfYear = dayOfEra - (365 * yearOfEra + Math.floor(yearOfEra / 4) - Math.floor(yearOfEra / 100))
  const monthFromMarch = Math.floor((5 * dayOfYear + 2) / 153)
  const day = dayOfYear - Math.floor((153 * monthFromMarch + 2) / 5) + 1
  const month = monthFromMarch < 10 ? monthFromMarch + 3 : monthFromMarch - 9
  const year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
  const pad = (value: number, digits: number): string => String(value).padStart(digits, '0')
  const time = [Math.floor(ms / 3_600_000), Math.floor(ms / 60_000) % 60, Math.floor(ms / 1_000) % 60]
  return `${pad(year, 4)}-${pad(month, 2)}-${pad(day, 2)}T${time.map((part) => pad(part, 2)).join(':')}.${pad(Math.floor(ms % 1_000), 3)}Z`
}
