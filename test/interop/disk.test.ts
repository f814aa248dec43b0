/**
 * Goal: what sgdisk, mkfs.fat, mtools and mkfs.ext4 write, we read; and what GRUB's, a machine's and a person's tools
 * put on a golden image is in the summary. Method: make images with those tools, compare with the files they came from.
 */
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  closeSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createMemoryDevice } from '../../src/block/memory.ts'
import { openExt4 } from '../../src/disk/ext4.ts'
import { openFat } from '../../src/disk/fat.ts'
import { whatIsOn } from '../../src/disk/inspect.ts'
import { readWhole, sourceOfBytes } from '../../src/disk/source.ts'

const mebibyte = 1024 * 1024
let folder = ''
const run = (program: string, ...args: readonly string[]): string =>
  execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], env: environment })
const systemPath: { readonly PATH?: string } = process.env
const environment = { ...process.env, MTOOLS_SKIP_CHECK: '1', PATH: `${systemPath.PATH}:/usr/sbin:/sbin` }
const inFolder = (name: string): string => join(folder, name)

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'slipway-disk-'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

function emptyFile(name: string, bytes: number): string {
  const path = inFolder(name)
  writeFileSync(path, '')
  truncateSync(path, bytes)
  return path
}

test('a golden image: GPT, an ESP with GRUB, a Debian-like root', async () => {
  const root = inFolder('root')
  mkdirSync(join(root, 'etc'), { recursive: true })
  mkdirSync(join(root, 'boot'))
  writeFileSync(
    join(root, 'etc/os-release'),
    'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n',
  )
  writeFileSync(join(root, 'boot/vmlinuz-6.1.0-1-amd64'), randomBytes(100_000))
  writeFileSync(join(root, 'boot/initrd.img-6.1.0-1-amd64'), randomBytes(200_000))
  const ext4 = emptyFile('root.ext4', 32 * mebibyte)
  run('mkfs.ext4', '-q', '-F', '-L', 'root', '-d', root, ext4)
  const fat = emptyFile('esp.fat', 34 * mebibyte)
  run('mkfs.fat', '-F', '32', '-n', 'ESP', fat)
  const grub = inFolder('BOOTX64.EFI')
  run('grub-mkimage', '-O', 'x86_64-efi', '-o', grub, '-p', '/EFI/BOOT', 'part_gpt', 'fat', 'normal', 'linux')
  run('mmd', '-i', fat, '::/EFI', '::/EFI/BOOT')
  run('mcopy', '-i', fat, grub, '::/EFI/BOOT/BOOTX64.EFI')

  const disk = emptyFile('disk.img', 70 * mebibyte)
  run('sgdisk', '-n', '1:2048:+34M', '-t', '1:ef00', '-c', '1:ESP', '-n', '2:0:+32M', '-t', '2:8300', disk)
  const file = openSync(disk, 'r+')
  writeSync(file, readFileSync(fat), 0, 34 * mebibyte, mebibyte)
  writeSync(file, readFileSync(ext4), 0, 32 * mebibyte, 35 * mebibyte)
  closeSync(file)

  const bytes = readFileSync(disk)
  const summary = await whatIsOn(createMemoryDevice(new Uint8Array(bytes)))
  expect(summary).toMatchObject({
    table: 'gpt',
    esp: 1,
    biosBootable: false,
    problems: [],
    distribution: { id: 'debian', version: '12', partition: 2 },
    partitions: [
      { number: 1, name: 'ESP', content: 'fat32', label: 'ESP', isEsp: true },
      { number: 2, content: 'ext4', label: 'root', isEsp: false },
    ],
    loaders: [{ partition: 1, path: '/EFI/BOOT/BOOTX64.EFI', architecture: 'x86_64', problem: '', signers: [] }],
    kernels: [
      {
        partition: 2,
        path: '/boot/vmlinuz-6.1.0-1-amd64',
        initrd: '/boot/initrd.img-6.1.0-1-amd64',
        version: '6.1.0-1-amd64',
      },
    ],
  })
  expect(summary.bootableFor.map(({ firmware, bootable }) => [firmware, bootable])).toEqual([
    ['bios', false],
    ['x86_64', true],
  ])
  expect(summary.bootableFor[0]?.reason).toMatch(/no code/)

  // The library keeps all of it.
  const slipway = join(import.meta.dirname, '..', '..', 'bin', 'slipway')
  const state = ['--state', inFolder('state')]
  expect(run(slipway, 'image', 'add', disk, '--name', 'golden', ...state)).toMatch(
    /^Added golden@1: 70 MiB, \S+ \S+ on disk, Debian GNU\/Linux 12 \(bookworm\) 12; boots x86_64\.$/m,
  )
  const shown = JSON.parse(run(slipway, 'image', 'show', 'golden', '--json', ...state)) as { contents: unknown }
  expect(shown.contents).toEqual(JSON.parse(JSON.stringify(summary)))
  const told = run(slipway, 'image', 'show', 'golden', ...state)
  expect(told).toMatch(/^partition 1 +fat32, 34 MiB, EFI system partition, ESP$/m)
  expect(told).toMatch(/^loader +\/EFI\/BOOT\/BOOTX64\.EFI, x86_64$/m)
  expect(told).toMatch(/^kernel +\/boot\/vmlinuz-6\.1\.0-1-amd64 6\.1\.0-1-amd64$/m)

  // The same, made to start from a BIOS: boot code is what makes the difference, and 55 AA.
  bytes.set(readFileSync('/usr/lib/grub/i386-pc/boot.img').subarray(0, 440), 0)
  expect((await whatIsOn(createMemoryDevice(new Uint8Array(bytes)))).biosBootable).toBe(true)
  bytes[510] = 0
  const unsigned = await whatIsOn(createMemoryDevice(new Uint8Array(bytes)))
  expect(unsigned.table).toBe('gpt')
  expect(unsigned.bootableFor[0]).toMatchObject({ firmware: 'bios', bootable: false })
  expect(unsigned.bootableFor[0]?.reason).toMatch(/55 AA/)
})

test('an ESP whose loader is for another processor is not bootable, and says why', async () => {
  const fat = emptyFile('wrong.fat', 4 * mebibyte)
  run('mkfs.fat', fat)
  const grub = inFolder('wrong.efi')
  run('grub-mkimage', '-O', 'x86_64-efi', '-o', grub, '-p', '/', 'normal')
  run('mmd', '-i', fat, '::/EFI', '::/EFI/BOOT')
  run('mcopy', '-i', fat, grub, '::/EFI/BOOT/BOOTAA64.EFI')
  const summary = await whatIsOn(createMemoryDevice(new Uint8Array(readFileSync(fat))))
  expect(summary.table).toBe('none')
  expect(summary.bootableFor).toContainEqual({
    firmware: 'arm64',
    bootable: false,
    reason: '\\EFI\\BOOT\\BOOTAA64.EFI is there, but it is for x86_64, its name is for arm64.',
  })
})

test.for([
  ['ext4 with 4 KiB blocks', ['-t', 'ext4', '-b', '4096']],
  ['ext4 with 1 KiB blocks and inline data', ['-t', 'ext4', '-b', '1024', '-O', 'inline_data']],
  ['ext4 with meta_bg', ['-t', 'ext4', '-b', '1024', '-O', 'meta_bg,^resize_inode']],
  ['ext4 without 64bit', ['-t', 'ext4', '-O', '^64bit,^metadata_csum']],
  ['ext3', ['-t', 'ext3', '-b', '1024']],
  ['ext2', ['-t', 'ext2', '-b', '1024']],
] as const)('%s: every file of a tree is read back', async ([name, options]) => {
  const tree = inFolder(`tree ${name}`)
  mkdirSync(join(tree, 'deep/er/and deeper'), { recursive: true })
  mkdirSync(join(tree, 'many'))
  const files: [path: string, content: Buffer][] = [
    ['empty', Buffer.alloc(0)],
    ['tiny', Buffer.from('tiny')],
    ['inline-sized', randomBytes(100)],
    ['deep/er/and deeper/ünïcode', randomBytes(5000)],
    // Past 12 direct blocks, and past the first indirect one of 256 numbers, into the third level with 1 KiB blocks.
    ['large', randomBytes(9 * mebibyte)],
  ]
  for (let i = 0; i < 3000; i++)
    files.push([`many/a-long-enough-name-to-make-an-index-${i}`, Buffer.from(String(i % 10))])
  for (const [path, content] of files) writeFileSync(join(tree, path), content)
  const sparse = openSync(join(tree, 'sparse'), 'w')
  for (let i = 0; i < 400; i++) writeSync(sparse, Buffer.from([i & 0xff]), 0, 1, i * 20_000)
  closeSync(sparse)
  files.push(['sparse', readFileSync(join(tree, 'sparse'))])
  symlinkSync('deep/er', join(tree, 'link'))
  symlinkSync(`/deep/../deep/${'./'.repeat(40)}er/and deeper`, join(tree, 'long-link'))

  const image = emptyFile(`${name}.img`, 64 * mebibyte)
  run('mke2fs', '-q', '-F', ...options, '-d', tree, image)
  // e2fsck -D makes the hashed index (htree) of the big directory, which mke2fs -d does not.
  try {
    run('e2fsck', '-f', '-y', '-D', image)
  } catch (error) {
    expect((error as { readonly status?: number }).status).toBe(1)
  }
  const ext = await openExt4(sourceOfBytes(new Uint8Array(readFileSync(image))))
  if (ext === undefined) throw new Error('not ext')
  for (const [path, content] of files.filter(([path], i) => !path.startsWith('many') || i % 150 === 0)) {
    const file = await ext.open(path)
    expect(file && Buffer.compare(await readWhole(file), content), path).toBe(0)
  }
  expect((await ext.list('many'))?.length).toBe(3000)
  expect((await ext.list('link'))?.map((entry) => entry.name)).toEqual(['and deeper'])
  expect((await ext.list('long-link'))?.map((entry) => entry.name)).toEqual(['ünïcode'])
})

test.for([
  ['FAT12', '12', 2],
  ['FAT16', '16', 20],
  ['FAT32', '32', 40],
] as const)('%s: fragmented files and a folder of many names are read back', async ([name, bits, size]) => {
  const image = emptyFile(`${name}.img`, size * mebibyte)
  run('mkfs.fat', '-F', bits, '-s', '1', image)
  run('mmd', '-i', image, '::/many')
  const content = randomBytes(300_000)
  const paths: string[] = []
  const source = inFolder('content')
  // Files between which others are removed again leave gaps, and the last file goes into the gaps.
  for (let i = 0; i < 60; i++) {
    const path = join(folder, `A name of thirty characters ${i}`)
    writeFileSync(path, content.subarray(i * 3000, i * 3000 + 3000))
    paths.push(path)
  }
  run('mcopy', '-i', image, ...paths, '::/many')
  run('mdel', '-i', image, ...paths.filter((_, i) => i % 2 === 0).map((path) => `::/many/${path.split('/').at(-1)}`))
  writeFileSync(source, content)
  run('mcopy', '-i', image, source, '::/many/Fragmented')
  const fat = await openFat(sourceOfBytes(new Uint8Array(readFileSync(image))))
  if (fat === undefined) throw new Error('not FAT')
  const file = await fat.open('/MANY/fragmented')
  expect(file && Buffer.compare(await readWhole(file), content)).toBe(0)
  expect((await fat.list('/many'))?.length).toBe(31)
  const last = await fat.open('/many/a name of thirty characters 59')
  expect(last && Buffer.compare(await readWhole(last), content.subarray(59 * 3000, 60 * 3000))).toBe(0)
})

test('what mkfs and others put on disks that are not read here is called by its name', async () => {
  const swap = emptyFile('swap.img', mebibyte)
  run('mkswap', swap)
  const summary = await whatIsOn(createMemoryDevice(new Uint8Array(readFileSync(swap))))
  expect(summary).toMatchObject({ table: 'none', partitions: [], esp: undefined, biosBootable: false })
})

test("Debian's iPXE disc is ISO 9660 and starts from a BIOS", async () => {
  const copy = inFolder('ipxe.iso')
  copyFileSync('/usr/lib/ipxe/ipxe.iso', copy)
  const summary = await whatIsOn(createMemoryDevice(new Uint8Array(readFileSync(copy))))
  expect(summary.bootableFor[0]).toMatchObject({ firmware: 'bios', bootable: true })
})
