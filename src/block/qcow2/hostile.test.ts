/**
 * Goal: no number in an image can make us read outside the file, take memory without bound, loop, or fail other than by an
 * OperationError. Method: images that qemu-img made (vectors/qcow2.json) read whole, then with bytes changed, cut off,
 * and with numbers set that hurt. SLIPWAY_FUZZ_RUNS sets how many.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { deflateRawSync, gunzipSync, zstdCompressSync } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { OperationError } from '../../base/errors.ts'
import { seededRandom } from '../../base/random.ts'
import { nodeCompression } from '../../host/compression.ts'
import { expectSame, readAll } from '../device.contract.ts'
import { backingChainMax } from '../limits.ts'
import { createMemoryDevice } from '../memory.ts'
import { makeImage } from '../testing/handmade-image.ts'
import { SimulatedFile } from '../testing/simulated-file.ts'
import { checkQcow2 } from './check.ts'
import { createClone } from './create.ts'
import { type BackingResolver, describeQcow2, noBacking, openQcow2, readHeader } from './open.ts'
import { zstdFrameBytes } from './zstd-frame.ts'

type Vector = { readonly made: string; readonly image: string; readonly content: string }
const vectors = JSON.parse(readFileSync(join(import.meta.dirname, '../vectors/qcow2.json'), 'utf8')) as Record<
  string,
  Vector
>
const unpack = (text: string): Uint8Array => new Uint8Array(gunzipSync(Buffer.from(text, 'base64')))
const images = new Map(Object.entries(vectors).map(([name, { image }]) => [name, unpack(image)]))
const imageOf = (name: string): Uint8Array => images.get(name)?.slice() ?? new Uint8Array(0)
const options = { compression: nodeCompression, backing: noBacking }
const runs = Number(process.env['SLIPWAY_FUZZ_RUNS'] ?? 1500)

describe('images that qemu-img made', () => {
  test.for(Object.entries(vectors))('%s reads as it did there', async ([name, { image, content }]) => {
    const file = new SimulatedFile({ content: unpack(image) })
    expect(await checkQcow2(file, await readHeader(file))).toEqual({ errorCount: 0, leakCount: 0, faults: [] })
    const device = await openQcow2(file, { ...options, readOnly: true })
    expectSame(await readAll(device), unpack(content), name)
    await device.close()
  })

  test('the snapshot shows what was there before', async () => {
    const file = new SimulatedFile({ content: imageOf('snapshot') })
    expect((await describeQcow2(file)).snapshots).toMatchObject([{ id: '1', name: 'one', sizeBytes: 192 * 1024 }])
    const device = await openQcow2(file, { ...options, snapshot: 'one' })
    const expected = new Uint8Array(192 * 1024).fill(1, 0, 65536)
    expectSame(await readAll(device), expected, 'snapshot one')
    expect(device.readOnly).toBe(true)
  })
})

/** Everything a stranger's image goes through. Throws only what it may. */
async function tryAll(content: Uint8Array, writable: boolean): Promise<'opened' | 'refused'> {
  try {
    const file = new SimulatedFile({ content: content.slice() })
    const device = await openQcow2(file, { ...options, readOnly: !writable })
    const target = new Uint8Array(Math.min(device.sizeBytes, 256 * 1024))
    const places = [0, device.sizeBytes - target.byteLength]
    for (const offset of places) {
      await tolerate(async () => await device.read(offset, target))
      await tolerate(async () => void (await device.extent(offset, target.byteLength)))
      if (!writable) continue
      await tolerate(async () => await device.write(offset, target.subarray(0, 9 * 512)))
      await tolerate(async () => await device.discard(offset, target.byteLength))
      await tolerate(async () => await device.flush())
    }
    await tolerate(async () => await device.close())
    await tolerate(async () => void (await checkQcow2(file, await readHeader(file))))
    await tolerate(async () => void (await describeQcow2(file)))
    expect(file.sizeBytes()).toBeLessThan(64 * 1024 * 1024)
    return 'opened'
  } catch (error) {
    if (error instanceof OperationError) return 'refused'
    throw error
  }
}

async function tolerate(act: () => Promise<void>): Promise<void> {
  try {
    await act()
  } catch (error) {
    if (!(error instanceof OperationError)) throw error
  }
}

test(`${runs} damaged images are opened or refused, and nothing else happens`, { timeout: 3_600_000 }, async () => {
  const outcomes = { opened: 0, refused: 0 }
  const names = [...images.keys()]
  for (let seed = 1; seed <= runs; seed++) {
    const random = seededRandom(seed)
    const name = names[Math.floor(random() * names.length)] ?? ''
    let content = imageOf(name)
    const view = new DataView(content.buffer)
    const tables = [0, view.getUint32(44), view.getUint32(52), view.getUint32(68)]
    for (let i = 1 + Math.floor(random() * 4); i > 0; i--) {
      // Tables are where it hurts: the header, the start of each table, and what they point to.
      const base = tables[Math.floor(random() * tables.length)] ?? 0
      const at = Math.min(content.byteLength - 8, base + Math.floor(random() ** 2 * 4096))
      const choice = random()
      if (choice < 0.4) content[at] = Math.floor(random() * 256)
      else if (choice < 0.6) content[at] = (content[at] ?? 0) ^ (1 << Math.floor(random() * 8))
      else if (choice < 0.8)
        view.setUint32(at & ~7, [0, 0x7fffffff, 0x80000000, 0xffffffff][Math.floor(random() * 4)] ?? 0)
      else view.setUint32((at & ~7) + 4, Math.floor(random() * content.byteLength) & ~0xfff)
    }
    if (random() < 0.1) content = content.slice(0, Math.floor(random() * content.byteLength))
    try {
      outcomes[await tryAll(content, random() < 0.5)]++
    } catch (error) {
      throw new Error(`seed ${seed}, ${name}`, { cause: error })
    }
  }
  expect(Math.min(outcomes.opened, outcomes.refused)).toBeGreaterThan(runs / 10)
})

describe('numbers that hurt', () => {
  const patched = (at: number, bytes: number[], name: string = 'version-3'): Uint8Array => {
    const content = imageOf(name)
    content.set(bytes, at)
    return content
  }
  const refusal = async (content: Uint8Array): Promise<unknown> => {
    try {
      await openQcow2(new SimulatedFile({ content }), options)
    } catch (error) {
      return (error as OperationError).code
    }
    return 'opened'
  }
  test.for<[what: string, at: number, bytes: number[], code: string]>([
    ['another magic', 0, [0], 'imageNotQcow2'],
    ['version 4', 7, [4], 'imageUnsupported'],
    ['clusters of 256 bytes', 23, [8], 'imageCorrupt'],
    ['clusters of 4 MiB', 23, [22], 'imageCorrupt'],
    ['clusters of 2^255 bytes', 23, [255], 'imageCorrupt'],
    ['a disk of 2^63 bytes', 24, [0x80], 'imageCorrupt'],
    ['a disk of no bytes', 24, [0, 0, 0, 0, 0, 0, 0, 0], 'imageCorrupt'],
    ['encryption', 35, [1], 'imageUnsupported'],
    ['an L1 table of 16 GiB', 36, [0x7f], 'imageCorrupt'],
    ['an L1 table that is too short', 39, [0], 'imageCorrupt'],
    ['an L1 table off its boundary', 47, [1], 'imageCorrupt'],
    ['an L1 table behind the end', 40, [0x00, 0x10], 'imageCorrupt'],
    ['a count table behind the end', 48, [0x10], 'imageCorrupt'],
    ['a count table of 16 TiB', 56, [0xff], 'imageCorrupt'],
    ['a million snapshots', 60, [0, 0x10], 'imageCorrupt'],
    ['an incompatible feature nobody knows', 72, [0x80], 'imageUnsupported'],
    ['the corrupt bit, to be written', 79, [2], 'imageCorrupt'],
    ['counts of 128 bits', 99, [7], 'imageCorrupt'],
    ['a header of 8 bytes', 103, [8], 'imageCorrupt'],
    ['a header as long as the file', 100, [0, 1, 0, 0], 'imageCorrupt'],
    ['a backing name of 64 KiB', 8, [0, 0, 0, 0, 0, 0, 4, 0, 0, 1, 0, 0], 'imageCorrupt'],
    ['a backing name outside the header', 8, [0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0, 0, 9], 'imageCorrupt'],
  ])('%s is refused', async ([, at, bytes, code]) => {
    expect(await refusal(patched(at, bytes))).toBe(code)
  })

  test('an image with the corrupt bit can still be read', async () => {
    const device = await openQcow2(new SimulatedFile({ content: patched(79, [2]) }), { ...options, readOnly: true })
    expectSame(await readAll(device), unpack(vectors['version-3']?.content ?? ''), 'the content')
  })

  test('a feature that the image names is called by its name', async () => {
    // The entry for incompatible bit 1, "corrupt bit", is made to speak of bit 40.
    const content = imageOf('extended')
    const text = new TextDecoder('latin1').decode(content)
    const entry = text.indexOf('corrupt bit') - 2
    content[entry + 1] = 40
    content[74] = 1
    await expect(openQcow2(new SimulatedFile({ content }), options)).rejects.toThrow('corrupt bit')
  })
})

test('an image that names itself as its backing file is refused', async () => {
  const file = new SimulatedFile({ path: '/images/self.qcow2' })
  await createClone(file, { sizeBytes: 65536, backing: { name: 'self.qcow2', format: 'qcow2' } })
  const backing: BackingResolver = {
    resolve: () => {
      const again = new SimulatedFile({ path: '/images/self.qcow2', content: file.content(), readOnly: true })
      return Promise.resolve({ kind: 'file', file: again })
    },
  }
  await expect(openQcow2(file, { ...options, backing })).rejects.toMatchObject({ code: 'backingLoop' })
})

test('images that stand on each other for ever are refused, whatever their names', async () => {
  let opened = 0
  const backing: BackingResolver = {
    resolve: async () => {
      const file = new SimulatedFile({ path: `/images/link-${opened++}.qcow2` })
      await createClone(file, { sizeBytes: 65536, backing: { name: 'next.qcow2', format: 'qcow2' } })
      return { kind: 'file', file }
    },
  }
  const found = await backing.resolve({ name: '', format: undefined }, '')
  const first = found?.kind === 'file' ? found.file : new SimulatedFile()
  await expect(openQcow2(first, { ...options, backing })).rejects.toMatchObject({ code: 'backingLoop' })
  expect(opened).toBeLessThanOrEqual(backingChainMax + 1)
})

describe('compressed clusters that hurt', () => {
  const clusterBytes = 65_536
  const cluster = Uint8Array.from({ length: clusterBytes }, (_, i) => (i * 7) % 251)
  const packs = { deflate: deflateRawSync, zstd: zstdCompressSync } as const
  test.for<[what: string, method: 'deflate' | 'zstd', bytes: (pack: (b: Uint8Array) => Uint8Array) => Uint8Array]>([
    ['a bomb of 256 MiB', 'deflate', (pack) => pack(new Uint8Array(256 * 1024 * 1024))],
    ['a bomb of 256 MiB', 'zstd', (pack) => pack(new Uint8Array(256 * 1024 * 1024))],
    ['a stream that is cut off', 'deflate', (pack) => pack(cluster).subarray(0, 100)],
    ['a stream that is cut off', 'zstd', (pack) => pack(cluster).subarray(0, 100)],
    ['a stream that gives too little', 'deflate', (pack) => pack(cluster.subarray(0, 4096))],
    ['a stream that gives too little', 'zstd', (pack) => pack(cluster.subarray(0, 4096))],
    ['noise', 'deflate', () => cluster.subarray(0, 3000)],
    ['noise', 'zstd', () => cluster.subarray(0, 3000)],
  ])('%s, %s: its cluster is not read, its neighbours are', async ([, method, bytes]) => {
    const pack = (content: Uint8Array): Uint8Array => new Uint8Array(packs[method](content))
    const content = makeImage({
      sizeBytes: 2 * clusterBytes,
      clusterBits: 16,
      version: 3,
      compression: method,
      clusters: [
        { kind: 'packed', bytes: pack(cluster) },
        { kind: 'packed', bytes: bytes(pack) },
      ],
    })
    const device = await openQcow2(new SimulatedFile({ content, readOnly: true }), options)
    const target = new Uint8Array(clusterBytes)
    const read = async (): Promise<void> => await device.read(clusterBytes, target)
    await expect(read()).rejects.toMatchObject({ code: 'imageCorrupt', hint: expect.any(String) })
    await device.read(0, target)
    expectSame(target, cluster, 'the neighbour')
  })
})

test('a cluster is not used again while a read that began before is still under way', async () => {
  const file = new SimulatedFile()
  await createClone(file, { sizeBytes: 1024 * 1024, clusterBits: 14 })
  const device = await openQcow2(file, options)
  await device.write(0, new Uint8Array(16_384).fill(1))
  await device.flush()
  // The disk holds the read back until it is let go.
  let letGo: () => void = () => undefined
  const held = new Promise<void>((resolve) => {
    letGo = resolve
  })
  const reallyRead = file.read.bind(file)
  file.read = (offset, target) => held.then(() => reallyRead(offset, target))
  const target = new Uint8Array(16_384)
  const reading = device.read(0, target)
  file.read = reallyRead
  await device.discard(0, 16_384)
  const flushing = device.flush()
  for (let i = 0; i < 50; i++) await undefined
  await device.write(524_288, new Uint8Array(16_384).fill(2))
  letGo()
  await reading
  await flushing
  expect([...new Set(target)].filter((byte) => byte === 2)).toEqual([])
  await device.close()
})

test('a backing image that is shared is not closed with the clone, and one that was opened for it is', async () => {
  const shared = createMemoryDevice(65536, { readOnly: true })
  let closed = 0
  shared.close = () => Promise.resolve(void closed++)
  const own = new SimulatedFile({ content: new Uint8Array(65536), readOnly: true })
  for (const answer of [
    { kind: 'device' as const, device: shared },
    { kind: 'file' as const, file: own },
  ]) {
    const file = new SimulatedFile()
    await createClone(file, { sizeBytes: 65536, backing: { name: 'golden', format: 'raw' } })
    const device = await openQcow2(file, { ...options, backing: { resolve: () => Promise.resolve(answer) } })
    await device.close()
  }
  expect([closed, own.closed]).toEqual([0, true])
})

describe('the length of a zstd frame', () => {
  test('is right whatever follows it, and unknown when it is cut off', async () => {
    const { zstdCompressSync } = await import('node:zlib')
    for (const bytes of [0, 1, 300, 5000, 300_000]) {
      const random = seededRandom(bytes)
      const source = Uint8Array.from({ length: bytes }, (_, i) => (i % 3 === 0 ? Math.floor(random() * 256) : 7))
      const frame = zstdCompressSync(source)
      expect(zstdFrameBytes(new Uint8Array(Buffer.concat([frame, Buffer.from([1, 2, 3, 4, 5])])))).toBe(
        frame.byteLength,
      )
      expect(zstdFrameBytes(new Uint8Array(frame.subarray(0, frame.byteLength - 1)))).toBeUndefined()
    }
  })
})
