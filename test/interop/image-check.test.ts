/**
 * Goal: what `checkImage` finds wrong in a real ext4 file system, debugfs mends, and e2fsck is content. Method: an image by
 * mkfs.ext4, checked, repaired with the files that the findings carry, and checked again.
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { openDisk } from '../../src/disk/inspect.ts'
import { sourceOfBytes } from '../../src/disk/source.ts'
import { writeFilesInExt4 } from '../../src/host/debugfs.ts'
import { systemUnpacker } from '../../src/host/unpack.ts'
import { checkImage } from '../../src/images/check/check-image.ts'
import type { ImageFinding } from '../../src/images/check/finding.ts'
import { listInitramfs } from '../../src/images/check/initramfs.ts'

const mebibyte = 1024 * 1024
const offsetBytes = 1 * mebibyte
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
  file('etc/fstab', 'LABEL=root / ext4 errors=remount-ro 0 1\n')
  file('etc/machine-id', '0123456789abcdef0123456789abcdef\n')
  file(
    'etc/iscsi/iscsid.conf',
    'node.session.timeo.replacement_timeout = 120\nnode.conn[0].timeo.noop_out_interval = 5\n',
  )
  file('etc/network/interfaces', 'auto lo\niface lo inet loopback\nallow-hotplug eth0\niface eth0 inet dhcp\n')
  file('sbin/ifup', 'x')
  file('sbin/iscsid', 'x')
  file('boot/grub/grub.cfg', 'linux /boot/vmlinuz-6.1.0 root=LABEL=root ro quiet\n')
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
  truncateSync(image, 18 * mebibyte)
  run('sgdisk', ['-n', '1:2048:+16M', '-t', '1:8300', image])
  run('dd', [`if=${ext4}`, `of=${image}`, 'bs=1M', 'seek=1', 'conv=notrunc', 'status=none'])
  return image
}

const findingsOf = async (image: string): Promise<ImageFinding[]> =>
  checkImage(await openDisk(sourceOfBytes(new Uint8Array(readFileSync(image)))), systemUnpacker)
const bad = (findings: readonly ImageFinding[]): string[] =>
  findings.filter(({ level }) => level !== 'ok').map(({ check }) => check)

test('an image is checked, repaired by debugfs, and then in order', async () => {
  const image = makeImage()
  const before = await findingsOf(image)
  expect(bad(before)).toEqual(['loader', 'iscsid.conf', 'network.networkManager', 'network.ifupdown', 'identity'])
  for (const { repair } of before) {
    if (repair === undefined) continue
    expect(repair.partition).toBe(1)
    await writeFilesInExt4({ imagePath: image, offsetBytes }, repair.files)
  }
  expect(bad(await findingsOf(image))).toEqual(['loader'])
  const ext4 = join(folder, 'after.ext4')
  run('dd', [`if=${image}`, `of=${ext4}`, 'bs=1M', 'skip=1', 'count=16', 'status=none'])
  run('e2fsck', ['-fn', ext4])
  const stat = run('debugfs', ['-R', 'stat /etc/iscsi/iscsid.conf', ext4]).toString()
  expect(stat).toMatch(/Type: regular\s+Mode:\s+0644/)
  expect(stat).toMatch(/User:\s+0\s+Group:\s+0/)
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
