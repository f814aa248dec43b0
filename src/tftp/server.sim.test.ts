/**
 * Goal: the whole server, with many clients on a bad network, gives every client its file or tells it why not, and holds
 * nothing afterwards.
 * Method: the real shell on a seeded simulated network and a virtual clock, against a small client model.
 */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { VirtualClock } from '../../test/simulation/clock.ts'
import { SimulatedUdp, type UdpLink } from '../../test/simulation/udp.ts'
import { seededRandom } from '../base/random.ts'
import type { Endpoint, UdpSocket } from '../ports/udp.ts'
import { readerOf } from '../wire/reader.ts'
import type { TftpLimits } from './limits.ts'
import { decode, encode, type Packet } from './packet.ts'
import type { TftpCatalogue, TftpEvent, TftpFile } from './policy.ts'
import { serveTftp, type TftpServer } from './server.ts'

const cleanLink: UdpLink = { loss: 0, duplicate: 0, jitterMs: 0 }
const serverAt: Endpoint = { address: '10.0.0.1', port: 69 }
const minuteMs = 60_000

type World = {
  readonly clock: VirtualClock
  readonly network: SimulatedUdp
  readonly server: TftpServer
  readonly events: TftpEvent[]
  readonly files: { open: number }
}

type Setting = {
  readonly link?: UdpLink
  readonly seed?: number
  readonly limits?: Partial<TftpLimits>
  /** How long the disk takes; undefined: the page cache has it. */
  readonly diskMs?: number
  readonly sizes: Readonly<Record<string, number>>
  readonly terms?: Partial<TftpFile>
}

async function world({ link = cleanLink, seed = 1, limits, diskMs, sizes, terms }: Setting): Promise<World> {
  const clock = new VirtualClock()
  const network = new SimulatedUdp(clock, seededRandom(seed), link)
  const events: TftpEvent[] = []
  const files = { open: 0 }
  const catalogue: TftpCatalogue = {
    find: (name) => {
      const sizeBytes = sizes[name]
      if (sizeBytes === undefined) return undefined
      files.open++
      const fill = (offset: number, target: Uint8Array): void => {
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
        ...terms,
      }
    },
  }
  const onEvent = (event: TftpEvent): number => events.push(event)
  const server = await serveTftp({ network, clock, listen: serverAt, catalogue, onEvent, ...(limits && { limits }) })
  return { clock, network, server, events, files }
}

const byteAt = (offset: number): number => (offset * 31 + (offset >>> 8)) & 0xff

type ClientTerms = {
  readonly address: string
  readonly port?: number
  readonly name: string
  readonly options?: Readonly<Record<string, string>>
  readonly mode?: string
  /** How long it thinks before it acknowledges: a slow machine. */
  readonly thinkMs?: number
}

/** A boot ROM: asks again each second, acknowledges windows, takes the first server port it hears as the transfer's. */
class Client {
  result: 'running' | 'complete' | 'gaveUp' | string = 'running'
  readonly received: number[] = []
  acknowledged: Readonly<Record<string, string>> | undefined
  endedMs = 0
  #socket: UdpSocket | undefined
  #tid: Endpoint | undefined
  #blockBytes = 512
  #windowBlocks = 1
  #next = 1
  #unacked = 0
  #last: Packet
  #silences = 0
  readonly #terms: ClientTerms
  readonly #clock: VirtualClock

  constructor({ clock, network }: World, terms: ClientTerms) {
    this.#terms = terms
    this.#clock = clock
    const options = new Map(Object.entries(terms.options ?? {}))
    this.#last = { kind: 'readRequest', filename: terms.name, mode: terms.mode ?? 'octet', options }
    network
      .bind({ address: terms.address, port: terms.port ?? 0 }, (bytes, from) => this.#onPacket(bytes, from))
      .then(
        (socket) => {
          this.#socket = socket
          this.#send(this.#last)
          this.#watch()
        },
        (error: unknown) => {
          this.result = String(error)
        },
      )
  }

  /** Falls silent, as a machine does whose plug was pulled. */
  unplug(): void {
    this.#end('unplugged')
  }

  #watch(): void {
    const before = this.received.length
    this.#clock.after(1_500, () => {
      if (this.result !== 'running') return
      this.#silences = this.received.length === before ? this.#silences + 1 : 0
      if (this.#silences > 12) {
        this.#end('gaveUp')
        return
      }
      if (this.#silences > 0) this.#send(this.#last)
      this.#watch()
    })
  }

  #send(packet: Packet): void {
    this.#last = packet
    const target = new Uint8Array(1_024)
    const size = encode(packet, target, new DataView(target.buffer))
    this.#socket?.send(target.subarray(0, size), this.#tid ?? serverAt)
  }

  #onPacket(bytes: Uint8Array, from: Endpoint): void {
    if (this.result !== 'running') return
    const packet = decode(readerOf(bytes))
    if (packet.kind === 'error') {
      this.#end(`error ${packet.code}`)
      return
    }
    if (this.#tid === undefined) this.#tid = from
    if (this.#tid.port !== from.port) return
    if (packet.kind === 'optionAck') {
      this.acknowledged = Object.fromEntries(packet.options)
      this.#blockBytes = Number(packet.options.get('blksize') ?? 512)
      this.#windowBlocks = Number(packet.options.get('windowsize') ?? 1)
      if (this.#next === 1) this.#acknowledge()
    }
    if (packet.kind === 'data') this.#onData(packet.block, packet.payload)
  }

  #onData(block: number, payload: Uint8Array): void {
    // RFC 7440 §4: acknowledge the end of a window, the end of the file, and the first gap.
    if (block !== (this.#next & 0xffff)) {
      this.#acknowledge()
      return
    }
    for (const byte of payload) this.received.push(byte)
    this.#next++
    this.#unacked++
    const isLast = payload.byteLength < this.#blockBytes
    if (isLast || this.#unacked >= this.#windowBlocks) this.#acknowledge()
    if (isLast) this.#end('complete')
  }

  #acknowledge(): void {
    this.#unacked = 0
    const ack: Packet = { kind: 'ack', block: (this.#next - 1) & 0xffff }
    if (this.#terms.thinkMs === undefined) this.#send(ack)
    else this.#clock.after(this.#terms.thinkMs, () => this.#send(ack))
  }

  #end(result: string): void {
    this.result = result
    this.endedMs = this.#clock.nowMs()
    // Stays to acknowledge nothing more, but its last words may still be on their way.
    this.#clock.after(10, () => this.#socket?.close())
  }
}

function expectFile(client: Client, sizeBytes: number): void {
  expect(client.received.length).toBe(sizeBytes)
  const wrong = client.received.findIndex((byte, offset) => byte !== byteAt(offset))
  expect(wrong, 'offset of the first wrong byte').toBe(-1)
}

async function expectNothingHeld({ clock, network, server, files }: World): Promise<void> {
  await clock.run(() => server.transferCount === 0, 5 * minuteMs)
  expect(server.transferCount).toBe(0)
  expect(files.open).toBe(0)
  await clock.run(() => network.inFlight === 0 && network.socketCount === 1, minuteMs)
  expect(network.socketCount, 'only the port for requests is left').toBe(1)
}

test('whatever the network does, every client gets its file or gives up, and nothing stays behind', async () => {
  const link = fc.record({
    loss: fc.constantFrom(0, 0.05, 0.2),
    duplicate: fc.constantFrom(0, 0.2),
    jitterMs: fc.constantFrom(0, 3, 30),
  })
  const options = fc.constantFrom<Record<string, string>>(
    {},
    { blksize: '1432', tsize: '0' },
    { blksize: '1468', windowsize: '4' },
    { blksize: '64', windowsize: '64', timeout: '1' },
  )
  await fc.assert(
    fc.asyncProperty(link, options, fc.nat(20_000), fc.integer(), fc.boolean(), async (l, o, size, seed, slowDisk) => {
      const w = await world({ link: l, seed, sizes: { f: size }, ...(slowDisk && { diskMs: 20 }) })
      const clients = Array.from({ length: 6 }, (_, i) => {
        return new Client(w, { address: `10.0.1.${i}`, name: '/f', options: o })
      })
      await w.clock.run(() => clients.every(({ result }) => result !== 'running'), 30 * minuteMs)
      for (const client of clients) {
        if (client.result === 'complete') expectFile(client, size)
        if (l.loss === 0) expect(client.result).toBe('complete')
      }
      await expectNothingHeld(w)
    }),
    { numRuns: Number(process.env['SLIPWAY_FUZZ_RUNS'] ?? 60) },
  )
})

test('32 clients at once each get their file, and one slow client slows no other', async () => {
  const size = 300_000
  const quick = await world({ sizes: { f: size } })
  const alone = new Client(quick, { address: '10.0.1.1', name: 'f', options: { blksize: '1432' } })
  await quick.clock.run(() => alone.result !== 'running', minuteMs)

  const w = await world({ sizes: { f: size } })
  const slow = new Client(w, { address: '10.0.2.1', name: 'f', options: { blksize: '1432' }, thinkMs: 900 })
  const clients = Array.from({ length: 32 }, (_, i) => {
    return new Client(w, { address: `10.0.1.${i}`, name: 'f', options: { blksize: '1432' } })
  })
  await w.clock.run(() => clients.every(({ result }) => result === 'complete'), minuteMs)
  for (const client of clients) expectFile(client, size)
  expect(Math.max(...clients.map(({ endedMs }) => endedMs))).toBeLessThanOrEqual(alone.endedMs + 1)
  expect(slow.result).toBe('running')
  await w.clock.run(() => slow.result !== 'running', 30 * minuteMs)
  expectFile(slow, size)
  await expectNothingHeld(w)
})

test('a file larger than 65535 blocks arrives whole', async () => {
  const size = 8 * 66_000
  const w = await world({ sizes: { f: size } })
  const client = new Client(w, { address: '10.0.1.1', name: 'f', options: { blksize: '8', windowsize: '64' } })
  await w.clock.run(() => client.result !== 'running', 10 * minuteMs)
  expectFile(client, size)
})

test('an unknown name is answered at once with ERROR 1 and an event; a write with ERROR 2', async () => {
  const w = await world({ sizes: {} })
  const unknown = new Client(w, { address: '10.0.1.1', name: 'autoexec.ipxe', options: { tsize: '0' } })
  const climber = new Client(w, { address: '10.0.1.2', name: '..\\..\\etc/shadow' })
  await w.clock.run(() => unknown.result !== 'running' && climber.result !== 'running', minuteMs)
  expect([unknown.result, climber.result]).toEqual(['error 1', 'error 1'])
  expect(unknown.endedMs).toBeLessThan(5)
  expect(w.events).toMatchObject([
    { kind: 'notFound', name: 'autoexec.ipxe' },
    { kind: 'refused', name: '..\\..\\etc/shadow', reason: 'badName' },
  ])
  let refusal: Packet | undefined
  const writer = await w.network.bind({ address: '10.0.1.3', port: 5_000 }, (bytes) => {
    refusal = decode(readerOf(bytes))
  })
  const target = new Uint8Array(100)
  const request: Packet = { kind: 'writeRequest', filename: 'x', mode: 'octet', options: new Map() }
  writer.send(target.subarray(0, encode(request, target, new DataView(target.buffer))), serverAt)
  await w.clock.run(() => refusal !== undefined, minuteMs)
  expect(refusal).toMatchObject({ kind: 'error', code: 2 })
})

test('a client behind a small MTU is offered smaller blocks, and a pace is kept', async () => {
  const size = 100_000
  const w = await world({ sizes: { f: size }, terms: { blockBytesMax: 1_000, paceBytesPerSecond: 50_000 } })
  const client = new Client(w, { address: '10.0.1.1', name: 'f', options: { blksize: '1468', windowsize: '8' } })
  await w.clock.run(() => client.result !== 'running', minuteMs)
  expectFile(client, size)
  expect(client.acknowledged).toEqual({ blksize: '1000', windowsize: '8' })
  expect(client.endedMs).toBeGreaterThan(1_900)
  expect(client.endedMs).toBeLessThan(2_500)
})

test('netascii converts small files and refuses large ones', async () => {
  const w = await world({ sizes: { small: 600, large: 5_000 }, limits: { netasciiBytesMax: 1_000 } })
  const small = new Client(w, { address: '10.0.1.1', name: 'small', mode: 'netascii' })
  const large = new Client(w, { address: '10.0.1.2', name: 'large', mode: 'netascii' })
  const mail = new Client(w, { address: '10.0.1.3', name: 'small', mode: 'mail' })
  await w.clock.run(() => [small, large, mail].every(({ result }) => result !== 'running'), minuteMs)
  expect([small.result, large.result, mail.result]).toEqual(['complete', 'error 0', 'error 4'])
  expect(small.received.length).toBeGreaterThan(600)
  await expectNothingHeld(w)
})

test('a machine that starts again on the same port gets its file although the old transfer still waits', async () => {
  const w = await world({ sizes: { f: 50_000 } })
  const at = { address: '10.0.1.1', port: 1_351, name: 'f', options: { blksize: '1468' } }
  const first = new Client(w, at)
  await w.clock.run(() => first.received.length > 10_000, minuteMs)
  first.unplug()
  await w.clock.run(() => false, 100)
  const second = new Client(w, at)
  await w.clock.run(() => second.result !== 'running', minuteMs)
  expectFile(second, 50_000)
  await expectNothingHeld(w)
})

test('transfers are bounded per address and in all; the ones that stand still make room', async () => {
  const limits = { transfersMax: 8, transfersPerAddressMax: 3 }
  const w = await world({ sizes: { f: 50_000 }, limits })
  const silent = Array.from({ length: 5 }, (_, i) => {
    return new Client(w, { address: '10.0.1.1', port: 2_000 + i, name: 'f', thinkMs: 1e9 })
  })
  await w.clock.run(() => false, 500)
  expect(w.server.transferCount).toBe(3)
  const others = Array.from({ length: 6 }, (_, i) => {
    return new Client(w, { address: `10.0.2.${i}`, name: 'f', thinkMs: 1e9 })
  })
  await w.clock.run(() => false, 500)
  expect(w.server.transferCount).toBe(8)
  expect(w.events.filter((event) => event.kind === 'refused' && event.reason === 'busy').length).toBeGreaterThan(0)
  for (const client of [...silent, ...others]) client.unplug()
  const good = new Client(w, { address: '10.0.3.1', name: 'f' })
  await w.clock.run(() => good.result !== 'running', minuteMs)
  expectFile(good, 50_000)
  await expectNothingHeld(w)
})

test('a file that cannot be read ends its transfer with the reason, and no other', async () => {
  const w = await world({ sizes: { f: 5_000 }, terms: { read: () => Promise.reject(new Error('EIO')) } })
  const client = new Client(w, { address: '10.0.1.1', name: 'f' })
  await w.clock.run(() => client.result !== 'running', minuteMs)
  expect(client.result).toBe('error 0')
  expect(w.events.at(-1)).toMatchObject({ kind: 'transferEnded', outcome: 'unreadable', detail: 'EIO' })
  await expectNothingHeld(w)
})

test('closing the server tells the clients and frees every socket', async () => {
  const w = await world({ sizes: { f: 5_000_000 } })
  const client = new Client(w, { address: '10.0.1.1', name: 'f' })
  await w.clock.run(() => client.received.length > 0, minuteMs)
  w.server.close()
  await w.clock.run(() => client.result !== 'running', minuteMs)
  expect(client.result).toBe('error 0')
  expect(w.files.open).toBe(0)
})

test('100,000 mutated packets leave it up, bounded, and good to the next client', { timeout: 120_000 }, async () => {
  const w = await world({ sizes: { f: 5_000 }, limits: { transfersMax: 64 } })
  const random = seededRandom(7)
  const pick = (count: number): number => Math.floor(random() * count)
  const seeds = [
    '000166006f63746574007473697a65003000626c6b73697a6500313436380077696e646f7773697a65003400',
    '000166006f6374657400',
    '000266006f6374657400',
    '0003000161626364',
    '00040000',
    '0005000855736572',
    '0006626c6b73697a65003134363800',
  ].map((hex) => Buffer.from(hex, 'hex'))
  const hostile = await Promise.all(
    Array.from({ length: 100 }, (_, i) => {
      return w.network.bind({ address: `10.9.${i}.1`, port: 4_000 }, (bytes, from) => {
        // Half of what comes back is answered with noise, so that transfers see it as well.
        if (random() < 0.5) hostile[i]?.send(mutated(bytes), from)
      })
    }),
  )
  const mutated = (bytes: Uint8Array): Uint8Array => {
    const copy = Uint8Array.from(bytes.subarray(0, 600))
    for (let i = pick(4); i > 0; i--) copy[pick(copy.byteLength)] = pick(256)
    return random() < 0.3 ? copy.subarray(0, pick(copy.byteLength + 1)) : copy
  }
  let transfersMost = 0
  let eventsSeen = 0
  for (let sent = 0; sent < 100_000; sent++) {
    hostile[pick(hostile.length)]?.send(mutated(seeds[pick(seeds.length)] ?? seeds[0] ?? new Uint8Array(0)), serverAt)
    if (sent % 500 !== 499) continue
    await w.clock.run(() => false, 20)
    transfersMost = Math.max(transfersMost, w.server.transferCount)
    eventsSeen += w.events.length
    w.events.length = 0
  }
  expect(transfersMost).toBeLessThanOrEqual(64)
  expect(transfersMost).toBeGreaterThan(0)
  expect(eventsSeen).toBeGreaterThan(1_000)
  for (const socket of hostile) socket.close()
  const good = new Client(w, { address: '10.0.1.1', name: 'f', options: { blksize: '1432' } })
  await w.clock.run(() => good.result !== 'running', 10 * minuteMs)
  expectFile(good, 5_000)
  await expectNothingHeld(w)
})
