/**
 * Goal: a command on the library that is killed at any moment leaves no half image, loses no file, and the space is given back;
 * commands at the same time do not spoil each other. Method: the real commands, killed with SIGKILL at seeded moments, mostly
 * while they work on files; what is left is compared with what went in. SLIPWAY_KILL_RUNS sets how often.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { seededRandom } from '../../src/base/random.ts'
import { patterned } from '../../src/block/device.contract.ts'

const slipway = join(import.meta.dirname, '..', '..', 'bin', 'slipway')
const runs = Number(process.env['SLIPWAY_KILL_RUNS'] ?? 20)
const mac = '52:54:00:77:00:10'
const mebibyte = 1024 * 1024
/** Each kill starts two commands, on a machine that may be busy. */
const timeout = 60_000 + runs * 45_000
const content = Buffer.concat([patterned(4 * mebibyte, 1), Buffer.alloc(4 * mebibyte), patterned(4 * mebibyte, 2)])
let folder = ''
const at = (...names: string[]): string => join(folder, ...names)
const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')
const tool = (name: string, ...args: string[]): string =>
  execFileSync(name, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'slipway-library-kills-'))
  writeFileSync(at('disk.img'), content)
  tool('zstd', '-q', '-k', at('disk.img'))
  tool('qemu-img', 'convert', '-O', 'vdi', at('disk.img'), at('disk.vdi'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

type End = { readonly code: number | null; readonly said: string; readonly complained: string }

function start(state: string, ...words: string[]): { readonly child: ChildProcess; readonly ended: Promise<End> } {
  const child = spawn(slipway, [...words, '--state', state], { stdio: ['ignore', 'pipe', 'pipe'] })
  let said = ''
  let complained = ''
  child.stdout.on('data', (text: Buffer) => (said += text.toString()))
  child.stderr.on('data', (text: Buffer) => (complained += text.toString()))
  const ended = new Promise<End>((resolve) => {
    child.once('close', (code) => resolve({ code, said, complained }))
  })
  return { child, ended }
}

const run = (state: string, ...words: string[]): Promise<End> => start(state, ...words).ended

type Listed = { readonly name: string; readonly version: number; readonly file: string; readonly sha256: string | null }

/** `image list` works, and each version's file is there and is the disk; there is nothing else. */
async function expectWhole(state: string, disk: Uint8Array, moment: string): Promise<Listed[]> {
  const { code, said, complained } = await run(state, 'image', 'list', '--json')
  expect([code, complained], moment).toEqual([0, ''])
  const versions = said
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Listed)
  const directory = join(state, 'images')
  const lazy = versions.filter(({ file }) => file.endsWith('.lazy'))
  const expected = [...versions.map(({ file }) => file), ...lazy.map(({ file }) => `${file}-map`)]
  const files = readdirSync(directory).filter((name) => !name.endsWith('@lock'))
  expect(files.sort(), moment).toEqual(expected.sort())
  for (const { file } of versions.filter((version) => !lazy.includes(version))) {
    expect(sha256(readFileSync(join(directory, file))), `${moment}: ${file}`).toBe(sha256(disk))
  }
  return versions
}

type Kills = {
  readonly state: string
  readonly words: readonly string[]
  /** Where it works: nothing there changes while it only starts. */
  readonly watched: string
  readonly seed: number
  /** Before each run, and after it. */
  prepare?(): void
  verify(moment: string, end: End): Promise<void>
}

/** Returns how many were killed in their middle, and how many had ended before. */
async function killAgainAndAgain({ prepare, seed, state, verify, watched, words }: Kills): Promise<[number, number]> {
  const random = seededRandom(seed)
  prepare?.()
  const startedMs = performance.now()
  const first = signatureOf(watched)
  const unharmed = start(state, ...words)
  let isDone = false
  void unharmed.ended.then(() => (isDone = true))
  while (!isDone && signatureOf(watched) === first) await sleep(1)
  const beganMs = performance.now()
  const whole = await unharmed.ended
  const endedMs = performance.now()
  expect(whole.code, whole.complained).toBe(0)
  await verify('not killed', whole)
  const counts: [number, number] = [0, 0]
  for (let round = 1; round <= runs; round++) {
    prepare?.()
    const before = signatureOf(watched)
    const { child, ended } = start(state, ...words)
    let isOver = false
    void ended.then(() => (isOver = true))
    // One in four at any moment at all, the others after it has begun to work.
    const anyMoment = round % 4 === 0
    const delayMs = random() * (endedMs - (anyMoment ? startedMs : beganMs))
    if (!anyMoment) while (!isOver && signatureOf(watched) === before) await sleep(1)
    await Promise.race([sleep(delayMs), ended])
    child.kill('SIGKILL')
    const end = await ended
    counts[end.code === null ? 0 : 1]++
    await verify(`seed ${seed}, round ${round}, after ${delayMs.toFixed(1)} ms`, end)
  }
  return counts
}

function signatureOf(directory: string): string {
  const found = (name: string): string => {
    const stat = statSync(join(directory, name), { throwIfNoEntry: false })
    return `${name} ${stat?.size} ${stat?.mtimeMs}`
  }
  return readdirSync(directory).map(found).join()
}

test.for([
  ['a packed file', 'disk.img.zst', 1],
  ['a file that qemu-img converts', 'disk.vdi', 2],
] as const)(`%s: ${runs} times killed while it is added, nothing is half`, { timeout }, async ([_, file, seed]) => {
  const state = at(`add-${file}`)
  mkdirSync(join(state, 'images'), { recursive: true })
  let known = 0
  const verify = async (moment: string, { code }: End): Promise<void> => {
    const versions = await expectWhole(state, content, moment)
    expect(versions.length - known, moment).toBeOneOf(code === null ? [0, 1] : [1])
    known = versions.length
  }
  const words = ['image', 'add', at(file), '--name', 'lab']
  const [killed] = await killAgainAndAgain({ state, words, watched: join(state, 'images'), seed, verify })
  expect(killed).toBeGreaterThan(runs / 4)
  // What the killed ones had written takes no space.
  expect(Number(tool('du', '-s', '--block-size=1', join(state, 'images')).split('\t')[0])).toBeLessThan(
    known * 8 * mebibyte + mebibyte,
  )
})

test(`${runs} times killed while it is added to stay where it is, nothing is half`, { timeout }, async () => {
  const server = createServer((request, response) => {
    const [, first = '', last = ''] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? []
    const part = content.subarray(Number(first), Number(last) + 1)
    const range = `bytes ${first}-${last}/${content.byteLength}`
    response.writeHead(206, { ETag: '"x"', 'Content-Range': range, 'Content-Length': part.byteLength }).end(part)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/disk.img`
  const state = at('lazy')
  mkdirSync(join(state, 'images'), { recursive: true })
  const words = ['image', 'add', '--lazy', url, '--name', 'lab']
  const verify = async (moment: string): Promise<void> => void (await expectWhole(state, content, moment))
  const [killed] = await killAgainAndAgain({ state, words, watched: join(state, 'images'), seed: 3, verify })
  expect(killed).toBeGreaterThan(runs / 4)
})

/** A state directory with lab@1, and a clone of it with 2 MiB that a machine wrote. */
async function withClone(name: string): Promise<{ state: string; clone: string; disk: Buffer }> {
  const state = at(name)
  expect((await run(state, 'image', 'add', at('disk.img'), '--name', 'lab')).code).toBe(0)
  mkdirSync(join(state, 'clones'))
  const clone = join(state, 'clones', '52-54-00-77-00-10.qcow2')
  tool('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', '../images/lab@1.raw', '-F', 'raw', clone)
  tool('qemu-io', '-c', 'write -P 0x5a 5M 2M', clone)
  const disk = Buffer.from(content)
  disk.fill(0x5a, 5 * mebibyte, 7 * mebibyte)
  return { state, clone, disk }
}

test(`${runs} times killed while a clone is committed, the clone and all images are whole`, { timeout }, async () => {
  const { state, clone, disk } = await withClone('commit')
  const before = sha256(readFileSync(clone))
  const verify = async (moment: string): Promise<void> => {
    const { said } = await run(state, 'image', 'list', '--json')
    const names = said
      .split('\n')
      .filter(Boolean)
      .map((line) => (JSON.parse(line) as Listed).file)
    const files = readdirSync(join(state, 'images')).filter((name) => !name.endsWith('@lock'))
    expect(files.sort(), moment).toEqual(names.sort())
    for (const file of files) {
      const expected = file.startsWith('lab@') ? content : disk
      expect(sha256(readFileSync(join(state, 'images', file))), `${moment}: ${file}`).toBe(sha256(expected))
    }
    expect(sha256(readFileSync(clone)), moment).toBe(before)
    expect((await run(state, 'clone', 'list')).said, moment).toMatch(/52:54:00:77:00:10 +- +lab@1 +kept +\S+ \S+ +-/)
  }
  const words = ['clone', 'commit', mac, '--as', 'installed']
  const [killed] = await killAgainAndAgain({ state, words, watched: join(state, 'images'), seed: 4, verify })
  expect(killed).toBeGreaterThan(runs / 4)
})

test(`${runs} times killed while a clone is reset, it is whole or gone, and no reservation outlives it`, {
  timeout,
}, async () => {
  const { state, clone } = await withClone('reset')
  const reservations = clone.replace('.qcow2', '.reservations.json')
  cpSync(clone, at('kept.qcow2'))
  const before = sha256(readFileSync(clone))
  const fates = { whole: 0, gone: 0 }
  const prepare = (): void => {
    cpSync(at('kept.qcow2'), clone)
    writeFileSync(reservations, '{}')
  }
  const verify = async (moment: string): Promise<void> => {
    const isThere = statSync(clone, { throwIfNoEntry: false }) !== undefined
    fates[isThere ? 'whole' : 'gone']++
    if (isThere) expect(sha256(readFileSync(clone)), moment).toBe(before)
    else expect(statSync(reservations, { throwIfNoEntry: false }), moment).toBeUndefined()
    const listed = await run(state, 'clone', 'list')
    expect(listed.code, moment).toBe(0)
    expect(listed.said.includes(mac), moment).toBe(isThere)
    await expectWhole(state, content, moment)
  }
  const words = ['clone', 'reset', mac]
  const watched = join(state, 'clones')
  // What takes the two files away is over in no time: one that is seen at work has nearly ended.
  await killAgainAndAgain({ state, words, watched, seed: 5, prepare, verify })
  expect(fates.whole).toBeGreaterThan(0)
  expect(fates.gone).toBeGreaterThan(0)
})

test('the same image added six times at once, while others look: each is added whole or refused, and nothing is lost', async () => {
  const state = at('at-once')
  const adding = Array.from({ length: 6 }, () => run(state, 'image', 'add', at('disk.img.zst'), '--name', 'lab'))
  const other = run(state, 'image', 'add', at('disk.vdi'), '--name', 'other')
  const looking = Array.from({ length: 6 }, async (_, n) => {
    await sleep(n * 150)
    return await run(state, 'image', 'list')
  })
  const ends = await Promise.all(adding)
  const added = ends.filter(({ code }) => code === 0)
  for (const { code, complained } of ends) {
    if (code === 0) continue
    expect(complained).toContain('lab is being added right now\n  Wait until it is done')
    expect(code).toBe(1)
  }
  expect((await other).complained).toContain('no boot loader')
  for (const { code, complained } of await Promise.all(looking)) expect([code, complained]).toEqual([0, ''])
  const versions = await expectWhole(state, content, 'at the end')
  expect(versions.filter(({ name }) => name === 'lab').map(({ version }) => version)).toEqual(
    added.map((_end, index) => index + 1),
  )
  expect(versions.filter(({ name }) => name === 'other')).toHaveLength(1)
  expect(added.length).toBeGreaterThan(0)
})

test('a disk that becomes full while a clone is committed or exported keeps the clone and nothing else', async () => {
  const state = at('full')
  mkdirSync(state)
  tool('mount', '-t', 'tmpfs', '-o', 'size=26m', 'tmpfs', state)
  onTestFinished(() => void tool('umount', '-l', state))
  // 8 MiB are lab@1, 2 are the clone: with the ballast another 10 do not fit.
  const { clone, disk } = await withClone('full')
  const before = sha256(readFileSync(clone))
  writeFileSync(join(state, 'ballast'), patterned(8 * mebibyte, 3))
  for (const words of [
    ['commit', mac, '--as', 'installed'],
    ['export', mac, join(state, 'out.img')],
    ['export', mac, join(state, 'out.qcow2')],
  ]) {
    const { code, complained } = await run(state, 'clone', ...words)
    expect(complained, words.join(' ')).toMatch(/the disk is full.*\n {2}Free space/)
    expect(code).toBe(1)
    expect(readdirSync(state).filter((name) => name.startsWith('out'))).toEqual([])
    await expectWhole(state, content, words.join(' '))
    expect(sha256(readFileSync(clone))).toBe(before)
  }
  rmSync(join(state, 'ballast'))
  expect((await run(state, 'clone', 'commit', mac, '--as', 'installed')).code).toBe(0)
  expect(sha256(readFileSync(join(state, 'images', 'installed@1.raw')))).toBe(sha256(disk))
})
