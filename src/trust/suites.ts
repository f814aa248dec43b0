/**
 * Which cipher suites are spoken, and to whom. Everything but the boot listener speaks the modern ones alone; there each
 * `compat` setting allows what one kind of older loader cannot do without (docs/quirks.md).
 */
import type { ClientHello } from './client-hello.ts'

/** Loaders whose TLS is old; each has cipher suites of its own that are allowed for it. */
export type Compat = 'ipxe-2019' | 'ovmf'

/** A certificate with which key the suite takes; TLS 1.3's suites do not say. */
type Key = 'rsa' | 'ec' | 'any'
type Suite = {
  /** OpenSSL's. */
  readonly name: string
  readonly key: Key
  /** 'modern', the setting that allows it, or undefined: never spoken. */
  readonly allowedBy: 'modern' | Compat | undefined
}

const suite = (name: string, key: Key, allowedBy?: 'modern' | Compat): Suite => ({ name, key, allowedBy })

/**
 * By IANA's number, strongest first. Modern is forward secrecy and authenticated encryption. `ovmf`
 * lacks elliptic curves, `ipxe-2019` forward secrecy and authenticated encryption.
 */
const suites: ReadonlyMap<number, Suite> = new Map([
  [0x1301, suite('TLS_AES_128_GCM_SHA256', 'any', 'modern')],
  [0x1302, suite('TLS_AES_256_GCM_SHA384', 'any', 'modern')],
  [0x1303, suite('TLS_CHACHA20_POLY1305_SHA256', 'any', 'modern')],
  [0xc02b, suite('ECDHE-ECDSA-AES128-GCM-SHA256', 'ec', 'modern')],
  [0xc02f, suite('ECDHE-RSA-AES128-GCM-SHA256', 'rsa', 'modern')],
  [0xc02c, suite('ECDHE-ECDSA-AES256-GCM-SHA384', 'ec', 'modern')],
  [0xc030, suite('ECDHE-RSA-AES256-GCM-SHA384', 'rsa', 'modern')],
  [0xcca9, suite('ECDHE-ECDSA-CHACHA20-POLY1305', 'ec', 'modern')],
  [0xcca8, suite('ECDHE-RSA-CHACHA20-POLY1305', 'rsa', 'modern')],
  [0x009e, suite('DHE-RSA-AES128-GCM-SHA256', 'rsa', 'ovmf')],
  [0x009f, suite('DHE-RSA-AES256-GCM-SHA384', 'rsa', 'ovmf')],
  [0x009c, suite('AES128-GCM-SHA256', 'rsa', 'ovmf')],
  [0x009d, suite('AES256-GCM-SHA384', 'rsa', 'ovmf')],
  [0x006b, suite('DHE-RSA-AES256-SHA256', 'rsa', 'ovmf')],
  [0x003c, suite('AES128-SHA256', 'rsa', 'ipxe-2019')],
  [0x003d, suite('AES256-SHA256', 'rsa', 'ipxe-2019')],
  [0x002f, suite('AES128-SHA', 'rsa', 'ipxe-2019')],
  [0x0035, suite('AES256-SHA', 'rsa', 'ipxe-2019')],
  [0x0067, suite('DHE-RSA-AES128-SHA256', 'rsa')],
  [0x0033, suite('DHE-RSA-AES128-SHA', 'rsa')],
  [0x0039, suite('DHE-RSA-AES256-SHA', 'rsa')],
  [0xc023, suite('ECDHE-ECDSA-AES128-SHA256', 'ec')],
  [0xc024, suite('ECDHE-ECDSA-AES256-SHA384', 'ec')],
  [0xc027, suite('ECDHE-RSA-AES128-SHA256', 'rsa')],
  [0xc028, suite('ECDHE-RSA-AES256-SHA384', 'rsa')],
  [0xc009, suite('ECDHE-ECDSA-AES128-SHA', 'ec')],
  [0xc00a, suite('ECDHE-ECDSA-AES256-SHA', 'ec')],
  [0xc013, suite('ECDHE-RSA-AES128-SHA', 'rsa')],
  [0xc014, suite('ECDHE-RSA-AES256-SHA', 'rsa')],
  [0x000a, suite('DES-CBC3-SHA', 'rsa')],
  [0x0005, suite('RC4-SHA', 'rsa')],
  [0x0004, suite('RC4-MD5', 'rsa')],
])

/**
 * As OpenSSL takes them, for TLS 1.2, in the order of the table: the server chooses, and a client that can do better must
 * not be given the suites of one that cannot.
 */
export function cipherList(compat: readonly Compat[]): string {
  // TLS 1.3's are always its three, and are not set here.
  return [...suites.values()]
    .flatMap((each) => (isSpoken(each, compat) && each.key !== 'any' ? [each.name] : []))
    .join(':')
}

function isSpoken({ allowedBy }: Suite, compat: readonly Compat[]): boolean {
  return allowedBy === 'modern' || compat.some((each) => each === allowedBy)
}

/** The setting without which this suite (by OpenSSL's name) would not have been agreed on; undefined: a modern one. */
export function compatOf(name: string): Compat | undefined {
  const allowedBy = [...suites.values()].find((each) => each.name === name)?.allowedBy
  return allowedBy === 'modern' ? undefined : allowedBy
}

/** How the suites of a hello fit with ours. */
export type OfferFacts = {
  /** Settings that would allow something of it. */
  readonly neededCompat: readonly Compat[]
  /** Something of it is allowed, with one of our certificates or with another kind that we do not have. */
  readonly allowedKeys: ReadonlySet<Key>
}

export function judgeOffer(hello: ClientHello, compat: readonly Compat[]): OfferFacts {
  const known = hello.suites.flatMap((id) => suites.get(id) ?? [])
  const allowed = known.filter((each) => isSpoken(each, compat))
  const needed = known.flatMap(({ allowedBy }) => (allowedBy === 'modern' || allowedBy === undefined ? [] : allowedBy))
  return {
    neededCompat: [...new Set(needed)].filter((each) => !compat.includes(each)),
    allowedKeys: new Set(allowed.map(({ key }) => key)),
  }
}

const suitesNamedMax = 6

/** 'TLS 1.2 with AES128-SHA256, AES256-SHA256 and 2 more; for boot.lab'. Nothing in it is the client's own text but the name. */
export function describeOffer(hello: ClientHello): string {
  const names = hello.suites.map((id) => suites.get(id)?.name ?? `0x${id.toString(16).padStart(4, '0')}`)
  const more = names.length - suitesNamedMax
  const listed = names.slice(0, suitesNamedMax).join(', ')
  const ciphers = names.length === 0 ? 'no cipher suite' : more > 0 ? `${listed} and ${more} more` : listed
  const forWhom = hello.serverName === undefined ? '' : `; for ${hello.serverName}`
  return `${describeVersion(hello.versionMax)} with ${ciphers}${forWhom}`
}

/** RFC 8446 §4.1.2: 0x0301 is TLS 1.0. */
export function describeVersion(version: number): string {
  if (version === 0x0300) return 'SSL 3'
  return version > 0x0300 && version <= 0x0304 ? `TLS 1.${version - 0x0301}` : `version 0x${version.toString(16)}`
}
