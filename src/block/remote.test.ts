import { afterAll, expect, test } from 'vitest'
import { OperationError } from '../base/errors.ts'
import { seededRandom } from '../base/random.ts'
import { systemClock } from '../host/clock.ts'
import type { Clock } from '../ports/clock.ts'
import { deviceContract, patterned, readAll } from './device.contract.ts'
import { unflushedBytesMax } from './limits.ts'
import {
  openRemoteDevice,
  type RemoteOptions,
  type RemoteSession,
  type RemoteState,
  type RemoteTerms,
} from './remote.ts'

const terms: RemoteTerms = {
  sizeBytes: 1 << 20,
  readOnly: false,
  canFlush: true,
  canWriteZeroes: true,
  minimumBlockBytes: 1,
  transferBytesMax: 64 * 1024,
  effectBytesMax: 256 * 1024,
  allocationContext: 1,
}

/** A server in this process: what it was told and has not flushed is gone when it is killed. */
class Server {
  readonly terms: RemoteTerms
  readonly random: () => number
  durable: Uint8Array
  cached: Uint8Array
  isUp = true
  failFlushes = 0
  /** How often it is killed while something is asked of it, and is up again at once. */
  killShare = 0
  killCount = 0
  flushCount = 0
  requests: string[] = []
  readonly #ends = new Set<(reason: string) => void>()
  #epoch = 0

  constructor(seed: number, content: Uint8Array, change: Partial<RemoteTerms> = {}) {
    this.terms = { ...terms, sizeBytes: content.byteLength, ...change }
    this.random = seededRandom(seed)
    this.durable = content.slice()
    this.cached = content.slice()
  }

  /** Of what was written and not flushed, whole blocks are kept or not, as chance has it. */
  kill(): void {
    this.isUp = false
    this.killCount++
    this.#epoch++
    for (let at = 0; at < this.cached.byteLength; at += 512) {
      if (this.random() < 0.5) this.cached.set(this.durable.subarray(at, at + 512), at)
    }
    const ends = [...this.#ends]
    this.#ends.clear()
    for (const end of ends) end('it ended the connection')
  }

  open(onLost: (reason: string) => void): Promise<RemoteSession> {
    if (!this.isUp) return Promise.reject(new OperationError('connectionRefused', 'it does not answer', 'Start it.'))
    this.#ends.add(onLost)
    const epoch = this.#epoch
    /** Done at some moment between being asked and answering, if the server lives so long. */
    const later = async <T>(what: string, act: () => T): Promise<T> => {
      const alive = async (): Promise<void> => {
        for (let turns = Math.floor(this.random() * 6); turns > 0; turns--) await new Promise(setImmediate)
        if (epoch !== this.#epoch) throw new OperationError('connectionLost', 'it ended', 'Look.')
      }
      this.requests.push(what)
      if (this.random() < this.killShare) {
        setImmediate(() => {
          this.kill()
          this.isUp = true
        })
      }
      await alive()
      const result = act()
      await alive()
      return result
    }
    return Promise.resolve({
      terms: this.terms,
      read: (offset, target) =>
        later('read', () => target.set(this.cached.subarray(offset, offset + target.byteLength))),
      write: (offset, source) => later('write', () => this.cached.set(source, offset)),
      flush: () =>
        later('flush', () => {
          this.flushCount++
          if (this.failFlushes-- > 0) {
            // Like a kernel that drops what it could not write.
            this.cached.set(this.durable)
            throw new OperationError('ioError', 'the disk failed', 'Look.')
          }
          this.durable.set(this.cached)
        }),
      writeZeroes: (offset, bytes) => later('zero', () => void this.cached.fill(0, offset, offset + bytes)),
      extent: (_offset, bytes) => later('extent', () => ({ allocated: true, bytes })),
      close: async () => void this.#ends.delete(onLost),
    })
  }
}

type Opened = { readonly device: Awaited<ReturnType<typeof openRemoteDevice>>; readonly states: RemoteState[] }

async function opened(server: Server, options: Partial<RemoteOptions> = {}): Promise<Opened> {
  const states: RemoteState[] = []
  const device = await openRemoteDevice({
    open: (onLost) => server.open(onLost),
    clock: systemClock,
    label: 'nbd://lab/disk',
    onState: (state) => states.push(state),
    ...options,
  })
  return { device, states }
}

deviceContract('a remote disk', async (seed) => {
  const content = patterned(1 << 20, seed)
  const server = new Server(seed, content)
  return { device: (await opened(server)).device, content }
})

let kills = 0
afterAll(() => expect(kills, 'it was killed now and then').toBeGreaterThan(0))

deviceContract(
  'a remote disk that breaks off all the time',
  async (seed) => {
    const content = patterned(1 << 18, seed)
    const server = new Server(seed, content)
    // Seconds are over at once.
    const clock: Clock = { ...systemClock, after: (ms, fire) => systemClock.after(ms / 100, fire) }
    const { device } = await opened(server, { clock, patienceMs: 10_000_000 })
    server.killShare = 0.02
    const judge = async (): Promise<void> => {
      kills += server.killCount
      expect(Buffer.compare(server.durable, server.cached), 'what is closed is flushed').toBe(0)
    }
    return { device, content, judge }
  },
  { runs: 12, operations: 30 },
)

deviceContract(
  'a read-only remote disk with blocks of 4 KiB and no zeroes',
  async (seed) => {
    const content = patterned(1 << 20, seed)
    const server = new Server(seed, content, { minimumBlockBytes: 4096, readOnly: true, canWriteZeroes: false })
    return { device: (await opened(server, { readOnly: true })).device, content }
  },
  { runs: 10 },
)

test('what was acknowledged and never flushed is written again after a kill, in its order, before anything else', async () => {
  const server = new Server(5, new Uint8Array(1 << 20))
  const { device, states } = await opened(server)
  for (let value = 1; value <= 9; value++) await device.write(4096, new Uint8Array(512).fill(value))
  await device.writeZeroes(4096, 512, true)
  await device.write(4096, new Uint8Array(512).fill(77))
  server.kill()
  server.cached.fill(0)
  server.isUp = true
  server.requests = []
  const target = new Uint8Array(512)
  await device.read(4096, target)
  expect(target[0]).toBe(77)
  expect(server.requests.at(-1)).toBe('read')
  expect(server.requests.filter((what) => what !== 'read')).toHaveLength(11)
  expect(states.map(({ kind }) => kind)).toEqual(['away', 'back'])
  await device.flush()
  server.kill()
  server.isUp = true
  server.requests = []
  await device.read(4096, target)
  expect(server.requests, 'what was flushed is not kept').toEqual(['read'])
  await device.close()
})

test('a flush that failed is believed only after everything was written again', async () => {
  const server = new Server(6, new Uint8Array(1 << 20))
  const { device } = await opened(server)
  await device.write(0, new Uint8Array(4096).fill(1))
  server.failFlushes = 1
  await expect(device.flush()).rejects.toMatchObject({ code: 'ioError' })
  const meanwhile = device.write(0, new Uint8Array(512).fill(2))
  await device.flush()
  await meanwhile
  await device.flush()
  expect([server.durable[0], server.durable[512]]).toEqual([2, 1])
  await device.close()
})

test('away for longer than patience lasts, it says so at once to everybody; back again, it works', async () => {
  const server = new Server(7, patterned(1 << 20, 7))
  const { device } = await opened(server, { patienceMs: 60 })
  server.kill()
  const waiting = [device.read(0, new Uint8Array(512)), device.write(512, new Uint8Array(512))]
  for (const outcome of await Promise.allSettled(waiting)) {
    expect(outcome).toMatchObject({ status: 'rejected', reason: { code: 'ioError' } })
  }
  await expect(device.read(0, new Uint8Array(512))).rejects.toThrow('nbd://lab/disk is away: it')
  server.isUp = true
  await expect
    .poll(() =>
      readAll(device).then(
        ({ byteLength }) => byteLength,
        () => 0,
      ),
    )
    .toBe(1 << 20)
  await device.close()
})

test('writes that nobody flushes are kept up to a bound, and flushed then', async () => {
  const server = new Server(8, new Uint8Array(1 << 20))
  const { device } = await opened(server)
  const block = new Uint8Array(64 * 1024)
  for (let written = 0; written < 2 * unflushedBytesMax; written += block.byteLength) await device.write(0, block)
  expect(server.flushCount).toBeGreaterThan(1)
  await device.close()
})

test('what is not the same disk, cannot flush or may not be written is refused; one that is away may be expected', async () => {
  const small = new Server(9, new Uint8Array(512))
  await expect(opened(small, { expectedSizeBytes: 1024 })).rejects.toThrow(
    'another disk now, of 512 bytes and not 1024',
  )
  await expect(opened(new Server(9, new Uint8Array(512), { canFlush: false }))).rejects.toThrow('cannot flush')
  await expect(opened(new Server(9, new Uint8Array(512), { readOnly: true }))).rejects.toThrow('may not be written')
  await expect(opened(new Server(9, new Uint8Array(1000)))).rejects.toThrow('no whole number of blocks')
  small.isUp = false
  await expect(opened(small)).rejects.toMatchObject({ code: 'connectionRefused' })
  const { device } = await opened(small, { expectedSizeBytes: 512, readOnly: true })
  small.isUp = true
  expect(await readAll(device)).toEqual(new Uint8Array(512))
  await device.close()
})

test('the rest of a last block that the server does not have reads as zeroes', async () => {
  const { device } = await opened(new Server(10, new Uint8Array(1000).fill(9)), { readOnly: true })
  expect(device.sizeBytes).toBe(1024)
  const all = await readAll(device)
  expect([all[999], all[1000], all[1023]]).toEqual([9, 0, 0])
  await device.close()
})
