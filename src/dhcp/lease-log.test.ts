/**
 * Goal: what was committed is there after kill -9 at any instant, power loss costs at most what was not synced, and the files
 * stay small. Method: a file in memory that knows what has reached the disk, and can be cut off or fail at any write.
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { OperationError } from '../base/errors.ts'
import type { RandomAccessFile } from '../ports/file.ts'
import { openLeaseLog } from './lease-log.ts'
import { compactionLinesMin } from './limits.ts'
import type { StoredLease } from './policy.ts'

class MemoryFile implements RandomAccessFile {
  readonly path = 'leases'
  readonly readOnly = false
  content: Uint8Array
  /** Writes take a turn, as on a slow disk. */
  slow = false
  failing = false
  syncs = 0

  constructor(content: Uint8Array = new Uint8Array(0)) {
    this.content = content
  }

  sizeBytes(): number {
    return this.content.byteLength
  }

  read(offset: number, target: Uint8Array): undefined {
    target.set(this.content.subarray(offset, offset + target.byteLength))
  }

  write(offset: number, source: Uint8Array): Promise<void> | undefined {
    if (this.failing) throw new OperationError('noSpace', 'the disk is full', 'Free some.')
    const larger = new Uint8Array(Math.max(this.content.byteLength, offset + source.byteLength))
    larger.set(this.content)
    larger.set(source, offset)
    this.content = larger
    return this.slow ? Promise.resolve() : undefined
  }

  async sync(): Promise<void> {
    this.syncs++
  }

  async punchHole(): Promise<boolean> {
    return false
  }

  async truncate(sizeBytes: number): Promise<void> {
    this.content = this.content.slice(0, sizeBytes)
  }

  grow(): never {
    throw new Error('the log never grows but by writing')
  }

  async close(): Promise<void> {}
}

type Pair = readonly [MemoryFile, MemoryFile]
const newPair = (): Pair => [new MemoryFile(), new MemoryFile()]
/** What is there after kill -9: what was written, in fresh files. */
const afterKill = ([a, b]: Pair): Pair => [new MemoryFile(a.content.slice()), new MemoryFile(b.content.slice())]

function lease(index: number, expiresAtSeconds: number): StoredLease {
  return {
    kind: 'bound',
    mac: `02:00:00:00:00:${(index & 0xff).toString(16).padStart(2, '0')}`,
    address: 0x0a000000 + index,
    expiresAtSeconds,
  }
}

const latestOf = (leases: readonly StoredLease[]): Map<number, StoredLease> =>
  new Map(leases.map((l) => [l.address, l]))

test('what was committed is there after kill -9', async () => {
  const files = newPair()
  const log = openLeaseLog(files)
  expect(await log.load()).toEqual([])
  const batch: StoredLease[] = [
    lease(1, 100),
    { ...lease(2, 200), kind: 'declined' },
    { ...lease(3, 300), kind: 'released' },
  ]
  expect(log.commit(batch)).toBeUndefined()
  log.commit([lease(1, 500)])
  expect(await openLeaseLog(afterKill(files)).load()).toEqual([lease(1, 500), batch[1], batch[2]])
})

test('the file is lines that a person can read', async () => {
  const files = newPair()
  const log = openLeaseLog(files)
  await log.load()
  log.commit([{ kind: 'bound', mac: '52:54:00:77:00:10', address: 0xc0a84d73, expiresAtSeconds: 1_790_000_000 }])
  const text = Buffer.from(files[0].content).toString()
  expect(text).toMatch(
    /^slipway-leases 1 generation 1\ncomplete\nbound 192\.168\.77\.115 52:54:00:77:00:10 1790000000 [0-9a-f]{8}\n$/,
  )
})

test('after power loss torn and zeroed lines are passed over, whole ones count', async () => {
  const files = newPair()
  const log = openLeaseLog(files)
  await log.load()
  for (let index = 1; index <= 20; index++) log.commit([lease(index, index)])
  fc.assert(
    fc.asyncProperty(fc.nat(files[0].content.length), fc.nat(600), async (from, bytes) => {
      const torn = afterKill(files)
      const start = Math.max(from, 60)
      torn[0].content.fill(0, start, start + bytes)
      for (const found of await openLeaseLog(torn).load())
        expect(found).toEqual(lease(found.address & 0xff, found.expiresAtSeconds))
    }),
  )
  const cut = afterKill(files)
  cut[0].content = cut[0].content.slice(0, -5)
  expect(await openLeaseLog(cut).load()).toHaveLength(19)
})

test('the log goes on where the last whole line ends', async () => {
  const files = newPair()
  const log = openLeaseLog(files)
  await log.load()
  log.commit([lease(1, 1)])
  files[0].content = Uint8Array.from([...files[0].content, ...Buffer.from('bound 10.0')])
  const again = openLeaseLog(files)
  await again.load()
  again.commit([lease(2, 2)])
  expect(await openLeaseLog(afterKill(files)).load()).toEqual([lease(1, 1), lease(2, 2)])
})

describe('compaction', () => {
  test.for([
    false,
    true,
  ])('keeps the files small and loses nothing, at whatever moment we are killed (slow disk: %s)', async (slow) => {
    const files = newPair()
    for (const file of files) file.slow = slow
    const log = openLeaseLog(files)
    await log.load()
    const told = new Map<number, StoredLease>()
    for (let round = 1; round <= 2.5 * compactionLinesMin; round += 512) {
      const batch = Array.from({ length: 512 }, (_, i) => lease((round + i) % 700, round + i))
      await log.commit(batch)
      for (const l of batch) told.set(l.address, l)
      const found = latestOf(await openLeaseLog(afterKill(files)).load())
      expect(found).toEqual(told)
      if (round % 3 === 0) await Promise.resolve()
    }
    await log.close()
    expect(latestOf(await openLeaseLog(afterKill(files)).load())).toEqual(told)
    const bytes = files[0].sizeBytes() + files[1].sizeBytes()
    expect(bytes).toBeLessThan(2 * compactionLinesMin * 70)
    expect(files[0].syncs + files[1].syncs).toBeGreaterThan(2)
  })

  test('onto a full disk changes nothing, and is tried again later', async () => {
    const files = newPair()
    const log = openLeaseLog(files)
    await log.load()
    files[1].failing = true
    const batch = Array.from({ length: 4_096 }, (_, i) => lease(i % 200, i))
    for (let round = 0; round < 6; round++) log.commit(batch)
    await log.close()
    expect(files[1].sizeBytes()).toBe(0)
    expect(await openLeaseLog(afterKill(files)).load()).toHaveLength(200)
    files[1].failing = false
    for (let round = 0; round < 6; round++) {
      await log.commit(batch)
      await log.close()
    }
    expect(files[0].sizeBytes()).toBe(0)
    expect(await openLeaseLog(afterKill(files)).load()).toHaveLength(200)
  })
})

test('a commit that fails says so, and the next one takes its place', async () => {
  const files = newPair()
  const log = openLeaseLog(files)
  await log.load()
  files[0].failing = true
  expect(() => log.commit([lease(1, 1)])).toThrow(OperationError)
  files[0].failing = false
  log.commit([lease(2, 2)])
  expect(await openLeaseLog(afterKill(files)).load()).toEqual([lease(2, 2)])
})
