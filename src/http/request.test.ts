import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { seededRandom } from '../base/random.ts'
import { httpDate } from './date.ts'
import { defaultLimits } from './limits.ts'
import { parseTarget } from './path.ts'
import { chooseRange } from './range.ts'
import { type Parsed, type RawRequest, RequestParser } from './request.ts'

const ascii = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, 'latin1'))

/** Everything the parser makes of the chunks, until it wants more or refuses. */
function parse(chunks: readonly Uint8Array[], limits = defaultLimits): Parsed[] {
  const parser = new RequestParser(limits)
  const found: Parsed[] = []
  for (const chunk of chunks) {
    parser.feed(chunk.slice())
    for (;;) {
      const parsed = parser.next()
      if (parsed.kind === 'needMore') break
      found.push(parsed)
      if (parsed.kind === 'refused') return found
    }
  }
  return found
}

const requestsIn = (text: string): RawRequest[] =>
  parse([ascii(text)]).flatMap((parsed) => (parsed.kind === 'request' ? [parsed.request] : []))
const refusalOf = (text: string): string | undefined => {
  const last = parse([ascii(text)]).at(-1)
  return last?.kind === 'refused' ? `${last.refusal.status} ${last.refusal.reason}` : undefined
}
const describeRequest = ({ method, target, version, headers }: RawRequest): string =>
  [method, target, `HTTP/${version}`, ...[...headers].map(([name, value]) => `${name}=${value}`)].join(' ')

describe('what real firmware asks', () => {
  const lines = readFileSync(join(import.meta.dirname, 'vectors/firmware.txt'), 'utf8')
    .trim()
    .split('\n')
  const vectors = lines.filter((line) => !line.startsWith('#')).map((line) => line.split(' | '))
  test.for(vectors)('%s', ([, text, hex = '']) => {
    const bytes = Uint8Array.from(Buffer.from(hex, 'hex'))
    const [parsed] = parse([bytes])
    expect(parsed?.kind === 'request' && describeRequest(parsed.request)).toBe(text)
  })
})

test('a header-less request ends with its line', () => {
  expect(requestsIn('GET /uImage\r\n')).toMatchObject([{ method: 'GET', target: '/uImage', version: '0.9' }])
  expect(requestsIn('GET /uImage\n')).toMatchObject([{ target: '/uImage', version: '0.9' }])
  expect(requestsIn('GET /uImage HTTP/1.0\r\n\r\n')).toMatchObject([{ target: '/uImage', version: '1.0' }])
})

test('however the stream is cut, the same requests come out', () => {
  const stream = ascii(
    [
      '\r\nGET /a?b=c HTTP/1.1\r\nHost: x\r\nAccept: a\r\naccept:b\r\n\r\n',
      'POST /report HTTP/1.1\r\nHost:x\r\nContent-Length: 11\r\n\r\nhello\r\n\r\nworld'.slice(0, -3),
      'HEAD / HTTP/1.0\n\nGET /last\r\n',
    ].join(''),
  )
  const whole = parse([stream])
  expect(whole.map((parsed) => parsed.kind === 'request' && parsed.request.target)).toEqual([
    '/a?b=c',
    '/report',
    '/',
    '/last',
  ])
  expect(whole[0]).toMatchObject({
    request: {
      headers: new Map([
        ['host', 'x'],
        ['accept', 'a, b'],
      ]),
    },
  })
  for (let at = 0; at <= stream.byteLength; at++) {
    expect(parse([stream.subarray(0, at), stream.subarray(at)])).toEqual(whole)
  }
  expect(parse(Array.from(stream, (byte) => Uint8Array.of(byte)))).toEqual(whole)
  fc.assert(
    fc.property(fc.array(fc.nat(stream.byteLength), { maxLength: 8 }), (cuts) => {
      const edges = [0, ...cuts.toSorted((a, b) => a - b), stream.byteLength]
      expect(parse(edges.slice(1).map((end, i) => stream.subarray(edges[i], end)))).toEqual(whole)
    }),
  )
})

test('what two parsers could read differently is refused', () => {
  const head = 'GET / HTTP/1.1\r\nHost: x\r\n'
  expect(refusalOf('GET / HTTP/1.1\r\n\r\n')).toBe('400 badHost')
  expect(refusalOf(`${head}Host: y\r\n\r\n`)).toBe('400 badHost')
  expect(refusalOf(`${head}A : b\r\n\r\n`)).toBe('400 badField')
  expect(refusalOf(`${head} folded\r\n\r\n`)).toBe('400 badField')
  expect(refusalOf(`${head}no colon\r\n\r\n`)).toBe('400 badField')
  expect(refusalOf(`${head}A: b\0c\r\n\r\n`)).toBe('400 badField')
  expect(refusalOf(`${head}Content-Length: 1, 2\r\n\r\n`)).toBe('400 badLength')
  expect(refusalOf(`${head}Content-Length: -1\r\n\r\n`)).toBe('400 badLength')
  expect(refusalOf(`${head}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n`)).toBe('411 noLength')
  expect(refusalOf('GET  / HTTP/1.1\r\nHost: x\r\n\r\n')).toBe('400 badRequestLine')
  expect(refusalOf('G@T / HTTP/1.1\r\nHost: x\r\n\r\n')).toBe('400 badRequestLine')
  expect(refusalOf('GET / HTTP/2.0\r\nHost: x\r\n\r\n')).toBe('505 badVersion')
  expect(requestsIn(`${head}Content-Length: 2, 2\r\n\r\nab`)[0]?.body).toEqual(ascii('ab'))
})

test('every limit has its own answer', () => {
  const limits = { ...defaultLimits, headBytesMax: 200, headerFieldsMax: 5, bodyBytesMax: 10 }
  const refused = (text: string): number | undefined => {
    const last = parse([ascii(text)], limits).at(-1)
    return last?.kind === 'refused' ? last.refusal.status : undefined
  }
  expect(refused(`GET /${'a'.repeat(300)}`)).toBe(414)
  expect(refused(`GET / HTTP/1.1\r\nHost: x\r\nA: ${'a'.repeat(300)}`)).toBe(431)
  expect(refused(`GET / HTTP/1.1\r\nHost: x\r\n${'A: b\r\n'.repeat(6)}`)).toBe(431)
  expect(refused('\r\n'.repeat(150))).toBe(undefined)
  expect(refused('POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n')).toBe(413)
})

test('a client that asks leave for its body is told once to go on', () => {
  const head = ascii('POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n')
  expect(parse([head, ascii('a'), ascii('b')]).map(({ kind }) => kind)).toEqual(['expectsContinue', 'request'])
})

test('whatever arrives is a request, a refusal or not enough', () => {
  const random = seededRandom(3)
  const seed = ascii(
    'POST /a%20b?c=d HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nRange: bytes=0-4\r\n\r\nhelloGET /x\r\n',
  )
  for (let run = 0; run < Number(process.env['SLIPWAY_FUZZ_RUNS'] ?? 20_000); run++) {
    const bytes = seed.slice(0, Math.floor(random() * (seed.byteLength + 1)))
    for (let i = Math.floor(random() * 4); i > 0; i--)
      bytes[Math.floor(random() * bytes.byteLength)] = Math.floor(random() * 256)
    for (const parsed of parse([bytes])) {
      if (parsed.kind === 'request') parseTarget(parsed.request.target)
    }
  }
})

test('paths come out decoded and in one form, or not at all', () => {
  const path = (target: string): string | undefined => parseTarget(target)?.path
  expect(path('/boot.ipxe')).toBe('/boot.ipxe')
  expect(path('//a///b%20c/')).toBe('/a/b c/')
  expect(path('/%c3%a4')).toBe('/ä')
  expect(path('http://10.0.0.1:8080/x?y')).toBe('/x')
  expect(path('http://10.0.0.1')).toBe('/')
  const climbing = ['/..', '/a/../b', '/%2e%2e/x', '/a/%2E./b', '/.', '/a/./b']
  const broken = ['/%', '/%4', '/%zz', '/%00', '/a%2fb', '/a\\b', '/%5c', '/%ff', '/a\x80', '*', 'a', '', '/\x7f']
  for (const target of [...climbing, ...broken]) expect(path(target), target).toBeUndefined()
  expect(parseTarget('/x?mac=52:54:00:aa:bb:cc&n=a+b%26&n=second&flag')?.query).toEqual(
    new Map([
      ['mac', '52:54:00:aa:bb:cc'],
      ['n', 'a b&'],
      ['flag', ''],
    ]),
  )
  expect(parseTarget('/x?a=%0a')).toBeUndefined()
  expect(parseTarget(`/x?${'a=b&'.repeat(100)}`)).toBeUndefined()
})

test('one range is a part, none of the body is 416, anything else the whole', () => {
  const part = (offset: number, bytes: number): object => ({ kind: 'part', range: { offset, bytes } })
  expect(chooseRange('bytes=0-0', 10)).toEqual(part(0, 1))
  expect(chooseRange('bytes=5-', 10)).toEqual(part(5, 5))
  expect(chooseRange('bytes=5-99', 10)).toEqual(part(5, 5))
  expect(chooseRange('bytes=-3', 10)).toEqual(part(7, 3))
  expect(chooseRange('bytes=-99', 10)).toEqual(part(0, 10))
  for (const header of ['bytes=10-', 'bytes=10-12', 'bytes=-0']) {
    expect(chooseRange(header, 10)).toEqual({ kind: 'unsatisfiable' })
  }
  for (const header of [undefined, '', 'bytes=', 'bytes=-', 'bytes=0-1,3-4', 'bytes=4-3', 'lines=0-1', 'bytes=a-b']) {
    expect(chooseRange(header, 10)).toEqual({ kind: 'whole' })
  }
  expect(chooseRange('bytes=0-', 0)).toEqual({ kind: 'unsatisfiable' })
})

test('dates are written as everyone writes them', () => {
  expect(httpDate(784_111_777_000)).toBe('Sun, 06 Nov 1994 08:49:37 GMT')
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 7_258_118_400_000 }), (ms) => {
      expect(httpDate(ms)).toBe(new Date(ms).toUTCString())
    }),
  )
})
