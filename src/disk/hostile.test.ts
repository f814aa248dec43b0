/** Goal: no bytes of a disk do more than give an answer or a DiskError, in bounded time. Method: mutate real images. */
import { readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { contentOf } from './content.ts'
import { signersOf } from './der.ts'
import { DiskError } from './disk-error.ts'
import type { FileSystem } from './file-system.ts'
import { openDisk, summaryOf } from './inspect.ts'
import { parseOsRelease } from './os-release.ts'
import { readPartitionTable } from './partitions.ts'
import { parseSbat, readPe, sectionText } from './pe.ts'
import { type ByteSource, readWhole, sourceOfBytes } from './source.ts'

const environment: { readonly SLIPWAY_FUZZ_RUNS?: string } = process.env
const numRuns = Number(environment.SLIPWAY_FUZZ_RUNS ?? 150)
const vector = (name: string): Uint8Array => {
  const bytes = gunzipSync(readFileSync(new URL(`vectors/${name}.gz`, import.meta.url)))
  return new Uint8Array(bytes)
}

/** Fails the test by a read too many: work must be bounded by the image, whatever its numbers say. */
function counted(bytes: Uint8Array, readsMax: number): ByteSource {
  const source = sourceOfBytes(bytes)
  let reads = 0
  return {
    sizeBytes: source.sizeBytes,
    read: (offset, count) => {
      if (++reads > readsMax) throw new Error(`more than ${readsMax} reads`)
      return source.read(offset, count)
    },
  }
}

async function onlyDiskErrors(work: () => Promise<unknown>): Promise<void> {
  try {
    await work()
  } catch (error) {
    expect(error).toBeInstanceOf(DiskError)
  }
}

/** Everything that can be reached, two levels deep. */
async function walk(fileSystem: FileSystem): Promise<void> {
  const visit = async (path: string, depth: number): Promise<void> => {
    await onlyDiskErrors(async () => {
      for (const { name } of (await fileSystem.list(path)) ?? []) {
        const below = `${path}/${name}`
        await onlyDiskErrors(() => fileSystem.stat(below))
        await onlyDiskErrors(async () => {
          const file = await fileSystem.open(below)
          if (file !== undefined) await readWhole(file, 1024 * 1024)
        })
        if (depth > 0 && !name.includes('a-name-that-fills')) await visit(below, depth - 1)
      }
    })
  }
  await visit('', 2)
}

/** Where the structures are: the rest of an image is files' content, and changing that proves nothing. */
const metadata: Readonly<Record<string, readonly (readonly [from: number, to: number])[]>> = {
  'gpt.img': [
    [0, 2048],
    [64 * 1024, 96 * 1024],
  ],
  'mbr.img': [[0, 64 * 1024]],
  'fat12.img': [[0, 40 * 512]],
  'fat16.img': [[0, 110 * 512]],
  'ext4.img': [[1024, 120 * 1024]],
  'ext4-plain.img': [[1024, 120 * 1024]],
  'ext2.img': [[1024, 120 * 1024]],
  'iso.img': [[16 * 2048, 40 * 2048]],
}

const flips = fc.array(fc.tuple(fc.nat(), fc.constantFrom(0, 1, 0x7f, 0x80, 0xff, -1), fc.nat(7)), {
  minLength: 1,
  maxLength: 6,
})

test.for(Object.keys(metadata))('%s with changed bytes gives an answer or a DiskError', async (name) => {
  const original = vector(name)
  const ranges = metadata[name] ?? []
  const places = ranges.flatMap(([from, to]) => {
    return Array.from({ length: to - from }, (_, i) => from + i).filter((at) => original[at] !== 0 || at % 64 === 0)
  })
  await fc.assert(
    fc.asyncProperty(flips, async (changes) => {
      const bytes = original.slice()
      for (const [where, value, bit] of changes) {
        const at = places[where % places.length] ?? 0
        bytes[at] = value === -1 ? (bytes[at] ?? 0) ^ (1 << bit) : value
      }
      await onlyDiskErrors(() => readPartitionTable(counted(bytes, 300)))
      const content = await contentOf(counted(bytes, 400_000))
      if (content.kind === 'fileSystem') await walk(content.fileSystem)
      await summaryOf(await openDisk(counted(bytes, 400_000)))
    }),
    { numRuns },
  )
})

test.for(['uki.efi', 'signed.efi'])('%s with changed bytes gives an answer or a DiskError', async (name) => {
  const original = vector(name)
  await fc.assert(
    fc.asyncProperty(flips, fc.option(fc.nat(original.byteLength)), async (changes, cut) => {
      const bytes = original.slice(0, cut ?? undefined)
      for (const [where, value, bit] of changes) {
        if (bytes.byteLength === 0) continue
        const at = where % Math.min(bytes.byteLength, 1024)
        bytes[at] = value === -1 ? (bytes[at] ?? 0) ^ (1 << bit) : value
      }
      const source = counted(bytes, 300)
      await onlyDiskErrors(async () => {
        const image = await readPe(source)
        if (image === undefined) return
        for (const section of image.sections) await onlyDiskErrors(() => sectionText(source, image, section.name))
      })
    }),
    { numRuns: numRuns * 4 },
  )
})

test('a CMS with changed bytes gives names or a DiskError', async () => {
  const bytes = vector('signed.efi')
  const image = await readPe(sourceOfBytes(bytes))
  expect(image?.signatures.length).toBe(1)
  // The signature is the last thing in the file; its DER begins with a SEQUENCE of two length bytes.
  const start = bytes.findLastIndex((byte, at) => byte === 0x30 && bytes[at + 1] === 0x82 && bytes[at + 4] === 0x06)
  const original = bytes.slice(start)
  expect(signersOf(original)).toEqual(['CN=A signer of tests, O=Slipway Test, C=DE'])
  await fc.assert(
    fc.asyncProperty(flips, async (changes) => {
      const changed = original.slice()
      for (const [where, value, bit] of changes) {
        const at = where % changed.byteLength
        changed[at] = value === -1 ? (changed[at] ?? 0) ^ (1 << bit) : value
      }
      await onlyDiskErrors(async () => signersOf(changed))
    }),
    { numRuns: numRuns * 4 },
  )
})

test('any bytes at all are a disk, if only an empty one', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 8192 }), async (bytes) => {
      if (bytes.byteLength > 511) bytes.set([0x55, 0xaa], 510)
      await summaryOf(await openDisk(counted(bytes, 2_000)))
      await onlyDiskErrors(async () => {
        const image = await readPe(sourceOfBytes(bytes))
        expect(image?.sections.length ?? 0).toBeLessThan(97)
      })
    }),
    { numRuns: numRuns * 4 },
  )
})

test('texts of any kind are read as what can be made of them', () => {
  fc.assert(
    fc.property(fc.string(), (text) => {
      expect(typeof parseOsRelease(text).id).toBe('string')
      expect(Array.isArray(parseSbat(text))).toBe(true)
    }),
  )
})
