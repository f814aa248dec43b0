import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, renameSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { createBlockCache } from '../block/cache.ts'
import { type Clone, Clones } from './clones.ts'
import { goldenImageName } from './golden.ts'
import { Library } from './library.ts'
import { ImageShelf } from './shelf.ts'

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

/** What `slipway up FILE` serves from. */
async function shelfOf(path: string): Promise<ImageShelf & { finish(): Promise<void> }> {
  const library = await Library.open(join(folder, 'state'))
  const shelf = new ImageShelf({ library, filePath: path, cache: createBlockCache(1 << 20) })
  return Object.assign(shelf, {
    finish: async () => {
      await shelf.close()
      library.close()
    },
  })
}

function open(clones: Clones, shelf: ImageShelf, machine: string): Promise<Clone> {
  return clones.openOwn(machine, shelf.meant({ image: goldenImageName, version: undefined }))
}

async function bytesAt(clones: Clones, shelf: ImageShelf, machine: string, offset: number): Promise<number> {
  const target = new Uint8Array(512)
  const { device } = await open(clones, shelf, machine)
  await device.read(offset, target)
  return new DataView(target.buffer).getUint32(0, true)
}

test("what a machine writes is in its clone after a restart, in nobody else's, and never in the golden image", async () => {
  const path = makeGolden('a.img')
  const before = createHash('sha256').update(readFileSync(path)).digest('hex')
  const golden = await shelfOf(path)
  const clones = new Clones(join(folder, 'clones-a'), golden)
  const { device } = await open(clones, golden, mac)
  expect(await bytesAt(clones, golden, mac, 8192)).toBe(8192)
  await device.write(8192, new Uint8Array(512).fill(7))
  await clones.closeAll()

  const again = new Clones(join(folder, 'clones-a'), golden)
  expect(await bytesAt(again, golden, mac, 8192)).toBe(0x07070707)
  expect(await bytesAt(again, golden, mac, 8704)).toBe(8704)
  expect(await bytesAt(again, golden, '52:54:00:77:00:11', 8192)).toBe(8192)
  await again.closeAll()
  await golden.finish()
  expect(createHash('sha256').update(readFileSync(path)).digest('hex')).toBe(before)
})

test('two logins at once get one clone, not two', async () => {
  const golden = await shelfOf(makeGolden('b.img'))
  const clones = new Clones(join(folder, 'clones-b'), golden)
  const [one, two] = await Promise.all([open(clones, golden, mac), open(clones, golden, mac)])
  expect(one.device).toBe(two.device)
  await clones.closeAll()
  await golden.finish()
})

test('a clone that a kill left unfinished is made again; a clone of another image is refused with a hint', async () => {
  const cPath = makeGolden('c.img')
  const golden = await shelfOf(cPath)
  const directory = join(folder, 'clones-c')
  const clones = new Clones(directory, golden)
  const { path } = await open(clones, golden, mac)
  await clones.closeAll()
  truncateSync(path, 0)
  truncateSync(path, 65536)
  const again = new Clones(directory, golden)
  expect(await bytesAt(again, golden, mac, 512)).toBe(512)
  await again.closeAll()
  await golden.finish()

  renameSync(cPath, join(folder, 'd.img'))
  const other = await shelfOf(join(folder, 'd.img'))
  const wrong = new Clones(directory, other)
  await expect(open(wrong, other, mac)).rejects.toMatchObject({
    code: 'cloneOfAnother',
    message: expect.stringContaining(path),
  })
  await wrong.closeAll()
  await other.finish()
})
