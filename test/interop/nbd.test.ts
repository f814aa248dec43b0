/**
 * Goal: any NBD server may be a disk's home, and its death loses nothing that was acknowledged. Method: the servers that
 * Debian has (qemu-nbd, qemu-storage-daemon, nbdkit), written through Slipway, killed under load, and their images judged by
 * qemu-img.
 */
import { execFile, execFileSync, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { openNbdDisk } from '../../src/app/nbd-disk.ts'
import { seededRandom } from '../../src/base/random.ts'
import { anyOperation, compareInFlight, compareWithArray, patterned, readAll } from '../../src/block/device.contract.ts'
import { NbdServer } from './nbd-server.ts'

const slipway = join(import.meta.dirname, '..', '..', 'bin', 'slipway')
const mebibyte = 1024 * 1024
let folder = ''
const at = (name: string): string => join(folder, name)

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'slipway-nbd-'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const tool = (name: string, ...args: string[]): string =>
  execFileSync(name, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })

const sizeBytes = 8 * mebibyte
/** One that nobody has at this moment. */
async function freePort(): Promise<number> {
  const probe = createServer()
  await new Promise<void>((resolve) => probe.listen(0, '127.0.0.1', resolve))
  const { port } = probe.address() as AddressInfo
  await new Promise((resolve) => probe.close(resolve))
  return port
}

type Kind = { readonly name: string; readonly format: 'raw' | 'qcow2'; readonly command: (image: string) => string[] }

const kinds: readonly Kind[] = [
  {
    name: 'qemu-nbd, raw',
    format: 'raw',
    command: (image) => ['qemu-nbd', '-k', '{socket}', '-t', '-f', 'raw', '--discard=unmap', image],
  },
  {
    name: 'qemu-nbd, qcow2',
    format: 'qcow2',
    command: (image) => ['qemu-nbd', '-k', '{socket}', '-t', '-f', 'qcow2', '--discard=unmap', image],
  },
  { name: 'nbdkit', format: 'raw', command: (image) => ['nbdkit', '-f', '-U', '{socket}', 'file', image] },
  {
    name: 'nbdkit that takes 4 KiB blocks of at most 64 KiB and answers late',
    format: 'raw',
    command: (image) => [
      ...['nbdkit', '-f', '-U', '{socket}', '--filter=blocksize-policy', '--filter=delay', 'file', image],
      ...['blocksize-minimum=4096', 'blocksize-preferred=4096', 'blocksize-maximum=65536'],
      ...['blocksize-error-policy=error', 'rdelay=1ms'],
    ],
  },
  {
    name: 'nbdkit without zeroes and without structured replies',
    format: 'raw',
    command: (image) => [
      'nbdkit',
      '-f',
      '-U',
      '{socket}',
      '--no-sr',
      '--filter=nozero',
      'file',
      image,
      'zeromode=none',
    ],
  },
  {
    name: 'nbdkit of the newstyle before it was fixed',
    format: 'raw',
    command: (image) => ['nbdkit', '-f', '-U', '{socket}', '--mask-handshake=0', 'file', image],
  },
  {
    name: 'qemu-storage-daemon',
    format: 'qcow2',
    command: (image) => [
      'qemu-storage-daemon',
      ...['--blockdev', `driver=file,node-name=file,filename=${image},discard=unmap`],
      ...['--blockdev', 'driver=qcow2,node-name=disk,file=file,discard=unmap'],
      ...['--nbd-server', 'addr.type=unix,addr.path={socket}'],
      ...['--export', 'type=nbd,id=e,node-name=disk,name=lab,writable=on'],
    ],
  },
]

let sockets = 0

function serverFor(command: readonly string[]): NbdServer {
  const [program = '', ...args] = command
  return new NbdServer(at(`${sockets++}.sock`), program, args)
}

/** An image with some data in it. */
function imageOf(format: 'raw' | 'qcow2', name: string, content: Uint8Array): string {
  const raw = at(`${name}.raw`)
  writeFileSync(raw, content)
  if (format === 'raw') return raw
  tool('qemu-img', 'convert', '-O', 'qcow2', raw, at(`${name}.qcow2`))
  return at(`${name}.qcow2`)
}

function contentOf(image: string, format: string): Uint8Array {
  const raw = `${image}.read`
  tool('qemu-img', 'convert', '-f', format, '-O', 'raw', image, raw)
  return readFileSync(raw)
}

test.each(
  kinds,
)('$name: whatever is done to it, it equals a plain array, also when it is read by its own', async (kind) => {
  const content = new Uint8Array(sizeBytes)
  content.set(patterned(2 * mebibyte, 1), mebibyte)
  const image = imageOf(kind.format, `array${sockets}`, content)
  const server = serverFor(kind.command(image))
  await server.start()
  const uri = server.uri(kind.name === 'qemu-storage-daemon' ? 'lab' : '')
  const open = () => openNbdDisk(uri, {})
  const operations =
    fc.sample(fc.array(anyOperation, { minLength: 150, maxLength: 150 }), { seed: 7, numRuns: 1 })[0] ?? []
  let device = await open()
  const reopen = async () => {
    await device.close()
    device = await open()
    return device
  }
  await compareWithArray({ device, content, reopen }, operations)
  const second = await open()
  const now = await readAll(second)
  await compareInFlight({ device: second, content: now }, 3, 16)
  const third = await open()
  const last = await readAll(third)
  await third.close()
  await server.kill()
  expect(Buffer.compare(last, contentOf(image, kind.format)), 'what the server kept').toBe(0)
  if (kind.format === 'qcow2') tool('qemu-img', 'check', '-q', image)
})

test('holes of the server are told, and what is discarded becomes one', async () => {
  const image = at('holes.raw')
  writeFileSync(image, patterned(4 * mebibyte, 2))
  truncateSync(image, 8 * mebibyte)
  const server = serverFor(kinds[0]?.command(image) ?? [])
  await server.start()
  const device = await openNbdDisk(server.uri(), {})
  expect(await device.extent(0, 8 * mebibyte)).toEqual({ allocated: true, bytes: 4 * mebibyte })
  expect(await device.extent(4 * mebibyte, mebibyte)).toEqual({ allocated: false, bytes: mebibyte })
  await device.discard(mebibyte, mebibyte)
  await device.flush()
  expect(await device.extent(mebibyte, 2 * mebibyte)).toEqual({ allocated: false, bytes: mebibyte })
  await device.close()
})

test.each([
  ['a name that it does not have', ['qemu-nbd', '-k', '{socket}', '-t', '-x', 'lab'], 'other', /no export "other"/],
  ['no writing', ['qemu-nbd', '-k', '{socket}', '-t', '-r', '-x', 'lab'], 'lab', /may not be written/],
] as const)('%s is told in words', async (_, [program, ...args], name, complaint) => {
  const image = imageOf('raw', 'plain', new Uint8Array(mebibyte))
  const server = new NbdServer(at(`${sockets++}.sock`), program, [...args, '-f', 'raw', image])
  await server.start()
  const failed = await openNbdDisk(server.uri(name), {}).catch((error: unknown) => error)
  expect(failed).toMatchObject({ name: 'OperationError', message: expect.stringMatching(complaint) })
})

test('a server that demands TLS, one of the oldstyle, one that cannot flush and what is no server are told in words', async () => {
  const image = imageOf('raw', 'plain', new Uint8Array(mebibyte))
  const psk = at('psk')
  writeFileSync(psk, 'lab:00112233445566778899aabbccddeeff\n')
  const cases: [string[], RegExp][] = [
    [['nbdkit', '-f', '-U', '{socket}', '--tls=require', `--tls-psk=${psk}`, 'file', image], /demands TLS/],
    [['nbdkit', '-f', '-o', '-U', '{socket}', 'file', image], /oldstyle/],
    [
      [
        'nbdkit',
        '-f',
        '-U',
        '{socket}',
        'eval',
        'get_size=echo 1M',
        'pread=dd if=/dev/zero count=$3 iflag=count_bytes',
        'can_write=exit 0',
        'pwrite=cat >/dev/null',
        'can_flush=exit 3',
      ],
      /cannot flush/,
    ],
    [['socat', 'UNIX-LISTEN:{socket},fork', 'SYSTEM:echo SSH-2.0-OpenSSH_9.2 is here'], /does not speak NBD/],
  ]
  for (const [command, complaint] of cases) {
    const server = serverFor(command)
    await server.start()
    await expect(openNbdDisk(server.uri(), {}), command.join(' ')).rejects.toThrow(complaint)
    await server.kill()
  }
  await expect(openNbdDisk(`nbd+unix:///?socket=${at('nobody')}`, {})).rejects.toMatchObject({ code: 'unreachable' })
  await expect(openNbdDisk('nbds://127.0.0.1/disk', {})).rejects.toThrow('does not speak TLS')
})

test('killed again and again under write load, qemu-nbd with a qcow2 image loses nothing that was acknowledged', async () => {
  const blocks = 2048
  const image = at('killed.qcow2')
  tool('qemu-img', 'create', '-q', '-f', 'qcow2', image, `${blocks * 4096}`)
  // Tables of the image are kept in the server's memory until a flush: what a kill takes with it.
  const server = serverFor(['qemu-nbd', '-k', '{socket}', '-t', '-f', 'qcow2', '--cache=writeback', image])
  await server.start()
  const states: string[] = []
  const device = await openNbdDisk(server.uri(), { onState: ({ kind }) => states.push(kind) })
  const random = seededRandom(42)
  /** What each block was last acknowledged to hold. */
  const model = new Uint8Array(blocks)
  const busy = new Set<number>()
  let running = true
  let writes = 0
  const writer = async (): Promise<void> => {
    while (running) {
      const block = Math.floor(random() * blocks)
      if (busy.has(block)) {
        await new Promise(setImmediate)
        continue
      }
      busy.add(block)
      const value = 1 + Math.floor(random() * 255)
      if (random() < 0.1) await device.writeZeroes(block * 4096, 4096, true)
      else await device.write(block * 4096, new Uint8Array(4096).fill(value))
      model[block] = (await valueAt(device, block)) as number
      writes++
      busy.delete(block)
      if (random() < 0.003) await device.flush()
    }
  }
  const load = Promise.all(Array.from({ length: 16 }, writer))
  for (let kills = 0; kills < 12; kills++) {
    const before = writes
    while (writes < before + 200) await sleep(5)
    await server.kill()
    await server.start()
  }
  running = false
  await load
  expect(states.filter((kind) => kind === 'back')).toHaveLength(12)
  for (let block = 0; block < blocks; block++) expect(await valueAt(device, block), `block ${block}`).toBe(model[block])
  await device.close()
  await server.kill()
  tool('qemu-img', 'check', '-q', '-r', 'leaks', image)
  const kept = contentOf(image, 'qcow2')
  for (let block = 0; block < blocks; block++) expect(kept[block * 4096 + 4095], `block ${block}`).toBe(model[block])
})

async function valueAt(device: Awaited<ReturnType<typeof openNbdDisk>>, block: number): Promise<number | undefined> {
  const bytes = new Uint8Array(4096)
  await device.read(block * 4096, bytes)
  expect(bytes[4095]).toBe(bytes[0])
  return bytes[0]
}

test('slipway target serves an export in place: QEMU writes by iSCSI, and the server may die between', async () => {
  const image = at('served.qcow2')
  tool('qemu-img', 'create', '-q', '-f', 'qcow2', image, '16M')
  const server = serverFor(['qemu-nbd', '-k', '{socket}', '-t', '-f', 'qcow2', '-x', 'lab', image])
  await server.start()
  const port = await freePort()
  const words = ['target', server.uri('lab'), '--in-place', '--listen', `127.0.0.1:${port}`, '--json-events']
  const child = spawn(slipway, words, { stdio: ['ignore', 'pipe', 'inherit'] })
  onTestFinished(() => void child.kill('SIGKILL'))
  const events: { kind: string; targetName?: string }[] = []
  createInterface(child.stdout).on('line', (line) => events.push(JSON.parse(line) as { kind: string }))
  const heard = (kind: string): Promise<void> =>
    expect.poll(() => events.map((event) => event.kind), { timeout: 30_000 }).toContain(kind)
  await heard('ready')
  const url = `iscsi://127.0.0.1:${port}/iqn.2026-01.internal.slipway:lab/0`
  const qemuIo = async (...commands: string[]): Promise<string> => {
    const { stdout } = await promisify(execFile)('qemu-io', [
      '-f',
      'raw',
      ...commands.flatMap((each) => ['-c', each]),
      url,
    ])
    expect(stdout).not.toContain('verification failed')
    return stdout
  }
  await qemuIo('write -P 0x5a 1M 64k')
  await server.kill()
  await heard('diskAway')
  await server.start()
  await heard('diskBack')
  await qemuIo('read -P 0x5a 1M 64k', 'write -P 0x77 2M 64k', 'flush')
  const ended = new Promise((resolve) => child.once('exit', resolve))
  child.kill('SIGTERM')
  expect(await ended).toBe(0)
  await server.kill()
  expect(
    tool('qemu-io', '-f', 'qcow2', '-r', '-c', 'read -P 0x5a 1M 64k', '-c', 'read -P 0x77 2M 64k', image),
  ).not.toContain('failed')
  tool('qemu-img', 'check', '-q', image)
})
