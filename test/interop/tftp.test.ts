/** Goal: strangers' TFTP clients accept us. Method: atftp and curl read from the real server on loopback. */
import { execFile } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { systemClock } from '../../src/host/clock.ts'
import { systemUdp } from '../../src/host/udp.ts'
import type { TftpEvent, TftpFile } from '../../src/tftp/policy.ts'
import { serveTftp, type TftpServer } from '../../src/tftp/server.ts'

const run = promisify(execFile)
const files: Readonly<Record<string, Uint8Array>> = {
  'boot/big.efi': randomBytes(5_000_000),
  empty: new Uint8Array(0),
  exact: randomBytes(512 * 7),
  'text.cfg': Buffer.from('one\ntwo\r\nthree\rfour\n'),
}
const events: TftpEvent[] = []
let server: TftpServer
let folder = ''

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'slipway-tftp-'))
  server = await serveTftp({
    network: systemUdp,
    clock: systemClock,
    listen: { address: '127.0.0.1', port: 0 },
    catalogue: { find: (name) => fileOf(files[name]) },
    onEvent: (event) => events.push(event),
  })
})
afterAll(() => {
  server.close()
  rmSync(folder, { recursive: true })
})

function fileOf(bytes: Uint8Array | undefined): TftpFile | undefined {
  if (bytes === undefined) return undefined
  return {
    sizeBytes: bytes.byteLength,
    read: (offset, target) => {
      target.set(bytes.subarray(offset, offset + target.byteLength))
      return undefined
    },
  }
}

const sum = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

async function atftp(name: string, ...options: string[]): Promise<Uint8Array> {
  const target = join(folder, randomBytes(6).toString('hex'))
  const args = [...options.flatMap((option) => ['--option', option]), '--get', '--remote-file', name]
  await run('atftp', [...args, '--local-file', target, '127.0.0.1', String(server.local.port)], { timeout: 60_000 })
  return readFileSync(target)
}

test('atftp reads with every option, and without any', async () => {
  const optionSets = [
    [],
    ['blksize 1432', 'tsize 0'],
    ['blksize 1468', 'windowsize 16'],
    ['blksize 65464', 'timeout 2'],
  ]
  for (const options of optionSets) {
    for (const name of ['boot/big.efi', 'empty', 'exact']) {
      expect(sum(await atftp(name, ...options)), `${name} with ${options}`).toBe(sum(files[name] ?? new Uint8Array(0)))
    }
  }
})

test('doubled slashes and back slashes find the file', async () => {
  for (const name of ['//boot//big.efi', '\\boot\\big.efi']) {
    expect(sum(await atftp(name, 'blksize 1432'))).toBe(sum(files['boot/big.efi'] ?? new Uint8Array(0)))
  }
})

test('32 clients read at once', async () => {
  const sums = await Promise.all(
    Array.from({ length: 32 }, async () => sum(await atftp('boot/big.efi', 'blksize 1432'))),
  )
  expect(new Set(sums)).toEqual(new Set([sum(files['boot/big.efi'] ?? new Uint8Array(0))]))
  expect(server.transferCount).toBeLessThanOrEqual(32)
})

test('curl is told that a file is not there, and that writing is not allowed', async () => {
  const url = `tftp://127.0.0.1:${server.local.port}`
  const missing = run('curl', ['--silent', '--show-error', `${url}/autoexec.ipxe`], { timeout: 20_000 })
  await expect(missing).rejects.toMatchObject({ code: 68 }) // CURLE_TFTP_NOTFOUND
  const upload = run('curl', ['--silent', '--upload-file', '/etc/hostname', `${url}/x`], { timeout: 20_000 })
  await expect(upload).rejects.toMatchObject({ code: 69 }) // CURLE_TFTP_PERM
  expect(events).toContainEqual(expect.objectContaining({ kind: 'notFound', name: 'autoexec.ipxe' }))
  expect(events).toContainEqual(expect.objectContaining({ kind: 'refused', reason: 'writeRequest' }))
})

test('curl reads netascii with lines ended as RFC 764 says', async () => {
  const url = `tftp://127.0.0.1:${server.local.port}/text.cfg;mode=netascii`
  const { stdout } = await run('curl', ['--silent', '--show-error', url], { timeout: 20_000 })
  expect(stdout).toBe('one\r\ntwo\r\0\r\nthree\r\0four\r\n')
})
