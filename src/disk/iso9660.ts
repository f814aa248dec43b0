/**
 * ISO 9660 (ECMA-119) with Rock Ridge's long names (NM), and El Torito's boot catalogue ("El Torito" Bootable CD-ROM
 * Format Specification 1.0; platform 0xef from UEFI 2.10 §13.3.2.1). Read only, sectors of 2048 bytes.
 */
import { malformed } from './disk-error.ts'
import { Fields } from './fields.ts'
import { type DirectoryEntry, type FileSystem, pathParts } from './file-system.ts'
import { directoryBytesMax, elToritoEntryCountMax, isoDescriptorCountMax } from './limits.ts'
import { type ByteSource, sliceOf } from './source.ts'

const sectorBytes = 2048

export interface IsoFileSystem extends FileSystem {
  readonly kind: 'iso9660'
  /** What the boot catalogue offers; empty without one. */
  readonly bootEntries: readonly BootEntry[]
}

export function isIso9660(fileSystem: FileSystem): fileSystem is IsoFileSystem {
  return fileSystem.kind === 'iso9660'
}

export interface BootEntry {
  readonly platform: 'bios' | 'uefi' | 'other'
  readonly bootable: boolean
  /** The image in the disc: code for BIOS, a FAT file system for UEFI. Its size is what the catalogue says, or to the end. */
  readonly offset: number
  readonly sizeBytes: number
}

interface IsoEntry extends DirectoryEntry {
  readonly offset: number
}

/** Undefined when it is not ISO 9660. @throws {DiskError} */
export async function openIso9660(source: ByteSource): Promise<IsoFileSystem | undefined> {
  let primary: Fields | undefined
  let catalogueSector = 0
  for (let index = 0; index < isoDescriptorCountMax; index++) {
    const offset = (16 + index) * sectorBytes
    if (offset + sectorBytes > source.sizeBytes) break
    // 1 type | 5 'CD001' | 1 version
    const descriptor = new Fields('ISO 9660', await source.read(offset, sectorBytes))
    if (descriptor.ascii(1, 5) !== 'CD001') break
    const type = descriptor.u8(0)
    if (type === 255) break
    if (type === 1) primary ??= descriptor
    if (type === 0 && descriptor.ascii(7, 32) === 'EL TORITO SPECIFICATION') catalogueSector = descriptor.u32(71)
  }
  if (primary === undefined) return undefined
  if (primary.u16(128) !== sectorBytes) throw malformed('ISO 9660', `blocks of ${primary.u16(128)} bytes`)
  const bootEntries = catalogueSector === 0 ? [] : await readCatalogue(source, catalogueSector)
  return new Iso(source, primary, bootEntries)
}

async function readCatalogue(source: ByteSource, sector: number): Promise<BootEntry[]> {
  const catalogue = new Fields('El Torito', await source.read(sector * sectorBytes, sectorBytes))
  let sum = 0
  for (let at = 0; at < 32; at += 2) sum = (sum + catalogue.u16(at)) & 0xffff
  if (catalogue.u8(0) !== 1 || catalogue.u16(30) !== 0xaa55 || sum !== 0)
    throw malformed('El Torito', 'no validation entry')
  const entries: BootEntry[] = []
  let platform = catalogue.u8(1)
  for (let index = 1; index < elToritoEntryCountMax; index++) {
    const at = index * 32
    const kind = catalogue.u8(at)
    if (kind === 0x90 || kind === 0x91) {
      // A section header: 1 kind | 1 platform | 2 entries | 28 id
      platform = catalogue.u8(at + 1)
      continue
    }
    // 1 0x88 bootable or 0 | 1 media | 2 segment | 1 system | 1 | 2 sectors of 512 | 4 first sector of 2048
    if (kind !== 0x88 && kind !== 0x00) continue
    const offset = catalogue.u32(at + 8) * sectorBytes
    if (offset === 0) continue
    const toEnd = source.sizeBytes - offset
    if (toEnd <= 0) throw malformed('El Torito', 'a boot image past the end')
    // 16 bits of 512-byte sectors reach 32 MiB; makers of larger ESPs write 0 or 1: to the end then.
    const sectors = catalogue.u16(at + 6)
    const isUefi = platform === 0xef
    const sizeBytes = isUefi && sectors <= 1 ? toEnd : Math.min(sectors * 512, toEnd)
    const name = isUefi ? 'uefi' : platform === 0 ? 'bios' : 'other'
    entries.push({ platform: name, bootable: kind === 0x88, offset, sizeBytes })
  }
  return entries
}

class Iso implements IsoFileSystem {
  readonly kind = 'iso9660'
  readonly label: string
  readonly uuid: string
  readonly notes: readonly string[] = []
  readonly bootEntries: readonly BootEntry[]
  readonly #source: ByteSource
  readonly #root: IsoEntry

  constructor(source: ByteSource, primary: Fields, bootEntries: readonly BootEntry[]) {
    this.#source = source
    this.bootEntries = bootEntries
    this.label = primary.ascii(40, 32)
    // As util-linux prints it: the modification date, or the creation date where that is all zeroes.
    const modified = primary.ascii(830, 16)
    const date = /^0*$/.test(modified) ? primary.ascii(813, 16) : modified
    this.uuid = date.replace(/^(....)(..)(..)(..)(..)(..)(..)$/, '$1-$2-$3-$4-$5-$6-$7')
    this.#root = {
      name: '/',
      kind: 'directory',
      offset: primary.u32(156 + 2) * sectorBytes,
      sizeBytes: primary.u32(156 + 10),
    }
  }

  async list(path: string): Promise<readonly DirectoryEntry[] | undefined> {
    const found = await this.#find(path)
    if (found?.kind !== 'directory') return undefined
    return (await this.#entriesOf(found)).map(({ name, kind, sizeBytes }) => ({ name, kind, sizeBytes }))
  }

  async open(path: string): Promise<ByteSource | undefined> {
    const found = await this.#find(path)
    return found?.kind === 'file' ? sliceOf(this.#source, found.offset, found.sizeBytes) : undefined
  }

  async stat(path: string): Promise<DirectoryEntry | undefined> {
    const found = await this.#find(path)
    return found && { name: found.name, kind: found.kind, sizeBytes: found.sizeBytes }
  }

  async #find(path: string): Promise<IsoEntry | undefined> {
    let here = this.#root
    for (const part of pathParts(path)) {
      if (here.kind !== 'directory') return undefined
      const wanted = part.toUpperCase()
      const next: IsoEntry | undefined = (await this.#entriesOf(here)).find(
        (each) => each.name.toUpperCase() === wanted,
      )
      if (next === undefined) return undefined
      here = next
    }
    return here
  }

  async #entriesOf(directory: IsoEntry): Promise<IsoEntry[]> {
    if (directory.sizeBytes > directoryBytesMax)
      throw malformed('ISO 9660', `a directory of ${directory.sizeBytes} bytes`)
    const bytes = await this.#source.read(directory.offset, directory.sizeBytes)
    const entries: IsoEntry[] = []
    let at = 0
    while (at < bytes.byteLength) {
      // 1 length | 1 | 4+4 first sector, both orders | 4+4 bytes | 7 date | 1 flags | ... | 32: 1 name length | name
      const recordBytes = bytes[at] ?? 0
      // No record crosses a sector: zero means the next one begins at the next sector.
      if (recordBytes === 0) {
        at = (Math.floor(at / sectorBytes) + 1) * sectorBytes
        continue
      }
      if (recordBytes < 34) throw malformed('ISO 9660', `a directory record of ${recordBytes} bytes`)
      const record = new Fields('ISO 9660', new Fields('ISO 9660', bytes).slice(at, recordBytes))
      at += recordBytes
      const nameBytes = record.u8(32)
      const rawName = record.slice(33, nameBytes)
      // Names of one byte 0 and 1 are . and ..
      if (nameBytes === 1 && (rawName[0] ?? 0) <= 1) continue
      const isDirectory = (record.u8(25) & 2) !== 0
      const plain = record.ascii(33, nameBytes).replace(/;\d+$/, '').replace(/\.$/, '')
      entries.push({
        name: rockRidgeName(record, 33 + nameBytes + (nameBytes % 2 === 0 ? 1 : 0)) ?? plain,
        kind: isDirectory ? 'directory' : 'file',
        sizeBytes: record.u32(10),
        offset: record.u32(2) * sectorBytes,
      })
    }
    return entries
  }
}

/** SUSP entries from `start`: 2 signature | 1 length | 1 version | ... ; NM: 1 flags | name. */
function rockRidgeName(record: Fields, start: number): string | undefined {
  let name = ''
  let at = start
  while (at + 4 <= record.bytes.byteLength) {
    const length = record.u8(at + 2)
    if (length < 4 || at + length > record.bytes.byteLength) break
    if (record.ascii(at, 2) === 'NM' && length > 5) name += record.ascii(at + 5, length - 5)
    at += length
  }
  return name === '' ? undefined : name
}
