/** What every block device does, whatever it is made of. Each implementation's test runs this suite. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { seededRandom } from '../base/random.ts'
import type { BlockDevice } from './device.ts'

export type Subject = {
  readonly device: BlockDevice
  /** What the disk must hold at first. */
  readonly content: Uint8Array
  /** Closes and opens again where the device outlives a close; absent where it does not. */
  reopen?(): Promise<BlockDevice>
  /** Runs when a test is through with the subject: an outsider's judgement of what was left. */
  judge?(): Promise<void>
}

export type ContractOptions = {
  readonly runs?: number
  /** How many operations a run makes at most. */
  readonly operations?: number
}

type Operation =
  | { readonly kind: 'read'; readonly at: number; readonly blocks: number }
  | { readonly kind: 'lend'; readonly at: number; readonly blocks: number }
  | { readonly kind: 'write'; readonly at: number; readonly blocks: number; readonly fill: number }
  | { readonly kind: 'zero'; readonly at: number; readonly blocks: number; readonly mayUnmap: boolean }
  | { readonly kind: 'discard'; readonly at: number; readonly blocks: number }
  | { readonly kind: 'extent'; readonly at: number; readonly blocks: number }
  | { readonly kind: 'flush' }
  | { readonly kind: 'reopen' }

/** Fractions of the disk and sizes that fall on, beside and across the blocks of 4 KiB and 64 KiB that layers use. */
const at = fc.oneof(fc.nat(0xffff), fc.constantFrom(0, 0xffff, 0x8000))
const blocks = fc.oneof(fc.integer({ min: 1, max: 4 }), fc.constantFrom(7, 8, 9, 16, 127, 128, 129, 300))

export const anyOperation: fc.Arbitrary<Operation> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('read' as const), at, blocks }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('lend' as const), at, blocks }) },
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('write' as const), at, blocks, fill: fc.integer() }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('zero' as const), at, blocks, mayUnmap: fc.boolean() }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('discard' as const), at, blocks }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('extent' as const), at, blocks }) },
  { weight: 1, arbitrary: fc.constant({ kind: 'flush' as const }) },
  { weight: 1, arbitrary: fc.constant({ kind: 'reopen' as const }) },
)

/** Bytes that differ from place to place and from seed to seed. */
export function patterned(bytes: number, seed: number): Uint8Array {
  const random = seededRandom(seed)
  const content = new Uint8Array(bytes)
  for (let i = 0; i < bytes; i += 8) {
    const value = Math.floor(random() * 256)
    content.fill(value, i, i + 8)
  }
  return content
}

export function expectSame(actual: Uint8Array, expected: Uint8Array, what: string): void {
  if (actual.byteLength !== expected.byteLength)
    throw new Error(`${what}: ${actual.byteLength} bytes, not ${expected.byteLength}`)
  if (Buffer.compare(actual, expected) === 0) return
  const wrong = actual.findIndex((byte, i) => byte !== expected[i])
  throw new Error(`${what}: byte ${wrong} is ${actual[wrong]}, not ${expected[wrong]}`)
}

export async function readAll(device: BlockDevice): Promise<Uint8Array> {
  const content = new Uint8Array(device.sizeBytes)
  await device.read(0, content)
  return content
}

/** Applies operations one by one to the device and to a plain array, and compares after each. */
export async function compareWithArray(subject: Subject, operations: readonly Operation[]): Promise<void> {
  let device = subject.device
  const model = subject.content.slice()
  const place = (operation: { at: number; blocks: number }): [number, number] => {
    const total = device.sizeBytes / device.blockBytes
    const first = Math.min(total - 1, Math.floor((operation.at / 0xffff) * total))
    return [first * device.blockBytes, Math.min(operation.blocks, total - first) * device.blockBytes]
  }
  for (const [index, operation] of operations.entries()) {
    const what = `operation ${index}, ${operation.kind}`
    if (operation.kind === 'flush') await device.flush()
    else if (operation.kind === 'reopen') {
      if (subject.reopen !== undefined) device = await subject.reopen()
    } else {
      const [offset, bytes] = place(operation)
      const expected = model.subarray(offset, offset + bytes)
      switch (operation.kind) {
        case 'read': {
          const target = new Uint8Array(bytes).fill(0xee)
          await device.read(offset, target)
          expectSame(target, expected, what)
          break
        }
        case 'lend': {
          const pieces: Uint8Array[] = []
          const lent = device.lend?.(offset, bytes, (piece) => pieces.push(piece)) ?? false
          if (lent) expectSame(Buffer.concat(pieces), expected, what)
          else expect(pieces).toEqual([])
          break
        }
        case 'write': {
          const source = patterned(bytes, operation.fill)
          await device.write(offset, source)
          expected.set(source)
          break
        }
        case 'zero':
          await device.writeZeroes(offset, bytes, operation.mayUnmap)
          expected.fill(0)
          break
        case 'discard':
          await device.discard(offset, bytes)
          if (device.thin) expected.fill(0)
          break
        case 'extent': {
          const extent = await device.extent(offset, bytes)
          expect(extent.bytes).toBeGreaterThan(0)
          expect(extent.bytes).toBeLessThanOrEqual(bytes)
          if (!extent.allocated) expect(expected.subarray(0, extent.bytes).every((byte) => byte === 0)).toBe(true)
          break
        }
      }
    }
  }
  expectSame(await readAll(device), model, 'the whole disk at the end')
  await device.close()
}

/** Operations of different places all in flight at once: none may undo another, even where they share a bigger block. */
export async function compareInFlight(subject: Subject, seed: number, rounds: number): Promise<void> {
  const random = seededRandom(seed)
  const device = subject.device
  const model = subject.content.slice()
  const { blockBytes } = device
  const total = device.sizeBytes / blockBytes
  for (let round = 0; round < rounds; round++) {
    const pending: (Promise<void> | undefined)[] = []
    // Neighbours: consecutive short ranges, started in a random order.
    let at = Math.floor(random() * total)
    const ranges: [number, number][] = []
    while (ranges.length < 32 && at < total) {
      const count = Math.min(total - at, 1 + Math.floor(random() * (random() < 0.2 ? 40 : 5)))
      ranges.push([at * blockBytes, count * blockBytes])
      at += count
    }
    ranges.sort(() => random() - 0.5)
    for (const [offset, bytes] of ranges) {
      const choice = random()
      const expected = model.subarray(offset, offset + bytes)
      if (choice < 0.7) {
        const source = patterned(bytes, Math.floor(random() * 2 ** 31))
        expected.set(source)
        pending.push(device.write(offset, source))
      } else if (choice < 0.8) {
        expected.fill(0)
        pending.push(device.writeZeroes(offset, bytes, random() < 0.5))
      } else if (choice < 0.9) {
        const target = new Uint8Array(bytes)
        const before = expected.slice()
        pending.push(
          Promise.resolve(device.read(offset, target)).then(() => expectSame(target, before, 'a read in flight')),
        )
      } else pending.push(device.flush())
    }
    await Promise.all(pending)
    if (round % 8 === 7) expectSame(await readAll(device), model, `after round ${round}`)
  }
  expectSame(await readAll(device), model, 'the whole disk at the end')
  await device.close()
}

/** @param make a fresh subject; called once per run. */
export function deviceContract(
  name: string,
  make: (seed: number) => Promise<Subject>,
  options: ContractOptions = {},
): void {
  const runs = Number(process.env['SLIPWAY_FUZZ_RUNS'] ?? options.runs ?? 60)
  describe(`${name} is a block device`, () => {
    test('sizes are whole blocks, and the first content is what it was made with', async () => {
      const { device, content, judge } = await make(1)
      expect([512, 4096]).toContain(device.blockBytes)
      expect(device.sizeBytes % device.blockBytes).toBe(0)
      expectSame(await readAll(device), content, 'the first content')
      await device.close()
      await judge?.()
    })

    test('a range outside the disk is our own mistake, and changes nothing', async () => {
      const { device } = await make(2)
      const block = new Uint8Array(device.blockBytes)
      const refused = async (act: () => unknown): Promise<void> => {
        await expect((async () => act())()).rejects.toThrow(/inside the device|read-only/)
      }
      await refused(() => device.read(device.sizeBytes, block))
      await refused(() => device.write(device.sizeBytes, block))
      await refused(() => device.writeZeroes(device.sizeBytes - device.blockBytes, 2 * device.blockBytes, true))
      await device.close()
    })

    test('whatever is done to it one by one, it equals a plain array', async () => {
      await fc.assert(
        fc.asyncProperty(
          fc.integer(),
          fc.array(anyOperation, { maxLength: options.operations ?? 40 }),
          async (seed, list) => {
            const subject = await make(seed)
            const operations = subject.device.readOnly ? list.filter(onlyReads) : list
            await compareWithArray(subject, operations)
            await subject.judge?.()
          },
        ),
        { numRuns: runs },
      )
    })

    test('operations in flight beside each other do not undo each other', async () => {
      await fc.assert(
        fc.asyncProperty(fc.integer(), async (seed) => {
          const subject = await make(seed)
          if (subject.device.readOnly) return subject.device.close()
          await compareInFlight(subject, seed, 12)
          await subject.judge?.()
        }),
        { numRuns: Math.ceil(runs / 3) },
      )
    })

    test('a device that is read-only says so when it is written', async () => {
      const { device } = await make(3)
      if (device.readOnly) {
        const written = async (): Promise<void> => await device.write(0, new Uint8Array(device.blockBytes))
        await expect(written()).rejects.toMatchObject({ code: 'readOnly' })
      }
      await device.close()
    })
  })
}

const onlyReads = (operation: Operation): boolean =>
  ['read', 'lend', 'extent', 'flush', 'reopen'].includes(operation.kind)
