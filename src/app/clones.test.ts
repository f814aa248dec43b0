import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, renameSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { Clones } from './clones.ts'
import { openGolden } from './golden.ts'

const folder = mkdtempSync(join(tmpdir(), 'slipway-clones-'))
afterAll(() => rmSync(folder, { recursive: true }))
const mac = '52:54:00:77:00:10'
const sizeBytes = 4 * 1024 * 1024

function makeGolden(name: string): string {
  const path = join(folder, name)
  const bytes = Buffer.alloc(sizeBytes)
  for (let i = 0; i < sizeBytes; i += 512) bytes.writeUInt32LE(i, i)
  writeFileSync(path, bytes)
  return path
}

async function bytesAt(clones: Clones, machine: string, offset: number): Promise<number> {
  const target = new Uint8Array(512)
  const { device } = await clones.open(machine)
  await device.read(offset, target)
  return new DataView(target.buffer).getUint32(0, true)
}

test("what a machine writes is in its clone after a restart, in nobody else's, and never in the golden image", async () => {
  const path = makeGolden('a.img')
  const before = createHash('sha256').update(readFileSync(path)).digest('hex')
  const golden = await openGolden(path)
  const clones = new Clones(join(folder, 'clones-a'), golden)
  const { device } = await clones.open(mac)
  expect(await bytesAt(clones, mac, 8192)).toBe(8192)
  await device.write(8192, new Uint8Array(512).fill(7))
  await clones.close()

  const again = new Clones(join(folder, 'clones-a'), golden)
  expect(await bytesAt(again, mac, 8192)).toBe(0x07070707)
  expect(await bytesAt(again, mac, 8704)).toBe(8704)
  expect(await bytesAt(again, '52:54:00:77:00:11', 8192)).toBe(8192)
  await again.close()
  await golden.device.close()
  expect(createHash('sha256').update(readFileSync(path)).digest('hex')).toBe(before)
})

test('two logins at once get one clone, not two', async () => {
  const golden = await openGolden(makeGolden('b.img'))
  const clones = new Clones(join(folder, 'clones-b'), golden)
  const [one, two] = await Promise.all([clones.open(mac), clones.open(mac)])
  expect(one.device).toBe(two.device)
  await clones.close()
  await golden.device.close()
})

test('a clone that a kill left unfinished is made again; a clone of another image is refused with a hint', async () => {
  const golden = await openGolden(makeGolden('c.img'))
  const directory = join(folder, 'clones-c')
  const clones = new Clones(directory, golden)
  const { path } = await clones.open(mac)
  await clones.close()
  truncateSync(path, 0)
  truncateSync(path, 65536)
  const again = new Clones(directory, golden)
  expect(await bytesAt(again, mac, 512)).toBe(512)
  await again.close()
  await golden.device.close()

  renameSync(golden.path, join(folder, 'd.img'))
  const other = await openGolden(join(folder, 'd.img'))
  const wrong = new Clones(directory, other)
  await expect(wrong.open(mac)).rejects.toMatchObject({ code: 'cloneOfAnother', hint: expect.stringContaining(path) })
  await wrong.close()
  await other.device.close()
})
