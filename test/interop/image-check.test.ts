/**
 * Goal: what `slipway image check` finds wrong on a real disk, `--fix` mends in a new version, and strangers are content.
 * Method: an image by mkfs.ext4 and mkfs.fat with Debian's own loaders; e2fsck and fsck.fat look at what became of it.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { writeFilesInExt4 } from '../../src/host/debugfs.ts'
import { systemUnpacker } from '../../src/host/unpack.ts'
import { listInitramfs } from '../../src/images/check/initramfs.ts'

const mebibyte = 1024 * 1024
const slipway = resolve(import.meta.dirname, '..', '..', 'bin', 'slipway')
/** Of the root file system. */
const offsetBytes = 17 * mebibyte
let folder = ''
const path = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' }
const run = (program: string, args: readonly string[], input?: Uint8Array): Buffer =>
  execFileSync(program, args, { env: path, input, stdio: ['pipe', 'pipe', 'pipe'], maxBuffer: 64 * mebibyte })

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'slipway-image-'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** A cpio archive by cpio itself. */
function archive(names: readonly string[]): Buffer {
  const tree = mkdtempSync(join(folder, 'initramfs-'))
  for (const name of names) {
    mkdirSync(join(tree, dirname(name)), { recursive: true })
    writeFileSync(join(tree, name), name === 'etc/iscsi.initramfs' ? 'ISCSI_AUTO=true\n' : 'x')
  }
  return execFileSync('sh', ['-c', 'find . | cpio --quiet -o -H newc'], { cwd: tree })
}

const initramfsNames = [
  'sbin/iscsistart',
  'scripts/local-top/iscsi',
  'lib/modules/6.1.0/kernel/drivers/scsi/iscsi_tcp.ko',
  'lib/modules/6.1.0/kernel/drivers/scsi/sd_mod.ko',
  'lib/modules/6.1.0/kernel/drivers/firmware/iscsi_ibft.ko',
  'lib/modules/6.1.0/kernel/drivers/net/virtio_net.ko',
  'etc/iscsi.initramfs',
]

test.for([
  ['gzip', ['-c']],
  ['xz', ['-c', '--check=crc32']],
  ['bzip2', ['-c']],
  ['zstd', ['-c', '-q']],
] as const)('an initramfs packed by %s is listed, or the packing is named', async ([program, args]) => {
  let packed: Buffer
  try {
    packed = run(program, args, archive(initramfsNames))
  } catch (error) {
    // Not every machine has every one of them; what there is must be read.
    expect(error).toMatchObject({ code: 'ENOENT' })
    return
  }
  const listing = await listInitramfs(new Uint8Array(packed), ['etc/iscsi.initramfs'], systemUnpacker)
  expect([...listing.names]).toEqual(expect.arrayContaining(initramfsNames))
  expect(listing.texts.get('etc/iscsi.initramfs')).toBe('ISCSI_AUTO=true\n')
})

function makeImage(): string {
  const root = join(folder, 'root')
  const file = (name: string, content: string | Buffer): void => {
    mkdirSync(join(root, dirname(name)), { recursive: true })
    writeFileSync(join(root, name), content)
  }
  file('etc/os-release', 'ID=debian\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n')
  file('etc/fstab', '/dev/sda2 / ext4 errors=remount-ro 0 1\n')
  file('etc/machine-id', '0123456789abcdef0123456789abcdef\n')
  file(
    'etc/iscsi/iscsid.conf',
    'node.session.timeo.replacement_timeout = 120\nnode.conn[0].timeo.noop_out_interval = 5\n',
  )
  file('etc/network/interfaces', 'auto lo\niface lo inet loopback\nallow-hotplug eth0\niface eth0 inet dhcp\n')
  file('sbin/ifup', 'x')
  file('sbin/iscsid', 'x')
  file('etc/cloud/cloud.cfg', 'users: []\n')
  file('boot/grub/grub.cfg', 'linux /boot/vmlinuz-6.1.0 root=/dev/sda2 ro quiet\ninitrd /boot/initrd.img-6.1.0\n')
  file('boot/vmlinuz-6.1.0', Buffer.alloc(5000))
  file('boot/initrd.img-6.1.0', run('gzip', ['-c'], archive(initramfsNames)))
  mkdirSync(join(root, 'etc/systemd/system/multi-user.target.wants'), { recursive: true })
  symlinkSync(
    '/lib/systemd/system/NetworkManager.service',
    join(root, 'etc/systemd/system/multi-user.target.wants/NetworkManager.service'),
  )

  const ext4 = join(folder, 'root.ext4')
  writeFileSync(ext4, '')
  truncateSync(ext4, 16 * mebibyte)
  run('mkfs.ext4', ['-q', '-F', '-L', 'root', '-d', root, ext4])
  const image = join(folder, 'disk.img')
  writeFileSync(image, '')
  truncateSync(image, 34 * mebibyte)
  run('sgdisk', ['-n', '1:2048:+16M', '-t', '1:ef00', '-n', '2:0:+16M', '-t', '2:8300', image])
  run('dd', [`if=${ext4}`, `of=${image}`, 'bs=1M', 'seek=17', 'conv=notrunc', 'status=none'])
  const esp = join(folder, 'esp.img')
  run('mkfs.fat', ['-C', '-F', '16', '-s', '1', esp, String(16 * 1024)])
  run('mmd', ['-i', esp, '::/EFI', '::/EFI/debian'])
  for (const [name, from] of Object.entries(loaders)) run('mcopy', ['-i', esp, from, `::/EFI/debian/${name}`])
  run('dd', [`if=${esp}`, `of=${image}`, 'bs=1M', 'seek=1', 'conv=notrunc', 'status=none'])
  return image
}

const loaders = {
  'shimx64.efi': '/usr/lib/shim/shimx64.efi.signed',
  'grubx64.efi': '/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed',
}

type Line = { level: string; check: string; repaired: string; changes: { path: string; lines: unknown[] }[] }

/** `slipway image` on a library of its own; every line of JSON that it printed. */
function image(words: readonly string[]): { status: number | null; lines: Line[]; said: string } {
  const state = join(folder, 'state')
  const done = spawnSync(slipway, ['image', ...words, '--state', state], { encoding: 'utf8', timeout: 120_000 })
  const lines = done.stdout.split('\n').flatMap((line) => (line.startsWith('{') ? [JSON.parse(line) as Line] : []))
  return { status: done.status, lines, said: done.stdout + done.stderr }
}
const bad = (lines: readonly Line[]): string[] =>
  lines.filter(({ level }) => level === 'warning' || level === 'error').map(({ check }) => check)

test('an image is checked, repaired in a new version, then in order; and rolled back', () => {
  image(['add', makeImage(), '--name', 'pc'])
  const before = image(['check', 'pc', '--json'])
  expect(before.status).toBe(3)
  expect(bad(before.lines)).toEqual([
    'loader.efi',
    'fstab',
    'root.device',
    'iscsid.conf',
    'network.networkManager',
    'network.ifupdown',
    'network.cloudInit',
    'identity',
  ])
  const fixed = image(['check', 'pc', '--fix', '--json'])
  expect(fixed.said).not.toContain('slipway:')
  expect(fixed.status).toBe(0)
  expect(bad(fixed.lines)).toEqual([])
  const [told] = fixed.lines
  expect(told).toMatchObject({ repaired: 'pc@2', of: 'pc@1', published: true })
  expect(told?.changes.map(({ path }) => path)).toEqual([
    '/EFI/BOOT/BOOTX64.EFI',
    '/EFI/BOOT/grubx64.efi',
    '/etc/fstab',
    '/boot/grub/grub.cfg',
    '/etc/iscsi/iscsid.conf',
    '/etc/NetworkManager/conf.d/10-iscsi-root.conf',
    '/etc/network/interfaces',
    '/etc/cloud/cloud.cfg.d/99-iscsi-root.cfg',
    '/etc/machine-id',
  ])
  expect(told?.changes.find(({ path }) => path === '/etc/network/interfaces')?.lines).toEqual([
    { kind: 'removed', text: 'allow-hotplug eth0' },
    { kind: 'removed', text: 'iface eth0 inet dhcp' },
    { kind: 'added', text: '#allow-hotplug eth0' },
    { kind: 'added', text: '#iface eth0 inet dhcp' },
  ])

  const file = join(folder, 'state', 'images', 'pc@2.raw')
  run('e2fsck', ['-fn', `${file}?offset=${offsetBytes}`])
  const stat = run('debugfs', ['-R', 'stat /etc/iscsi/iscsid.conf', `${file}?offset=${offsetBytes}`]).toString()
  expect(stat).toMatch(/Type: regular\s+Mode:\s+0644/)
  expect(stat).toMatch(/User:\s+0\s+Group:\s+0/)
  const esp = join(folder, 'after-esp.img')
  run('dd', [`if=${file}`, `of=${esp}`, 'bs=1M', 'skip=1', 'count=16', 'status=none'])
  run('fsck.fat', ['-n', esp])
  const copied = run('mcopy', ['-i', esp, '::/EFI/BOOT/BOOTX64.EFI', '-'])
  expect(copied.equals(readFileSync(loaders['shimx64.efi']))).toBe(true)

  // The version that was checked is what it was, and one command brings it back.
  expect(readFileSync(join(folder, 'state', 'images', 'pc@1.raw')).equals(readFileSync(join(folder, 'disk.img')))).toBe(
    true,
  )
  expect(image(['rollback', 'pc']).said).toContain('pc@1 is published again')
  expect(bad(image(['check', 'pc', '--json']).lines)).toEqual(bad(before.lines))
  // A version that is not published is repaired in one that is not published either.
  expect(image(['check', 'pc@2', '--fix']).said).toContain('nothing that could be repaired here')
  expect(image(['check', join(folder, 'disk.img'), '--fix'])).toMatchObject({ status: 2 })
})

test('a repair that cannot be made adds nothing, and says why', () => {
  const full = join(folder, 'full.img')
  copyFileSync(join(folder, 'disk.img'), full)
  const volume = `${full}@@${mebibyte}`
  run('mcopy', ['-i', volume, '-', '::/FULL'], Buffer.alloc(8 * mebibyte))
  image(['add', full, '--name', 'full'])
  const fixed = image(['check', 'full', '--fix'])
  expect(fixed.status).toBe(1)
  expect(fixed.said).toMatch(/the image could not be repaired: .*is there room for it/)
  expect(image(['list']).said).not.toContain('full@2')
})

test('a path that debugfs cannot be told, and an image that is none, are refused', async () => {
  const image = join(folder, 'nothing.img')
  writeFileSync(image, Buffer.alloc(mebibyte))
  const write = (path: string): Promise<void> =>
    writeFilesInExt4({ imagePath: image, offsetBytes: 0 }, [{ path, content: 'x' }])
  await expect(write('/etc/"x"')).rejects.toMatchObject({ code: 'repairFailed' })
  await expect(write('/etc/../x')).rejects.toMatchObject({ code: 'repairFailed' })
  await expect(write('/etc/x')).rejects.toMatchObject({ code: 'repairFailed' })
})
