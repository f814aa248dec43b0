/**
 * Goal: the library of images keeps what it was given, and nothing when something went wrong. Method: images that strangers'
 * tools made and packed, added as a person would; then broken in every way that a download breaks.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { patterned } from '../../src/block/device.contract.ts'

const slipway = join(import.meta.dirname, '..', '..', 'bin', 'slipway')
const mebibyte = 1024 * 1024
const diskBytes = 24 * mebibyte
let folder = ''
const at = (name: string): string => join(folder, name)
const sha256 = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex')

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'slipway-images-'))
  // Data, then nothing, then data: what a disk is like.
  const disk = Buffer.alloc(diskBytes)
  disk.set(patterned(3 * mebibyte, 1))
  disk.set(patterned(mebibyte, 2), diskBytes - mebibyte)
  writeFileSync(at('disk.img'), disk)
  qemuImg('convert', '-O', 'qcow2', at('disk.img'), at('disk.qcow2'))
  for (const format of ['vmdk', 'vhdx', 'vdi']) qemuImg('convert', '-O', format, at('disk.img'), at(`disk.${format}`))
  execFileSync('gzip', ['-k', at('disk.img')])
  execFileSync('xz', ['-k', '-0', at('disk.img')])
  execFileSync('zstd', ['-q', '-k', at('disk.img')])
  execFileSync('gzip', ['-k', at('disk.qcow2')])
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

function qemuImg(...args: string[]): string {
  return execFileSync('qemu-img', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
}

type Result = { readonly code: number | null; readonly said: string; readonly complained: string }

function image(state: string, ...words: string[]): Result {
  const [verb = '', ...rest] = words
  const done = spawnSync(slipway, ['image', verb, '--state', state, ...rest], { encoding: 'utf8', timeout: 60_000 })
  return { code: done.status, said: done.stdout, complained: done.stderr }
}

/** Without blocking our own event loop, which serves the download. */
async function imageMeanwhile(state: string, ...words: string[]): Promise<Result> {
  const [verb = '', ...rest] = words
  const child = spawn(slipway, ['image', verb, '--state', state, ...rest], { timeout: 60_000 })
  let said = ''
  let complained = ''
  child.stdout.on('data', (text: Buffer) => (said += text.toString()))
  child.stderr.on('data', (text: Buffer) => (complained += text.toString()))
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve))
  return { code, said, complained }
}

const filesOf = (state: string): string[] =>
  readdirSync(join(state, 'images')).filter((name) => !name.endsWith('@lock'))

function expectNothing(state: string, result: Result, complaint: RegExp): void {
  expect(result.complained).toMatch(complaint)
  expect(result.complained).toMatch(/\n {2}\S/)
  expect(result.complained).not.toMatch(/\n {4}at /)
  expect(result.code).toBe(1)
  expect(filesOf(state)).toEqual([])
  expect(image(state, 'list').said.trim().split('\n')).toHaveLength(1)
}

async function serve(listener: RequestListener): Promise<string> {
  const server = createServer(listener)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

test.each([
  'disk.img',
  'disk.img.gz',
  'disk.img.xz',
  'disk.img.zst',
  'disk.qcow2',
  'disk.qcow2.gz',
  'disk.vmdk',
  'disk.vhdx',
  'disk.vdi',
])('%s is added, is the same disk, and its zeroes take no space', (file) => {
  const state = at(`state-${file}`)
  const { code, said, complained } = image(state, 'add', at(file), '--sha256', sha256(at(file)))
  expect(complained).toContain('Take care: no boot loader')
  expect(said).toContain('Added disk@1: 24 MiB')
  expect(code).toBe(0)
  const kept = join(state, 'images', filesOf(state)[0] ?? '')
  expect(qemuImg('compare', at('disk.img'), kept)).toContain('Images are identical')
  expect(statSync(kept).blocks * 512).toBeLessThan(6 * mebibyte)
  const shown = JSON.parse(image(state, 'show', 'disk', '--json').said) as Record<string, unknown>
  expect(shown).toMatchObject({
    version: 1,
    published: true,
    source: at(file),
    sourceSha256: sha256(at(file)),
    sha256: sha256(kept),
    sizeBytes: diskBytes,
  })
})

test('versions never change, one is published, and publishing can be taken back', () => {
  const state = at('state-versions')
  for (const expected of [1, 2, 3]) {
    expect(image(state, 'add', at('disk.img'), '--name', 'lab').said).toContain(`Added lab@${expected}`)
  }
  const published = (): string => /^(lab@\d) +published/m.exec(image(state, 'list').said)?.[1] ?? 'none is published'
  expect(published()).toBe('lab@1')
  expect(image(state, 'publish', 'lab@3').code).toBe(0)
  expect(image(state, 'publish', 'lab@2').code).toBe(0)
  expect(published()).toBe('lab@2')
  expect(image(state, 'rollback', 'lab').said).toContain('lab@3')
  expect(image(state, 'rollback', 'lab').said).toContain('lab@1')
  expect(image(state, 'rollback', 'lab').complained).toContain('nothing was published before lab@1')
  expect(image(state, 'publish', 'lab@9').complained).toContain('There is lab@1, lab@2, lab@3.')
  expect(image(state, 'remove', 'lab@1').complained).toContain('lab@1 is the published version')
  expect(image(state, 'remove', 'lab@3').said).toContain('Removed lab@3')
  expect(image(state, 'add', at('disk.img'), '--name', 'lab').said, 'a number is not used again').toContain('lab@4')
  expect(image(state, 'remove', 'lab', '--prune').said).toContain('Removed lab@2, lab@4.')
  expect(filesOf(state)).toEqual(['lab@1.raw'])
  expect(image(state, 'remove', 'lab').code).toBe(0)
  expect(filesOf(state)).toEqual([])
})

test('an image has a policy of its own, until it is taken back', () => {
  const state = at('state-policy')
  image(state, 'add', at('disk.img'))
  expect(image(state, 'policy', 'disk', 'ephemeral').said).toContain('disk are ephemeral, from their next boot on')
  expect(image(state, 'show', 'disk').said).toMatch(/^policy +ephemeral$/m)
  expect(image(state, 'policy', 'disk', 'sometimes')).toMatchObject({ code: 2 })
  expect(image(state, 'policy', 'other', 'ephemeral').complained).toContain('there is no image other')
  image(state, 'policy', 'disk', 'default')
  expect(JSON.parse(image(state, 'show', 'disk', '--json').said)).not.toHaveProperty('policy')
})

test('a file in the library that has changed is found', () => {
  const state = at('state-rot')
  image(state, 'add', at('disk.img'))
  const sound = image(state, 'check', 'disk')
  expect(sound.said).toContain('the file is what was added')
  const kept = join(state, 'images', 'disk@1.raw')
  rmSync(kept)
  writeFileSync(kept, patterned(diskBytes, 9))
  const { code, said } = image(state, 'check', 'disk')
  expect(said).toContain('ERROR    disk@1 has changed since it was added')
  expect(code).toBe(3)
})

test('an image comes by HTTP, and its address is kept without the password', async () => {
  const asked: (string | undefined)[] = []
  const base = await serve((request, response) => {
    asked.push(request.headers.authorization)
    const body = readFileSync(at('disk.img.gz'))
    response.writeHead(200, { 'Content-Length': body.byteLength }).end(body)
  })
  const state = at('state-http')
  const address = `${base.replace('//', '//user:word@')}/pub/Disk%20One.img.gz?token=t`
  const added = await imageMeanwhile(state, 'add', address, '--name', 'one', '--sha256', sha256(at('disk.img.gz')))
  expect(added.complained).toContain('no boot loader')
  expect(added.said).toContain('Added one@1')
  expect(asked).toEqual([`Basic ${Buffer.from('user:word').toString('base64')}`])
  const { said } = image(state, 'show', 'one')
  expect(said).toContain(`${base}/pub/Disk%20One.img.gz`)
  expect(said).not.toMatch(/word|token/)
})

test('a download that breaks off, and one that is refused, leave nothing', async () => {
  const body = readFileSync(at('disk.img'))
  const base = await serve((request, response) => {
    if (request.url === '/missing.img') response.writeHead(404).end()
    else {
      response.writeHead(200, request.url === '/short.img' ? { 'Content-Length': body.byteLength } : {})
      response.write(body.subarray(0, 5 * mebibyte), () => setTimeout(() => response.destroy(), 100))
    }
  })
  const state = at('state-broken')
  for (const file of ['short.img', 'chunked.img']) {
    expectNothing(state, await imageMeanwhile(state, 'add', `${base}/${file}`), /cannot fetch http:\S+: /)
  }
  expectNothing(state, await imageMeanwhile(state, 'add', `${base}/missing.img`), /the server says 404/)
  expectNothing(state, await imageMeanwhile(state, 'add', 'http://127.0.0.1:1/x.img'), /cannot fetch/)
})

test.each([
  'disk.img.gz',
  'disk.img.xz',
  'disk.img.zst',
  'disk.qcow2',
  'disk.vmdk',
])('%s cut off leaves nothing', (file) => {
  const state = at(`state-cut-${file}`)
  const cut = at(`cut-${file}`)
  const whole = readFileSync(at(file))
  writeFileSync(cut, whole.subarray(0, Math.floor(whole.byteLength * 0.6)))
  expectNothing(state, image(state, 'add', cut), /does not unpack|is not whole|qemu-img cannot read|ends? /)
})

test('a wrong checksum, a damaged qcow2, a qcow2 that stands on another file, and nothing at all are refused', () => {
  const state = at('state-bad')
  expectNothing(
    state,
    image(state, 'add', at('disk.img'), '--sha256', 'ab'.repeat(32)),
    /has SHA-256 [0-9a-f]{64}, not/,
  )
  const damaged = readFileSync(at('disk.qcow2'))
  damaged.fill(0xff, 3 * 65536, 3 * 65536 + 512)
  writeFileSync(at('damaged.qcow2'), damaged)
  expectNothing(state, image(state, 'add', at('damaged.qcow2')), /damaged\.qcow2/)
  qemuImg('create', '-f', 'qcow2', '-b', at('disk.img'), '-F', 'raw', at('upper.qcow2'))
  expectNothing(state, image(state, 'add', at('upper.qcow2')), /stands on another file/)
  writeFileSync(at('empty.img'), '')
  expectNothing(state, image(state, 'add', at('empty.img')), /is empty/)
  expectNothing(state, image(state, 'add', at('nothing.img')), /is not there/)
  expect(image(state, 'add', at('disk.img'), '--name', '../etc').code).toBe(2)
  expect(image(state, 'add', at('disk.img'), '--sha256', 'abc').code).toBe(2)
})

test('a full disk leaves nothing and says so', () => {
  const state = at('state-full')
  mkdirSync(state)
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=3m', 'tmpfs', state])
  } catch {
    expect(process.getuid?.(), 'root can mount a small file system').not.toBe(0)
    return
  }
  onTestFinished(() => void execFileSync('umount', [state]))
  expectNothing(state, image(state, 'add', at('disk.img')), /the disk is full/)
  expectNothing(state, image(state, 'add', at('disk.vdi')), /the disk is full/)
})

test('killed in the middle, nothing is listed, and the next command takes away what was left', async () => {
  const state = at('state-killed')
  const base = await serve((_request, response) => {
    response.writeHead(200, { 'Content-Length': diskBytes })
    response.write(readFileSync(at('disk.img')).subarray(0, 4 * mebibyte))
  })
  const child = spawn(slipway, ['image', 'add', `${base}/disk.img`, '--state', state], { timeout: 60_000 })
  const draft = join(state, 'images', 'disk@adding')
  for (let tries = 0; tries < 200; tries++) {
    if ((statSync(draft, { throwIfNoEntry: false })?.size ?? 0) > mebibyte) break
    await sleep(50)
  }
  expect(filesOf(state)).toEqual(['disk@adding'])
  const other = image(state, 'add', at('disk.img'))
  expect(other.complained).toContain('disk is being added right now')
  expect(other.code).toBe(1)
  expect(filesOf(state), 'what is being added is left alone').toEqual(['disk@adding'])
  child.kill('SIGKILL')
  await new Promise((resolve) => child.once('close', resolve))
  expect(image(state, 'list').said.trim().split('\n')).toHaveLength(1)
  expect(filesOf(state)).toEqual([])
  expect(image(state, 'add', at('disk.img')).said).toContain('Added disk@1')
})

test('Ctrl-C in the middle leaves nothing', async () => {
  const state = at('state-stopped')
  const base = await serve((_request, response) => {
    response.writeHead(200, { 'Content-Length': diskBytes })
    response.write(Buffer.alloc(2 * mebibyte, 1))
  })
  const child = spawn(slipway, ['image', 'add', `${base}/disk.img`, '--state', state], { timeout: 60_000 })
  for (let tries = 0; tries < 200; tries++) {
    if ((statSync(join(state, 'images', 'disk@adding'), { throwIfNoEntry: false })?.size ?? 0) > 0) break
    await sleep(50)
  }
  child.kill('SIGINT')
  expect(await new Promise((resolve) => child.once('close', resolve))).toBe(1)
  expect(filesOf(state)).toEqual([])
})

test.each([
  ['disk.vmdk', 'qemu-img', 'apt install qemu-utils'],
  ['disk.img.xz', 'xz', 'apt install xz-utils'],
])('%s without %s: what to install, and nothing is left', (file, tool, next) => {
  const tools = at(`tools-without-${tool}`)
  mkdirSync(tools)
  for (const name of ['sh', 'dirname', 'readlink', 'env']) symlinkSync(join('/usr/bin', name), join(tools, name))
  const state = at(`state-without-${tool}`)
  const words = ['image', 'add', at(file), '--state', state]
  const done = spawnSync(slipway, words, { encoding: 'utf8', timeout: 60_000, env: { PATH: tools } })
  const result = { code: done.status, said: done.stdout, complained: done.stderr }
  expect(result.complained).toContain(next)
  expectNothing(state, result, new RegExp(`${tool}.* is not (?:here|installed)`))
})

test('how far it has come is shown to a person at a terminal', async () => {
  const body = readFileSync(at('disk.img'))
  const base = await serve((_request, response) => {
    response.writeHead(200, { 'Content-Length': body.byteLength })
    response.write(body.subarray(0, body.byteLength / 2), () =>
      setTimeout(() => response.end(body.subarray(body.byteLength / 2)), 1_500),
    )
  })
  const line = `${slipway} image add ${base}/disk.img --state ${at('state-progress')}`
  const terminal = spawn('script', ['--quiet', '--return', '--command', line, '/dev/null'], { timeout: 60_000 })
  let screen = ''
  terminal.stdout.on('data', (text: Buffer) => (screen += text.toString()))
  expect(await new Promise((resolve) => terminal.once('close', resolve))).toBe(0)
  expect(screen).toMatch(/\[#{13,15} +\] (?:4\d|50)% {2}1[12](?:\.\d)? MiB {2}[\d.]+ [KM]iB\/s/)
  expect(screen).toContain('Added disk@1: 24 MiB')
})

test('a raw image that ends in the middle of a block is a disk all the same', () => {
  const state = at('state-odd')
  writeFileSync(at('odd.img'), patterned(mebibyte, 4))
  truncateSync(at('odd.img'), mebibyte - 100)
  expect(image(state, 'add', at('odd.img')).said).toContain('Added odd@1: 1 MiB')
})
