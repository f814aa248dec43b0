/**
 * Goal: an image that stays on a web server is fetched as it is read, and never mixed with another. Method: nginx as the
 * stranger, killed and started again in the middle; a server of this test that changes the file, has no parts, sends on, or
 * says nothing of changes; the commands as a person would run them.
 */
import { execFile, execFileSync, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer, type RequestListener } from 'node:http'
import { type AddressInfo, connect, createServer as createTcpServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { openGolden } from '../../src/app/golden.ts'
import { lazyStatus } from '../../src/app/lazy-image.ts'
import { patterned, readAll } from '../../src/block/device.contract.ts'
import type { RemoteState } from '../../src/block/remote.ts'
import { NbdServer } from './nbd-server.ts'

const slipway = join(import.meta.dirname, '..', '..', 'bin', 'slipway')
const mebibyte = 1024 * 1024
const content = patterned(12 * mebibyte, 4)
let folder = ''
const at = (...names: string[]): string => join(folder, ...names)

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'slipway-lazy-'))
  mkdirSync(at('www'))
  writeFileSync(at('www', 'disk.img'), content)
  execFileSync('qemu-img', ['convert', '-O', 'qcow2', at('www', 'disk.img'), at('www', 'disk.qcow2')])
  execFileSync('gzip', ['-k', at('www', 'disk.img')])
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

type Result = { readonly code: number; readonly said: string; readonly complained: string }

/** Without blocking our own event loop, which serves the file. */
function image(state: string, ...words: string[]): Promise<Result> {
  const [verb = '', ...rest] = words
  return new Promise((resolve) => {
    execFile(
      slipway,
      ['image', verb, '--state', at(state), ...rest],
      { timeout: 120_000 },
      (error, said, complained) => {
        resolve({ code: typeof error?.code === 'number' ? error.code : error === null ? 0 : -1, said, complained })
      },
    )
  })
}

async function freePort(): Promise<number> {
  const probe = createTcpServer()
  await new Promise<void>((resolve) => probe.listen(0, '127.0.0.1', resolve))
  const { port } = probe.address() as AddressInfo
  await new Promise((resolve) => probe.close(resolve))
  return port
}

class Nginx {
  readonly url: string
  readonly #port: number
  #stop: (() => Promise<void>) | undefined

  constructor(port: number) {
    this.#port = port
    this.url = `http://127.0.0.1:${port}`
    onTestFinished(() => this.stop())
  }

  async start(): Promise<void> {
    const logs = `error_log ${at('error.log')}; pid ${at(`${this.#port}.pid`)};`
    const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
      (each) => `${each}_temp_path ${at(each)};`,
    )
    const server = `server { listen 127.0.0.1:${this.#port}; root ${at('www')}; limit_rate 4m; }`
    const http = `http { access_log off; ${temporary.join(' ')} ${server} }`
    writeFileSync(at('nginx.conf'), `daemon off; master_process off; user root; ${logs} events {} ${http}`)
    const child = spawn('nginx', ['-c', at('nginx.conf'), '-e', at('error.log')], { stdio: 'ignore' })
    const gone = new Promise((resolve) => child.once('exit', resolve))
    this.#stop = async () => {
      child.kill('SIGKILL')
      await gone
    }
    for (let tries = 0; !(await answers(this.#port)); tries++) {
      if (tries > 500) throw new Error(`nginx did not start: ${readFileSync(at('error.log'), 'utf8')}`)
      await sleep(20)
    }
  }

  async stop(): Promise<void> {
    await this.#stop?.()
    this.#stop = undefined
  }
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const trying = connect({ port, host: '127.0.0.1' })
    trying.once('error', () => resolve(false))
    trying.once('connect', () => {
      trying.destroy()
      resolve(true)
    })
  })
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

/** Serves `file()` by ranges as RFC 9110 has it; counts what was sent. */
function ranges(file: () => { bytes: Uint8Array; etag: string }, sent: { bytes: number }): RequestListener {
  return (request, response) => {
    const { bytes, etag } = file()
    const [, first = '', last = ''] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? []
    const isSame = request.headers['if-range'] === undefined || request.headers['if-range'] === etag
    if (first === '' || !isSame) {
      response.writeHead(200, { ETag: etag, 'Content-Length': bytes.byteLength }).end(bytes)
      return
    }
    const part = bytes.subarray(Number(first), Number(last) + 1)
    sent.bytes += part.byteLength
    const range = `bytes ${first}-${last}/${bytes.byteLength}`
    response.writeHead(206, { ETag: etag, 'Content-Range': range, 'Content-Length': part.byteLength }).end(part)
  }
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

test.each([
  'disk.img',
  'disk.qcow2',
])('%s of nginx is added at once, fetched as it is read, and then read without nginx', async (file) => {
  const nginx = new Nginx(await freePort())
  await nginx.start()
  const state = `nginx-${file}`
  const digest = sha256(readFileSync(at('www', file)))
  const added = await image(state, 'add', '--lazy', `${nginx.url}/${file}`, '--sha256', digest)
  expect(added.said).toMatch(/Added disk@1: 12 MiB, .* fetched \(\d+ % here\)/)
  expect(added.code).toBe(0)
  const path = at(state, 'images', 'disk@1.lazy')
  const before = await lazyStatus(path)
  expect(before.hereBytes).toBeLessThan(before.sizeBytes / 2)
  expect((await image(state, 'list')).said).toMatch(/disk@1 +published +\S+ +12 MiB +\S+ KiB|MiB \(\d+ % here\)/)
  const states: RemoteState[] = []
  const golden = await openGolden(path, { onState: (each) => states.push(each) })
  expect(golden.format).toBe(file.endsWith('qcow2') ? 'qcow2' : 'raw')
  const reading = readAll(golden.device)
  await sleep(300)
  await nginx.stop()
  await sleep(500)
  await nginx.start()
  expect(Buffer.compare(await reading, content)).toBe(0)
  await golden.device.close()
  expect(states.map(({ kind }) => kind)).toEqual(['away', 'back'])
  // A qcow2 file may have parts that nobody reads: the check fetches those too.
  expect((await image(state, 'check', 'disk')).said).toContain('is what it must be')
  expect(await lazyStatus(path)).toMatchObject({ hereBytes: before.sizeBytes, verification: 'right' })
  expect((await image(state, 'show', 'disk')).said).toMatch(/^size .*100 % here, checked/m)
  await nginx.stop()
  const again = await openGolden(path)
  expect(Buffer.compare(await readAll(again.device), content)).toBe(0)
  await again.device.close()
  expect((await image(state, 'remove', 'disk')).code).toBe(0)
  expect(readdirSync(at(state, 'images')).filter((name) => !name.endsWith('@lock'))).toEqual([])
})

test('a file that changed on its server is refused, and what was fetched of the old one stays readable', async () => {
  const other = patterned(12 * mebibyte, 5)
  let now = { bytes: content, etag: '"one"' }
  const url = await serve(ranges(() => now, { bytes: 0 }))
  expect((await image('changed', 'add', '--lazy', `${url}/disk.img`)).code).toBe(0)
  const path = at('changed', 'images', 'disk@1.lazy')
  const golden = await openGolden(path)
  const first = new Uint8Array(mebibyte)
  await golden.device.read(4 * mebibyte, first)
  now = { bytes: other, etag: '"two"' }
  const read = async (offset: number): Promise<void> => golden.device.read(offset, new Uint8Array(4096))
  await expect(read(8 * mebibyte)).rejects.toThrow(/disk\.img: the file has changed on its server/)
  await golden.device.close()
  const again = await openGolden(path)
  const part = new Uint8Array(mebibyte)
  await again.device.read(4 * mebibyte, part)
  expect(Buffer.compare(part, content.subarray(4 * mebibyte, 5 * mebibyte))).toBe(0)
  await again.device.close()
  expect((await image('changed', 'add', '--lazy', `${url}/disk.img`)).said).toContain('Added disk@2')
})

test('one that does not have its checksum is found when all of it is here, and not read any more', async () => {
  const url = await serve(ranges(() => ({ bytes: content, etag: '"x"' }), { bytes: 0 }))
  await image('wrong', 'add', '--lazy', `${url}/disk.img`, '--sha256', '0'.repeat(64))
  const checked = await image('wrong', 'check', 'disk')
  expect(checked.said).toMatch(/ERROR +.*does not have the SHA-256 that it must have/)
  expect(checked.code).toBe(3)
  expect((await image('wrong', 'show', 'disk')).said).toContain('NOT WHAT IT MUST BE')
  await expect(openGolden(at('wrong', 'images', 'disk@1.lazy'))).rejects.toMatchObject({ code: 'imageCorrupt' })
})

test('killed while it reads, it fetches little of it again; two that read at once do not spoil each other', async () => {
  const sent = { bytes: 0 }
  const url = await serve(ranges(() => ({ bytes: content, etag: '"x"' }), sent))
  await image('killed', 'add', '--lazy', `${url}/disk.img`)
  const path = at('killed', 'images', 'disk@1.lazy')
  const script = `
    const { openGolden } = await import(${JSON.stringify(join(import.meta.dirname, '../../src/app/golden.ts'))})
    const { device } = await openGolden(${JSON.stringify(path)})
    await device.read(0, new Uint8Array(6 * 1024 * 1024))
    setTimeout(() => console.log('read'), 4000)
    setTimeout(() => undefined, 60000)`
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['ignore', 'pipe', 'inherit'] })
  onTestFinished(() => void child.kill('SIGKILL'))
  await new Promise((resolve) => child.stdout.once('data', resolve))
  const beside = await openGolden(path)
  expect(Buffer.compare(await readAll(beside.device), content)).toBe(0)
  await beside.device.close()
  child.kill('SIGKILL')
  await new Promise((resolve) => child.once('exit', resolve))
  sent.bytes = 0
  const golden = await openGolden(path)
  expect(Buffer.compare(await readAll(golden.device), content)).toBe(0)
  await golden.device.close()
  expect(sent.bytes).toBeGreaterThan(4 * mebibyte)
  expect(sent.bytes).toBeLessThan(7 * mebibyte)
})

test('what cannot be read in parts is refused when it is added, and leaves nothing', async () => {
  const nginx = new Nginx(await freePort())
  await nginx.start()
  const noParts = await serve((_request, response) => response.writeHead(200, { ETag: '"x"' }).end(content))
  const noWord = await serve((_request, response) =>
    response.writeHead(206, { 'Content-Range': `bytes 0-0/${content.byteLength}` }).end(content.subarray(0, 1)),
  )
  const cases: [string, RegExp, number][] = [
    [`${noParts}/disk.img`, /does not send parts of a file\n {2}Add it without --lazy/, 1],
    [`${noWord}/disk.img`, /a change could not be noticed/, 1],
    [`${nginx.url}/disk.img.gz`, /packed with gzip, which cannot be read in parts/, 1],
    [`${nginx.url}/missing.img`, /the server says 404/, 1],
    [`http://127.0.0.1:${await freePort()}/disk.img`, /cannot fetch http.*disk.img: .*ECONNREFUSED/, 1],
    [at('www', 'disk.img'), /--lazy is for http and https URLs/, 2],
  ]
  for (const [source, complaint, code] of cases) {
    const result = await image('refused', 'add', '--lazy', source, '--name', 'disk')
    expect(result.complained, source).toMatch(complaint)
    expect(result.code, source).toBe(code)
  }
  expect(readdirSync(at('refused', 'images')).filter((name) => !name.endsWith('@lock'))).toEqual([])
})

test('a server that sends on is followed, and a password is in no output', async () => {
  const real = await serve((request, response) => {
    // What was for the first server is not for the second (fetch standard, HTTP-redirect fetch).
    expect(request.headers.authorization).toBeUndefined()
    ranges(() => ({ bytes: content, etag: '"x"' }), { bytes: 0 })(request, response)
  })
  const front = await serve((request, response) => {
    const is = Buffer.from('me:hushhush').toString('base64')
    if (request.headers.authorization !== `Basic ${is}`) response.writeHead(401).end()
    else response.writeHead(302, { Location: `${real}/elsewhere.img` }).end()
  })
  const result = await image('sent-on', 'add', '--lazy', `${front.replace('://', '://me:hushhush@')}/disk.img`)
  expect(result.said).toContain('Added disk@1')
  const shown = await image('sent-on', 'show', 'disk', '--json')
  const listed = await image('sent-on', 'list', '--json')
  expect(
    `${result.said}${shown.said}${listed.said}${readFileSync(at('sent-on', 'images.db'), 'latin1')}`,
  ).not.toContain('hushhush')
  expect(statSync(at('sent-on', 'images', 'disk@1.lazy-map')).mode & 0o077).toBe(0)
  const golden = await openGolden(at('sent-on', 'images', 'disk@1.lazy'))
  expect(Buffer.compare(await readAll(golden.device), content)).toBe(0)
  await golden.device.close()
})

test('a clone of a lazy image is no image that QEMU would read as zeroes', async () => {
  const url = await serve(ranges(() => ({ bytes: content, etag: '"x"' }), { bytes: 0 }))
  await image('clone', 'add', '--lazy', `${url}/disk.img`)
  const golden = await openGolden(at('clone', 'images', 'disk@1.lazy'))
  const { openOrMakeClone } = await import('../../src/app/clones.ts')
  const clone = await openOrMakeClone(at('clone.qcow2'), golden)
  await clone.write(mebibyte, new Uint8Array(4096).fill(7))
  const expected = content.slice()
  expected.fill(7, mebibyte, mebibyte + 4096)
  expect(Buffer.compare(await readAll(clone), expected)).toBe(0)
  await clone.close()
  await golden.device.close()
  const alone = { driver: 'qcow2', file: { driver: 'file', filename: at('clone.qcow2') }, backing: null }
  execFileSync('qemu-img', ['check', '-q', `json:${JSON.stringify(alone)}`])
  expect(() =>
    execFileSync('qemu-img', ['convert', '-O', 'raw', at('clone.qcow2'), at('zero.raw')], { stdio: 'pipe' }),
  ).toThrow(/Unknown driver 'slipway-lazy'/)
})

test('an export of an NBD server is an image; the server may be away when it is opened, and QEMU reads its clones', async () => {
  const server = new NbdServer(at('image.sock'), 'qemu-nbd', [
    '-k',
    '{socket}',
    '-t',
    '-r',
    '-f',
    'raw',
    '-x',
    'lab',
    at('www', 'disk.img'),
  ])
  await server.start()
  const uri = server.uri('lab')
  expect((await image('nbd', 'add', uri)).said).toContain('Added lab@1: 12 MiB, kept by its NBD server')
  expect((await image('nbd', 'list')).said).toMatch(/lab@1 +published +raw +12 MiB +by NBD/)
  const twice = await image('nbd', 'add', uri, '--name', 'other')
  expect(twice.complained).toContain('in the library already, as lab@1')
  const golden = await openGolden(uri)
  const { openOrMakeClone } = await import('../../src/app/clones.ts')
  const clone = await openOrMakeClone(at('of-nbd.qcow2'), golden)
  await clone.write(0, new Uint8Array(4096).fill(9))
  await clone.close()
  await golden.device.close()
  const read = execFileSync('qemu-io', ['-r', '-c', 'read -P 9 0 4k', at('of-nbd.qcow2')], { encoding: 'utf8' })
  expect(read).not.toContain('failed')
  await server.kill()
  const states: string[] = []
  const early = await openGolden(uri, {
    expectedSizeBytes: content.byteLength,
    onState: ({ kind }) => states.push(kind),
  })
  await server.start()
  expect(Buffer.compare(await readAll(early.device), content)).toBe(0)
  await early.device.close()
  expect(states).toEqual(['away', 'back'])
  expect((await image('nbd', 'remove', 'lab')).said).toContain('Removed lab@1')
})
