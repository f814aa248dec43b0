import { readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { contentOf } from './content.ts'
import type { FileSystem } from './file-system.ts'
import { isIso9660 } from './iso9660.ts'
import { parseOsRelease } from './os-release.ts'
import { readPartitionTable } from './partitions.ts'
import { isUki, parseSbat, readPe, sectionText } from './pe.ts'
import { type ByteSource, chunksOf, readWhole, sourceOfBytes } from './source.ts'

const vector = (name: string): Uint8Array =>
  new Uint8Array(gunzipSync(readFileSync(new URL(`vectors/${name}.gz`, import.meta.url))))
const sourceOf = (name: string): ByteSource => sourceOfBytes(vector(name))

async function fileSystemOf(name: string): Promise<FileSystem> {
  const content = await contentOf(sourceOf(name))
  if (content.kind !== 'fileSystem') throw new Error(`${name} is ${content.kind}`)
  return content.fileSystem
}

async function textAt(fileSystem: FileSystem, path: string): Promise<string | undefined> {
  const file = await fileSystem.open(path)
  return file && new TextDecoder().decode(await readWhole(file))
}

const lines = (count: number): string => Array.from({ length: count }, (_, i) => `${i + 1}\n`).join('')

describe('partition tables', () => {
  const gptPartitions = [
    {
      number: 1,
      type: 'c12a7328-f81f-11d2-ba4b-00a0c93ec93b',
      name: 'EFI system',
      id: 'aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee',
      offsetBytes: 40 * 512,
      sizeBytes: 21 * 512,
      active: false,
    },
    {
      number: 2,
      type: '0fc63daf-8483-4772-8e79-3d69d8477de4',
      name: 'root µ',
      id: '01020304-0506-0708-090a-0b0c0d0e0f10',
      offsetBytes: 61 * 512,
      sizeBytes: 40 * 512,
      active: false,
    },
  ]

  test('a GPT of sgdisk is read with names, types and places', async () => {
    const table = await readPartitionTable(sourceOf('gpt.img'))
    expect(table.kind).toBe('gpt')
    expect(table.diskId).toBe('11111111-2222-3333-4444-555555555555')
    expect(table.problems).toEqual([])
    expect(table.bootSector).toEqual({ hasSignature: true, hasCode: false })
    expect(table.partitions).toEqual(gptPartitions)
  })

  // 600: inside the first header. 1030: inside the first entries.
  test.for([600, 1030])('with byte %i of the first copy flipped, the second copy is read', async (at) => {
    const bytes = vector('gpt.img').slice()
    bytes[at] = (bytes[at] ?? 0) ^ 1
    const table = await readPartitionTable(sourceOfBytes(bytes))
    expect(table.partitions).toEqual(gptPartitions)
    expect(table.problems).toEqual([expect.stringContaining('the first GPT header is damaged')])
  })

  test('with the second copy gone the first is read, and that is a problem', async () => {
    const bytes = vector('gpt.img').slice()
    bytes.fill(0, bytes.byteLength - 512)
    const table = await readPartitionTable(sourceOfBytes(bytes))
    expect(table.partitions).toEqual(gptPartitions)
    expect(table.problems).toEqual([expect.stringContaining('second GPT header is missing')])
  })

  test('a disk made larger keeps its partitions and is said to be larger', async () => {
    const bytes = vector('gpt.img')
    const larger = new Uint8Array(bytes.byteLength + 8192)
    larger.set(bytes)
    const table = await readPartitionTable(sourceOfBytes(larger))
    expect(table.partitions).toEqual(gptPartitions)
    expect(table.problems).toEqual([expect.stringContaining('made larger')])
  })

  test('a GPT of which both copies are damaged is an error that says so', async () => {
    const bytes = vector('gpt.img').slice()
    bytes[600] = 1
    bytes[bytes.byteLength - 480] = 9
    await expect(readPartitionTable(sourceOfBytes(bytes))).rejects.toThrow(/no usable copy/)
  })

  test('an MBR of sfdisk is read with its logical partitions', async () => {
    const table = await readPartitionTable(sourceOf('mbr.img'))
    expect(table).toMatchObject({ kind: 'mbr', diskId: 'cafe1234', problems: [] })
    const rows = table.partitions.map(({ number, type, offsetBytes, sizeBytes, active, id }) => {
      return [number, type, offsetBytes / 512, sizeBytes / 512, active, id]
    })
    expect(rows).toEqual([
      [1, '0x0c', 2, 10, false, 'cafe1234-01'],
      [2, '0x83', 12, 8, true, 'cafe1234-02'],
      [5, '0x83', 22, 10, false, 'cafe1234-05'],
      [6, '0xef', 40, 10, false, 'cafe1234-06'],
    ])
  })

  test('a chain of extended records that is a ring ends', async () => {
    const bytes = vector('mbr.img').slice()
    // The second record (sector 20 + its link) is made to point at itself: relative sector 0 is the first record again.
    const second = bytes.findIndex((_, at) => at > 20 * 512 && at % 512 === 510 && bytes[at] === 0x55) - 510
    bytes.set(bytes.subarray(20 * 512 + 462, 20 * 512 + 478), second + 462)
    const table = await readPartitionTable(sourceOfBytes(bytes))
    expect(table.partitions.length).toBeLessThanOrEqual(70)
  })

  test.for(['fat12.img', 'fat16.img', 'fat32.img', 'ext4.img'])('%s has no partition table', async (name) => {
    const table = await readPartitionTable(sourceOf(name))
    expect(table.kind).toBe('none')
  })
})

describe('FAT', () => {
  test.for([12, 16, 32])('FAT%i of mkfs.fat and mtools: names long and short, files, folders', async (bits) => {
    const fat = await fileSystemOf(`fat${bits}.img`)
    expect(fat).toMatchObject({ kind: `fat${bits}`, label: `FAT ${bits}`, uuid: `C0FF-EE0${bits % 10}` })
    const root = await fat.list('/')
    expect(root?.map(({ name }) => name).sort()).toEqual(['EFI', 'HELLO.TXT', 'a folder with a long name', 'lower.txt'])
    expect(await textAt(fat, '/hello.txt')).toBe('hello\n')
    expect(await textAt(fat, 'LOWER.TXT')).toBe('short in lower case\n')
    expect(await textAt(fat, '/A Folder with a long name/Ein längerer Name.text')).toBe('a long name, with ünïcode\n')
    expect(await textAt(fat, '//efi/./boot/NUMBERS.TXT')).toBe(lines(2000))
    expect(await textAt(fat, '/AFOLDE~1/../lower.txt')).toBe('short in lower case\n')
    expect(await fat.list('/EFI/BOOT/..')).toEqual(await fat.list('/efi'))
    expect(await fat.open('/EFI')).toBeUndefined()
    expect(await fat.open('/EFI/BOOT/numbers.txt/x')).toBeUndefined()
    expect(await fat.list('/HELLO.TXT')).toBeUndefined()
    expect(await fat.stat('/EFI/BOOT')).toEqual({ name: 'BOOT', kind: 'directory', sizeBytes: 0 })
  })

  test('a file comes in chunks, each from where the last ended', async () => {
    const file = await (await fileSystemOf('fat12.img')).open('/EFI/BOOT/numbers.txt')
    const chunks: Uint8Array[] = []
    if (file !== undefined) for await (const chunk of chunksOf(file, 700)) chunks.push(chunk)
    expect(Buffer.concat(chunks).toString()).toBe(lines(2000))
  })

  test('a chain of clusters that is a ring is malformed', async () => {
    const bytes = vector('fat16.img').slice()
    const fat = await fileSystemOf('fat16.img')
    expect(await textAt(fat, '/EFI/BOOT/numbers.txt')).toBeDefined()
    // Every cluster leads to cluster 3: any file of more than a few clusters is a ring.
    const view = new DataView(bytes.buffer)
    const reserved = view.getUint16(14, true) * 512
    for (let cluster = 2; cluster < 1000; cluster++) view.setUint16(reserved + cluster * 2, 3, true)
    const content = await contentOf(sourceOfBytes(bytes))
    if (content.kind !== 'fileSystem') throw new Error(content.kind)
    await expect(content.fileSystem.list('/EFI')).rejects.toThrow(/a directory of \d+ bytes/)
  })
})

describe('ext', () => {
  test.for([
    ['ext4.img', 'ext4'],
    ['ext4-plain.img', 'ext4'],
    ['ext2.img', 'ext2'],
  ] as const)('%s of mkfs.ext4 -d: files, links, holes, many names', async ([name, kind]) => {
    const ext = await fileSystemOf(name)
    expect(ext).toMatchObject({ kind, label: 'tiny', uuid: '12345678-9abc-def0-1234-56789abcdef0', notes: [] })
    expect(await textAt(ext, '/numbers')).toBe(lines(3000))
    expect(await textAt(ext, '/etc/os-release')).toMatch(/^PRETTY_NAME="Tiny Linux 1 \(test\)"\n/)
    expect(await textAt(ext, '/lib/os-release')).toBe(await textAt(ext, '/usr/lib/os-release'))
    expect(await textAt(ext, '/slow-link')).toBe(await textAt(ext, '/usr/lib/os-release'))
    expect(await textAt(ext, '/sparse')).toBe(`${'\0'.repeat(3000)}end`)
    expect(await textAt(ext, '/boot/vmlinuz-6.1.0-tiny')).toBe('k'.repeat(5000))
    expect(await textAt(ext, '/boot/initrd.img-6.1.0-tiny')).toBe('initrd')
    expect(await ext.stat('/etc/os-release')).toMatchObject({ kind: 'symlink', linkTarget: '../usr/lib/os-release' })
    const many = (await ext.list('/many'))?.map((entry) => entry.name)
    const expected = Array.from({ length: 120 }, (_, i) => `a-name-that-fills-the-directory-${i + 1}`)
    expect(new Set(many)).toEqual(new Set(expected))
    expect(await ext.open('/nothing')).toBeUndefined()
    expect(await ext.open('/numbers/below')).toBeUndefined()
    await expect(ext.open('/loop')).rejects.toThrow(/too many symbolic links/)
  })

  test('a feature that this reader does not know is refused by name', async () => {
    const bytes = vector('ext4.img').slice()
    new DataView(bytes.buffer, bytes.byteOffset).setUint32(1024 + 96, 0x80000000, true)
    const content = await contentOf(sourceOfBytes(bytes))
    expect(content).toMatchObject({ kind: 'unreadable', error: { code: 'unsupported' } })
  })
})

describe('ISO 9660', () => {
  test('a disc of xorriso: long names, and what its boot catalogue offers', async () => {
    const iso = await fileSystemOf('iso.img')
    expect(iso.label).toBe('TINY_ISO')
    expect(await textAt(iso, '/a-directory/A name of Rock Ridge.text')).toBe('a name that is long')
    if (!isIso9660(iso)) throw new Error('no ISO')
    expect(iso.bootEntries.map(({ platform, bootable }) => [platform, bootable])).toEqual([
      ['bios', true],
      ['uefi', true],
    ])
    const uefi = iso.bootEntries[1]
    const whole = sourceOf('iso.img')
    const inside = await contentOf(sourceOfBytes(await whole.read(uefi?.offset ?? 0, uefi?.sizeBytes ?? 0)))
    expect(inside).toMatchObject({ kind: 'fileSystem', fileSystem: { kind: 'fat12' } })
  })
})

describe('PE', () => {
  test('a unified kernel image: processor, sections, SBAT', async () => {
    const source = sourceOf('uki.efi')
    const image = await readPe(source)
    if (image === undefined) throw new Error('no PE')
    expect(image).toMatchObject({ architecture: 'x86_64', subsystem: 'application', signatures: [] })
    expect(isUki(image)).toBe(true)
    expect(await sectionText(source, image, '.cmdline')).toBe('console=ttyS0 quiet')
    expect(parseOsRelease((await sectionText(source, image, '.osrel')) ?? '')).toMatchObject({ id: 'tiny' })
    expect(parseSbat((await sectionText(source, image, '.sbat')) ?? '')).toEqual([
      { component: 'sbat', generation: 1, vendor: 'SBAT Version', version: '1' },
      { component: 'slipway.test', generation: 3, vendor: 'Test', version: '1.2' },
    ])
  })

  test('signed by sbsign: the signer is named', async () => {
    const image = await readPe(sourceOf('signed.efi'))
    expect(image?.signatures).toEqual([{ signers: ['CN=A signer of tests, O=Slipway Test, C=DE'] }])
  })
})
