/** The trace of a boot: what is taken down, the file it is kept in against hostile bytes, and fetching it ahead. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { VirtualClock } from '../../test/simulation/clock.ts'
import { seededRandom } from '../base/random.ts'
import { crc32c } from '../wire/crc32c.ts'
import { WireError } from '../wire/reader.ts'
import { type BootTrace, bytesOf, decodeBootTrace, encodeBootTrace, fetchTrace, TraceRecorder } from './boot-trace.ts'
import { createBlockCache } from './cache.ts'
import { patterned } from './device.contract.ts'
import type { BlockDevice } from './device.ts'
import { openRawDevice } from './file.ts'
import { traceBytesMax } from './limits.ts'
import { SimulatedFile } from './testing/simulated-file.ts'

const page = 4096
const diskBytes = 64 * 1024 * 1024 + 512

test('each page is taken down once, when it is first read; neighbours read in order are one stretch', () => {
  const recorder = new TraceRecorder(diskBytes)
  recorder.note(0, 512)
  recorder.note(512, 512)
  recorder.note(page, 3 * page)
  recorder.note(40 * page, page)
  recorder.note(2 * page, 4 * page)
  recorder.note(diskBytes - 512, 512)
  expect(recorder.trace()).toEqual({
    diskBytes,
    ranges: [
      { offset: 0, bytes: 4 * page },
      { offset: 40 * page, bytes: page },
      { offset: 4 * page, bytes: 2 * page },
      { offset: diskBytes - 512, bytes: 512 },
    ],
  })
})

test('a machine that reads its whole disk does not make an endless trace', () => {
  const recorder = new TraceRecorder(8 * traceBytesMax)
  for (let offset = 0; offset < 2 * traceBytesMax; offset += 16 * 1024 * 1024) recorder.note(offset, 16 * 1024 * 1024)
  expect(recorder.isFull).toBe(true)
  expect(bytesOf(recorder.trace())).toBe(traceBytesMax)
})

const recorded = fc
  .array(fc.record({ offset: fc.nat(diskBytes - 1), bytes: fc.integer({ min: 1, max: 300_000 }) }), { maxLength: 200 })
  .map((reads) => {
    const recorder = new TraceRecorder(diskBytes)
    for (const { offset, bytes } of reads) recorder.note(offset, bytes)
    return recorder.trace()
  })

describe('the file', () => {
  test('says the same again', () => {
    fc.assert(
      fc.property(recorded, (trace) => {
        expect(decodeBootTrace(encodeBootTrace(trace))).toEqual(trace)
      }),
    )
  })

  test('is small: some bytes for a stretch', () => {
    const recorder = new TraceRecorder(2 ** 40)
    const random = seededRandom(1)
    for (let i = 0; i < 3000; i++) recorder.note(Math.floor(random() * 2 ** 21) * page, 32 * 1024)
    expect(encodeBootTrace(recorder.trace()).byteLength).toBeLessThan(20_000)
  })

  test('with any byte changed, cut off or added is refused, and nothing else happens', () => {
    fc.assert(
      fc.property(recorded, fc.nat(), fc.integer({ min: 1, max: 255 }), (trace, at, flip) => {
        const encoded = encodeBootTrace(trace)
        const changed = Uint8Array.from(encoded)
        const place = at % encoded.byteLength
        changed[place] = (changed[place] ?? 0) ^ flip
        expect(() => decodeBootTrace(changed)).toThrow(WireError)
        expect(() => decodeBootTrace(encoded.subarray(0, place))).toThrow(WireError)
        expect(() => decodeBootTrace(Uint8Array.of(...encoded, flip))).toThrow(WireError)
      }),
    )
  })

  test('that somebody made with a right checksum and lies in it is refused', () => {
    const lie = (count: number, body: readonly number[], disk = 100 * page): Uint8Array => {
      const honest = encodeBootTrace({ diskBytes: disk, ranges: [] })
      const bytes = Uint8Array.of(...honest.subarray(0, 24), ...body, 0, 0, 0, 0)
      const view = new DataView(bytes.buffer)
      view.setUint32(20, count)
      view.setUint32(bytes.byteLength - 4, crc32c(bytes.subarray(0, -4)))
      return bytes
    }
    expect(decodeBootTrace(lie(1, [2, 3]))).toEqual({
      diskBytes: 100 * page,
      ranges: [{ offset: page, bytes: 3 * page }],
    })
    const lies = {
      'more ranges than there are bytes': lie(0xffffffff, [2, 3]),
      'fewer ranges than there are bytes': lie(1, [2, 3, 2, 3]),
      'before the disk': lie(1, [1, 3]),
      'behind its end': lie(1, [2, 100]),
      'no pages': lie(1, [2, 0]),
      'the same twice': lie(2, [0, 3, 5, 3]),
      'an endless number': lie(1, new Array(40).fill(0xff)),
    }
    for (const [what, bytes] of Object.entries(lies)) expect(() => decodeBootTrace(bytes), what).toThrow(WireError)
  })

  test('of any bytes gives a trace or says that it is none', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        try {
          decodeBootTrace(bytes)
        } catch (error) {
          expect(error).toBeInstanceOf(WireError)
        }
      }),
    )
  })
})

describe('fetching ahead', () => {
  const trace: BootTrace = {
    diskBytes: 8 * 1024 * 1024,
    ranges: Array.from({ length: 100 }, (_, i) => ({ offset: ((i * 37) % 100) * 16 * page, bytes: 4 * page })),
  }
  const options = { bytesMax: traceBytesMax, pause: () => Promise.resolve(), isOver: () => false }

  async function slowImage() {
    const content = patterned(8 * 1024 * 1024, 1)
    const file = new SimulatedFile({ content, readOnly: true, random: seededRandom(1), lateShare: 1 })
    const cache = createBlockCache(32 * 1024 * 1024)
    return { file, cached: cache.attach(await openRawDevice(file, { readOnly: true })) }
  }

  test('leaves nothing for the machine to wait for, and reads each byte once', async () => {
    const { file, cached } = await slowImage()
    expect(await fetchTrace(cached, trace, options)).toBe(400 * page)
    for (const { offset, bytes } of trace.ranges) {
      expect(cached.lend?.(offset, bytes, () => undefined)).toBe(true)
    }
    expect(file.readBytes).toBe(400 * page)
  })

  test('beside a machine that boots at the same time, each byte is read once', async () => {
    const { file, cached } = await slowImage()
    const ahead = fetchTrace(cached, trace, options)
    const reader = cached.reader()
    let waited = 0
    for (const { offset, bytes } of trace.ranges) {
      const pending = reader.read(offset, new Uint8Array(bytes))
      if (pending !== undefined) waited++
      await pending
    }
    await ahead
    expect(file.readBytes).toBe(400 * page)
    expect(waited).toBeLessThan(trace.ranges.length / 2)
  })

  test('ends at its bound, and when it is told to', async () => {
    const { file, cached } = await slowImage()
    await fetchTrace(cached, trace, { ...options, bytesMax: 40 * page })
    expect(file.readBytes).toBe(40 * page)
    let steps = 0
    await fetchTrace(cached, trace, { ...options, isOver: () => ++steps > 20 })
    expect(file.readBytes).toBe(80 * page)
  })

  test('on a disk that takes 5 ms for each read, a machine boots in a third of the time', async () => {
    const bootMs = async (isKnown: boolean): Promise<number> => {
      const clock = new VirtualClock()
      const later = (afterMs: number): Promise<void> => new Promise((resolve) => clock.after(afterMs, resolve))
      const content = patterned(8 * 1024 * 1024, 2)
      const below = await openRawDevice(new SimulatedFile({ content, readOnly: true }), { readOnly: true })
      const { sizeBytes, blockBytes } = below
      const slow = { ...below, sizeBytes, blockBytes, readOnly: true, thin: false } as BlockDevice
      slow.read = async (offset, target) => {
        await later(5)
        await below.read(offset, target)
      }
      const cached = createBlockCache(32 * 1024 * 1024).attach(slow)
      if (isKnown) void fetchTrace(cached, trace, { ...options, pause: () => later(0) })
      let endedMs: number | undefined
      const machine = async (): Promise<void> => {
        const reader = cached.reader()
        for (const { offset, bytes } of trace.ranges) {
          await reader.read(offset, new Uint8Array(bytes))
          // It does something with what it read.
          await later(1)
        }
        endedMs = clock.nowMs()
      }
      void machine()
      await clock.run(() => endedMs !== undefined, 60_000)
      return endedMs ?? Number.NaN
    }
    expect(await bootMs(false)).toBe(100 * 6)
    expect(await bootMs(true)).toBeLessThan(200)
  })
})
