/** The cache against the contract, and what it promises beyond: one read for many, lending, a bound, reading ahead. */
import { describe, expect, test } from 'vitest'
import { seededRandom } from '../base/random.ts'
import { createBlockCache } from './cache.ts'
import { deviceContract, expectSame, patterned, readAll } from './device.contract.ts'
import type { BlockDevice } from './device.ts'
import { openRawDevice } from './file.ts'
import { fetchesAheadMax, fetchesInFlightMax } from './limits.ts'
import { createMemoryFile } from './memory-file.ts'
import { createOverlay } from './overlay.ts'
import { SimulatedFile } from './testing/simulated-file.ts'

const diskBytes = 400 * 1024 + 512

async function golden(content: Uint8Array, seed?: number): Promise<{ file: SimulatedFile; device: BlockDevice }> {
  const late = seed === undefined ? {} : { random: seededRandom(seed), lateShare: 0.7 }
  const file = new SimulatedFile({ content, readOnly: true, ...late })
  return { file, device: await openRawDevice(file, { readOnly: true }) }
}

for (const [name, bytesMax] of [
  ['a cache with room for all', 1024 * 1024],
  ['a cache with room for a fifth', 80 * 1024],
  ['a cache with room for nothing', 0],
] as const) {
  deviceContract(`${name}, over a late file`, async (seed) => {
    const content = patterned(diskBytes, seed)
    return { device: createBlockCache(bytesMax).attach((await golden(content, seed)).device), content }
  })
}

deviceContract('an ephemeral layer over a cache', async (seed) => {
  const content = patterned(diskBytes, seed)
  const cached = createBlockCache(160 * 1024).attach((await golden(content, seed)).device)
  return { device: createOverlay({ golden: cached, changes: createMemoryFile(1024 * 1024) }), content }
})

describe('many readers', () => {
  test('who miss the same bytes at once cause one read, rounded to pages', async () => {
    const content = patterned(diskBytes, 1)
    const { file, device } = await golden(content, 1)
    const cached = createBlockCache(1024 * 1024).attach(device)
    const targets = Array.from({ length: 20 }, () => new Uint8Array(3000))
    await Promise.all(targets.map((target) => cached.read(70_000, target)))
    for (const target of targets) expectSame(target, content.subarray(70_000, 73_000), 'a reader')
    expect(file.readBytes).toBe(4096)
    await Promise.all(targets.map((target) => cached.read(69_632, target)))
    expect(file.readBytes).toBe(4096)
  })

  test('all get the failure of a read they share, and the next one tries again', async () => {
    const { file, device } = await golden(patterned(diskBytes, 2), 2)
    const cached = createBlockCache(1024 * 1024).attach(device)
    file.failReads = true
    const reads = Array.from({ length: 5 }, async () => await cached.read(0, new Uint8Array(8192)))
    const ended = await Promise.allSettled(reads)
    expect(ended.map(({ status }) => status)).toEqual(new Array(5).fill('rejected'))
    file.failReads = false
    await cached.read(0, new Uint8Array(8192))
  })
})

test('what is in memory is lent without a copy, and stays as it is after it was dropped', async () => {
  const content = patterned(diskBytes, 3)
  const { device } = await golden(content)
  const cached = createBlockCache(300 * 1024).attach(device)
  const lent: Uint8Array[] = []
  expect(cached.lend?.(65_536, 65_536, (piece) => lent.push(piece))).toBe(true)
  expect(lent).toHaveLength(1)
  const again: Uint8Array[] = []
  expect(cached.lend?.(65_536, 4096, (piece) => again.push(piece))).toBe(true)
  expect(again[0]?.buffer).toBe(lent[0]?.buffer)
  await readAll(cached)
  expectSame(lent[0] ?? new Uint8Array(0), content.subarray(65_536, 131_072), 'what was lent')
})

test('the bound holds whatever is read, and what is used often stays', async () => {
  const content = patterned(4 * 1024 * 1024, 4)
  const { file, device } = await golden(content)
  const cache = createBlockCache(512 * 1024)
  const cached = cache.attach(device)
  const random = seededRandom(4)
  const favourite = new Uint8Array(4096)
  let favouriteMisses = 0
  for (let i = 0; i < 3000; i++) {
    const before = file.readCount
    cached.read(8192, favourite)
    if (file.readCount > before) favouriteMisses++
    cached.read(Math.floor(random() * 1000) * 4096, favourite)
    expect(cache.usedBytes).toBeLessThanOrEqual(cache.bytesMax)
  }
  expect(favouriteMisses).toBeLessThan(5)
})

test('who reads in order from a slow disk finds the next bytes there already; who jumps about is not read ahead for', async () => {
  const content = patterned(8 * 1024 * 1024, 5)
  const file = new SimulatedFile({ content, readOnly: true, random: seededRandom(5), lateShare: 1 })
  const cache = createBlockCache(16 * 1024 * 1024)
  const cached = cache.attach(await openRawDevice(file, { readOnly: true }))
  const target = new Uint8Array(32 * 1024)
  let waited = 0
  for (let offset = 0; offset < content.byteLength; offset += target.byteLength) {
    const pending = cached.read(offset, target)
    if (pending !== undefined) waited++
    await pending
    for (let i = 0; i < 20; i++) await undefined
    expectSame(target, content.subarray(offset, offset + target.byteLength), `at ${offset}`)
  }
  expect(waited).toBeLessThan(40)
  expect(file.readBytes).toBe(content.byteLength)

  const jumps = createBlockCache(16 * 1024 * 1024)
  const jumpy = jumps.attach(await openRawDevice(file, { readOnly: true }))
  const random = seededRandom(6)
  const page = new Uint8Array(4096)
  const places = new Set<number>()
  for (let i = 0; i < 200; i++) {
    const place = Math.floor(random() * 1000) * 2 + 1
    places.add(place)
    await jumpy.read(place * 4096, page)
  }
  expect(jumps.statistics.fetchedBytes).toBe(places.size * 4096)
})

test('two images share one bound, and closing both gives all of it back', async () => {
  const cache = createBlockCache(1024 * 1024)
  const one = cache.attach((await golden(patterned(diskBytes, 6))).device)
  const two = cache.attach((await golden(patterned(diskBytes, 7))).device)
  await readAll(one)
  await readAll(two)
  await one.close()
  expect(await readAll(two)).toHaveLength(diskBytes)
  await two.close()
  expect(cache.usedBytes).toBe(0)
})

test('what was prefetched is lent when it is asked for', async () => {
  const { file, device } = await golden(patterned(diskBytes, 8), 8)
  const cached = createBlockCache(1024 * 1024).attach(device)
  await cached.prefetch(100_000, 50_000)
  const read = file.readBytes
  expect(cached.lend?.(100_000, 50_000, () => undefined)).toBe(true)
  expect(file.readBytes).toBe(read)
})

/** Answers at once what is in its page cache, which is all of it or nothing; the rest when the test says so. */
class SlowImage implements BlockDevice {
  readonly sizeBytes: number
  readonly blockBytes = 512
  readonly readOnly = true
  readonly thin = false
  readonly #content: Uint8Array
  /** What was asked of the disk and not answered yet, in order. */
  readonly asked: { readonly offset: number; readonly bytes: number; answer(): void }[] = []
  inPageCache = false
  readBytes = 0

  constructor(content: Uint8Array) {
    this.#content = content
    this.sizeBytes = content.byteLength
  }

  read(offset: number, target: Uint8Array): Promise<void> {
    this.readBytes += target.byteLength
    return new Promise((resolve) => {
      const answer = (): void => {
        target.set(this.#content.subarray(offset, offset + target.byteLength))
        resolve()
      }
      this.asked.push({ offset, bytes: target.byteLength, answer })
    })
  }

  readNow(offset: number, target: Uint8Array): boolean {
    if (!this.inPageCache) return false
    this.readBytes += target.byteLength
    target.set(this.#content.subarray(offset, offset + target.byteLength))
    return true
  }

  /** Answers everything that is asked, and what is asked then, until nothing is. */
  async answerAll(): Promise<void> {
    while (this.asked.length > 0) {
      for (const { answer } of this.asked.splice(0)) answer()
      await settled()
    }
  }

  write = unexpected
  flush = unexpected
  writeZeroes = unexpected
  discard = unexpected
  extent = unexpected
  close = (): Promise<void> => Promise.resolve()
}

function unexpected(): never {
  throw new Error('nobody does this to a golden image')
}

async function settled(): Promise<void> {
  for (let i = 0; i < 30; i++) await undefined
}

const page = 4096

describe('what the page cache of the system has', () => {
  test('is kept when it is asked for again, not the first time, and is right each time', async () => {
    const content = patterned(2 * 1024 * 1024, 9)
    const image = new SlowImage(content)
    image.inPageCache = true
    const cache = createBlockCache(1024 * 1024)
    const cached = cache.attach(image)
    const target = new Uint8Array(page)
    const read = async (offset: number): Promise<number> => {
      const before = image.readBytes
      const pending = cached.read(offset, target)
      await image.answerAll()
      await pending
      expectSame(target, content.subarray(offset, offset + page), `at ${offset}`)
      return image.readBytes - before
    }
    for (let offset = 0; offset < content.byteLength; offset += page) await read(offset)
    expect(cache.usedBytes).toBeLessThan(16 * 1024)
    expect(await read(64 * page)).toBe(page)
    expect(await read(64 * page)).toBe(0)
    expect(cached.lend?.(64 * page, page, () => undefined)).toBe(true)
  })

  test('read in pieces smaller than a page by one reader counts once', () => {
    const image = new SlowImage(patterned(1024 * 1024, 10))
    image.inPageCache = true
    const cache = createBlockCache(1024 * 1024)
    const reader = cache.attach(image).reader()
    for (let offset = 0; offset < 512 * 1024; offset += 512)
      expect(reader.read(offset, new Uint8Array(512))).toBe(undefined)
    expect(cache.usedBytes).toBeLessThan(16 * 1024)
    expect(image.asked).toHaveLength(0)
  })
})

describe('a disk that is slow', () => {
  test('keeps nobody waiting who reads another image, and has a bounded number of reads under way', async () => {
    const cache = createBlockCache(1024 * 1024)
    const dead = new SlowImage(patterned(1024 * 1024, 11))
    const stuck = cache.attach(dead)
    const waiting = Array.from({ length: 100 }, (_, i) => stuck.read(i * 2 * page, new Uint8Array(page)))
    expect(waiting.every((pending) => pending !== undefined)).toBe(true)
    expect(dead.asked).toHaveLength(fetchesInFlightMax)
    // The other disk answers: its reader does not wait for one of the hundred.
    const content = patterned(1024 * 1024, 12)
    const quick = new SlowImage(content)
    const target = new Uint8Array(page)
    const pending = cache.attach(quick).read(5 * page, target)
    await quick.answerAll()
    await pending
    expectSame(target, content.subarray(5 * page, 6 * page), 'of the other image')
    expect(dead.asked).toHaveLength(fetchesInFlightMax)
    await dead.answerAll()
    await Promise.all(waiting)
  })

  test('serves a reader of one block in turn with a reader that asked for the whole disk before', async () => {
    const content = patterned(8 * 1024 * 1024, 13)
    const image = new SlowImage(content)
    const shared = createBlockCache(64 * 1024 * 1024).attach(image)
    const [scanner, other] = [shared.reader(), shared.reader()]
    const scan = Array.from({ length: 30 }, (_, i) => scanner.read(i * 256 * 1024, new Uint8Array(256 * 1024)))
    const target = new Uint8Array(page)
    let isServed = false
    const single = other.read(8 * 1024 * 1024 - page, target)?.then(() => {
      isServed = true
    })
    // Two of the scanner's reads end: one slot goes to the scanner at most, the other to who asked for one block.
    let answered = 0
    while (!isServed && answered < 30) {
      image.asked.shift()?.answer()
      answered++
      await settled()
    }
    await single
    expect(answered).toBeLessThanOrEqual(fetchesInFlightMax + 2)
    await image.answerAll()
    await Promise.all(scan)
    expectSame(target, content.subarray(-page), 'the single block')
  })

  test('fetches ahead only while nobody waits, and at once what somebody then asks for', async () => {
    const image = new SlowImage(patterned(8 * 1024 * 1024, 14))
    const shared = createBlockCache(64 * 1024 * 1024).attach(image)
    const ahead = shared.prefetch(0, 4 * 1024 * 1024)
    expect(image.asked).toHaveLength(fetchesAheadMax)
    // Of what is queued last, and of what is not queued at all.
    const first = shared.reader().read(4 * 1024 * 1024 - page, new Uint8Array(page))
    const second = shared.reader().read(6 * 1024 * 1024, new Uint8Array(page))
    expect(image.asked.slice(fetchesAheadMax).map(({ offset }) => offset)).toEqual([
      4 * 1024 * 1024 - 256 * 1024,
      6 * 1024 * 1024,
    ])
    await image.answerAll()
    await Promise.all([ahead, first, second])
    expect(image.readBytes).toBe(4 * 1024 * 1024 + page)
  })
})

test('somebody who reads a whole disk once does not drive out what others come back to', async () => {
  const content = patterned(16 * 1024 * 1024, 15)
  const { file, device } = await golden(content)
  const shared = createBlockCache(4 * 1024 * 1024).attach(device)
  const [scanner, machine] = [shared.reader(), shared.reader()]
  const bootPages = 512
  const target = new Uint8Array(page)
  const boot = async (): Promise<void> => {
    for (let i = 0; i < bootPages; i++) await machine.read(i * page, target)
  }
  await boot()
  await boot()
  for (let offset = 4 * 1024 * 1024; offset < content.byteLength; offset += page) await scanner.read(offset, target)
  const before = file.readBytes
  await boot()
  expect(file.readBytes - before).toBe(0)
})
