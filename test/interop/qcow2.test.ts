/**
 * Goal: QEMU and Slipway agree on every byte of a qcow2 image, whoever wrote it.
 * Method: images made by qemu-img in many shapes are read here and compared with what qemu-img says; images written here
 * are judged by qemu-img check and qemu-img compare; and both write in turn, against a plain array.
 */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { deflateRawSync, zstdCompressSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { seededRandom } from '../../src/base/random.ts'
import { expectSame, patterned, readAll } from '../../src/block/device.contract.ts'
import type { BlockDevice } from '../../src/block/device.ts'
import { checkQcow2 } from '../../src/block/qcow2/check.ts'
import { createClone } from '../../src/block/qcow2/create.ts'
import { type BackingResolver, describeQcow2, openQcow2, readHeader } from '../../src/block/qcow2/open.ts'
import { type HandmadeCluster, type HandmadeImage, makeImage } from '../../src/block/testing/handmade-image.ts'
import { nodeCompression } from '../../src/host/compression.ts'
import { openFile } from '../../src/host/file.ts'

const diskBytes = 6 * 1024 * 1024
let folder = ''
const at = (name: string): string => join(folder, name)

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'slipway-qcow2-'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

function qemu(tool: 'qemu-img' | 'qemu-io', ...parts: string[]): string {
  return execFileSync(tool, parts, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
}

function expectClean(path: string): void {
  const report = JSON.parse(qemu('qemu-img', 'check', '--output=json', path)) as Record<string, number>
  expect([report['check-errors'], report['corruptions'] ?? 0, report['leaks'] ?? 0], path).toEqual([0, 0, 0])
}

/** What qemu-img reads: the judge. */
function contentByQemu(path: string, format: string, ...more: string[]): Uint8Array {
  const raw = `${path}.raw`
  qemu('qemu-img', 'convert', ...more, '-f', format, '-O', 'raw', path, raw)
  const content = readFileSync(raw)
  rmSync(raw)
  return content
}

/** Names lead to files beside the image, and nowhere else. */
const folderResolver: BackingResolver = {
  async resolve({ name }, from) {
    return { kind: 'file', file: await openFile(join(dirname(from), basename(name)), 'readOnly') }
  },
}

async function open(path: string, mode: 'readOnly' | 'readWrite', snapshot?: string): Promise<BlockDevice> {
  const file = await openFile(path, mode)
  const options = { compression: nodeCompression, backing: folderResolver }
  try {
    return await openQcow2(file, snapshot === undefined ? options : { ...options, snapshot })
  } catch (error) {
    await file.close()
    throw error
  }
}

async function contentHere(path: string, snapshot?: string): Promise<Uint8Array> {
  const device = await open(path, 'readOnly', snapshot)
  const content = await readAll(device)
  await device.close()
  return content
}

/** Data, runs of one byte, and holes, in pieces of many sizes. */
function mixedContent(bytes: number, seed: number): Uint8Array {
  const random = seededRandom(seed)
  const content = new Uint8Array(bytes)
  for (let offset = 0; offset < bytes; ) {
    const length = 512 * Math.ceil(random() * random() * 700)
    const choice = random()
    if (choice < 0.4) content.set(patterned(length, seed + offset).subarray(0, bytes - offset), offset)
    else if (choice < 0.6) content.fill(1 + Math.floor(random() * 255), offset, offset + length)
    offset += length
  }
  return content
}

function makeByQemu(name: string, options: string, ...more: string[]): string {
  writeFileSync(at(`${name}.source`), mixedContent(diskBytes, name.length * 7919))
  const path = at(`${name}.qcow2`)
  qemu('qemu-img', 'convert', ...more, '-O', 'qcow2', '-o', options, at(`${name}.source`), path)
  return path
}

/** The matrix: every cluster size, plain and with subclusters, compressed both ways, both versions, odd count widths. */
const shapes: [name: string, options: string, ...more: string[]][] = [
  ...[9, 10, 12, 14, 16, 18, 21].map((bits): [string, string] => [`plain-${bits}`, `cluster_size=${2 ** bits}`]),
  ...[9, 12, 16, 21].map((bits): [string, string, string] => [`deflate-${bits}`, `cluster_size=${2 ** bits}`, '-c']),
  ...[12, 16, 21].map((bits): [string, string, string] => [
    `zstd-${bits}`,
    `cluster_size=${2 ** bits},compression_type=zstd`,
    '-c',
  ]),
  ...[14, 16, 17, 21].map((bits): [string, string] => [`extended-${bits}`, `cluster_size=${2 ** bits},extended_l2=on`]),
  ['extended-deflate', 'cluster_size=65536,extended_l2=on', '-c'],
  ['extended-zstd', 'cluster_size=131072,extended_l2=on,compression_type=zstd', '-c'],
  ['version-2', 'compat=0.10'],
  ['version-2-deflate', 'compat=0.10', '-c'],
  ['counts-1', 'refcount_bits=1'],
  ['counts-2', 'refcount_bits=2,cluster_size=4096'],
  ['counts-64', 'refcount_bits=64,cluster_size=512'],
  ['lazy', 'lazy_refcounts=on'],
  ['preallocated', 'preallocation=metadata'],
  ['full', 'preallocation=full,cluster_size=4096'],
]

describe('images that qemu-img made', () => {
  test.for(shapes)('%s reads as qemu-img reads it, and checks clean here', async ([name, options, ...more]) => {
    const path = makeByQemu(name, options, ...more)
    expectSame(await contentHere(path), contentByQemu(path, 'qcow2'), name)
    const file = await openFile(path, 'readOnly')
    expect(await checkQcow2(file, await readHeader(file))).toEqual({ errorCount: 0, leakCount: 0, faults: [] })
    await file.close()
  })

  test.for(shapes)('%s, written here, stays what a plain array says and checks clean', async ([
    name,
    options,
    ...more
  ]) => {
    const path = makeByQemu(`w-${name}`, options, ...more)
    const model = contentByQemu(path, 'qcow2')
    const device = await open(path, 'readWrite')
    await scribble(device, model, name.length)
    await device.close()
    expectClean(path)
    expectSame(contentByQemu(path, 'qcow2'), model, name)
  })
})

describe('chains', () => {
  test('raw below qcow2 below qcow2, of different sizes and geometries', async () => {
    writeFileSync(at('base.img'), mixedContent(4 * 1024 * 1024 + 512, 11))
    qemu('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', 'base.img', '-F', 'raw', at('middle.qcow2'), '5M')
    qemu(
      'qemu-io',
      '-c',
      'write -P 7 1000k 300k',
      '-c',
      'write -z 2M 100k',
      '-c',
      'write -P 9 4500k 100k',
      at('middle.qcow2'),
    )
    const options = 'cluster_size=131072,extended_l2=on'
    qemu(
      'qemu-img',
      'create',
      '-q',
      '-f',
      'qcow2',
      '-o',
      options,
      '-b',
      'middle.qcow2',
      '-F',
      'qcow2',
      at('top.qcow2'),
      '6M',
    )
    qemu('qemu-io', '-c', 'write -P 3 1100k 4k', '-c', 'discard 3M 64k', '-c', 'write -z 5632k 8k', at('top.qcow2'))
    expectSame(await contentHere(at('top.qcow2')), contentByQemu(at('top.qcow2'), 'qcow2'), 'the chain')
  })

  test('an image below itself is refused, and so is one whose backing file nobody knows', async () => {
    qemu('qemu-img', 'create', '-q', '-f', 'qcow2', at('a.qcow2'), '1M')
    qemu('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', 'a.qcow2', '-F', 'qcow2', at('b.qcow2'))
    qemu('qemu-img', 'rebase', '-u', '-b', 'b.qcow2', '-F', 'qcow2', at('a.qcow2'))
    await expect(open(at('b.qcow2'), 'readOnly')).rejects.toMatchObject({ code: 'backingLoop' })
    const file = await openFile(at('b.qcow2'), 'readOnly')
    const nothing: BackingResolver = { resolve: () => Promise.resolve(undefined) }
    const opening = openQcow2(file, { compression: nodeCompression, backing: nothing })
    await expect(opening).rejects.toMatchObject({ code: 'backingUnknown' })
    await file.close()
  })
})

test('internal snapshots are read, and writing above them leaves them as they were', async () => {
  for (const options of ['cluster_size=65536', 'cluster_size=65536,extended_l2=on', 'cluster_size=512']) {
    const path = makeByQemu('snapshots', options)
    qemu('qemu-img', 'snapshot', '-c', 'first', path)
    qemu('qemu-io', '-c', 'write -P 5 1M 200k', path)
    qemu('qemu-img', 'snapshot', '-c', 'second', path)
    qemu('qemu-io', '-c', 'write -P 6 1100k 20k', '-c', 'discard 3M 512k', path)
    const first = contentByQemu(path, 'qcow2', '-l', 'snapshot.name=first')
    const second = contentByQemu(path, 'qcow2', '-l', 'snapshot.name=second')
    expectSame(await contentHere(path, 'first'), first, 'first')
    expectSame(await contentHere(path, '2'), second, 'second')
    const model = contentByQemu(path, 'qcow2')
    const device = await open(path, 'readWrite')
    await scribble(device, model, 5)
    await device.close()
    expectClean(path)
    expectSame(contentByQemu(path, 'qcow2'), model, 'the disk as it is now')
    expectSame(contentByQemu(path, 'qcow2', '-l', 'snapshot.name=first'), first, 'first, afterwards')
    expectSame(await contentHere(path, 'second'), second, 'second, afterwards')
    const file = await openFile(path, 'readOnly')
    expect((await describeQcow2(file)).snapshots.map(({ name }) => name)).toEqual(['first', 'second'])
    await file.close()
  }
})

test('an image that QEMU left dirty, its counts behind, is repaired when it is opened to be written', async () => {
  const path = makeByQemu('left-dirty', 'lazy_refcounts=on')
  expect(() => qemu('qemu-io', '-c', 'write -P 5 3M 700k', '-c', 'flush', '-c', 'abort', path)).toThrow()
  const left = await openFile(path, 'readOnly')
  const header = await readHeader(left)
  expect(header.dirty).toBe(true)
  expect((await checkQcow2(left, header)).errorCount).toBeGreaterThan(0)
  await left.close()
  const shown = await contentHere(path)
  await (await open(path, 'readWrite')).close()
  expectClean(path)
  expectSame(contentByQemu(path, 'qcow2'), shown, 'after the repair')
})

test('bitmaps are not kept up, and say so; an image with bitmaps that was left dirty is not repaired', async () => {
  const path = makeByQemu('bitmaps', 'cluster_size=65536')
  qemu('qemu-img', 'bitmap', '--add', path, 'changes')
  const model = contentByQemu(path, 'qcow2')
  const device = await open(path, 'readWrite')
  await scribble(device, model, 3)
  await device.close()
  expectSame(contentByQemu(path, 'qcow2'), model, 'the disk')
  const file = await openFile(path, 'readOnly')
  // Autoclear bit 0: without it the bitmaps are known to be stale.
  expect(await readHeader(file)).toMatchObject({ hasBitmaps: true, hasAutoclear: false, dirty: false })
  await file.close()
  const bytes = readFileSync(path)
  bytes.writeUInt32BE(bytes.readUInt32BE(76) | 1, 76)
  writeFileSync(path, bytes)
  await expect(open(path, 'readWrite')).rejects.toMatchObject({ code: 'imageUnsupported', hint: expect.any(String) })
})

test.for<[what: string, image: Partial<HandmadeImage>]>([
  ['deflate, version 2', { version: 2 }],
  ['zstd, with a snapshot', { compression: 'zstd', hasSnapshot: true }],
  ['extended entries, counts of 64 bits', { extendedL2: true, clusterBits: 14, refcountOrder: 6 }],
])('images that the simulations begin with are what QEMU takes for images: %s', async ([what, image]) => {
  const { version = 3, compression = 'deflate', clusterBits = 12 } = image
  const clusterBytes = 2 ** clusterBits
  const content = mixedContent(64 * clusterBytes, clusterBits)
  const clusters = Array.from({ length: 64 }, (_, i): HandmadeCluster => {
    const bytes = content.subarray(i * clusterBytes, (i + 1) * clusterBytes)
    if (i % 4 === 0) bytes.fill(0)
    if (i % 4 === 0) return { kind: i % 8 === 0 && version === 3 ? 'zero' : 'hole' }
    const packed = compression === 'zstd' ? zstdCompressSync(bytes) : deflateRawSync(bytes)
    return i % 4 === 1 || packed.byteLength >= clusterBytes
      ? { kind: 'data', bytes }
      : { kind: 'packed', bytes: packed }
  })
  const path = at(`handmade-${what.length}.qcow2`)
  writeFileSync(path, makeImage({ sizeBytes: content.byteLength, version, clusterBits, ...image, clusters }))
  expectClean(path)
  expectSame(contentByQemu(path, 'qcow2'), content, what)
})

describe('what is not supported is refused in words', () => {
  test('an external data file', async () => {
    const path = at('external.qcow2')
    qemu('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', `data_file=${at('data')}`, path, '4M')
    await expect(open(path, 'readOnly')).rejects.toMatchObject({ code: 'imageUnsupported', hint: expect.any(String) })
  })

  test('encryption', async () => {
    const path = at('encrypted.qcow2')
    qemu('qemu-img', 'create', '-q', '-f', 'qcow2', path, '4M')
    const bytes = readFileSync(path)
    // crypt_method: LUKS. qemu-img itself refuses to make one where it cannot measure its own speed.
    bytes.writeUInt32BE(2, 32)
    writeFileSync(path, bytes)
    await expect(open(path, 'readOnly')).rejects.toMatchObject({ code: 'imageUnsupported', hint: expect.any(String) })
  })
})

describe('clones made here', () => {
  test.for([
    17, 16, 14, 21,
  ])('with clusters of 2^%s bytes: QEMU finds nothing wrong and reads the same', async (clusterBits) => {
    const golden = mixedContent(diskBytes, clusterBits)
    writeFileSync(at('golden.img'), golden)
    const path = at(`clone-${clusterBits}.qcow2`)
    const file = await openFile(path, 'createOrTruncate')
    await createClone(file, { sizeBytes: diskBytes, clusterBits, backing: { name: 'golden.img', format: 'raw' } })
    await file.close()
    expectClean(path)
    qemu('qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw', path, at('golden.img'))

    // Slipway and QEMU write in turn; nothing either does may surprise the other.
    const model = golden.slice()
    const random = seededRandom(clusterBits)
    for (let round = 0; round < 4; round++) {
      const device = await open(path, 'readWrite')
      await scribble(device, model, round)
      await device.close()
      expectClean(path)
      const commands: string[] = []
      for (let i = 0; i < 12; i++) {
        const start = 512 * Math.floor(random() * (diskBytes / 512 - 600))
        const bytes = 512 * Math.ceil(random() * random() * 500)
        const value = 1 + Math.floor(random() * 255)
        const choice = random()
        if (choice < 0.6) commands.push(`write -P ${value} ${start} ${bytes}`)
        else if (choice < 0.8) commands.push(`write -z ${random() < 0.5 ? '-u ' : ''}${start} ${bytes}`)
        else commands.push(`read ${start} ${bytes}`)
        if (choice < 0.8) model.fill(choice < 0.6 ? value : 0, start, start + bytes)
      }
      qemu('qemu-io', '-d', 'unmap', '-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), path)
      expectClean(path)
      expectSame(await contentHere(path), model, `after round ${round}`)
    }
    writeFileSync(at('model.img'), model)
    qemu('qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw', path, at('model.img'))
    expect(Buffer.compare(readFileSync(at('golden.img')), golden), 'the golden image is as it was').toBe(0)
  })

  test('a clone of 100 GiB takes milliseconds and a few kilobytes, and QEMU agrees', async () => {
    const path = at('large.qcow2')
    const file = await openFile(path, 'createOrTruncate')
    await createClone(file, { sizeBytes: 100 * 2 ** 30 })
    await file.close()
    expectClean(path)
    const device = await open(path, 'readWrite')
    await device.write(99 * 2 ** 30, patterned(8192, 1))
    await device.discard(0, 100 * 2 ** 30)
    await device.close()
    expectClean(path)
    const info = JSON.parse(qemu('qemu-img', 'info', '--output=json', path)) as Record<string, number>
    expect(info['virtual-size']).toBe(100 * 2 ** 30)
    expect(info['actual-size']).toBeLessThan(200 * 1024)
  })
})

/** Writes, zeroes, discards and flushes all over the place, several at once, here and in the model. */
async function scribble(device: BlockDevice, model: Uint8Array, seed: number): Promise<void> {
  const random = seededRandom(seed)
  const blocks = model.byteLength / 512
  for (let round = 0; round < 12; round++) {
    let block = Math.floor(random() * blocks * 0.9)
    const pending: (Promise<void> | undefined)[] = []
    for (let i = 0; i < 16 && block < blocks; i++) {
      const count = Math.min(blocks - block, 1 + Math.floor(random() ** 4 * 1500))
      const [offset, bytes] = [block * 512, count * 512]
      const choice = random()
      if (choice < 0.7) {
        const source = patterned(bytes, round * 100 + i)
        model.set(source, offset)
        pending.push(device.write(offset, source))
      } else if (choice < 0.95) {
        model.fill(0, offset, offset + bytes)
        pending.push(device.writeZeroes(offset, bytes, choice < 0.85))
      } else pending.push(device.flush())
      block += count
    }
    await Promise.all(pending)
  }
}
