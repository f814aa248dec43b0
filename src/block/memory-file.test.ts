import fc from 'fast-check'
import { expect, test } from 'vitest'
import { createMemoryFile } from './memory-file.ts'

test('a memory file equals a plain array, whatever is written, punched and cut', async () => {
  const size = 40_000
  const operation = fc.record({
    kind: fc.constantFrom('write', 'punch', 'cut'),
    at: fc.nat(size),
    bytes: fc.nat(size / 2),
    value: fc.integer({ min: 1, max: 255 }),
  })
  await fc.assert(
    fc.asyncProperty(fc.array(operation, { maxLength: 40 }), async (operations) => {
      const file = createMemoryFile(1024 * 1024)
      const model = new Uint8Array(size * 2)
      let length = 0
      for (const { kind, at, bytes, value } of operations) {
        if (kind === 'write') {
          file.write(at, new Uint8Array(bytes).fill(value))
          model.fill(value, at, at + bytes)
          length = Math.max(length, at + bytes)
        } else if (kind === 'punch') {
          await file.punchHole(at, bytes)
          model.fill(0, at, at + bytes)
        } else {
          await file.truncate(at)
          model.fill(0, at)
          length = at
        }
        expect(file.sizeBytes()).toBe(length)
      }
      const target = new Uint8Array(size * 2).fill(0xee)
      file.read(0, target)
      expect(Buffer.compare(target, model)).toBe(0)
    }),
    { numRuns: 200 },
  )
})

test('memory given back by a hole is used again', async () => {
  const file = createMemoryFile(128 * 1024)
  const page = new Uint8Array(4096).fill(1)
  for (let round = 0; round < 10; round++) {
    for (let i = 0; i < 32; i++) file.write((round * 32 + i) * 4096, page)
    await file.punchHole(0, (round + 1) * 32 * 4096)
  }
  expect(file.usedBytes).toBe(128 * 1024)
})
