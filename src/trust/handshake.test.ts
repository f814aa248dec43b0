import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { readVector } from '../../test/vectors.ts'
import { seededRandom } from '../base/random.ts'
import type { Certificate } from './certificate.ts'
import { type ClientHello, type Opening, readOpening } from './client-hello.ts'
import { clockOf, explainHandshake, type FailedHandshake, type HandshakeTerms } from './handshake.ts'
import { type Compat, cipherList, compatOf, describeOffer } from './suites.ts'
import { dayMs } from './time.ts'

const helloIn = (bytes: Uint8Array): ClientHello => {
  const opening = readOpening(bytes)
  if (opening.kind !== 'hello') throw new Error(`not a hello: ${JSON.stringify(opening)}`)
  return opening.hello
}
const ipxe2019 = readVector('trust', 'ipxe-2019-hello')
const ipxe2026 = readVector('trust', 'ipxe-2026-hello')
const ovmf = readVector('trust', 'ovmf-2022-hello')

describe('what loaders offer, from captures', () => {
  test.each([
    [
      'ipxe-2019-hello',
      'TLS 1.2 with AES128-SHA256, AES256-SHA256, AES128-SHA, AES256-SHA; for boot.lab',
      '0,1,13,65281',
    ],
    [
      'ipxe-2026-hello',
      'TLS 1.2 with ECDHE-ECDSA-AES128-GCM-SHA256, ECDHE-RSA-AES128-GCM-SHA256, ECDHE-ECDSA-AES256-GCM-SHA384, ECDHE-RSA-AES256-GCM-SHA384, ECDHE-ECDSA-AES128-SHA256, ECDHE-RSA-AES128-SHA256 and 18 more; for boot.lab',
      '0,1,13,65281,35,23,10',
    ],
    [
      'ovmf-2022-hello',
      'TLS 1.2 with DHE-RSA-AES256-GCM-SHA384, DHE-RSA-AES128-GCM-SHA256, DHE-RSA-AES256-SHA256, DHE-RSA-AES128-SHA256, DHE-RSA-AES256-SHA, DHE-RSA-AES128-SHA and 6 more',
      '35,22,23,13',
    ],
  ])('%s', (name, offered, extensions) => {
    const hello = helloIn(readVector('trust', name))
    expect(describeOffer(hello)).toBe(offered)
    expect(hello.extensions.join()).toBe(extensions)
  })

  test('an iPXE of 2019 tells its clock, and nobody else does', () => {
    // When the two captures were made.
    expect(clockOf(helloIn(ipxe2019))).toBe(Date.UTC(2026, 10, 21, 4, 3, 31))
    expect(clockOf(helloIn(readVector('trust', 'ipxe-2019-hello-unknown-ca')))).toBe(Date.UTC(2026, 10, 21, 4, 2, 17))
    expect(clockOf(helloIn(ipxe2026))).toBeUndefined()
    expect(clockOf(helloIn(ovmf))).toBeUndefined()
  })
})

describe('readOpening', () => {
  test('the versions and GREASE of a modern hello are seen as RFC 8446 means them', () => {
    // supported_versions: 0x0a0a (GREASE), 1.3, 1.2; suites: GREASE, TLS_AES_128_GCM_SHA256, SCSV
    const extensions = '002b 0007 06 0a0a 0304 0303'
    const body = `0303 ${'00'.repeat(32)} 00 0006 1a1a 1301 00ff 01 00 000b ${extensions}`
    const bytes = record(Buffer.from(body.replaceAll(' ', ''), 'hex'))
    expect(helloIn(bytes)).toMatchObject({ versionMax: 0x0304, suites: [0x1301], extensions: [43] })
  })

  test('a hello in several records is one hello', () => {
    const body = ipxe2026.subarray(5)
    const parts = [body.subarray(0, 2), body.subarray(2, 100), body.subarray(100)]
    const split = Buffer.concat(parts.map((part) => Buffer.concat([Buffer.of(22, 3, 1, 0, part.byteLength), part])))
    expect(helloIn(split)).toEqual(helloIn(ipxe2026))
  })

  test('a hello in very many records is not awaited: each chunk of it would cost all those before it', () => {
    const records = Array.from({ length: 17 }, (_, index) => Buffer.of(22, 3, 1, 0, 1, [1, 0, 0x3e, 0x80][index] ?? 0))
    expect(readOpening(Buffer.concat(records.slice(0, 16))).kind).toBe('more')
    expect(readOpening(Buffer.concat(records))).toEqual({
      kind: 'broken',
      why: 'its hello is cut into too many records',
    })
  })

  test.each([ipxe2019, ipxe2026, ovmf])('byte by byte it is awaited, and whole it is there', (bytes) => {
    for (let size = 0; size < bytes.byteLength; size++) expect(readOpening(bytes.subarray(0, size)).kind).toBe('more')
    expect(readOpening(bytes).kind).toBe('hello')
  })

  test.each([
    ['plain HTTP', Buffer.from('GET / HTTP/1.1\r\n'), 'http'],
    ['plain HTTP, its first letters', Buffer.from('HE'), 'more'],
    ['SSH', Buffer.from('SSH-2.0-x\r\n'), 'broken'],
    ['SSL 2', Buffer.from('802e0100020015', 'hex'), 'broken'],
    ['an alert', Buffer.from('15030100020228', 'hex'), 'broken'],
    ['an announced length of 16 MB', Buffer.from('160301000401ffffff', 'hex'), 'broken'],
    ['a record of nothing', Buffer.from('1603010000', 'hex'), 'broken'],
    ['another message than a hello', Buffer.from('160301000402000000', 'hex'), 'broken'],
    ['a hello that breaks off', record(Buffer.from('0303', 'hex')), 'broken'],
  ])('%s is told from a hello', (_, bytes, kind) => {
    expect(readOpening(bytes).kind).toBe(kind)
  })

  test('50,000 mutated hellos are read or refused, and none throws', () => {
    const seed = 20_261_121
    const next = seededRandom(seed)
    const below = (limit: number): number => Math.floor(next() * limit)
    for (let round = 0; round < 50_000; round++) {
      const original = [ipxe2019, ipxe2026, ovmf][below(3)] as Uint8Array
      const bytes = original.slice(0, below(4) === 0 ? below(original.byteLength) : undefined)
      for (let count = below(4); count >= 0 && bytes.byteLength > 0; count--)
        bytes[below(bytes.byteLength)] = below(256)
      try {
        const opening = readOpening(bytes)
        if (opening.kind === 'hello') describeOffer(opening.hello)
      } catch (error) {
        expect.unreachable(`seed ${seed}, round ${round}: ${error}`)
      }
    }
  })

  test('any bytes at all', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => void readOpening(bytes)),
      { numRuns: 5_000 },
    )
    const endless = Buffer.concat(Array.from({ length: 5_000 }, () => Buffer.from('160301000101', 'hex')))
    expect(readOpening(endless).kind).toBe('broken')
  })
})

describe('explainHandshake', () => {
  const nowMs = Date.UTC(2026, 10, 21)
  const certificate = (algorithm: 'rsa' | 'ec', endsInDays = 300): Certificate =>
    ({ algorithm, notBeforeMs: nowMs - 7 * dayMs, notAfterMs: nowMs + endsInDays * dayMs }) as Certificate
  const terms: HandshakeTerms = {
    nowMs,
    compat: ['ipxe-2019', 'ovmf'],
    certificates: [certificate('rsa'), certificate('ec')],
  }
  const hello = (bytes: Uint8Array): Opening => ({ kind: 'hello', hello: helloIn(bytes) })
  const old = (clockMs: number): Opening => {
    const bytes = ipxe2019.slice()
    new DataView(bytes.buffer).setUint32(11, clockMs / 1000, true)
    return hello(bytes)
  }
  const failed = (reason: string, opening: Opening, certificateShown = false): FailedHandshake => ({
    reason,
    opening,
    certificateShown,
  })
  const noneShared =
    'ERR_SSL_NO_SHARED_CIPHER error:0A0000C1:SSL routines:tls_post_process_client_hello:no shared cipher'
  const gone = 'ECONNRESET Client network socket disconnected before secure TLS connection was established'
  const rows: readonly (readonly [name: string, FailedHandshake, Partial<HandshakeTerms>, RegExp, RegExp])[] = [
    [
      'an iPXE of 2019 where its suites are not allowed',
      failed(noneShared, hello(ipxe2019)),
      { compat: ['ovmf'] },
      /^no cipher suite in common: the loader is old$/,
      /compat with "ipxe-2019" allows/,
    ],
    [
      'OVMF where its suites are not allowed',
      failed(noneShared, hello(ovmf)),
      { compat: [] },
      /the loader is old/,
      /"ovmf" or "ipxe-2019" allows/,
    ],
    [
      'an iPXE of 2019 at a server that has only an EC certificate',
      failed(noneShared, hello(ipxe2019)),
      { certificates: [certificate('ec')] },
      /takes RSA certificates only/,
      /RSA key too/,
    ],
    [
      'a client with nothing but TLS 1.0',
      failed('unsupported protocol', {
        kind: 'hello',
        hello: {
          versionMax: 0x0301,
          random: new Uint8Array(32),
          suites: [0x0035],
          extensions: [],
          serverName: undefined,
        },
      }),
      {},
      /TLS 1\.0 at most/,
      /newer loader/,
    ],
    [
      'UEFI with another CA',
      failed('tlsv1 alert unknown ca', hello(ovmf), true),
      {},
      /does not trust our CA/,
      /--format efi/,
    ],
    [
      'iPXE with another CA: it hangs up without a word',
      failed(gone, old(nowMs), true),
      {},
      /hung up after it saw our certificate: it does not trust our CA$/,
      /--trust-us/,
    ],
    [
      'a newer iPXE, whose clock cannot be seen',
      failed(gone, hello(ipxe2026), true),
      {},
      /does not trust our CA, or its clock is wrong$/,
      /--trust-us/,
    ],
    [
      'an iPXE whose clock is in 1970',
      failed(gone, old(60_000), true),
      {},
      /^the loader's clock is wrong: it says 1970-01-01, and our certificate is good from 2026-11-14 to 2027-09-17$/,
      /clock of that machine/,
    ],
    [
      'an alert that our certificate has expired, which it has not',
      failed('sslv3 alert certificate expired', hello(ovmf), true),
      {},
      /which it is not: its clock is wrong$/,
      /clock of that machine/,
    ],
    [
      'an alert that our certificate has expired, and it has',
      failed('sslv3 alert certificate expired', hello(ovmf), true),
      { certificates: [certificate('rsa', -1)] },
      /^our certificate expired on 2026-11-20/,
      /read again when the file changes/,
    ],
    ['a cable pulled', failed(gone, hello(ovmf)), {}, /hung up during the handshake/, /cable/],
    ['somebody slow', failed('timeout', { kind: 'more' }), {}, /not finished in time/, /cable/],
    ['plain HTTP', failed('http request', { kind: 'http' }), {}, /plain HTTP on the HTTPS port/, /https:/],
    ['something else', failed('x', { kind: 'broken', why: 'what it sent is no TLS' }), {}, /is no TLS/, /what program/],
  ]
  test.each(rows)('%s', (_, what, changed, reason, hint) => {
    const words = explainHandshake(what, { ...terms, ...changed })
    expect(words.reason).toMatch(reason)
    expect(words.hint).toMatch(hint)
    expect(words.offered !== undefined).toBe(what.opening.kind === 'hello')
  })
})

test('suites that older loaders need come after those of newer ones, whatever the order of the settings', () => {
  expect(cipherList([])).not.toMatch(/(^|:)(DHE|AES)/)
  const all: readonly Compat[] = ['ipxe-2019', 'ovmf']
  expect(cipherList(all)).toBe(cipherList(all.toReversed()))
  const places = ['ECDHE-RSA-CHACHA20-POLY1305', 'DHE-RSA-AES128-GCM-SHA256', 'AES128-SHA256'].map((name) =>
    cipherList(all).split(':').indexOf(name),
  )
  expect(places).toEqual(places.toSorted((a, b) => a - b))
  expect(places).not.toContain(-1)
  expect(compatOf('AES128-SHA256')).toBe('ipxe-2019')
  expect(compatOf('ECDHE-RSA-AES128-GCM-SHA256')).toBeUndefined()
})

/** A ClientHello's body as one record. */
function record(body: Uint8Array): Uint8Array {
  const message = Buffer.concat([Buffer.of(1, 0, 0, body.byteLength), body])
  return Buffer.concat([Buffer.of(22, 3, 1, 0, message.byteLength), message])
}
