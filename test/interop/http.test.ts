/** Goal: strangers' HTTP clients accept us. Method: curl and socat fetch from the real server on loopback. */
import { execFile } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { systemClock } from '../../src/host/clock.ts'
import { openFile } from '../../src/host/file.ts'
import { systemTcp } from '../../src/host/tcp.ts'
import { type HttpServer, serveHttp } from '../../src/http/server.ts'
import type { RandomAccessFile } from '../../src/ports/file.ts'

const run = promisify(execFile)
const content = randomBytes(30_000_000)
let folder = ''
let file: RandomAccessFile
let server: HttpServer
let url = ''

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'slipway-http-'))
  writeFileSync(join(folder, 'disk.img'), content)
  file = await openFile(join(folder, 'disk.img'), 'readOnly')
  server = await serveHttp({
    network: systemTcp,
    secure: false,
    clock: systemClock,
    listen: { address: '127.0.0.1', port: 0 },
    onEvent: () => {},
    handler: ({ path, method, body, query }) => {
      if (path === '/disk.img') {
        const sizeBytes = file.sizeBytes()
        const read = (offset: number, target: Uint8Array): Promise<void> | undefined => file.read(offset, target)
        return { status: 200, body: { kind: 'file', file: { sizeBytes, read } } }
      }
      if (path !== '/echo') return { status: 404, body: { kind: 'text', text: 'nothing of that name\n' } }
      return { status: 200, body: { kind: 'text', text: `${method} ${query.get('q')} ${body.byteLength}` } }
    },
  })
  url = `http://127.0.0.1:${server.local.port}`
})
afterAll(async () => {
  await server.close()
  await file.close()
  rmSync(folder, { recursive: true })
})

const sum = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')
const curl = async (...args: string[]): Promise<string> => {
  return (await run('curl', ['--silent', '--show-error', ...args], { timeout: 60_000, encoding: 'latin1' })).stdout
}
const statusOf = (...args: string[]): Promise<string> =>
  curl('--output', '/dev/null', '--write-out', '%{http_code}', ...args)

async function download(...args: string[]): Promise<Uint8Array> {
  const target = join(folder, randomBytes(6).toString('hex'))
  await curl('--fail', '--output', target, ...args)
  const bytes = readFileSync(target)
  rmSync(target)
  return bytes
}

test('curl gets a big file whole, over HTTP/1.1, HTTP/1.0 and with the connection kept', async () => {
  expect(sum(await download(`${url}/disk.img`))).toBe(sum(content))
  expect(sum(await download('--http1.0', `${url}/disk.img`))).toBe(sum(content))
  const outputs = ['--output', '/dev/null', '--output', '/dev/null']
  const connects = await curl(...outputs, '--write-out', '%{num_connects}/', `${url}/disk.img`, `${url}/disk.img`)
  expect(connects).toBe('1/0/')
})

test('curl gets ranges, and resumes', async () => {
  const middle = await download('--range', '1000000-1999999', `${url}/disk.img`)
  expect(sum(middle)).toBe(sum(content.subarray(1_000_000, 2_000_000)))
  expect(sum(await download('--range', '-5', `${url}/disk.img`))).toBe(sum(content.subarray(-5)))
  expect(await statusOf('--range', '30000000-', `${url}/disk.img`)).toBe('416')
  const target = join(folder, 'partial')
  writeFileSync(target, content.subarray(0, 29_000_000))
  await curl('--fail', '--continue-at', '-', '--output', target, `${url}/disk.img`)
  expect(sum(readFileSync(target))).toBe(sum(content))
})

test('curl asks for the head alone, posts, and is told what is not there', async () => {
  const head = await curl('--head', `${url}/disk.img`)
  expect(head).toMatch(/^HTTP\/1\.1 200 OK\r\n/)
  expect(head).toContain('Content-Length: 30000000\r\n')
  expect(await curl('--data-binary', 'x'.repeat(40_000), `${url}/echo?q=a%20b`)).toBe('POST a b 40000')
  expect(await curl('--header', 'Expect: 100-continue', '--data', 'x', `${url}/echo?q=`)).toBe('POST  1')
  expect(await curl('--write-out', ' %{http_code}', `${url}/none`)).toBe('nothing of that name\n 404')
  expect(await statusOf('--path-as-is', `${url}/../../etc/passwd`)).toBe('400')
})

test('a request without a head, as early U-Boot sends it, gets the file alone', async () => {
  const command = `printf 'GET /disk.img\\r\\n' | socat -t 10 - TCP:127.0.0.1:${server.local.port} | sha256sum`
  expect((await run('sh', ['-c', command], { timeout: 60_000 })).stdout.split(' ')[0]).toBe(sum(content))
})

test('a client that leaves in the middle costs nothing afterwards', async () => {
  await expect(curl('--max-filesize', '1000', `${url}/disk.img`)).rejects.toMatchObject({ code: 63 })
  for (let i = 0; server.connectionCount > 0 && i < 200; i++) await new Promise((resolve) => setTimeout(resolve, 10))
  expect(server.connectionCount).toBe(0)
})
