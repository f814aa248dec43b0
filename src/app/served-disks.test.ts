import { execFileSync, spawn } from 'node:child_process'
import { linkSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { OperationError } from '../base/errors.ts'
import { createBlockCache } from '../block/cache.ts'
import { Clones } from './clones.ts'
import { goldenImageName } from './golden.ts'
import { Library } from './library.ts'
import { type ServedDisks, serveDisks, type TargetAccess } from './served-disks.ts'
import { ImageShelf } from './shelf.ts'

const folder = mkdtempSync(join(tmpdir(), 'slipway-served-'))
afterAll(() => rmSync(folder, { recursive: true }))

function emptyImage(name: string): string {
  const path = join(folder, name)
  writeFileSync(path, '')
  truncateSync(path, 1024 * 1024)
  return path
}

function serve(access: TargetAccess, ...imagePaths: string[]): Promise<ServedDisks> {
  const disks = imagePaths.map((imagePath, i) => ({
    targetName: `iqn.2026-01.lab:${i}`,
    imagePath,
    access,
    blockBytes: 512 as const,
    physicalBlockBytes: 512 as const,
    reservationsPath: undefined,
  }))
  const listen = { address: '127.0.0.1', port: 0 }
  return serveDisks({ disks, authentication: { kind: 'none' }, listen }, () => undefined)
}

async function refusal(serving: Promise<unknown>): Promise<string> {
  const error = await serving.then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  return error instanceof OperationError ? `${error.code}: ${error.message}` : String(error)
}

test('a disk that is served in place is opened by nobody else for writing, by none of its names', async () => {
  const path = emptyImage('disk.img')
  const hard = join(folder, 'hard.img')
  const soft = join(folder, 'soft.img')
  linkSync(path, hard)
  symlinkSync(path, soft)
  for (const other of [hard, soft]) expect(await refusal(serve({ kind: 'inPlace' }, path, other))).toMatch(/^fileBusy/)
  const served = await serve({ kind: 'inPlace' }, path)
  for (const other of [path, hard, soft]) {
    expect(await refusal(serve({ kind: 'inPlace' }, other))).toBe(
      `fileBusy: ${other} is open for writing already, perhaps under another name`,
    )
  }
  // Reading it harms nobody, and when it is served no more it is free.
  await (await serve({ kind: 'readOnly' }, path)).stop()
  await served.stop()
  await (await serve({ kind: 'inPlace' }, hard)).stop()
})

test('whoever has locked a disk is named', async () => {
  const path = emptyImage('locked.img')
  const holder = spawn('flock', ['--no-fork', path, 'sh', '-c', 'echo locked; exec sleep 60'])
  await new Promise((resolve) => holder.stdout.once('data', resolve))
  try {
    expect(await refusal(serve({ kind: 'inPlace' }, path))).toBe(`fileBusy: ${path} is in use by process ${holder.pid}`)
  } finally {
    holder.kill()
    await new Promise((resolve) => holder.once('exit', resolve))
  }
  await (await serve({ kind: 'inPlace' }, path)).stop()
})

test('of one clone or qcow2 in place there is one server', async () => {
  const golden = emptyImage('golden.img')
  const clone = { kind: 'clone', path: join(folder, 'clone.qcow2') } as const
  const served = await serve(clone, golden)
  expect(await refusal(serve(clone, golden))).toMatch(/^fileBusy/)
  expect(await refusal(serve({ kind: 'inPlace' }, clone.path))).toMatch(/^fileBusy/)
  await served.stop()
  await (await serve({ kind: 'inPlace' }, clone.path)).stop()
  expect(() => execFileSync('qemu-img', ['check', '-q', clone.path])).not.toThrow()
})

test('a clone of `slipway up` is not served by `slipway target` meanwhile, nor the other way round', async () => {
  const golden = emptyImage('up.img')
  const library = await Library.open(join(folder, 'state'))
  const shelf = new ImageShelf({ library, filePath: golden, cache: createBlockCache(1 << 20) })
  const clones = new Clones(join(folder, 'clones'), shelf)
  const open = (): ReturnType<Clones['openOwn']> =>
    clones.openOwn('52:54:00:77:00:20', shelf.meant({ image: goldenImageName, version: undefined }))
  const { path } = await open()
  expect(await refusal(serve({ kind: 'clone', path }, golden))).toMatch(/^fileBusy/)
  await clones.closeAll()
  const served = await serve({ kind: 'clone', path }, golden)
  expect(await refusal(open())).toMatch(/^cloneBusy/)
  await served.stop()
  await open()
  await clones.closeAll()
  await shelf.close()
  library.close()
})
