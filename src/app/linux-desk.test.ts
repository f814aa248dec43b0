/**
 * Goal: the kernel that a machine fetches is that of the disk it will have, and the secrets go with it to that boot only. Method: a
 * disk image with a boot menu, made by mkfs, behind the disk desk's own clones; requests as iPXE makes them.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { afterAll, describe, expect, test } from 'vitest'
import { cpioArchive } from '../boot/cpio.ts'
import { sourceOfBytes } from '../disk/source.ts'
import type { BootCredentials } from '../fleet/credentials.ts'
import { Fleet } from '../fleet/fleet.ts'
import type { TransportPolicy } from '../fleet/machine.ts'
import { namingAuthorityDefault } from '../fleet/names.ts'
import { MemoryFleetStore } from '../fleet/store.ts'
import { systemClock } from '../host/clock.ts'
import { systemHash } from '../host/hash.ts'
import { systemRandom } from '../host/random.ts'
import { systemUnpacker } from '../host/unpack.ts'
import type { HttpAnswer } from '../http/policy.ts'
import type { ChapMode } from './config.ts'
import { LinuxDesk } from './linux-desk.ts'

const mac = '52:54:00:77:00:10'
const other = '52:54:00:77:00:11'
const folder = mkdtempSync(join(tmpdir(), 'slipway-linux-desk-'))
afterAll(() => rmSync(folder, { recursive: true }))

const initramfs = (files: readonly string[]): Uint8Array =>
  gzipSync(
    cpioArchive(files.map((path) => ({ kind: 'file', path, mode: 0o644, content: new TextEncoder().encode(path) }))),
  )
const open = initramfs(['usr/sbin/iscsistart', 'scripts/local-top/iscsi'])
const kernel = Buffer.alloc(5_001, 'k')

/** The image of a small ext4 without a partition table. */
function diskWith(name: string, files: Readonly<Record<string, string | Uint8Array>>): Uint8Array {
  const tree = join(folder, name)
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(join(tree, path, '..'), { recursive: true })
    writeFileSync(join(tree, path), content)
  }
  const image = join(folder, `${name}.img`)
  const made = spawnSync('/sbin/mkfs.ext4', ['-q', '-F', '-O', '^has_journal', '-d', tree, image, '1M'], {
    encoding: 'utf8',
  })
  expect(made.stderr + String(existsSync(image))).toBe('true')
  return new Uint8Array(spawnSync('cat', [image], { maxBuffer: 1 << 24 }).stdout)
}

const menu = (line: string): string => `menuentry x {\nlinux /k ${line}\ninitrd /i\n}\n`
const good = diskWith('good', { 'boot/grub/grub.cfg': menu('root=LABEL=r ro'), k: kernel, i: open })

type Rig = { readonly desk: LinuxDesk; readonly fleet: Fleet; readonly unpacked: () => number }

function rig(
  disk: Uint8Array,
  store = new MemoryFleetStore(),
  chap: ChapMode = 'mutual',
  transport: TransportPolicy = 'auto',
): Rig {
  const assignment = { image: 'lab', version: undefined, clonePolicy: undefined }
  const terms = { policy: 'all', namingAuthority: namingAuthorityDefault, assignment, transport } as const
  const fleet = new Fleet(terms, store, (bytes) => systemRandom.bytes(bytes))
  let count = 0
  const desk = new LinuxDesk({
    fleet,
    openDisk: async () => sourceOfBytes(disk),
    clock: systemClock,
    hash: systemHash,
    unpacker: {
      unpack: (...asked) => {
        count++
        return systemUnpacker.unpack(...asked)
      },
    },
    chap,
    portal: (address) => ({ address, port: 3260 }),
  })
  return { desk, fleet, unpacked: () => count }
}

const offer = ({ fleet }: Rig): BootCredentials => fleet.offerCredentials(mac, systemClock.wallMs())

async function fetched(
  { desk }: Rig,
  file: string,
  login?: string,
  of = mac,
  secure = false,
): Promise<number | Buffer> {
  const headers = new Map(login === undefined ? [] : [['authorization', `Basic ${btoa(login)}`]])
  const answer: HttpAnswer = await desk.serve(of, file, {
    from: { address: '192.0.2.9', port: 1 },
    local: { address: '192.0.2.1', port: 80 },
    secure,
    method: 'GET',
    path: '',
    query: new Map(),
    headers,
    body: new Uint8Array(),
  })
  if (answer.body?.kind !== 'file') return answer.status
  const { sizeBytes, read } = answer.body.file
  const bytes = Buffer.alloc(sizeBytes, 0xee)
  // In pieces, as the server asks.
  for (let at = 0; at < sizeBytes; at += 1_000) await read(at, bytes.subarray(at, Math.min(at + 1_000, sizeBytes)))
  return bytes
}

const loginOf = ({ desk }: Rig, boot: BootCredentials): string => `${boot.bootId}:${desk.keyOf(boot).reveal()}`

describe('what a boot fetches', () => {
  test('is the kernel and the initramfs of the disk, to a multiple of four, and the settings of this boot', async () => {
    const it = rig(good)
    expect(await it.desk.find(mac)).toEqual({
      kind: 'found',
      words: ['root=LABEL=r', 'ro', 'ip=dhcp', 'BOOTIF=01-52-54-00-77-00-10'],
      isPc: true,
      kernel: 'kernel',
      initramfs: ['initramfs-0'],
    })
    const boot = offer(it)
    const login = loginOf(it, boot)
    expect(await fetched(it, 'kernel', login)).toEqual(Buffer.concat([kernel, Buffer.alloc(3)]))
    const archive = (await fetched(it, 'initramfs-0', login)) as Buffer
    expect(archive.subarray(0, open.byteLength)).toEqual(Buffer.from(open))
    expect(archive.byteLength % 4).toBe(0)
    const settings = String(await fetched(it, 'settings', login))
    for (const { user, secret } of [boot.initiator, boot.target]) {
      expect(settings).toContain(`USERNAME='${user}'`)
      expect(settings).toContain(`PASSWORD='${secret.reveal()}'`)
    }
    expect(settings).toContain("ISCSI_TARGET_IP='192.0.2.1'")
  })

  test('is for its key only, and iPXE is asked for that first', async () => {
    const it = rig(good)
    const boot = offer(it)
    const login = loginOf(it, boot)
    for (const file of ['kernel', 'initramfs-0', 'settings']) {
      expect(await fetched(it, file), file).toBe(401)
      expect(await fetched(it, file, `${boot.bootId}:AAAA`), file).toBe(404)
      expect(await fetched(it, file, `other:${it.desk.keyOf(boot).reveal()}`), file).toBe(404)
      expect(await fetched(it, file, login, other), 'in another machine’s name').toBe(404)
    }
    for (const file of ['', '__proto__', 'constructor', 'initramfs-1', '../kernel']) {
      expect(await fetched(it, file, login), file).toBe(404)
    }
  })

  test('is gone when the boot has logged in, when another has, and when the machine was released', async () => {
    const it = rig(good)
    const [first, second, third] = [offer(it), offer(it), offer(it)]
    expect(await fetched(it, 'kernel', loginOf(it, first))).toBeInstanceOf(Buffer)
    it.fleet.credentialsUsed(mac, second.initiator.user)
    for (const boot of [first, second]) expect(await fetched(it, 'settings', loginOf(it, boot))).toBe(404)
    expect(await fetched(it, 'settings', loginOf(it, third)), 'a later script').toBeInstanceOf(Buffer)
    it.fleet.release(mac)
    expect(await fetched(it, 'settings', loginOf(it, third))).toBe(404)
  })

  test('goes to a machine whose transport is strict by TLS and not otherwise', async () => {
    const it = rig(good, undefined, 'mutual', 'strict')
    it.fleet.meet({ mac, uuid: undefined, serial: undefined }, systemClock.wallMs())
    const login = loginOf(it, offer(it))
    expect(await fetched(it, 'settings', login)).toBe(404)
    expect(await fetched(it, 'settings', login, mac, true)).toBeInstanceOf(Buffer)
  })

  test('is there after a restart of Slipway', async () => {
    const store = new MemoryFleetStore()
    const before = rig(good, store)
    const login = loginOf(before, offer(before))
    expect(await fetched(rig(good, store), 'kernel', login)).toBeInstanceOf(Buffer)
  })

  test('holds what CHAP asks for, and no more', async () => {
    for (const [chap, names] of [
      ['one-way', ['ISCSI_USERNAME', 'ISCSI_PASSWORD']],
      ['none', []],
    ] as const) {
      const it = rig(good, undefined, chap)
      const settings = String(await fetched(it, 'settings', loginOf(it, offer(it))))
      expect(settings.match(/ISCSI_(IN_)?(USERNAME|PASSWORD)/g) ?? []).toEqual(names)
    }
  })
})

describe('a disk that cannot be started so', () => {
  const why = async (name: string, files: Readonly<Record<string, string | Uint8Array>>): Promise<unknown> => {
    const found = await rig(diskWith(name, files)).desk.find(mac)
    return found.kind === 'none' ? [found.why, found.detail] : found.kind
  }
  test('has no menu, or a menu whose kernel is not there', async () => {
    expect(await why('bare', { 'etc/hostname': 'x' })).toEqual(['unreadable', 'no boot menu that names a kernel'])
    expect(await why('gone', { 'boot/grub/grub.cfg': menu('ro') })).toEqual([
      'unreadable',
      '/boot/grub/grub.cfg starts /k, which cannot be read',
    ])
    const nothing = await rig(new Uint8Array(1 << 20)).desk.find(mac)
    expect(nothing).toMatchObject({ why: 'unreadable', detail: 'no file system that Slipway reads' })
  })
  test('has an initramfs that cannot log in, or that is damaged', async () => {
    const grub = { 'boot/grub/grub.cfg': menu('ro'), k: kernel }
    expect(await why('plain', { ...grub, i: initramfs(['init']) })).toEqual(['noIscsi', '/i'])
    expect(await why('half', { ...grub, i: initramfs(['sbin/iscsistart']) })).toEqual(['noIscsi', '/i'])
    expect(await why('torn', { ...grub, i: open.subarray(0, 60) })).toEqual([
      'noIscsi',
      expect.stringContaining('/i: '),
    ])
    expect(await why('dracut', { ...grub, i: initramfs(['sbin/iscsistart', 'usr/sbin/iscsiroot']) })).toBe('found')
  })
  test('has a command line that iPXE cannot say', async () => {
    expect(await why('words', { 'boot/grub/grub.cfg': menu('root=LABEL=ü'), k: kernel, i: open })).toEqual([
      'unsayable',
      '/boot/grub/grub.cfg: root=LABEL=ü',
    ])
  })
})

test('the same initramfs is unpacked once, for however many machines', async () => {
  const it = rig(good)
  await Promise.all([it.desk.find(mac), it.desk.find(other), it.desk.find(mac)])
  expect(it.unpacked()).toBe(1)
})
