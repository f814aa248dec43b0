import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { openFile } from './file.ts'

const folder = mkdtempSync(join(tmpdir(), 'slipway-file-'))
afterAll(() => rmSync(folder, { recursive: true }))

test('what was written is read back, at once or later, and past the end there are zeroes', async () => {
  const file = await openFile(join(folder, 'a'), 'createNew')
  const small = Uint8Array.from({ length: 5000 }, (_, i) => i % 251)
  const large = Uint8Array.from({ length: 700_000 }, (_, i) => (i * 7) % 253)
  await file.write(100, small)
  await file.write(10_000, large)
  expect(file.sizeBytes()).toBe(710_000)
  const target = new Uint8Array(710_100).fill(0xee)
  await file.read(0, target)
  expect(target.subarray(0, 100).every((byte) => byte === 0)).toBe(true)
  expect(target.subarray(100, 5100)).toEqual(small)
  expect(target.subarray(10_000, 710_000)).toEqual(large)
  expect(target.subarray(710_000).every((byte) => byte === 0)).toBe(true)
  await file.sync()
  await file.close()
})

test('bytes in the page cache are there when read returns', async () => {
  const file = await openFile(join(folder, 'b'), 'createNew')
  await file.write(0, new Uint8Array(8192).fill(7))
  const target = new Uint8Array(4096)
  expect(file.read(4096, target)).toBeUndefined()
  expect(target.every((byte) => byte === 7)).toBe(true)
  await file.close()
})

test('a punched hole reads as zeroes and gives its space back', async () => {
  const file = await openFile(join(folder, 'c'), 'createNew')
  await file.write(0, new Uint8Array(1 << 20).fill(1))
  await file.sync()
  const before = statSync(file.path).blocks
  expect(await file.punchHole(0, 1 << 19)).toBe(true)
  expect(statSync(file.path).blocks).toBeLessThan(before)
  const target = new Uint8Array(4096).fill(9)
  await file.read(4096, target)
  expect(target.every((byte) => byte === 0)).toBe(true)
  await file.close()
})

test('a sparse file says where it takes space', async () => {
  const file = await openFile(join(folder, 'd'), 'createNew')
  await file.truncate(1 << 20)
  expect(file.extent?.(4096)).toEqual({ allocated: false, end: 1 << 20 })
  await file.write(8192, new Uint8Array(4096).fill(1))
  expect(file.extent?.(4096)).toEqual({ allocated: false, end: 8192 })
  expect(file.extent?.(8192)).toEqual({ allocated: true, end: 12_288 })
  await file.punchHole(8192, 4096)
  expect(file.extent?.(4096)).toEqual({ allocated: false, end: 1 << 20 })
  await file.close()
})

test('a file that grows while it is written keeps what is written behind its new end', async () => {
  const file = await openFile(join(folder, 'e'), 'createNew')
  const small = new Uint8Array(4096).fill(7)
  const large = new Uint8Array(1 << 20).fill(8)
  for (let at = 0; at < 64 * (1 << 22); at += 1 << 22) {
    // One goes through the thread pool, and may have made the file longer before anybody is told; one comes meanwhile.
    const earlier = file.write(at + (1 << 21), large)
    const growing = file.grow(at + 4096)
    const later = file.write(at + (1 << 20), small)
    await Promise.all([earlier, growing, later])
    const read = new Uint8Array(1 << 20)
    await file.read(at + (1 << 21), read)
    expect(Buffer.compare(read, large), `the earlier write, at ${at}`).toBe(0)
    await file.read(at + (1 << 20), read.subarray(0, 4096))
    expect(Buffer.compare(read.subarray(0, 4096), small), `the later write, at ${at}`).toBe(0)
  }
  await file.grow(1 << 30)
  expect(file.sizeBytes()).toBe(1 << 30)
  await file.grow(4096)
  expect(statSync(file.path).size).toBe(1 << 30)
  await file.close()
})

test.each([
  ['a file that is not there', '/nonexistent/x', 'readOnly', 'fileMissing'],
  ['a directory', '/tmp', 'readOnly', 'notAFile'],
] as const)('%s is refused with a code and a hint', async (_, path, mode, code) => {
  await expect(openFile(path, mode)).rejects.toMatchObject({ name: 'OperationError', code, hint: expect.any(String) })
})
