/** The cache against the contract, and what it promises beyond: one read for many, lending, a bound, reading ahead. */
import { describe, expect, test } from 'vitest'
import { seededRandom } from '../base/random.ts'
import { createBlockCache } from './cache.ts'
import { deviceContract, expectSame, patterned, readAll } from './device.contract.ts'
import type { BlockDevice } from './device.ts'
import { openRawDevice } from './file.ts'
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
