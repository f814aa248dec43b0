import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { VirtualClock } from '../../test/simulation/clock.ts'
import { seededRandom } from '../base/random.ts'
import type { TcpConnection, TcpHandler } from '../ports/tcp.ts'
import { WireError } from '../wire/reader.ts'
import { connectNbd, type NbdConnection } from './client.ts'
import { decodeGreeting, decodeOptionReply, encodeGreeting, encodeOptionReply, type OptionReply } from './handshake.ts'
import { messageBytes, negotiate, negotiationStart } from './negotiation.ts'
import { chunkType, command } from './registry.ts'
import { Transactions } from './transactions.ts'
import { decodeReplyHeader, decodeRequest, encodeReplyHeader, encodeRequest } from './transmission.ts'
import { formatNbdUri, parseNbdUri } from './uri.ts'

const vectors = join(import.meta.dirname, 'vectors')
const hex = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, 'hex'))
const u64Max = 2n ** 64n - 1n

/** Plays a session's server: each of our messages must come as it was recorded, then the answer goes out, cut by `cut`. */
class Recorded implements TcpConnection {
  readonly remote = { address: '10.0.0.1', port: 10_809 }
  readonly local = { address: '10.0.0.2', port: 1 }
  readonly queuedBytes = 0
  readonly #lines: string[]
  readonly #cut: (bytes: number) => number
  #written = ''
  handler: TcpHandler | undefined

  constructor(file: string, cut: (bytes: number) => number) {
    this.#lines = readFileSync(join(vectors, file), 'utf8').trim().split('\n').slice(1)
    this.#cut = cut
  }

  play(): void {
    while (this.#lines[0]?.startsWith('S ')) {
      const bytes = hex(this.#lines.shift()?.slice(2) ?? '')
      for (let at = 0; at < bytes.byteLength; ) {
        const end = at + this.#cut(bytes.byteLength - at)
        this.handler?.onData(bytes.slice(at, end))
        at = end
      }
    }
  }

  write(bytes: Uint8Array): void {
    this.#written += Buffer.from(bytes).toString('hex')
    const expected = this.#lines[0]?.slice(2) ?? ''
    expect(expected.startsWith(this.#written), `${this.#written} begins ${expected}`).toBe(true)
    if (this.#written !== expected) return
    this.#written = ''
    this.#lines.shift()
    setImmediate(() => this.play())
  }

  get leftCount(): number {
    return this.#lines.length
  }

  pause(): void {}
  resume(): void {}
  end(): void {}
  destroy(): void {}
}

describe.each(readdirSync(vectors))('a session with a stranger, %s', (file) => {
  const random = seededRandom(11)
  test.each([
    ['whole', (bytes: number): number => bytes],
    ['byte by byte', (): number => 1],
    ['cut anywhere', (bytes: number): number => Math.min(bytes, 1 + Math.floor(random() * 40))],
  ])('%s', async (_, cut) => {
    const recorded = new Recorded(file, cut)
    const client: NbdConnection = await connectNbd({
      connect: async (open) => {
        recorded.handler = open(recorded)
        setImmediate(() => recorded.play())
        return recorded
      },
      clock: new VirtualClock(),
      exportName: 'lab',
      label: 'lab',
    })
    expect(client.terms).toMatchObject({
      sizeBytes: 65_536,
      readOnly: false,
      canFlush: true,
      canWriteZeroes: true,
      minimumBlockBytes: 1,
      preferredBlockBytes: 4096,
      transferBytesMax: 32 * 1024 * 1024,
      allocationContext: file.startsWith('qemu') ? 0 : 1,
    })
    const first = new Uint8Array(512)
    await client.read(0, first)
    expect(first).toEqual(Uint8Array.from({ length: 512 }, (_byte, index) => index % 251))
    const second = new Uint8Array(1024)
    await client.read(40_960, second)
    expect([second[0], second[511], second[512], second[1023]]).toEqual([0x5a, 0x5a, 0, 0])
    await client.write(512, new Uint8Array(512).fill(7))
    await client.writeZeroes(1024, 512, true)
    expect(await client.extent(0, 65_536)).toEqual({ allocated: true, bytes: 4096 })
    await client.flush()
    await client.close()
    expect(recorded.leftCount).toBe(0)
  })
})

const u32 = fc.nat(0xffff_ffff)
const text = fc.string({ maxLength: 60 })
const reply: fc.Arbitrary<Exclude<OptionReply, { kind: 'other' }>> = fc.oneof(
  fc.record({ kind: fc.constant('ack' as const), option: u32 }),
  fc.record({
    kind: fc.constant('export' as const),
    option: u32,
    sizeBytes: fc.bigInt(0n, u64Max),
    flags: fc.nat(0xffff),
  }),
  fc.record({ kind: fc.constant('blockSize' as const), option: u32, minimum: u32, preferred: u32, payloadMax: u32 }),
  fc.record({ kind: fc.constant('context' as const), option: u32, id: u32, name: text }),
  fc.record({
    kind: fc.constant('error' as const),
    option: u32,
    code: fc.integer({ min: 0x8000_0000, max: 0xffff_ffff }),
    text,
  }),
)

test('what is encoded is decoded as it was', () => {
  fc.assert(
    fc.property(reply, (message) => void expect(decodeOptionReply(encodeOptionReply(message))).toEqual(message)),
  )
  fc.assert(
    fc.property(
      fc.nat(0xffff),
      (flags) => void expect(decodeGreeting(encodeGreeting(flags))).toEqual({ kind: 'newstyle', flags }),
    ),
  )
  const request = fc.record({
    flags: fc.nat(0xffff),
    type: fc.nat(0xffff),
    cookie: fc.maxSafeNat(),
    offset: fc.maxSafeNat(),
    bytes: u32,
  })
  fc.assert(fc.property(request, (message) => void expect(decodeRequest(encodeRequest(message))).toEqual(message)))
  const header = fc.oneof(
    fc.record({ kind: fc.constant('simple' as const), error: u32, cookie: fc.maxSafeNat() }),
    fc.record({
      kind: fc.constant('chunk' as const),
      flags: fc.nat(0xffff),
      type: fc.nat(0xffff),
      cookie: fc.maxSafeNat(),
      payloadBytes: u32,
    }),
  )
  fc.assert(
    fc.property(header, (message) => void expect(decodeReplyHeader(encodeReplyHeader(message))).toEqual(message)),
  )
})

test('any bytes are a message, or a WireError, or end the negotiation in words', () => {
  const bytes = fc.uint8Array({ maxLength: 80 })
  for (const decode of [decodeGreeting, decodeOptionReply, decodeRequest]) {
    fc.assert(
      fc.property(bytes, (some) => {
        try {
          decode(some)
        } catch (error) {
          expect(error).toBeInstanceOf(WireError)
        }
      }),
    )
  }
  fc.assert(
    fc.property(fc.array(fc.oneof(reply.map(encodeOptionReply), bytes), { maxLength: 200 }), (messages) => {
      let { state } = negotiate('lab', negotiationStart, encodeGreeting(3))
      for (const message of messages) {
        if (state.kind === 'ready' || state.kind === 'failed') break
        state = negotiate('lab', state, message).state
      }
      expect(state.kind).toMatch(/^(structured|context|go|exportName|ready|failed)$/)
    }),
  )
})

test('a server that never comes to an end, and one whose answer is huge, are given up', () => {
  let { state } = negotiate('lab', negotiationStart, encodeGreeting(3))
  state = negotiate('lab', state, encodeOptionReply({ kind: 'ack', option: 8 })).state
  const context = encodeOptionReply({ kind: 'context', option: 10, id: 1, name: 'x' })
  for (let count = 0; count < 100; count++) state = negotiate('lab', state, context).state
  expect(state).toMatchObject({ kind: 'failed', reason: expect.stringContaining('does not come to an end') })
  const huge = hex('0003e889045565a9000000080000000300100000')
  expect(() => messageBytes(negotiate('lab', negotiationStart, encodeGreeting(3)).state, huge)).toThrow(WireError)
})

describe('answers that break the protocol cost the connection, and write nowhere else', () => {
  const chunk = (type: number, payload: string, flags = 1, cookie = 1): Uint8Array => {
    const body = hex(payload)
    const header = encodeReplyHeader({ kind: 'chunk', flags, type, cookie, payloadBytes: body.byteLength })
    return Buffer.concat([header, body])
  }
  const offset = (value: number): string => value.toString(16).padStart(16, '0')
  const data = (at: number, bytes: number): string => offset(at) + 'ee'.repeat(bytes)
  test.each([
    ['data before what was asked', [chunk(1, data(1000, 100))]],
    ['data behind it', [chunk(1, data(1500, 100))]],
    ['the same data twice', [chunk(1, data(1024, 100), 0), chunk(1, data(1100, 100), 0)]],
    ['all of it twice', [chunk(1, data(1024, 512), 0), chunk(1, data(1024, 512), 0)]],
    ['too little of it', [chunk(1, data(1024, 100))]],
    ['a hole behind it', [chunk(2, `${offset(1024)}00000201`)]],
    ['a hole of no length', [chunk(2, `${offset(1024)}00000000`)]],
    ['no data at all', [chunk(1, offset(1024))]],
    ['a status for a read', [chunk(5, '000000010000020000000000')]],
    ['a type that there is not', [chunk(77, '00')]],
    ['a chunk of nothing that is not the last', [chunk(0, '', 0)]],
    ['an error that is none', [chunk(0x8001, '000000000000')]],
    ['an error shorter than its text', [chunk(0x8001, '00000005ffff')]],
    ['a payload that is endless', [hex('668e33ef000180010000000000000001ffffffff')]],
    ['a cookie of nobody', [chunk(0, '', 1, 2)]],
    ['a simple reply to a read', [encodeReplyHeader({ kind: 'simple', error: 0, cookie: 1 })]],
    ['no reply at all', [hex('00112233')]],
  ])('%s', (_, chunks) => {
    const memory = new Uint8Array(1024).fill(0x11)
    const transactions = new Transactions({ structuredReplies: true, allocationContext: 1 })
    const ends: string[] = []
    transactions.begin({
      cookie: 1,
      type: command.read,
      offset: 1024,
      bytes: 512,
      target: memory.subarray(256, 768),
      done: () => ends.push('done'),
      failed: () => ends.push('failed'),
    })
    expect(() => {
      for (const bytes of chunks) transactions.receive(bytes)
    }).toThrow(WireError)
    expect(ends).toEqual([])
    expect(transactions.takeAll()).toHaveLength(1)
    expect(memory.subarray(0, 256).every((byte) => byte === 0x11)).toBe(true)
    expect(memory.subarray(768).every((byte) => byte === 0x11)).toBe(true)
  })

  test('an error of a kind nobody knows fails its request, and only that', () => {
    const transactions = new Transactions({ structuredReplies: true, allocationContext: undefined })
    const ends: unknown[] = []
    for (const cookie of [1, 2]) {
      const ended = (what: unknown): unknown => ends.push([cookie, what])
      const place = { offset: 0, bytes: 512, target: undefined }
      transactions.begin({ cookie, type: command.write, ...place, done: ended, failed: ended })
    }
    transactions.receive(chunk(0x80ff, `0000001c0002${Buffer.from('no').toString('hex')}`))
    transactions.receive(chunk(chunkType.none, '', 1, 2))
    expect(ends).toEqual([
      [1, { error: 28, text: 'no' }],
      [2, undefined],
    ])
  })
})

test.each([
  ['nbd://lab.example/disk', { kind: 'tcp', address: 'lab.example', port: 10_809 }, 'disk'],
  ['nbd://10.0.0.1:1234', { kind: 'tcp', address: '10.0.0.1', port: 1234 }, ''],
  ['nbd://[::1]//disk', { kind: 'tcp', address: '::1', port: 10_809 }, '/disk'],
  ['nbd://lab/hello%20world', { kind: 'tcp', address: 'lab', port: 10_809 }, 'hello world'],
  ['nbd+unix:///disk?socket=/run/a+b.sock', { kind: 'unix', path: '/run/a+b.sock' }, 'disk'],
  ['nbd+unix:///?socket=nbd%26.sock', { kind: 'unix', path: 'nbd&.sock' }, ''],
])('%s is read, and written again the same', (uri, place, exportName) => {
  const address = parseNbdUri(uri)
  expect(address).toEqual({ place, exportName })
  expect(parseNbdUri(formatNbdUri(address))).toEqual(address)
})

test.each([
  'nbd:lab',
  'nbd://',
  'nbd+unix:///disk',
  'nbd+ssh://lab/disk',
  'nbd://lab/%ff',
  'nbd://lab/a?x=1',
  'nbds://lab/a',
])('%s is refused with how it is written right', (uri) => {
  expect(() => parseNbdUri(uri)).toThrow(expect.objectContaining({ code: 'usage' }))
})
