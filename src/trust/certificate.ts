/**
 * X.509 certificates (RFC 5280): the three kinds this site makes, and what matters of any other.
 *
 * Every iPXE since 2012 and every UEFI must take them: SHA-256, no critical extension but the ones all of them know
 * (basicConstraints, keyUsage), names exact and in subjectAltName, the first one also as common name.
 */
import { formatIpv4, parseIpv4 } from '../base/address.ts'
import { assert } from '../base/assert.ts'
import { type DerValue, derChildren, derObjectId, derPath, derTag, derValue, formatName } from '../disk/der.ts'
import { isDiskError } from '../disk/source.ts'
import type { Hash } from '../ports/hash.ts'
import type { Keys, PrivateKey, SignatureHash } from '../ports/keys.ts'
import {
  bits,
  boolean,
  context,
  contextPrimitive,
  integer,
  nothing,
  objectId,
  octets,
  sequence,
  set,
  utf8String,
} from './der-writer.ts'
import { certificateNameCountMax } from './limits.ts'
import { unreadable } from './pem.ts'
import { decodeTime, encodeTime } from './time.ts'

const oid = {
  commonName: '2.5.4.3',
  organization: '2.5.4.10',
  rsaEncryption: '1.2.840.113549.1.1.1',
  sha256WithRsa: '1.2.840.113549.1.1.11',
  ecdsaWithSha256: '1.2.840.10045.4.3.2',
  subjectKeyId: '2.5.29.14',
  keyUsage: '2.5.29.15',
  subjectAltName: '2.5.29.17',
  basicConstraints: '2.5.29.19',
  authorityKeyId: '2.5.29.35',
  extendedKeyUsage: '2.5.29.37',
  serverAuth: '1.3.6.1.5.5.7.3.1',
  clientAuth: '1.3.6.1.5.5.7.3.2',
} as const

/** RSASSA-PKCS1-v1_5 (RFC 4055 §5) and ECDSA (RFC 5758 §3.2): what public authorities sign with. */
const signatureHashes: ReadonlyMap<string, SignatureHash> = new Map([
  [oid.sha256WithRsa, 'sha256'],
  ['1.2.840.113549.1.1.12', 'sha384'],
  ['1.2.840.113549.1.1.13', 'sha512'],
  [oid.ecdsaWithSha256, 'sha256'],
  ['1.2.840.10045.4.3.3', 'sha384'],
  ['1.2.840.10045.4.3.4', 'sha512'],
])

/** keyUsage bits, most significant first (RFC 5280 §4.2.1.3), and how many of the last byte are unused. */
const keyUsage = {
  // keyCertSign 5, cRLSign 6
  authority: { byte: 0x06, unused: 1 },
  // digitalSignature 0, keyEncipherment 2: RSA key exchange, which the iPXE of 2019 cannot do without
  rsaLeaf: { byte: 0xa0, unused: 5 },
  ecLeaf: { byte: 0x80, unused: 7 },
} as const

export interface SubjectNames {
  /** Exact host names; no wildcards: newer UEFI refuses them. */
  readonly dns: readonly string[]
  /** IPv4, dotted. */
  readonly ip: readonly string[]
}

export interface CertificateTerms {
  readonly profile: 'authority' | 'server' | 'client'
  readonly commonName: string
  readonly names: SubjectNames
  /** Positive, random: RFC 5280 §4.1.2.2. */
  readonly serial: Uint8Array
  readonly notBeforeMs: number
  readonly notAfterMs: number
  readonly subjectKey: PrivateKey
  /** Absent: signed by itself. */
  readonly issuer?: { readonly certificate: Certificate; readonly key: PrivateKey }
}

/** What is read from a certificate. `der` is the whole. */
export interface Certificate {
  readonly der: Uint8Array
  readonly serial: string
  /** 'CN=..., O=...', for people. */
  readonly subject: string
  readonly issuer: string
  readonly notBeforeMs: number
  readonly notAfterMs: number
  readonly names: SubjectNames
  readonly isAuthority: boolean
  /** SubjectPublicKeyInfo, DER. */
  readonly publicKey: Uint8Array
  readonly algorithm: 'rsa' | 'ec' | 'other'
  /** Name as DER: what chains compare. */
  readonly subjectDer: Uint8Array
  readonly issuerDer: Uint8Array
  readonly signedBytes: Uint8Array
  readonly signature: Uint8Array
  /** Undefined: signed in a way that is not known here. */
  readonly signatureHash: SignatureHash | undefined
}

/** Makes one, signed. */
export function makeCertificate(terms: CertificateTerms, hash: Hash): Certificate {
  const { profile, names, issuer, subjectKey } = terms
  assert(terms.notAfterMs > terms.notBeforeMs, 'a certificate ends after it begins')
  assert(names.dns.length + names.ip.length <= certificateNameCountMax, 'names fit in a certificate')
  const signer = issuer?.key ?? subjectKey
  // RFC 3279 §2.2.1: RSA's parameters are NULL. RFC 5758 §3.2: ECDSA has none.
  const algorithm =
    signer.algorithm === 'rsa'
      ? sequence(objectId(oid.sha256WithRsa), nothing())
      : sequence(objectId(oid.ecdsaWithSha256))
  const subject = nameOf(terms.commonName)
  const issuerKey = issuer?.certificate.publicKey ?? subjectKey.publicKey
  const extensions = [
    // An authority of ours makes leaves only: pathLenConstraint 0.
    extension(
      oid.basicConstraints,
      true,
      profile === 'authority' ? sequence(boolean(true), integer(Uint8Array.of(0))) : sequence(),
    ),
    extension(oid.keyUsage, true, keyUsageOf(profile, subjectKey)),
    ...(profile === 'authority' ? [] : [extension(oid.extendedKeyUsage, false, purposeOf(profile))]),
    ...(names.dns.length + names.ip.length === 0
      ? []
      : [extension(oid.subjectAltName, false, alternativeNames(names))]),
    extension(oid.subjectKeyId, false, octets(keyIdOf(subjectKey.publicKey, hash))),
    extension(oid.authorityKeyId, false, sequence(contextPrimitive(0, keyIdOf(issuerKey, hash)))),
  ]
  const signedBytes = sequence(
    context(0, integer(Uint8Array.of(2))),
    integer(terms.serial),
    algorithm,
    issuer?.certificate.subjectDer ?? subject,
    sequence(encodeTime(terms.notBeforeMs), encodeTime(terms.notAfterMs)),
    subject,
    subjectKey.publicKey,
    context(3, sequence(...extensions)),
  )
  return readCertificate(sequence(signedBytes, algorithm, bits(signer.sign(signedBytes))))
}

function nameOf(commonName: string): Uint8Array {
  const part = (type: string, value: string): Uint8Array => set(sequence(objectId(type), utf8String(value)))
  return sequence(part(oid.organization, 'Slipway'), part(oid.commonName, commonName))
}

function extension(id: string, critical: boolean, value: Uint8Array): Uint8Array {
  return critical ? sequence(objectId(id), boolean(true), octets(value)) : sequence(objectId(id), octets(value))
}

function keyUsageOf(profile: CertificateTerms['profile'], key: PrivateKey): Uint8Array {
  const leaf = key.algorithm === 'rsa' ? keyUsage.rsaLeaf : keyUsage.ecLeaf
  const { byte, unused } = profile === 'authority' ? keyUsage.authority : leaf
  return bits(Uint8Array.of(byte), unused)
}

function purposeOf(profile: 'server' | 'client'): Uint8Array {
  return sequence(objectId(profile === 'server' ? oid.serverAuth : oid.clientAuth))
}

/** GeneralName: dNSName [2], iPAddress [7]. */
function alternativeNames({ dns, ip }: SubjectNames): Uint8Array {
  const addresses = ip.map((address) => {
    const value = parseIpv4(address)
    assert(value !== undefined, 'addresses in a certificate are IPv4')
    return contextPrimitive(7, Uint8Array.of(value >>> 24, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff))
  })
  return sequence(...dns.map((name) => contextPrimitive(2, new TextEncoder().encode(name))), ...addresses)
}

/** RFC 7093 §2, method 1: the first 160 bits of the SHA-256 of the key. */
function keyIdOf(publicKey: Uint8Array, hash: Hash): Uint8Array {
  const keyBits = derPath(derValue(publicKey), 1).content.subarray(1)
  return hash.digest('sha256', [keyBits]).subarray(0, 20)
}

/** What stands for a certificate in iPXE and in `slipway ca show`: the SHA-256 of the whole. */
export function fingerprintOf(certificate: Certificate, hash: Hash): Uint8Array {
  return hash.digest('sha256', [certificate.der])
}

/** @throws {OperationError} certificateUnreadable */
export function readCertificate(bytes: Uint8Array): Certificate {
  try {
    return decode(bytes)
  } catch (error) {
    if (!isDiskError(error)) throw error
    throw unreadable(error.message)
  }
}

function decode(bytes: Uint8Array): Certificate {
  const whole = derValue(bytes)
  if (whole.tag !== derTag.sequence) throw unreadable('not a sequence')
  const [tbs, signatureAlgorithm, signature] = derChildren(whole)
  if (tbs === undefined || signatureAlgorithm === undefined || signature === undefined) throw unreadable('cut short')
  const fields = derChildren(tbs)
  const [serial, , issuer, validity, subject, publicKey, ...rest] = fields.slice(
    fields[0]?.tag === derTag.context0 ? 1 : 0,
  )
  if (serial === undefined || issuer === undefined || validity === undefined || subject === undefined) {
    throw unreadable('cut short')
  }
  if (publicKey === undefined) throw unreadable('without a key')
  const extensions = rest.filter(({ tag }) => tag === 0xa3).flatMap((list) => derChildren(derPath(list, 0)))
  const keyAlgorithm = derObjectId(derPath(publicKey, 0, 0))
  return {
    der: whole.whole,
    serial: Array.from(serial.content, (byte) => byte.toString(16).padStart(2, '0')).join(''),
    subject: formatName(subject),
    issuer: formatName(issuer),
    notBeforeMs: decodeTime(derPath(validity, 0)),
    notAfterMs: decodeTime(derPath(validity, 1)),
    names: namesOf(extensionValue(extensions, oid.subjectAltName)),
    isAuthority: isAuthority(extensionValue(extensions, oid.basicConstraints)),
    publicKey: publicKey.whole,
    algorithm: keyAlgorithm === oid.rsaEncryption ? 'rsa' : keyAlgorithm === '1.2.840.10045.2.1' ? 'ec' : 'other',
    subjectDer: subject.whole,
    issuerDer: issuer.whole,
    signedBytes: tbs.whole,
    signature: signature.content.subarray(1),
    signatureHash: signatureHashes.get(derObjectId(derPath(signatureAlgorithm, 0))),
  }
}

/** Extension: OID, critical (DEFAULT FALSE), OCTET STRING with DER in it. */
function extensionValue(extensions: readonly DerValue[], id: string): DerValue | undefined {
  const found = extensions.find((each) => derObjectId(derPath(each, 0)) === id)
  const value = found && derChildren(found).at(-1)
  return value && derValue(value.content)
}

function namesOf(value: DerValue | undefined): SubjectNames {
  const dns: string[] = []
  const ip: string[] = []
  for (const { tag, content } of value === undefined ? [] : derChildren(value).slice(0, certificateNameCountMax)) {
    if (tag === 0x82) dns.push(String.fromCharCode(...content.subarray(0, 255)))
    if (tag === 0x87 && content.byteLength === 4) {
      ip.push(formatIpv4(content.reduce((address, byte) => address * 256 + byte, 0)))
    }
  }
  return { dns, ip }
}

function isAuthority(value: DerValue | undefined): boolean {
  const first = value && derChildren(value)[0]
  return first !== undefined && first.tag === 0x01 && first.content[0] !== 0
}

/** Signed by the owner of `issuer`'s key, and names it. Dates are not looked at. */
export function isSignedBy(certificate: Certificate, issuer: Certificate, keys: Keys): boolean {
  if (!equalBytes(certificate.issuerDer, issuer.subjectDer)) return false
  const { signedBytes: bytes, signature, signatureHash: hash } = certificate
  return hash !== undefined && keys.verify(issuer.publicKey, { bytes, signature, hash })
}

export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.byteLength === b.byteLength && a.every((byte, index) => byte === b[index])
}
