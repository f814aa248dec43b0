/** qcow2 images of every geometry against the contract of block devices, on a disk that answers late; each end is checked. */
import { expect, test } from 'vitest'
import { seededRandom } from '../../base/random.ts'
import { nodeCompression } from '../../host/compression.ts'
import { deviceContract, patterned, type Subject } from '../device.contract.ts'
import type { BlockDevice } from '../device.ts'
import { createMemoryDevice } from '../memory.ts'
import { SimulatedFile } from '../testing/simulated-file.ts'
import { checkQcow2 } from './check.ts'
import { type CloneOptions, createClone } from './create.ts'
import { type BackingResolver, noBacking, openQcow2, readHeader } from './open.ts'

const diskBytes = 400 * 1024 + 512

function goldenResolver(golden: BlockDevice): BackingResolver {
  return { resolve: () => Promise.resolve({ kind: 'device', device: golden }) }
}

type Shape = Omit<CloneOptions, 'sizeBytes' | 'backing'> & {
  readonly goldenBytes?: number
  readonly lateShare?: number
}

async function makeSubject(shape: Shape, seed: number): Promise<Subject> {
  const { goldenBytes, lateShare, ...geometry } = shape
  const content = new Uint8Array(diskBytes)
  const golden =
    goldenBytes === undefined ? undefined : createMemoryDevice(patterned(goldenBytes, seed), { readOnly: true })
  if (goldenBytes !== undefined) content.set(patterned(goldenBytes, seed).subarray(0, diskBytes))
  const random = lateShare === 0 ? {} : { random: seededRandom(seed), lateShare: lateShare ?? 0.5 }
  let file = new SimulatedFile(random)
  await createClone(file, {
    ...geometry,
    sizeBytes: diskBytes,
    ...(golden === undefined ? {} : { backing: { name: 'golden.img', format: 'raw' as const } }),
  })
  const options = {
    compression: nodeCompression,
    backing: golden === undefined ? noBacking : goldenResolver(golden),
  }
  let device = await openQcow2(file, options)
  return {
    device,
    content,
    async reopen() {
      await device.close()
      file = new SimulatedFile({ ...random, content: file.content() })
      device = await openQcow2(file, options)
      return device
    },
    async judge() {
      const header = await readHeader(file)
      expect(header.dirty).toBe(false)
      const report = await checkQcow2(file, header)
      expect(report).toEqual({ errorCount: 0, leakCount: 0, faults: [] })
    },
  }
}

const shapes: Readonly<Record<string, Shape>> = {
  'a clone with subclusters of 4 KiB': { goldenBytes: diskBytes },
  'a clone with subclusters of 512 bytes': { goldenBytes: diskBytes, clusterBits: 14 },
  'a clone with subclusters of 2 KiB, larger than its golden image': { goldenBytes: 200_192, clusterBits: 16 },
  'a clone without subclusters': { goldenBytes: diskBytes, clusterBits: 16, extendedL2: false },
  'a clone with clusters of 512 bytes': { goldenBytes: 300_032, clusterBits: 9, extendedL2: false },
  'an image on its own with clusters of 4 KiB': { clusterBits: 12, extendedL2: false },
  'an image on its own with subclusters of 8 KiB': { clusterBits: 18 },
  'a clone on a file that answers at once': { goldenBytes: diskBytes, clusterBits: 15, lateShare: 0 },
}
for (const [name, shape] of Object.entries(shapes)) {
  deviceContract(name, (seed) => makeSubject(shape, seed), { runs: 40 })
}

test('a write of 4 KiB to a fresh clone copies nothing and waits for nothing', async () => {
  const golden = createMemoryDevice(patterned(1024 * 1024, 3), { readOnly: true })
  let goldenReads = 0
  const counted: BlockDevice = Object.create(golden, {
    read: {
      value: (offset: number, target: Uint8Array) => {
        goldenReads++
        return golden.read(offset, target)
      },
    },
    sizeBytes: { value: golden.sizeBytes },
  })
  const file = new SimulatedFile()
  await createClone(file, { sizeBytes: golden.sizeBytes, backing: { name: 'golden', format: 'raw' } })
  const device = await openQcow2(file, { compression: nodeCompression, backing: goldenResolver(counted) })
  const before = { writes: file.writeCount, bytes: file.writtenBytes }
  expect(device.write(40_960, new Uint8Array(4096).fill(7))).toBeUndefined()
  expect(goldenReads).toBe(0)
  expect(file.writeCount - before.writes).toBe(1)
  expect(file.writtenBytes - before.bytes).toBe(4096)
  await device.close()
})

test('a fresh clone lends the blocks of its golden image, and only those that are unchanged', async () => {
  const golden = createMemoryDevice(patterned(1024 * 1024, 4), { readOnly: true })
  const file = new SimulatedFile()
  await createClone(file, { sizeBytes: golden.sizeBytes, backing: { name: 'golden', format: 'raw' } })
  const device = await openQcow2(file, { compression: nodeCompression, backing: goldenResolver(golden) })
  const lends = (offset: number, bytes: number): boolean => device.lend?.(offset, bytes, () => undefined) ?? false
  expect(lends(0, 1024 * 1024)).toBe(true)
  await device.write(8192, new Uint8Array(4096))
  expect(lends(4096, 4096)).toBe(true)
  expect(lends(4096, 8192)).toBe(false)
  expect(lends(12288, 65536)).toBe(true)
  await device.close()
})

test('what is discarded gives its space back after a flush, and the space is used again', async () => {
  const file = new SimulatedFile()
  await createClone(file, { sizeBytes: 64 * 1024 * 1024, clusterBits: 16 })
  const device = await openQcow2(file, { compression: nodeCompression, backing: noBacking })
  const mebibyte = new Uint8Array(1024 * 1024).fill(1)
  for (let round = 0; round < 12; round++) {
    for (let i = 0; i < 4; i++) await device.write((round * 4 + i) * mebibyte.byteLength, mebibyte)
    await device.flush()
    await device.discard(round * 4 * mebibyte.byteLength, 4 * mebibyte.byteLength)
    await device.flush()
  }
  expect(file.usedBytes).toBeLessThan(512 * 1024)
  expect(file.sizeBytes()).toBeLessThan(6 * 1024 * 1024)
  await device.close()
})

test('a disk that fills up says noSpace, and the clone stays good and usable', async () => {
  const file = new SimulatedFile({ capacityBytes: 3 * 1024 * 1024 })
  await createClone(file, { sizeBytes: 16 * 1024 * 1024 })
  const options = { compression: nodeCompression, backing: noBacking }
  const device = await openQcow2(file, options)
  const block = new Uint8Array(4096)
  const written = new Map<number, number>()
  let refused = 0
  for (let i = 0; i < 2048; i++) {
    const offset = ((i * 1031) % 4096) * 4096
    try {
      await device.write(offset, block.fill((i % 255) + 1))
      written.set(offset, (i % 255) + 1)
    } catch (error) {
      expect(error).toMatchObject({ code: 'noSpace' })
      refused++
    }
  }
  expect(refused).toBeGreaterThan(0)
  await expect((async () => await device.flush())()).rejects.toMatchObject({ code: 'noSpace' })
  file.capacityBytes = 64 * 1024 * 1024
  await device.flush()
  await device.write(0, block.fill(9))
  await device.close()
  const report = await checkQcow2(file, await readHeader(file))
  expect(report).toEqual({ errorCount: 0, leakCount: 0, faults: [] })
  const again = await openQcow2(new SimulatedFile({ content: file.content() }), options)
  const target = new Uint8Array(4096)
  written.set(0, 9)
  for (const [offset, value] of written) {
    await again.read(offset, target)
    expect(target[0], `block at ${offset}`).toBe(value)
  }
  await again.close()
})

test('a table of counts that is full moves to a longer one, whenever the power goes', async () => {
  const options = { compression: nodeCompression, backing: noBacking }
  const mebibyte = 1024 * 1024
  // 512-byte clusters: one cluster of table counts 8 MiB.
  const full = new SimulatedFile()
  await createClone(full, { sizeBytes: 12 * mebibyte, clusterBits: 9, extendedL2: false })
  const filled = await openQcow2(full, options)
  await filled.write(0, patterned(7 * mebibyte, 1))
  await filled.close()
  for (let seed = 1; seed <= 5; seed++) {
    const random = seededRandom(seed)
    const file = full.fork({ random, lateShare: 0.2 })
    const device = await openQcow2(file, options)
    await device.write(7 * mebibyte, patterned(3 * mebibyte, seed))
    const flushing = Promise.resolve(device.flush()).catch(() => undefined)
    const turns = seed === 5 ? Number.POSITIVE_INFINITY : random() * 3000
    if (turns === Number.POSITIVE_INFINITY) await flushing
    for (let i = 0; i < turns && turns !== Number.POSITIVE_INFINITY; i++) await undefined
    const left = file.crash(random)
    expect((await checkQcow2(left, await readHeader(left))).errorCount).toBe(0)
    const again = await openQcow2(left, options)
    const start = new Uint8Array(7 * mebibyte)
    await again.read(0, start)
    expect(Buffer.compare(start, patterned(7 * mebibyte, 1))).toBe(0)
    if (seed === 5) {
      expect((await readHeader(left)).refcountTableClusters).toBeGreaterThan(1)
      const rest = new Uint8Array(3 * mebibyte)
      await again.read(7 * mebibyte, rest)
      expect(Buffer.compare(rest, patterned(3 * mebibyte, seed))).toBe(0)
    }
    await again.close()
    expect(await checkQcow2(left, await readHeader(left))).toEqual({ errorCount: 0, leakCount: 0, faults: [] })
  }
})
