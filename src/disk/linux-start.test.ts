/** Goal: the kernel, initramfs and command line that the disk itself would boot are found wherever a distribution keeps them. */
import { readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import type { Content } from './content.ts'
import type { FileSystem } from './file-system.ts'
import type { OpenedDisk, Volume } from './inspect.ts'
import { findLinuxStart } from './linux-start.ts'
import { readWhole, sourceOfBytes } from './source.ts'

type Tree = Readonly<Record<string, string | Uint8Array>>

function fileSystemOf(kind: FileSystem['kind'], uuid: string, tree: Tree): FileSystem {
  const clean = (path: string): string => `/${path.split('/').filter(Boolean).join('/')}`
  const bytesOf = (value: string | Uint8Array): Uint8Array =>
    typeof value === 'string' ? new TextEncoder().encode(value) : value
  return {
    kind,
    label: `label-${uuid}`,
    uuid,
    notes: [],
    list: async (path) => {
      const prefix = `${clean(path)}/`.replace('//', '/')
      const names = Object.keys(tree).flatMap((each) => (each.startsWith(prefix) ? [each.slice(prefix.length)] : []))
      if (names.length === 0) return undefined
      return names.filter((name) => !name.includes('/')).map((name) => ({ name, kind: 'file', sizeBytes: 1 }))
    },
    open: async (path) => {
      const value = tree[clean(path)]
      return value === undefined ? undefined : sourceOfBytes(bytesOf(value))
    },
    stat: async () => undefined,
  }
}

function diskOf(contents: readonly Content[]): OpenedDisk {
  const volumes = contents.map((content, index): Volume => {
    const number = index + 1
    const partition = { number, type: '', name: '', id: '', offsetBytes: 0, sizeBytes: 1, active: false }
    return { number, partition, content }
  })
  const bootSector = { hasSignature: true, hasCode: true }
  const table = { kind: 'gpt', sectorBytes: 512, diskId: '', partitions: [], problems: [], bootSector } as const
  return { source: sourceOfBytes(new Uint8Array(1)), table, tableError: undefined, volumes }
}

const readable = (fileSystem: FileSystem): Content => ({ kind: 'fileSystem', fileSystem })
const ext4 = (uuid: string, tree: Tree): Content => readable(fileSystemOf('ext4', uuid, tree))
const fat = (uuid: string, tree: Tree): Content => readable(fileSystemOf('fat32', uuid, tree))

async function found(contents: readonly Content[]): Promise<unknown> {
  const answer = await findLinuxStart(diskOf(contents))
  if (answer.kind === 'missing') return answer.why
  const { menu, kernel, initramfs, commandLine } = answer.start
  const textOf = async (path: string, source: typeof kernel.source): Promise<string> =>
    `${path}: ${new TextDecoder().decode(await readWhole(source))}`
  return {
    menu,
    kernel: await textOf(kernel.path, kernel.source),
    initramfs: await Promise.all(initramfs.map(({ path, source }) => textOf(path, source))),
    commandLine,
  }
}

const entry = 'search --fs-uuid --set=root bbbb\nlinux /vmlinuz-1 root=UUID=aaaa\ninitrd /ucode.img /initrd-1\n'

describe('GRUB', () => {
  test('with /boot on a partition of its own, found by its UUID', async () => {
    const root = ext4('aaaa', { '/etc/fstab': '', '/vmlinuz-1': 'not this' })
    const boot = ext4('BBBB', {
      '/grub/grub.cfg': `menuentry x {\n${entry}}\n`,
      '/vmlinuz-1': 'the kernel',
      '/initrd-1': 'the initramfs',
      '/ucode.img': 'microcode',
    })
    expect(await found([root, boot])).toEqual({
      menu: '/grub/grub.cfg',
      kernel: '/vmlinuz-1: the kernel',
      initramfs: ['/ucode.img: microcode', '/initrd-1: the initramfs'],
      commandLine: 'root=UUID=aaaa',
    })
  })
  test('on the root, by partition number', async () => {
    const root = ext4('aaaa', {
      '/boot/grub/grub.cfg': 'linux (hd0,gpt2)/boot/k ro',
      '/boot/k': 'the kernel',
    })
    expect(await found([fat('EFI', { '/boot/k': 'not this' }), root])).toMatchObject({ kernel: '/boot/k: the kernel' })
  })
  test('what it names and is not there is said', async () => {
    expect(await found([ext4('aaaa', { '/boot/grub/grub.cfg': entry })])).toBe(
      '/boot/grub/grub.cfg starts /vmlinuz-1, which cannot be read',
    )
    expect(await found([ext4('aaaa', { '/boot/grub/grub.cfg': entry, '/vmlinuz-1': 'k' })])).toBe(
      '/boot/grub/grub.cfg wants /ucode.img, which cannot be read',
    )
  })
  test('a menu that cannot be understood is said', async () => {
    expect(await found([ext4('aaaa', { '/boot/grub/grub.cfg': 'if' })])).toContain('grub.cfg')
  })
})

test("boot loader entries, by systemd-boot's default", async () => {
  const esp = fat('EFI', {
    '/loader/loader.conf': 'default b*\n',
    '/loader/entries/a.conf': 'version 2\nlinux /a/linux\n',
    '/loader/entries/b.conf': 'version 1\nlinux /b/linux\ninitrd /b/initrd\noptions root=UUID=aaaa ro\n',
    '/a/linux': 'not this',
    '/b/linux': 'the kernel',
    '/b/initrd': 'the initramfs',
  })
  expect(await found([esp])).toEqual({
    menu: '/loader/entries/b.conf',
    kernel: '/b/linux: the kernel',
    initramfs: ['/b/initrd: the initramfs'],
    commandLine: 'root=UUID=aaaa ro',
  })
})

test("Fedora's entries through GRUB, with the paths of /boot", async () => {
  const root = ext4('aaaa', {
    '/boot/grub2/grub.cfg': `load_env\nset default="\${saved_entry}"\nblscfg\n`,
    '/boot/grub2/grubenv': '# GRUB Environment Block\nsaved_entry=id-6.8\n###',
    '/boot/loader/entries/id-6.9.conf': 'version 6.9\nlinux /vmlinuz-6.9\noptions root=UUID=aaaa',
    '/boot/loader/entries/id-6.8.conf': 'version 6.8\nlinux /vmlinuz-6.8\noptions root=UUID=aaaa',
    '/boot/vmlinuz-6.8': 'the kernel',
  })
  expect(await found([root])).toMatchObject({
    menu: '/boot/grub2/grub.cfg',
    kernel: '/boot/vmlinuz-6.8: the kernel',
    commandLine: 'root=UUID=aaaa',
  })
})

test('a unified kernel image is taken apart', async () => {
  const uki = new Uint8Array(gunzipSync(readFileSync(new URL('vectors/uki.efi.gz', import.meta.url))))
  // Its only section of text becomes the kernel.
  uki.set(new TextEncoder().encode('.linux\0'), Buffer.from(uki).indexOf('.sbat\0\0\0'))
  expect(await found([fat('EFI', { '/EFI/Linux/tiny.efi': uki })])).toMatchObject({
    menu: '/EFI/Linux/tiny.efi',
    kernel: expect.stringContaining('sbat,1,'),
    initramfs: [],
  })
})

test.for([
  [[], 'no file system that Slipway reads'],
  [[{ kind: 'known', name: 'btrfs' }], 'no file system that Slipway reads; partition 1 is btrfs'],
  [
    [ext4('aaaa', { '/etc/fstab': '' }), { kind: 'known', name: 'LUKS (encrypted)' }],
    'no boot menu that names a kernel; partition 2 is LUKS (encrypted)',
  ],
] as const satisfies readonly (readonly [readonly Content[], string])[])('nothing to start: %#', async ([
  contents,
  why,
]) => expect(await found(contents)).toBe(why))
