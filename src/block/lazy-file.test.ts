import { expect, test } from 'vitest'
import { OperationError } from '../base/errors.ts'
import { seededRandom } from '../base/random.ts'
import { systemClock } from '../host/clock.ts'
import { deviceContract, patterned } from './device.contract.ts'
import { openRawDevice } from './file.ts'
import { createLazyMap, LazyFile, type LazyParts, type RangeSource, readLazyMap } from './lazy-file.ts'
import { lazyChunkBytes } from './limits.ts'
import { SimulatedFile } from './testing/simulated-file.ts'

const runs = Number(process.env['SLIPWAY_FUZZ_RUNS'] ?? 6)

class Source implements RangeSource {
  readonly content: Uint8Array
  readonly random: () => number
  isUp = true
  readCount = 0

  constructor(content: Uint8Array, random: () => number) {
    this.content = content
    this.random = random
  }

  async read(offset: number, target: Uint8Array): Promise<void> {
    this.readCount++
    for (let turns = Math.floor(this.random() * 5); turns > 0; turns--) await new Promise(setImmediate)
    if (!this.isUp) throw new OperationError('sourceAway', 'it does not answer', 'Wait.')
    target.set(this.content.subarray(offset, offset + target.byteLength))
  }
}

type Disk = { readonly data: SimulatedFile; readonly map: SimulatedFile }

async function fresh(sizeBytes: number, random: () => number): Promise<Disk> {
  const data = new SimulatedFile({ random })
  await data.truncate(sizeBytes)
  await data.sync()
  const map = new SimulatedFile({ random })
  await createLazyMap(map, sizeBytes, Uint8Array.of(1, 2, 3))
  return { data, map }
}

async function lazyOn(disk: Disk, source: RangeSource, more: Partial<LazyParts> = {}): Promise<LazyFile> {
  const found = await readLazyMap(disk.map)
  expect(found.descriptor).toEqual(Uint8Array.of(1, 2, 3))
  return new LazyFile({ source, clock: systemClock, label: 'http://lab/disk', ...disk, found, keeps: true, ...more })
}

deviceContract(
  'a raw disk of a lazy file',
  async (seed) => {
    const content = patterned(5 * lazyChunkBytes + 1536, seed)
    const random = seededRandom(seed)
    const file = await lazyOn(await fresh(content.byteLength, random), new Source(content, random))
    return { device: await openRawDevice(file, { readOnly: true }), content }
  },
  { runs: 20 },
)

test(`${runs} times the power goes while it is read, and nothing is taken for fetched that was not`, async () => {
  let kept = 0
  for (let seed = 1; seed <= runs; seed++) {
    const random = seededRandom(seed)
    const content = patterned(10 * lazyChunkBytes - 512, seed)
    const source = new Source(content, random)
    let disk = await fresh(content.byteLength, random)
    for (let life = 0; life < 4; life++) {
      const file = await lazyOn(disk, source)
      kept += file.chunksHere
      for (let reads = 0; reads < 6; reads++) {
        const offset = Math.floor(random() * content.byteLength)
        const target = new Uint8Array(Math.min(content.byteLength - offset, 1 + Math.floor(random() * 300_000)))
        await file.read(offset, target)
        const what = `seed ${seed}, life ${life}, ${offset}`
        expect(Buffer.compare(target, content.subarray(offset, offset + target.byteLength)), what).toBe(0)
        if (random() < 0.4) void file.sync().catch(() => undefined)
      }
      for (let turns = Math.floor(random() * 20); turns > 0; turns--) await new Promise(setImmediate)
      disk = { data: disk.data.crash(random, { random }), map: disk.map.crash(random, { random }) }
    }
  }
  expect(kept, 'something was kept over a power cut').toBeGreaterThan(0)
})

test('who misses the same chunk at once causes one request, and neighbours come by one', async () => {
  const content = patterned(16 * lazyChunkBytes, 1)
  const source = new Source(content, seededRandom(1))
  const file = await lazyOn(await fresh(content.byteLength, seededRandom(2)), source)
  await Promise.all([1, 2, 3].map(() => file.read(0, new Uint8Array(8 * lazyChunkBytes))))
  expect(source.readCount).toBe(1)
  await file.close()
})

test('while the server is away reads wait, then fail, then work again; what is here is read all the time', async () => {
  const content = patterned(4 * lazyChunkBytes, 1)
  const source = new Source(content, seededRandom(1))
  const states: string[] = []
  const more = { patienceMs: 300, onState: ({ kind }: { kind: string }) => void states.push(kind) }
  const file = await lazyOn(await fresh(content.byteLength, seededRandom(2)), source, more)
  await file.read(0, new Uint8Array(512))
  source.isUp = false
  const far = 3 * lazyChunkBytes
  await expect(Promise.resolve(file.read(far, new Uint8Array(512)))).rejects.toMatchObject({ code: 'ioError' })
  await file.read(512, new Uint8Array(512))
  source.isUp = true
  await expect
    .poll(
      () =>
        Promise.resolve(file.read(far, new Uint8Array(512))).then(
          () => 'read',
          () => 'failed',
        ),
      { timeout: 5_000 },
    )
    .toBe('read')
  expect(states).toEqual(['away', 'back'])
  await file.close()
})

test('an answer to what was asked before the server went away is not its return', async () => {
  const states: string[] = []
  /** What was asked of the server and is not answered yet. */
  const asked: PromiseWithResolvers<void>[] = []
  const source = {
    read: async (): Promise<void> => {
      const answer = Promise.withResolvers<void>()
      asked.push(answer)
      await answer.promise
    },
  }
  const disk = await fresh(8 * lazyChunkBytes, seededRandom(1))
  const file = await lazyOn(disk, source, { onState: ({ kind }) => void states.push(kind) })
  const reads = [0, 2, 4].map((chunk) => file.read(chunk * lazyChunkBytes, new Uint8Array(512)))
  await expect.poll(() => asked.length).toBe(3)
  asked[0]?.reject(new OperationError('sourceAway', 'reset', ''))
  await expect.poll(() => states).toEqual(['away'])
  asked[1]?.resolve()
  await reads[1]
  expect(states).toEqual(['away'])
  await expect.poll(() => asked.length).toBe(4)
  asked[3]?.resolve()
  await reads[0]
  expect(states).toEqual(['away', 'back'])
  // Asked before it went away, and lost then.
  asked[2]?.reject(new OperationError('sourceAway', 'reset', ''))
  await expect.poll(() => asked.length).toBe(5)
  asked[4]?.resolve()
  await reads[2]
  expect(states).toEqual(['away', 'back'])
  await file.close()
})

test('a full disk here keeps nothing more, and costs nobody a read', async () => {
  const content = patterned(8 * lazyChunkBytes, 1)
  const disk = await fresh(content.byteLength, seededRandom(2))
  disk.data.capacityBytes = 2 * lazyChunkBytes
  const unkept: string[] = []
  const file = await lazyOn(disk, new Source(content, seededRandom(1)), { onUnkept: ({ code }) => unkept.push(code) })
  for (let at = 0; at < content.byteLength; at += lazyChunkBytes) {
    const target = new Uint8Array(lazyChunkBytes)
    await file.read(at, target)
    expect(Buffer.compare(target, content.subarray(at, at + lazyChunkBytes))).toBe(0)
  }
  expect(unkept).toEqual(['noSpace'])
  await file.close()
})

test('what is no map, or one of another shape, is refused', async () => {
  await expect(readLazyMap(new SimulatedFile({ content: new Uint8Array(64) }))).rejects.toMatchObject({
    code: 'imageCorrupt',
  })
  const { map } = await fresh(4 * lazyChunkBytes, seededRandom(1))
  const bytes = map.content()
  bytes[16] = 0x7f // A size that the bits are far too few for.
  await expect(readLazyMap(new SimulatedFile({ content: bytes }))).rejects.toMatchObject({ code: 'imageCorrupt' })
})
