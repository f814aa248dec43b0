/**
 * The site's certificate authority and what it signs. Time, keys and randomness come in; nothing is stored here.
 *
 * The authority is RSA whatever else: the iPXE of 2019 can check no other signature. Its leaves are two, side by side,
 * RSA-3072 for old loaders and P-256 for new ones, because TLS picks the one that a client can check.
 */
import { OperationError } from '../base/errors.ts'
import type { Secret } from '../base/secret.ts'
import type { Hash } from '../ports/hash.ts'
import type { KeyKind, Keys, PrivateKey } from '../ports/keys.ts'
import type { Random } from '../ports/random.ts'
import {
  type Certificate,
  equalBytes,
  isSignedBy,
  makeCertificate,
  readCertificate,
  type SubjectNames,
} from './certificate.ts'
import { chainCertificateCountMax, serialBytes } from './limits.ts'
import { decodePem, encodePem, unreadable } from './pem.ts'
import { dayMs, formatDay } from './time.ts'

export interface TrustPorts {
  readonly keys: Keys
  readonly hash: Hash
  readonly random: Random
}

/** A certificate with its private key. */
export interface Identity {
  readonly certificate: Certificate
  readonly key: PrivateKey
}

/** 20 years: replacing it means touching every loader that trusts it. */
const authorityDays = 7300
/** What public authorities keep to; the leaf renews itself long before. */
const leafDays = 397
/** A client whose clock is a little behind must not see a certificate from the future. */
const backdateDays = 7
/** Renewed when less than a third is left, so that a server that is off for a month comes back with a good one. */
const renewalDaysLeft = 132

export async function createAuthority(
  terms: { readonly name: string; readonly nowMs: number },
  ports: TrustPorts,
): Promise<Identity> {
  const key = await ports.keys.generate('rsa3072')
  const serial = freshSerial(ports.random)
  // Two authorities of one site must not have one name: a chain is found by name, and would be found wrong.
  const mark = Array.from(serial.subarray(-3), (byte) => byte.toString(16).padStart(2, '0')).join('')
  const certificate = makeCertificate(
    {
      profile: 'authority',
      commonName: `${terms.name} ${mark}`,
      names: { dns: [], ip: [] },
      serial,
      ...validity(terms.nowMs, authorityDays),
      subjectKey: key,
    },
    ports.hash,
  )
  return { certificate, key }
}

export interface LeafTerms {
  readonly profile: 'server' | 'client'
  readonly keyKind: KeyKind
  /** A server's names; a client's common name is `commonName` and it has none. */
  readonly names: SubjectNames
  /** Absent: the first of the names. */
  readonly commonName?: string
  /** Absent: what servers have, which renew themselves. */
  readonly days?: number
  readonly nowMs: number
}

/** @throws {OperationError} nameInvalid, authorityExpired */
export async function issueLeaf(authority: Identity, terms: LeafTerms, ports: TrustPorts): Promise<Identity> {
  checkNames(terms.names)
  const commonName = terms.commonName ?? terms.names.dns[0] ?? terms.names.ip[0]
  if (commonName === undefined) throw nameInvalid('', 'is empty')
  const { certificate: issuer } = authority
  if (terms.nowMs >= issuer.notAfterMs) {
    const what = `the certificate authority expired on ${formatDay(issuer.notAfterMs)}`
    const hint =
      'Make a new one (slipway ca rotate) and give it to the loaders, or set the clock of this computer right.'
    throw new OperationError('authorityExpired', what, hint)
  }
  const key = await ports.keys.generate(terms.keyKind)
  const dates = validity(terms.nowMs, terms.days ?? leafDays)
  const certificate = makeCertificate(
    {
      profile: terms.profile,
      commonName,
      names: terms.names,
      serial: freshSerial(ports.random),
      notBeforeMs: Math.max(dates.notBeforeMs, issuer.notBeforeMs),
      // A leaf that outlives its issuer is refused by iPXE from the day on which the issuer ends.
      notAfterMs: Math.min(dates.notAfterMs, issuer.notAfterMs),
      subjectKey: key,
      issuer: authority,
    },
    ports.hash,
  )
  return { certificate, key }
}

function validity(nowMs: number, days: number): { readonly notBeforeMs: number; readonly notAfterMs: number } {
  const nowSeconds = Math.floor(nowMs / 1000) * 1000
  return { notBeforeMs: nowSeconds - backdateDays * dayMs, notAfterMs: nowSeconds + days * dayMs }
}

/** Positive and not zero, whatever was drawn. */
function freshSerial(random: Random): Uint8Array {
  const serial = new Uint8Array(random.bytes(serialBytes))
  serial[0] = ((serial[0] ?? 0) & 0x7f) | 0x40
  return serial
}

/** RFC 1123 §2.1: labels of up to 63 letters, digits and dashes, 253 characters together. */
export function isHostName(text: string): boolean {
  return hostName.test(text)
}

const hostName = /^(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$/i

function checkNames({ dns }: SubjectNames): void {
  const wrong = dns.find((name) => !isHostName(name))
  if (wrong !== undefined)
    throw nameInvalid(wrong, wrong.includes('*') ? 'is a wildcard, which UEFI refuses' : 'is no host name')
}

function nameInvalid(name: string, why: string): OperationError {
  return new OperationError(
    'nameInvalid',
    `a certificate cannot be made for "${name}": it ${why}`,
    'Give exact names, such as boot.lab or 192.168.77.1.',
  )
}

/** Why a leaf must be made anew; undefined while it is good. */
export function renewalReason(
  leaf: Certificate,
  wanted: { readonly issuer: Certificate; readonly names: SubjectNames; readonly nowMs: number },
  keys: Keys,
): string | undefined {
  // Its name is not enough: an authority of the user's own may have been made anew under the same one.
  if (!isSignedBy(leaf, wanted.issuer, keys)) return 'another authority signed it'
  if (wanted.nowMs < leaf.notBeforeMs) return 'it is from the future: a clock was wrong'
  const leftMs = leaf.notAfterMs - wanted.nowMs
  // Near the authority's own end every leaf is short; making it anew would not make it longer.
  const longestMs = Math.min(renewalDaysLeft * dayMs, (wanted.issuer.notAfterMs - wanted.nowMs) / 2)
  if (leftMs <= 0 || leftMs < longestMs) return `it ends on ${formatDay(leaf.notAfterMs)}`
  const same = (a: readonly string[], b: readonly string[]): boolean => [...a].sort().join() === [...b].sort().join()
  if (!same(leaf.names.dns, wanted.names.dns) || !same(leaf.names.ip, wanted.names.ip)) return 'the names have changed'
  return undefined
}

/** The certificates of a PEM file, in its order. @throws {OperationError} certificateUnreadable */
export function readChain(pem: string): Certificate[] {
  const chain = decodePem('CERTIFICATE', pem).slice(0, chainCertificateCountMax).map(readCertificate)
  if (chain.length === 0) throw unreadable('no -----BEGIN CERTIFICATE----- in it')
  return chain
}

export function exportCertificate(certificate: Certificate): string {
  return encodePem('CERTIFICATE', certificate.der)
}

/**
 * An authority that somebody else made. @throws {OperationError} certificateUnreadable, keyUnreadable, keyMismatch,
 * notAnAuthority, certificateExpired
 */
export function importAuthority(
  given: { readonly certificatePem: string; readonly keyPem: Secret; readonly nowMs: number },
  keys: Keys,
): Identity {
  const [certificate] = readChain(given.certificatePem)
  if (certificate === undefined) throw unreadable('empty')
  if (!certificate.isAuthority) {
    const hint =
      'Give the certificate of an authority (basicConstraints CA:TRUE). A server certificate of yours goes into [https] certificate.'
    throw new OperationError('notAnAuthority', `${certificate.subject} is not a certificate authority`, hint)
  }
  const key = keys.read(given.keyPem)
  checkPair(certificate, key)
  checkDates(certificate, given.nowMs)
  return { certificate, key }
}

/**
 * A server certificate of the user's own: the leaf first, then its chain. @throws {OperationError} certificateUnreadable,
 * keyUnreadable, keyMismatch, certificateExpired, chainBroken, nameNotCovered
 */
export function checkServerCertificate(
  given: { readonly chainPem: string; readonly keyPem: Secret; readonly names: SubjectNames; readonly nowMs: number },
  keys: Keys,
): { readonly chain: readonly Certificate[]; readonly key: PrivateKey } {
  const chain = readChain(given.chainPem)
  const key = keys.read(given.keyPem)
  const [leaf] = chain
  if (leaf === undefined) throw unreadable('empty')
  checkPair(leaf, key)
  for (const [index, certificate] of chain.entries()) {
    checkDates(certificate, given.nowMs)
    // Each has signed one before it: not always the last, a root may be there twice, signed by itself and by another.
    const before = chain.slice(0, index)
    if (index > 0 && !before.some((each) => isSignedBy(each, certificate, keys))) {
      const hint = 'Put the certificates in order: the server first, then the one that signed it, and so on.'
      throw new OperationError('chainBroken', `${certificate.subject} has signed none of those before it`, hint)
    }
  }
  const missing = [...given.names.dns, ...given.names.ip].find((name) => !coversName(leaf, name))
  if (missing !== undefined) {
    const named = [...leaf.names.dns, ...leaf.names.ip].join(', ')
    const hint = `It is for ${named === '' ? 'no name' : named}. Set server-name to one of these, or have it made for ${missing}.`
    throw new OperationError('nameNotCovered', `the certificate is not for ${missing}`, hint)
  }
  return { chain, key }
}

/** Whether a client that asked for this name or address takes the certificate for it. */
export function coversName({ names }: Certificate, name: string): boolean {
  const wanted = name.toLowerCase()
  // RFC 9525 §6.3: a wildcard is the whole leftmost label, and one label only.
  const wildcard = wanted.replace(/^[^.]+/, '*')
  return names.ip.includes(name) || names.dns.some((each) => [wanted, wildcard].includes(each.toLowerCase()))
}

function checkPair(certificate: Certificate, key: PrivateKey): void {
  if (equalBytes(certificate.publicKey, key.publicKey)) return
  const hint =
    'Give the two that were made together: compare openssl x509 -in CERT -noout -pubkey with openssl pkey -in KEY -pubout.'
  throw new OperationError('keyMismatch', `the private key is not that of ${certificate.subject}`, hint)
}

function checkDates(certificate: Certificate, nowMs: number): void {
  if (nowMs < certificate.notBeforeMs) {
    const what = `${certificate.subject} is valid only from ${formatDay(certificate.notBeforeMs)}`
    throw new OperationError('certificateExpired', what, 'Set the clock of this computer right.')
  }
  if (nowMs >= certificate.notAfterMs) {
    const what = `${certificate.subject} expired on ${formatDay(certificate.notAfterMs)}`
    throw new OperationError(
      'certificateExpired',
      what,
      'Have a new one made, or set the clock of this computer right.',
    )
  }
}
