/**
 * Why a TLS handshake failed, in words: from OpenSSL's reason, from what the client offered, and from how far it went.
 * Loaders say little: an iPXE that does not trust us hangs up without an alert, whatever the cause.
 */
import type { Certificate } from './certificate.ts'
import type { ClientHello, Opening } from './client-hello.ts'
import { type Compat, describeOffer, describeVersion, judgeOffer } from './suites.ts'
import { dayMs, formatDay } from './time.ts'

export type FailedHandshake = {
  /** OpenSSL's, or Node's: 'no shared cipher', 'tlsv1 alert unknown ca', 'ECONNRESET'. */
  readonly reason: string
  readonly opening: Opening
  /** It ended after our certificate had been sent. */
  readonly certificateShown: boolean
}

export type HandshakeTerms = {
  readonly nowMs: number
  readonly compat: readonly Compat[]
  /** The leaves that are shown. */
  readonly certificates: readonly Certificate[]
}

export type HandshakeWords = {
  readonly reason: string
  /** What a person does about it. */
  readonly hint: string
  /** What the client offered; undefined when it offered nothing that can be read. */
  readonly offered: string | undefined
}

export function explainHandshake(failed: FailedHandshake, terms: HandshakeTerms): HandshakeWords {
  const { opening } = failed
  const offered = opening.kind === 'hello' ? describeOffer(opening.hello) : undefined
  return { ...wordsFor(failed, terms), offered }
}

type Words = Omit<HandshakeWords, 'offered'>

const trustUs =
  'Let it trust this site: slipway loaders add FILE --trust-us, the kit, or for UEFI itself slipway ca export FILE --format efi.'
const setItsClock = 'Set the clock of that machine (its firmware setup, or a new CMOS battery).'

function wordsFor({ reason, opening, certificateShown }: FailedHandshake, terms: HandshakeTerms): Words {
  if (opening.kind === 'http' || /http request/i.test(reason)) {
    return { reason: 'plain HTTP on the HTTPS port', hint: 'Use https:// in that address, or the HTTP port.' }
  }
  if (opening.kind === 'broken') return { reason: opening.why, hint: 'Look what program speaks to this port.' }
  const hello = opening.kind === 'hello' ? opening.hello : undefined
  if (/no shared cipher|no suitable|unsupported protocol|version too low|wrong version/i.test(reason)) {
    return hello === undefined ? nothingInCommon(reason) : noSuite(hello, terms)
  }
  // What the client says by alert: RFC 5246 §7.2.2.
  if (/alert unknown ca/i.test(reason)) return { reason: 'the loader does not trust our CA', hint: trustUs }
  if (/alert certificate expired/i.test(reason)) return expired(hello, terms)
  if (/alert (bad certificate|certificate unknown|unsupported certificate)/i.test(reason)) {
    return clockOrTrust(hello, terms, 'the loader refused our certificate: not signed by a CA it trusts')
  }
  if (/alert (handshake failure|insufficient security|protocol version)/i.test(reason)) {
    return { reason: 'the loader found nothing that it takes in our answer', hint: 'Use a newer loader.' }
  }
  if (/crowded out/.test(reason))
    return { reason: 'too many handshakes at once: newer ones took its place', hint: crowd }
  if (/timeout/i.test(reason)) return { reason: 'the handshake was not finished in time', hint: slow }
  if (/ECONNRESET|EPIPE|hang up|disconnected/i.test(reason)) {
    if (!certificateShown) return { reason: 'the loader hung up during the handshake', hint: slow }
    return clockOrTrust(hello, terms, 'the loader hung up after it saw our certificate: it does not trust our CA')
  }
  return { reason, hint: 'Look up that reason of OpenSSL; slipway up --verbose logs more.' }
}

const crowd = 'Somebody opens connections to this port and leaves them half-way: look at that address.'
const slow = 'A machine that was switched off, or a bad cable; it tries again by itself.'

function nothingInCommon(reason: string): Words {
  return { reason: `nothing in common: ${reason}`, hint: 'Use a newer loader.' }
}

function noSuite(hello: ClientHello, { compat, certificates }: HandshakeTerms): Words {
  if (hello.versionMax < 0x0303) {
    const reason = `the loader speaks ${describeVersion(hello.versionMax)} at most, which is no longer safe; TLS 1.2 is needed`
    return { reason, hint: 'Use a newer loader: every iPXE since 2012 has TLS 1.2.' }
  }
  const { neededCompat, allowedKeys } = judgeOffer(hello, compat)
  const what = 'no cipher suite in common'
  if (allowedKeys.size > 0) {
    const wanted = allowedKeys.has('rsa') ? 'RSA' : 'elliptic curve'
    const has = certificates.some(({ algorithm }) => (algorithm === 'rsa') === (wanted === 'RSA'))
    if (!has) {
      const hint = `Serve a certificate with ${wanted === 'RSA' ? 'an RSA' : 'an EC'} key too, or take [https] certificate out: our own CA makes both.`
      return { reason: `${what}: the loader takes ${wanted} certificates only, and ours has another key`, hint }
    }
    return { reason: `${what}, though a suite was: its curves or signatures are not ours`, hint: 'Use a newer loader.' }
  }
  if (neededCompat.length === 0)
    return { reason: `${what}: all that the loader has are unsafe`, hint: 'Use a newer loader.' }
  const settings = neededCompat.map((name) => `"${name}"`).join(' or ')
  return { reason: `${what}: the loader is old`, hint: `[https] compat with ${settings} allows what it has.` }
}

function expired(hello: ClientHello | undefined, terms: HandshakeTerms): Words {
  const over = terms.certificates.find(({ notAfterMs }) => notAfterMs <= terms.nowMs)
  if (over !== undefined) {
    const reason = `our certificate expired on ${formatDay(over.notAfterMs)}, and the loader says so`
    return { reason, hint: 'Have a new one made: [https] certificate is read again when the file changes.' }
  }
  const clockMs = hello && clockOf(hello)
  const says = clockMs === undefined ? '' : ` (it says ${formatDay(clockMs)})`
  return {
    reason: `the loader found our certificate expired, which it is not: its clock is wrong${says}`,
    hint: setItsClock,
  }
}

/** A refusal without a reason: of what loaders refuse, the clock is what can be seen from here. */
function clockOrTrust(hello: ClientHello | undefined, terms: HandshakeTerms, otherwise: string): Words {
  const over = terms.certificates.find(({ notAfterMs }) => notAfterMs <= terms.nowMs)
  if (over !== undefined) return expired(hello, terms)
  const clockMs = hello && clockOf(hello)
  const isWrong = (now: number): boolean =>
    terms.certificates.some(({ notBeforeMs, notAfterMs }) => now < notBeforeMs - dayMs || now > notAfterMs + dayMs)
  if (clockMs !== undefined && isWrong(clockMs)) {
    const good = terms.certificates[0]
    const from =
      good === undefined
        ? ''
        : `, and our certificate is good from ${formatDay(good.notBeforeMs)} to ${formatDay(good.notAfterMs)}`
    return { reason: `the loader's clock is wrong: it says ${formatDay(clockMs)}${from}`, hint: setItsClock }
  }
  const unsure = clockMs === undefined ? ', or its clock is wrong' : ''
  return { reason: `${otherwise}${unsure}`, hint: trustUs }
}

/** server_name, max_fragment_length, signature_algorithms, renegotiation_info: nobody else's hello is so. */
const oldIpxeExtensions = '0,1,13,65281'

/**
 * An iPXE before 2.0 begins its random bytes with its clock (RFC 5246 §7.4.1.2, gmt_unix_time), in the byte order of its
 * processor, which is always little-endian. Others put random bytes there.
 */
export function clockOf(hello: ClientHello): number | undefined {
  if (hello.extensions.join() !== oldIpxeExtensions) return undefined
  const [a = 0, b = 0, c = 0, d = 0] = hello.random
  return (((d << 24) | (c << 16) | (b << 8) | a) >>> 0) * 1000
}
