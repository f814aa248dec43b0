/**
 * As much DER (ITU-T X.690) as it takes to say who signed something: a CMS SignedData (RFC 5652 §5.1), the certificates
 * in it (RFC 5280 §4.1), and a name as people write it. Reads, never judges: whether a signature holds is the firmware's
 * to say.
 */
import { malformed } from './disk-error.ts'
import { textOf } from './fields.ts'
import { derDepthMax } from './limits.ts'

export interface DerValue {
  /** Class, constructed bit and number, as the first byte has them: 0x30 is SEQUENCE. */
  readonly tag: number
  readonly content: Uint8Array
  /** Tag, length and content. */
  readonly whole: Uint8Array
}

export const derTag = {
  integer: 0x02,
  objectId: 0x06,
  sequence: 0x30,
  set: 0x31,
  context0: 0xa0,
} as const

/** The value at the start of `bytes`; what follows it is not looked at. @throws {DiskError} malformed */
export function derValue(bytes: Uint8Array): DerValue {
  const tag = byteAt(bytes, 0)
  if ((tag & 0x1f) === 0x1f) throw malformed('DER', 'a tag of more than one byte')
  const first = byteAt(bytes, 1)
  let headerBytes = 2
  let length = first
  if (first >= 0x80) {
    const lengthBytes = first & 0x7f
    if (lengthBytes === 0 || lengthBytes > 4) throw malformed('DER', `a length of ${lengthBytes} bytes`)
    length = 0
    for (let i = 0; i < lengthBytes; i++) length = length * 256 + byteAt(bytes, 2 + i)
    headerBytes += lengthBytes
  }
  const end = headerBytes + length
  if (end > bytes.byteLength) throw malformed('DER', `a value of ${length} bytes in ${bytes.byteLength}`)
  return { tag, content: bytes.subarray(headerBytes, end), whole: bytes.subarray(0, end) }
}

/** What is inside a constructed value, in order. @throws {DiskError} malformed */
export function derChildren(value: DerValue): DerValue[] {
  const children: DerValue[] = []
  let rest = value.content
  while (rest.byteLength > 0) {
    const child = derValue(rest)
    children.push(child)
    rest = rest.subarray(child.whole.byteLength)
  }
  return children
}

/** Walks down: `derPath(value, 0, 1)` is the second child of the first child. @throws {DiskError} malformed */
export function derPath(value: DerValue, ...indexes: readonly number[]): DerValue {
  if (indexes.length > derDepthMax) throw malformed('DER', 'too deep')
  let here = value
  for (const index of indexes) {
    const child = derChildren(here)[index]
    if (child === undefined) throw malformed('DER', 'a part is missing')
    here = child
  }
  return here
}

export function derObjectId(value: DerValue): string {
  const parts: number[] = []
  let number = 0
  for (const byte of value.content) {
    number = number * 128 + (byte & 0x7f)
    if (number > Number.MAX_SAFE_INTEGER) throw malformed('DER', 'an object identifier too large')
    if (byte >= 0x80) continue
    if (parts.length === 0)
      parts.push(Math.min(Math.floor(number / 40), 2), number - 40 * Math.min(Math.floor(number / 40), 2))
    else parts.push(number)
    number = 0
  }
  return parts.join('.')
}

const signedData = '1.2.840.113549.1.7.2'
const nameTypes: Readonly<Record<string, string>> = {
  '2.5.4.3': 'CN',
  '2.5.4.6': 'C',
  '2.5.4.7': 'L',
  '2.5.4.8': 'ST',
  '2.5.4.10': 'O',
  '2.5.4.11': 'OU',
}

/**
 * The subjects of those who signed, one for each SignerInfo. A signer whose certificate is not enclosed is named by its
 * issuer. @throws {DiskError} malformed
 */
export function signersOf(cms: Uint8Array): string[] {
  const content = derValue(cms)
  if (derObjectId(derPath(content, 0)) !== signedData) throw malformed('CMS', 'not signed data')
  const parts = derChildren(derPath(content, 1, 0))
  const certificates = parts
    .filter((part) => part.tag === derTag.context0)
    .flatMap(derChildren)
    .map(namesOf)
  const signerInfos = parts.at(-1)
  if (signerInfos === undefined || signerInfos.tag !== derTag.set) throw malformed('CMS', 'no signers')
  return derChildren(signerInfos).map((signer) => {
    const issuer = derPath(signer, 1, 0)
    const serial = derPath(signer, 1, 1)
    const own = certificates.find(
      (each) => equalBytes(each.issuer.whole, issuer.whole) && equalBytes(each.serial.content, serial.content),
    )
    return own === undefined ? `unknown, certified by ${formatName(issuer)}` : formatName(own.subject)
  })
}

function namesOf(certificate: DerValue): {
  readonly serial: DerValue
  readonly issuer: DerValue
  readonly subject: DerValue
} {
  const fields = derChildren(derPath(certificate, 0))
  // The version comes first unless it is version 1.
  const start = fields[0]?.tag === derTag.context0 ? 1 : 0
  const [serial, , issuer, , subject] = fields.slice(start)
  if (serial === undefined || issuer === undefined || subject === undefined)
    throw malformed('CMS', 'a certificate cut short')
  return { serial, issuer, subject }
}

/** 'CN=Example, O=Example Ltd', most telling first; types without a common letter are left out. */
export function formatName(name: DerValue): string {
  const parts: string[] = []
  for (const set of derChildren(name)) {
    for (const pair of derChildren(set)) {
      const type = nameTypes[derObjectId(derPath(pair, 0))]
      const value = derPath(pair, 1)
      if (type !== undefined) parts.push(`${type}=${printable(value)}`)
    }
  }
  return parts.reverse().join(', ')
}

function printable(value: DerValue): string {
  // BMPString is UTF-16, big-endian; every other string type is read as UTF-8, which their ASCII is.
  const isBmp = value.tag === 0x1e
  let text = ''
  if (isBmp) {
    for (let i = 0; i + 1 < value.content.byteLength; i += 2) {
      text += String.fromCharCode(byteAt(value.content, i) * 256 + byteAt(value.content, i + 1))
    }
  } else text = textOf(value.content)
  return Array.from(text.slice(0, 256), (character) => (character < ' ' ? '?' : character)).join('')
}

function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.byteLength === b.byteLength && a.every((byte, index) => byte === b[index])
}

function byteAt(bytes: Uint8Array, index: number): number {
  const value = bytes[index]
  if (value === undefined) throw malformed('DER', 'cut short')
  return value
}
