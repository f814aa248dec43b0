/** What the plain layers promise beyond the contract. */
import { expect, test } from 'vitest'
import { seededRandom } from '../base/random.ts'
import { patterned } from './device.contract.ts'
import { openRawDevice } from './file.ts'
import { Flusher } from './flusher.ts'
import { createMemoryDevice } from './memory.ts'
import { createMemoryFile } from './memory-file.ts'
import { createOverlay } from './overlay.ts'
import { SimulatedFile } from './testing/simulated-file.ts'

test('an empty file is refused with what to do', async () => {
  await expect(openRawDevice(new SimulatedFile())).rejects.toMatchObject({ code: 'imageEmpty' })
})

test('a golden image below an ephemeral layer is never written, and a fresh layer lends its blocks', async () => {
  const content = patterned(64 * 1024, 7)
  const golden = createMemoryDevice(content.slice(), { readOnly: true })
  const overlay = createOverlay({ golden, changes: createMemoryFile(1024 * 1024) })
  const lent: Uint8Array[] = []
  expect(overlay.lend?.(8192, 4096, (piece) => lent.push(piece))).toBe(true)
  expect(Buffer.concat(lent)).toEqual(Buffer.from(content.subarray(8192, 12288)))
  await overlay.write(8704, new Uint8Array(512))
  expect(overlay.lend?.(8192, 4096, () => undefined)).toBe(false)
  expect(overlay.lend?.(12288, 4096, () => undefined)).toBe(true)
  const below = new Uint8Array(64 * 1024)
  await golden.read(0, below)
  expect(below).toEqual(content)
})

test('memory and sync files answer without a promise, through every layer', async () => {
  const golden = await openRawDevice(new SimulatedFile({ content: patterned(64 * 1024, 1) }), { readOnly: true })
  const overlay = createOverlay({ golden, changes: createMemoryFile(1024 * 1024) })
  expect(overlay.read(0, new Uint8Array(8192))).toBeUndefined()
  expect(overlay.write(512, new Uint8Array(9000))).toBeUndefined()
  expect(overlay.flush()).toBeUndefined()
})

test('a full ephemeral layer says noSpace, and what it holds stays readable', async () => {
  const golden = createMemoryDevice(1024 * 1024, { readOnly: true })
  const overlay = createOverlay({ golden, changes: createMemoryFile(64 * 1024) })
  const block = new Uint8Array(4096).fill(1)
  for (let i = 0; i < 16; i++) overlay.write(i * 4096, block)
  expect(() => overlay.write(16 * 4096, block)).toThrow(expect.objectContaining({ code: 'noSpace' }))
  const back = new Uint8Array(4096)
  overlay.read(15 * 4096, back)
  expect(back).toEqual(block)
  await overlay.discard(0, 4096)
  expect(overlay.write(16 * 4096, block)).toBeUndefined()
})

test('trimming a disk of 1 TiB takes no time and no memory', async () => {
  const golden = { ...createMemoryDevice(512, { readOnly: true }), sizeBytes: 2 ** 40, blockBytes: 512 }
  const overlay = createOverlay({ golden, changes: createMemoryFile(1024 * 1024) })
  await overlay.discard(0, 2 ** 40)
  expect(overlay.mapBytes).toBeLessThan(1024 * 1024)
  expect(await overlay.extent(0, 2 ** 40)).toEqual({ allocated: false, bytes: 2 ** 40 })
})

test('a flush of a raw file syncs only when something was written, and waits for a sync that is under way', async () => {
  const file = new SimulatedFile({ content: new Uint8Array(8192), random: seededRandom(3), lateShare: 0 })
  const device = await openRawDevice(file)
  expect(device.flush()).toBeUndefined()
  device.write(0, new Uint8Array(512).fill(9))
  const first = device.flush()
  let firstEnded = false
  first?.then(() => {
    firstEnded = true
  })
  await device.flush()
  expect(firstEnded).toBe(true)
  expect(file.syncCount).toBe(1)
})

test('a sync that failed is not forgotten: no later flush claims that the data is safe', async () => {
  const file = new SimulatedFile({ content: new Uint8Array(8192) })
  const device = await openRawDevice(file)
  device.write(0, new Uint8Array(512))
  file.failSyncs = true
  await expect(Promise.resolve(device.flush())).rejects.toMatchObject({ code: 'ioError' })
  file.failSyncs = false
  expect(() => device.flush()).toThrow('sync failed')
})

test('flushes asked for while one runs share one more, and two never run at once', async () => {
  let running = 0
  let runs = 0
  const flusher = new Flusher(() => {
    runs++
    running++
    expect(running).toBe(1)
    return new Promise((resolve) => setTimeout(resolve, 5)).then(() => {
      running--
    })
  })
  const first = flusher.flush()
  const late = first?.then(() => flusher.flush())
  await Promise.all([first, flusher.flush(), flusher.flush(), late])
  expect(runs).toBeLessThanOrEqual(3)
})

test('failures of the disk come out as they are, and spoil no neighbour', async () => {
  const file = new SimulatedFile({ content: patterned(65536, 5), random: seededRandom(5) })
  const golden = await openRawDevice(file, { readOnly: true })
  const changes = new SimulatedFile({ random: seededRandom(6) })
  const overlay = createOverlay({ golden, changes })
  await overlay.write(0, new Uint8Array(4096).fill(1))
  file.failReads = true
  const partial = async (): Promise<void> => await overlay.write(4096 + 512, new Uint8Array(512))
  await expect(partial()).rejects.toMatchObject({ code: 'ioError' })
  changes.failWrites = true
  await expect((async () => await overlay.write(8192, new Uint8Array(4096)))()).rejects.toMatchObject({
    code: 'ioError',
  })
  file.failReads = false
  changes.failWrites = false
  const target = new Uint8Array(65536)
  await overlay.read(0, target)
  const expected = patterned(65536, 5)
  expected.fill(1, 0, 4096)
  expect(target).toEqual(expected)
})
