/** What is on a disk, in one answer: how it is divided, what could start it, and what it would start. */
import type { BlockDevice } from '../block/device.ts'
import { type Content, contentOf } from './content.ts'
import type { DiskError } from './disk-error.ts'
import type { DirectoryEntry, FileSystem } from './file-system.ts'
import { isIso9660 } from './iso9660.ts'
import { inspectedFileCountMax } from './limits.ts'
import { bzImageVersion } from './linux-image.ts'
import { readOsRelease } from './os-release.ts'
import { isEsp, type Partition, type PartitionTable, readPartitionTable } from './partitions.ts'
import { type Architecture, isUki, readPe, sectionText } from './pe.ts'
import { type ByteSource, isDiskError, sliceOf, sourceOfDevice } from './source.ts'

/** Who would start the disk: a BIOS, or UEFI on a processor. */
export type Firmware = 'bios' | Architecture

export interface DiskSummary {
  readonly sizeBytes: number
  readonly table: 'gpt' | 'mbr' | 'none'
  readonly partitions: readonly PartitionSummary[]
  /** The number of the EFI system partition: marked as one, or else a FAT one with a loader at the standard place. */
  readonly esp: number | undefined
  readonly loaders: readonly LoaderFile[]
  readonly kernels: readonly KernelFile[]
  readonly distribution: Distribution | undefined
  /** 55 AA and code before it. Says nothing of whether the code works. */
  readonly biosBootable: boolean
  /** For each firmware that a loader or boot code exists for, and for BIOS and x86_64 always. */
  readonly bootableFor: readonly Bootability[]
  /** What is wrong and did not stop the reading. */
  readonly problems: readonly string[]
}

export interface PartitionSummary extends Partition {
  readonly isEsp: boolean
  /** 'fat32', 'ext4', 'swap', ...; 'unknown'. */
  readonly content: string
  readonly label: string
  readonly uuid: string
}

/** An EFI application at the place where firmware looks on its own (UEFI 2.10 §3.5.1.1). */
export interface LoaderFile {
  readonly partition: number
  readonly path: string
  /** What its header says; undefined when it is no PE image or of another processor. */
  readonly architecture: Architecture | undefined
  /** Why firmware would not start it; empty when nothing speaks against it. */
  readonly problem: string
  readonly signers: readonly string[]
}

export interface KernelFile {
  readonly partition: number
  readonly path: string
  /** Undefined for a unified kernel image, which has its own inside, and where none was found. */
  readonly initrd: string | undefined
  readonly version: string
}

export interface Distribution {
  readonly id: string
  readonly name: string
  readonly version: string
  readonly partition: number
}

export interface Bootability {
  readonly firmware: Firmware
  readonly bootable: boolean
  /** A sentence, with what to do where it is not. */
  readonly reason: string
}

export const removableLoaders: ReadonlyArray<readonly [architecture: Architecture, fileName: string]> = [
  ['x86_64', 'BOOTX64.EFI'],
  ['arm64', 'BOOTAA64.EFI'],
  ['x86', 'BOOTIA32.EFI'],
  ['arm32', 'BOOTARM.EFI'],
  ['riscv64', 'BOOTRISCV64.EFI'],
  ['loongarch64', 'BOOTLOONGARCH64.EFI'],
]

/** A part of the disk that can be looked into. `number` 0 is the whole disk, used without a table. */
export interface Volume {
  readonly number: number
  readonly partition: Partition
  readonly content: Content
}

export interface OpenedDisk {
  readonly source: ByteSource
  readonly table: PartitionTable
  /** A GPT that is announced and unreadable: no partitions then. */
  readonly tableError: DiskError | undefined
  readonly volumes: readonly Volume[]
}

/** Opens whatever can be opened. A broken part is in the answer, not thrown. @throws {OperationError} ioError */
export async function openDisk(source: ByteSource): Promise<OpenedDisk> {
  let tableError: DiskError | undefined
  let table: PartitionTable
  try {
    table = await readPartitionTable(source)
  } catch (error) {
    if (!isDiskError(error)) throw error
    tableError = error
    const bootSector = { hasSignature: true, hasCode: false }
    table = { kind: 'none', sectorBytes: 512, diskId: '', partitions: [], problems: [error.message], bootSector }
  }
  const volumes: Volume[] = []
  for (const partition of table.partitions) {
    const content = await contentOf(sliceOf(source, partition.offsetBytes, partition.sizeBytes))
    volumes.push({ number: partition.number, partition, content })
  }
  // An ISO image made for USB sticks has a table and is ISO 9660 as a whole; the table's parts do not show its files.
  const whole = await contentOf(source)
  const isIso = whole.kind === 'fileSystem' && isIso9660(whole.fileSystem)
  if ((table.kind === 'none' && tableError === undefined && whole.kind !== 'unknown') || isIso) {
    const partition = {
      number: 0,
      type: '',
      name: '',
      id: '',
      offsetBytes: 0,
      sizeBytes: source.sizeBytes,
      active: false,
    }
    volumes.push({ number: 0, partition, content: whole })
  }
  return { source, table, tableError, volumes }
}

/** @throws {OperationError} ioError; never because of what the bytes say */
export async function whatIsOn(device: BlockDevice): Promise<DiskSummary> {
  return summaryOf(await openDisk(sourceOfDevice(device)))
}

export async function summaryOf(disk: OpenedDisk): Promise<DiskSummary> {
  const { source, table, volumes } = disk
  const problems = [...table.problems]
  const loaders: LoaderFile[] = []
  const kernels: KernelFile[] = []
  let distribution: Distribution | undefined
  for (const { number, content } of volumes) {
    const place = number === 0 ? 'the disk' : `partition ${number}`
    if (content.kind === 'unreadable') problems.push(`${place}: ${content.error.message}`)
    if (content.kind !== 'fileSystem') continue
    const { fileSystem } = content
    for (const note of fileSystem.notes) problems.push(`${place} (${fileSystem.kind}): ${note}`)
    try {
      loaders.push(...(await loadersIn(fileSystem, number)))
      kernels.push(...(await kernelsIn(fileSystem, number)))
      const release = await readOsRelease(fileSystem)
      if (release !== undefined) distribution ??= { ...release, partition: number }
    } catch (error) {
      if (!isDiskError(error)) throw error
      problems.push(`${place}: ${error.message}`)
    }
  }
  const isoBoot = volumes.flatMap(({ content }) => {
    if (content.kind !== 'fileSystem' || !isIso9660(content.fileSystem)) return []
    return content.fileSystem.bootEntries.filter(({ bootable }) => bootable).map(({ platform }) => platform)
  })
  const { bootSector } = table
  // A FAT or ISO volume without a table has 55 AA and code too: a boot sector that a BIOS runs like any other.
  const biosBootable = bootSector.hasSignature && bootSector.hasCode
  return {
    sizeBytes: source.sizeBytes,
    table: table.kind,
    partitions: volumes.filter(({ number }) => number > 0).map(partitionSummary),
    esp: espOf(volumes, loaders),
    loaders,
    kernels,
    distribution,
    biosBootable,
    bootableFor: bootabilityOf({ disk, loaders, biosBootable, isoBoot }),
    problems,
  }
}

function partitionSummary({ partition, content }: Volume): PartitionSummary {
  const fileSystem = content.kind === 'fileSystem' ? content.fileSystem : undefined
  return {
    ...partition,
    isEsp: isEsp(partition),
    content: fileSystem?.kind ?? (content.kind === 'known' ? content.name : content.kind),
    label: fileSystem?.label ?? '',
    uuid: fileSystem?.uuid ?? '',
  }
}

function espOf(volumes: readonly Volume[], loaders: readonly LoaderFile[]): number | undefined {
  const marked = volumes.find(({ partition }) => isEsp(partition))
  return marked?.number ?? loaders.find(({ partition }) => partition > 0)?.partition
}

/** \EFI\BOOT\BOOT*.EFI of a FAT volume: firmware looks there on every FAT volume of a disk, marked as ESP or not. */
async function loadersIn(fileSystem: FileSystem, partition: number): Promise<LoaderFile[]> {
  if (!fileSystem.kind.startsWith('fat')) return []
  const found: LoaderFile[] = []
  for (const [expected, fileName] of removableLoaders) {
    const path = `/EFI/BOOT/${fileName}`
    const file = await fileSystem.open(path)
    if (file !== undefined) found.push({ partition, path, ...(await judgeLoader(file, expected)) })
  }
  return found
}

async function judgeLoader(
  file: ByteSource,
  expected: Architecture,
): Promise<Pick<LoaderFile, 'architecture' | 'problem' | 'signers'>> {
  try {
    const image = await readPe(file)
    if (image === undefined) return { architecture: undefined, problem: 'it is no EFI program', signers: [] }
    const { architecture, subsystem } = image
    const signers = image.signatures.flatMap((signature) => signature.signers)
    let problem = ''
    if (architecture !== expected)
      problem = `it is for ${architecture ?? 'another processor'}, its name is for ${expected}`
    else if (subsystem !== 'application') problem = 'it is no EFI application'
    return { architecture, problem, signers }
  } catch (error) {
    if (!isDiskError(error)) throw error
    return { architecture: undefined, problem: error.message, signers: [] }
  }
}

const kernelName = /^(?:vmlinuz|vmlinux|Image|bzImage|linux)(?:-(.+))?$/

/** What goes with a kernel whose file is not named by version. */
const initrdNames = ['initrd.img', 'initrd', 'initramfs', 'initramfs.img', 'initrd.gz']

async function kernelsIn(fileSystem: FileSystem, partition: number): Promise<KernelFile[]> {
  const found: KernelFile[] = []
  for (const folder of ['/', '/boot']) {
    const entries = await fileSystem.list(folder)
    if (entries === undefined) continue
    const names = new Set(entries.map((entry) => entry.name))
    for (const { name, kind, sizeBytes } of entries.slice(0, inspectedFileCountMax)) {
      const match = kernelName.exec(name)
      if (match === null || kind !== 'file' || sizeBytes < 4096) continue
      const prefix = folder === '/' ? '/' : `${folder}/`
      const file = await fileSystem.open(prefix + name)
      const version = match[1] ?? (file && (await bzImageVersion(file))?.split(' ')[0]) ?? ''
      const candidates = [`initrd.img-${version}`, `initramfs-${version}.img`, `initrd-${version}`, ...initrdNames]
      const initrd = candidates.find((candidate) => names.has(candidate))
      found.push({ partition, path: prefix + name, initrd: initrd && prefix + initrd, version })
    }
  }
  // Unified kernel images (UAPI.1): every one in /EFI/Linux of an ESP.
  for (const { name } of (await efiFiles(fileSystem, '/EFI/Linux')).slice(0, inspectedFileCountMax)) {
    const path = `/EFI/Linux/${name}`
    const file = await fileSystem.open(path)
    const image = file && (await readPe(file))
    if (file === undefined || image === undefined || !isUki(image)) continue
    found.push({
      partition,
      path,
      initrd: undefined,
      version: (await sectionText(file, image, '.uname'))?.trim() ?? '',
    })
  }
  return found
}

async function efiFiles(fileSystem: FileSystem, folder: string): Promise<readonly DirectoryEntry[]> {
  if (!fileSystem.kind.startsWith('fat')) return []
  const entries = await fileSystem.list(folder)
  return (entries ?? []).filter(({ name, kind }) => kind === 'file' && /\.efi$/i.test(name))
}

function bootabilityOf(facts: {
  readonly disk: OpenedDisk
  readonly loaders: readonly LoaderFile[]
  readonly biosBootable: boolean
  readonly isoBoot: readonly string[]
}): Bootability[] {
  const { disk, loaders, biosBootable, isoBoot } = facts
  const { bootSector } = disk.table
  const answers: Bootability[] = []
  const add = (firmware: Firmware, bootable: boolean, reason: string): void => {
    answers.push({ firmware, bootable, reason })
  }
  if (biosBootable) add('bios', true, 'The boot sector has code and its signature 55 AA.')
  else if (isoBoot.includes('bios'))
    add('bios', false, 'The boot catalogue has an image for BIOS, but only a CD is started by that, not a disk.')
  else if (!bootSector.hasSignature) {
    add(
      'bios',
      false,
      'The boot sector has no signature 55 AA: install a BIOS boot loader (grub-install --target=i386-pc).',
    )
  } else {
    add('bios', false, 'The boot sector has no code: install a BIOS boot loader (grub-install --target=i386-pc).')
  }
  for (const [architecture, fileName] of removableLoaders) {
    const own = loaders.filter(({ path }) => path.endsWith(`/${fileName}`))
    const good = own.find(({ problem }) => problem === '')
    const path = `\\EFI\\BOOT\\${fileName}`
    if (good !== undefined) add(architecture, true, `${path} is on partition ${good.partition}.`)
    else if (own[0] !== undefined) add(architecture, false, `${path} is there, but ${own[0].problem}.`)
    else if (architecture === 'x86_64') {
      if (isoBoot.includes('uefi'))
        add(
          architecture,
          false,
          'The boot catalogue has an image for UEFI, but only a CD is started by that, not a disk.',
        )
      else add(architecture, false, `${path} is missing: ${missingAdvice(disk)}.`)
    }
  }
  return answers
}

function missingAdvice(disk: OpenedDisk): string {
  const fat = disk.volumes.some(
    ({ content }) => content.kind === 'fileSystem' && content.fileSystem.kind.startsWith('fat'),
  )
  if (!fat) return 'there is no FAT partition for it; UEFI needs an EFI system partition'
  return 'copy a loader there (grub-install --removable, or bootctl install)'
}
