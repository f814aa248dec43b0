/**
 * Goal: the whole server gives every client exactly the bytes it asked for, however the stream is cut and however slowly it
 * reads, holds no more than its limits say, and nothing afterwards.
 * Method: the real shell on a seeded simulated network and a virtual clock.
 */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { VirtualClock } from '../../test/simulation/clock.ts'
import { SimulatedTcp, type TcpLink } from '../../test/simulation/tcp.ts'
import { seededRandom } from '../base/random.ts'
import type { TcpConnection } from '../ports/tcp.ts'
import { fileChunkBytes, type HttpLimits } from './limits.ts'
import type { HttpAnswer, HttpEvent, HttpFile, HttpRequest } from './policy.ts'
import { type HttpServer, serveHttp } from './server.ts'

const serverAt = { address: '10.0.0.1', port: 80 }
const quickLink: TcpLink = { delayMs: 1, windowBytes: 65_536, segmentBytesMax: 3_000 }
const minuteMs = 60_000
const byteAt = (offset: number): number => (offset * 31 + (offset >>> 8)) & 0xff

type World = {
  readonly clock: VirtualClock
  readonly network: SimulatedTcp
  readonly server: HttpServer
  readonly events: HttpEvent[]
  readonly requests: HttpRequest[]
  readonly files: { open: number; bytesRead: number }
}

type Setting = {
  readonly link?: TcpLink
  readonly seed?: number
  readonly limits?: Partial<HttpLimits>
  readonly diskMs?: number
  readonly answers?: (
    request: HttpRequest,
    w: { file: (sizeBytes: number) => HttpFile },
  ) => HttpAnswer | Promise<HttpAnswer>
}

async function world({ link = quickLink, seed = 1, limits, diskMs, answers }: Setting = {}): Promise<World> {
  const clock = new VirtualClock()
  const network = new SimulatedTcp(clock, seededRandom(seed), link)
  const events: HttpEvent[] = []
  const requests: HttpRequest[] = []
  const files = { open: 0, bytesRead: 0 }
  const file = (sizeBytes: number): HttpFile => {
    files.open++
    const fill = (offset: number, target: Uint8Array): void => {
      files.bytesRead += target.byteLength
      for (let i = 0; i < target.byteLength; i++) target[i] = byteAt(offset + i)
    }
    return {
      sizeBytes,
      read: (offset, target) => {
        if (offset + target.byteLength > sizeBytes) throw new Error('read past the end')
        if (diskMs === undefined) return void fill(offset, target)
        return new Promise((resolve) => {
          clock.after(diskMs, () => {
            fill(offset, target)
            resolve()
          })
        })
      },
      close: () => {
        files.open--
      },
    }
  }
  const handler = (request: HttpRequest): HttpAnswer | Promise<HttpAnswer> => {
    requests.push(request)
    if (answers !== undefined) return answers(request, { file })
    const match = /^\/(file|bytes)\/(\d+)$/.exec(request.path)
    if (match?.[1] === 'file') return { status: 200, body: { kind: 'file', file: file(Number(match[2])) } }
    if (match?.[1] === 'bytes') {
      const bytes = Uint8Array.from({ length: Number(match[2]) }, (_, i) => byteAt(i))
      return { status: 200, headers: { ETag: '"v1"' }, body: { kind: 'bytes', bytes } }
    }
    return { status: 404, body: { kind: 'text', text: 'no such thing\n' } }
  }
  const onEvent = (event: HttpEvent): number => events.push(event)
  const listen = serverAt
  const server = await serveHttp({ network, secure: false, clock, listen, handler, onEvent, ...(limits && { limits }) })
  return { clock, network, server, events, requests, files }
}

/** Collects what comes; reads `bytesPerMs` at most, when said. */
class Client {
  readonly received: Uint8Array[] = []
  receivedBytes = 0
  ended = false
  closed: string | undefined
  connection: TcpConnection | undefined
  #clock: VirtualClock

  constructor(
    { clock, network }: World,
    terms: { address?: string; bytesPerMs?: number; sends?: string; staysOpen?: boolean } = {},
  ) {
    this.#clock = clock
    network
      .connectFrom(terms.address ?? '10.0.1.1', serverAt, (connection) => {
        this.connection = connection
        if (terms.sends !== undefined) this.send(terms.sends)
        return {
          onData: (chunk) => {
            this.received.push(chunk)
            this.receivedBytes += chunk.byteLength
            if (terms.bytesPerMs === undefined) return
            connection.pause()
            this.#clock.after(chunk.byteLength / terms.bytesPerMs, () => connection.resume())
          },
          onEnd: () => {
            this.ended = true
            if (terms.staysOpen !== true) connection.end()
          },
          onClose: (reason) => {
            this.closed = reason
          },
        }
      })
      .catch((error: unknown) => {
        this.closed = String(error)
      })
  }

  send(text: string): void {
    this.connection?.write(Buffer.from(text, 'latin1'))
  }

  get text(): string {
    return Buffer.concat(this.received).toString('latin1')
  }

  /** The answers received whole: heads parsed by hand, bodies by Content-Length. */
  answers(methods: readonly string[] = []): { status: number; head: string; body: Uint8Array }[] {
    const all = Buffer.concat(this.received)
    const found = []
    for (let at = 0; ; ) {
      const headEnd = all.indexOf('\r\n\r\n', at)
      if (headEnd === -1) return found
      const head = all.subarray(at, headEnd).toString('latin1')
      const length: number =
        methods[found.length] === 'HEAD' ? 0 : Number(/content-length: (\d+)/i.exec(head)?.[1] ?? 0)
      if (headEnd + 4 + length > all.byteLength) return found
      found.push({ status: Number(head.split(' ')[1]), head, body: all.subarray(headEnd + 4, headEnd + 4 + length) })
      at = headEnd + 4 + length
    }
  }
}

function expectBytes(body: Uint8Array, offset: number, bytes: number): void {
  expect(body.byteLength).toBe(bytes)
  expect(
    body.findIndex((byte, i) => byte !== byteAt(offset + i)),
    'offset of the first wrong byte',
  ).toBe(-1)
}

async function expectNothingHeld({ clock, network, server, files }: World): Promise<void> {
  await clock.run(() => server.connectionCount === 0 && network.openCount === 0, 10 * minuteMs)
  expect(server.connectionCount).toBe(0)
  expect(files.open).toBe(0)
}

const get = (path: string, fields = ''): string => `GET ${path} HTTP/1.1\r\nHost: x\r\n${fields}\r\n`

test('OVMF asks for the length with HEAD and reads on the same connection', async () => {
  const w = await world()
  const client = new Client(w, { sends: 'HEAD /file/700000 HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n' })
  await w.clock.run(() => client.answers(['HEAD']).length === 1, minuteMs)
  client.send(get('/file/700000'))
  await w.clock.run(() => client.answers(['HEAD']).length === 2, minuteMs)
  const [head, whole] = client.answers(['HEAD'])
  expect(head?.head).toContain('Content-Length: 700000')
  expectBytes(whole?.body ?? new Uint8Array(0), 0, 700_000)
  expect(whole?.head).toMatch(
    /^HTTP\/1\.1 200 OK\r\nDate: \w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT\r\nAccept-Ranges: bytes/,
  )
  client.connection?.end()
  await expectNothingHeld(w)
  expect(w.events).toMatchObject([
    { kind: 'answered', method: 'HEAD', status: 200, sentBytes: 0 },
    { kind: 'answered', method: 'GET', status: 200, sentBytes: 700_000, bodyBytes: 700_000 },
  ])
})

test('a header-less GET gets the body alone, and nothing for what is not there', async () => {
  const w = await world()
  const found = new Client(w, { sends: 'GET /file/300000\r\n' })
  // As `printf 'GET /x\r\n' | socat` does: the client's FIN comes before the answer.
  found.connection?.end()
  const missing = new Client(w, { sends: 'GET /none\r\n' })
  await w.clock.run(() => found.ended && missing.ended, minuteMs)
  expectBytes(Buffer.concat(found.received), 0, 300_000)
  expect(missing.receivedBytes).toBe(0)
  await expectNothingHeld(w)
})

test('HTTP/1.0 closes unless asked to stay', async () => {
  const w = await world()
  const closes = new Client(w, { sends: 'GET /bytes/5 HTTP/1.0\r\n\r\n' })
  const stays = new Client(w, { sends: 'GET /bytes/5 HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n' })
  await w.clock.run(() => closes.ended && stays.answers().length === 1, minuteMs)
  expect(closes.text).toContain('\r\nConnection: close\r\n')
  expect(stays.text).toContain('\r\nConnection: keep-alive\r\n')
  expect(stays.ended).toBe(false)
})

test('ranges: one part, the last bytes, 416, several as the whole, and If-Range', async () => {
  const w = await world()
  const client = new Client(w, {
    sends: [
      get('/file/1000', 'Range: bytes=100-199\r\n'),
      get('/bytes/1000', 'Range: bytes=-10\r\n'),
      get('/file/1000', 'Range: bytes=1000-\r\n'),
      get('/file/1000', 'Range: bytes=0-1,5-6\r\n'),
      get('/bytes/1000', 'Range: bytes=0-9\r\nIf-Range: "v1"\r\n'),
      get('/bytes/1000', 'Range: bytes=0-9\r\nIf-Range: "v2"\r\n'),
    ].join(''),
  })
  await w.clock.run(() => client.answers().length === 6, minuteMs)
  const answers = client.answers()
  expect(answers.map(({ status }) => status)).toEqual([206, 206, 416, 200, 206, 200])
  expect(answers[0]?.head).toContain('Content-Range: bytes 100-199/1000')
  expectBytes(answers[0]?.body ?? new Uint8Array(0), 100, 100)
  expectBytes(answers[1]?.body ?? new Uint8Array(0), 990, 10)
  expect(answers[2]?.head).toContain('Content-Range: bytes */1000')
  expectBytes(answers[3]?.body ?? new Uint8Array(0), 0, 1_000)
  client.connection?.end()
  await expectNothingHeld(w)
})

test('however requests are pipelined and cut, answers come whole and in order', async () => {
  const size = fc.oneof(fc.nat(2_000), fc.constantFrom(fileChunkBytes, fileChunkBytes * 2 + 1, 40_000))
  const ask = fc.record({
    kind: fc.constantFrom('file', 'bytes', 'none'),
    size,
    method: fc.constantFrom('GET', 'HEAD'),
  })
  const link = fc.record({
    delayMs: fc.constantFrom(0, 1, 20),
    windowBytes: fc.constantFrom(1_000, 5_000, 300_000),
    segmentBytesMax: fc.constantFrom(1, 50, 100_000),
  })
  await fc.assert(
    fc.asyncProperty(
      fc.array(ask, { minLength: 1, maxLength: 5 }),
      link,
      fc.integer(),
      fc.boolean(),
      async (asks, l, seed, slow) => {
        fc.pre(l.segmentBytesMax > 1 || asks.every(({ size: bytes }) => bytes < 2_000))
        const w = await world({ link: l, seed, ...(slow && { diskMs: 7 }) })
        const path = (a: { kind: string; size: number }): string => `/${a.kind}/${a.size}`
        const sends = asks.map((a) => `${a.method} ${path(a)} HTTP/1.1\r\nHost: x\r\n\r\n`).join('')
        const client = new Client(w, { sends })
        // All is asked at once, and that it was all is said as well.
        client.connection?.end()
        const methods = asks.map(({ method }) => method)
        await w.clock.run(() => client.ended, 60 * minuteMs)
        client.answers(methods).forEach(({ status, body }, i) => {
          const asked = asks[i]
          if (asked === undefined) return
          expect(status).toBe(asked.kind === 'none' ? 404 : 200)
          if (asked.kind !== 'none' && asked.method === 'GET') expectBytes(body, 0, asked.size)
        })
        expect(client.answers(methods).length).toBe(asks.length)
        await expectNothingHeld(w)
      },
    ),
    { numRuns: Number(process.env['SLIPWAY_FUZZ_RUNS'] ?? 40) },
  )
})

test('a slow reader holds back the reading of its file, and no other client', async () => {
  const w = await world({ diskMs: 1 })
  const slow = new Client(w, { sends: get('/file/50000000'), bytesPerMs: 100 })
  const quick = Array.from(
    { length: 20 },
    (_, i) => new Client(w, { address: `10.0.2.${i}`, sends: get('/file/500000') }),
  )
  await w.clock.run(() => quick.every((client) => client.answers().length === 1), 1_000)
  for (const client of quick) expectBytes(client.answers()[0]?.body ?? new Uint8Array(0), 0, 500_000)
  await w.clock.run(() => false, 1_000)
  const readAheadMax = 3 * fileChunkBytes + quickLink.windowBytes
  expect(w.files.bytesRead - 20 * 500_000).toBeLessThan(slow.receivedBytes + readAheadMax)
  // It leaves in the middle: the file is closed and nothing is read any more.
  slow.connection?.destroy()
  for (const client of quick) client.connection?.end()
  await expectNothingHeld(w)
})

test('what the handler sees, and what a broken one costs', async () => {
  const w = await world({
    answers: (request, { file }) => {
      if (request.path === '/throws') throw new Error('no word of this to the client')
      if (request.path === '/rejects') return Promise.reject(new Error('nor of this'))
      if (request.path === '/redirects') return { status: 302, body: { kind: 'file', file: file(10) } }
      if (request.path === '/splits') return { status: 200, headers: { 'X-A': 'b\r\nSet-Cookie: c' } }
      if (request.path === '/unreadable') {
        return {
          status: 200,
          body: { kind: 'file', file: { ...file(9e6), read: () => Promise.reject(new Error('EIO')) } },
        }
      }
      return Promise.resolve({
        status: 201,
        headers: { 'Content-Type': 'application/json' },
        body: { kind: 'text', text: '{}' },
      })
    },
  })
  const posts = new Client(w, {
    sends: 'POST /a%20b?x=1 HTTP/1.1\r\nHost: x\r\nX-One: 1\r\nx-one: 2\r\nContent-Length: 3\r\n\r\nabc',
  })
  await w.clock.run(() => posts.answers().length === 1, minuteMs)
  expect(w.requests[0]).toMatchObject({ method: 'POST', path: '/a b', secure: false, from: { address: '10.0.1.1' } })
  expect(w.requests[0]?.query.get('x')).toBe('1')
  expect(w.requests[0]?.headers.get('x-one')).toBe('1, 2')
  expect(Buffer.from(w.requests[0]?.body ?? []).toString()).toBe('abc')
  expect(posts.text).toMatch(
    /^HTTP\/1\.1 201 Created[\s\S]*Content-Type: application\/json\r\nContent-Length: 2\r\n\r\n\{\}$/,
  )

  posts.send(['/throws', '/rejects', '/redirects', '/splits'].map((path) => get(path)).join(''))
  await w.clock.run(() => posts.answers().length === 5, minuteMs)
  expect(posts.answers().map(({ status }) => status)).toEqual([201, 500, 500, 500, 500])
  expect(posts.text).not.toContain('word of this')
  posts.send(get('/unreadable'))
  await w.clock.run(() => posts.closed !== undefined, minuteMs)
  expect(posts.closed).toBe('ECONNRESET')
  expect(w.events.filter(({ kind }) => kind === 'handlerFailed').length).toBe(4)
  expect(w.events.find(({ kind }) => kind === 'fileFailed')).toMatchObject({ path: '/unreadable', detail: 'EIO' })
  await expectNothingHeld(w)
})

test('methods that are not for us, and targets that are no paths, are answered and the connection goes on', async () => {
  const w = await world()
  const sends = ['PUT /x', 'BREW /x', 'GET /../x', 'GET /%zz', 'GET /bytes/1'].map(
    (line) => `${line} HTTP/1.1\r\nHost: x\r\n\r\n`,
  )
  const client = new Client(w, { sends: sends.join('') })
  await w.clock.run(() => client.answers().length === 5, minuteMs)
  expect(client.answers().map(({ status }) => status)).toEqual([405, 501, 400, 400, 200])
  expect(client.text).toContain('Allow: GET, HEAD, POST')
})

test('slow requests get 408, idle connections end, stalled readers are cut', async () => {
  const limits = { requestMs: 5_000, idleMs: 20_000, stallMs: 10_000, lingerMs: 3_000 }
  const w = await world({ limits })
  const drips = new Client(w, { sends: 'GET / HT' })
  for (let i = 1; i < 20; i++) w.clock.after(i * 1_000, () => drips.send('x'))
  const idles = new Client(w)
  const stalls = new Client(w, { sends: get('/file/9000000'), bytesPerMs: 1e-9 })
  await w.clock.run(() => drips.ended, minuteMs)
  expect(drips.text).toMatch(/^HTTP\/1\.1 408 /)
  expect(w.clock.nowMs()).toBeLessThan(6_000)
  await w.clock.run(() => stalls.closed !== undefined, minuteMs)
  expect(w.clock.nowMs()).toBeLessThan(13_000)
  await w.clock.run(() => idles.ended, minuteMs)
  expect(w.clock.nowMs()).toBeLessThan(22_000)
  expect(w.events.some((event) => event.kind === 'dropped' && event.reason === 'answerStalled')).toBe(true)
  await expectNothingHeld(w)
})

test('connections are bounded per address and in all, and idle ones make room', async () => {
  const limits = { connectionsMax: 6, connectionsPerAddressMax: 3 }
  const w = await world({ limits })
  const greedy = Array.from({ length: 5 }, () => new Client(w, { sends: 'GET /' }))
  await w.clock.run(() => greedy.filter(({ closed }) => closed !== undefined).length === 2, 1_000)
  expect(w.server.connectionCount).toBe(3)
  const idle = Array.from({ length: 3 }, (_, i) => new Client(w, { address: `10.0.2.${i}` }))
  await w.clock.run(() => false, 100)
  const good = new Client(w, { address: '10.0.3.1', sends: get('/bytes/9') })
  await w.clock.run(() => good.answers().length === 1, 1_000)
  expectBytes(good.answers()[0]?.body ?? new Uint8Array(0), 0, 9)
  expect(idle.filter(({ closed }) => closed !== undefined).length).toBe(1)
})

test('who never hangs up takes no place from others, and one address no more than its own from those that ask like everybody', async () => {
  const limits = { connectionsMax: 6, connectionsPerAddressMax: 4 }
  const w = await world({ limits })
  const ask = (address: string): Client =>
    new Client(w, { address, sends: get('/bytes/9', 'Connection: close\r\n'), staysOpen: true })
  const decent = [ask('10.0.2.1'), ask('10.0.2.2')]
  await w.clock.run(() => decent.every(({ ended }) => ended), 1_000)
  const greedy = Array.from({ length: 4 }, () => ask('10.0.1.1'))
  await w.clock.run(() => greedy.every(({ ended }) => ended), 1_000)
  expect(w.server.connectionCount).toBe(6)
  const good = ['10.0.3.1', '10.0.3.2'].map((address) => ask(address))
  await w.clock.run(() => good.every(({ ended }) => ended), 1_000)
  for (const client of good) expectBytes(client.answers()[0]?.body ?? new Uint8Array(0), 0, 9)
  expect(greedy.filter(({ closed }) => closed !== undefined).length).toBe(2)
  expect(decent.filter(({ closed }) => closed !== undefined).length).toBe(0)
  expect(w.events.filter((event) => event.kind === 'dropped')).toEqual([])
})

test('after its share of requests a connection is closed, and says so', async () => {
  const w = await world({ limits: { requestsPerConnectionMax: 3 } })
  const client = new Client(w, { sends: get('/bytes/1').repeat(5) })
  await w.clock.run(() => client.ended, minuteMs)
  expect(client.answers().length).toBe(3)
  expect(client.answers()[2]?.head).toContain('Connection: close')
})

test('closing lets answers under way end, and resolves when all are gone', async () => {
  const w = await world()
  const reading = new Client(w, { sends: get('/file/2000000') })
  const idle = new Client(w)
  await w.clock.run(() => reading.receivedBytes > 0, minuteMs)
  let closed = false
  w.server.close().then(
    () => {
      closed = true
    },
    () => {},
  )
  await w.clock.run(() => closed, minuteMs)
  expect(closed).toBe(true)
  expectBytes(reading.answers()[0]?.body ?? new Uint8Array(0), 0, 2_000_000)
  expect(idle.ended).toBe(true)
  await expectNothingHeld(w)
})

test('100,000 mutated requests leave it up, bounded, and good to the next client', { timeout: 120_000 }, async () => {
  const w = await world({
    link: { delayMs: 0, windowBytes: 1_000_000, segmentBytesMax: 1_000_000 },
    limits: { connectionsMax: 64 },
  })
  const random = seededRandom(11)
  const pick = (count: number): number => Math.floor(random() * count)
  const seeds = [
    get('/file/100', 'Range: bytes=5-9\r\n'),
    'GET /bytes/10\r\n',
    'HEAD /file/300000 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n',
    'POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello',
    get('/a/%2e%2e/b?x=%zz&y=1'),
  ]
  let most = 0
  let sent = 0
  while (sent < 100_000) {
    const clients = Array.from({ length: 40 }, (_, i) => new Client(w, { address: `10.9.${i}.1` }))
    for (const client of clients) {
      for (let i = 0; i < 25; i++, sent++) {
        const bytes = Buffer.from(seeds[pick(seeds.length)] ?? '', 'latin1')
        for (let m = pick(3); m > 0; m--) bytes[pick(bytes.byteLength)] = pick(256)
        client.connection?.write(random() < 0.2 ? bytes.subarray(0, pick(bytes.byteLength)) : bytes)
      }
    }
    most = Math.max(most, w.server.connectionCount)
    await w.clock.run(() => false, 50)
    for (const client of clients) client.connection?.destroy()
    await w.clock.run(() => w.server.connectionCount === 0, 1_000)
    w.events.length = 0
    w.requests.length = 0
  }
  expect(most).toBeGreaterThan(0)
  expect(most).toBeLessThanOrEqual(64)
  const good = new Client(w, { sends: get('/bytes/1000') })
  await w.clock.run(() => good.answers().length === 1, minuteMs)
  expectBytes(good.answers()[0]?.body ?? new Uint8Array(0), 0, 1_000)
  good.connection?.end()
  await expectNothingHeld(w)
})
