/**
 * FAT12, FAT16 and FAT32, read only (Microsoft, "FAT: General Overview of On-Disk Format" 1.03; long names in its
 * chapter "FAT Long Directory Entries"). Every cluster chain is bounded by the number of clusters, so a ring ends.
 */
import { malformed, unsupported } from './disk-error.ts'
import { Fields } from './fields.ts'
import { type DirectoryEntry, type FileSystem, pathParts } from './file-system.ts'
import { fatDirectoryEntryCountMax, fileRunCountMax } from './limits.ts'
import { type ByteSource, type Run, sourceOfRuns } from './source.ts'

const attribute = { volumeLabel: 0x08, directory: 0x10, longName: 0x0f } as const
const entryBytes = 32
/** Clusters 0 and 1 do not exist; the first is 2. */
const firstCluster = 2
/** The FAT is read in pieces of this size, each once. */
const fatPieceBytes = 64 * 1024

interface Geometry {
  readonly kind: 'fat12' | 'fat16' | 'fat32'
  readonly clusterBytes: number
  readonly clusterCount: number
  readonly fatOffset: number
  readonly fatBytes: number
  readonly rootOffset: number
  /** 0 on FAT32, whose root is a chain. */
  readonly rootBytes: number
  readonly rootCluster: number
  readonly dataOffset: number
  readonly label: string
  readonly uuid: string
}

interface FatEntry extends DirectoryEntry {
  readonly shortName: string
  readonly cluster: number
  readonly isLabel: boolean
}

/** Undefined when it is not FAT at all. @throws {DiskError} when it says it is and its numbers are impossible */
export async function openFat(source: ByteSource): Promise<FileSystem | undefined> {
  if (source.sizeBytes < 512) return undefined
  const boot = new Fields('FAT', await source.read(0, 512))
  const geometry = geometryOf(boot, source.sizeBytes)
  return geometry === undefined ? undefined : new Fat(source, geometry)
}

function geometryOf(boot: Fields, sizeBytes: number): Geometry | undefined {
  //  0  3 jump  3  8 OEM name  11 2 sector bytes  13 1 sectors per cluster  14 2 reserved sectors  16 1 number of FATs
  // 17  2 root entries  19 2 sectors (16 bits)  21 1 media  22 2 FAT sectors (16 bits)  32 4 sectors (32 bits)
  // FAT32: 36 4 FAT sectors  44 4 root cluster  66 1 boot signature  67 4 serial  71 11 label
  // FAT12, FAT16: 38 1 boot signature  39 4 serial  43 11 label
  const jump = boot.u8(0)
  if (boot.u16(510) !== 0xaa55 || (jump !== 0xeb && jump !== 0xe9)) return undefined
  if (boot.ascii(3, 8).startsWith('NTFS') || boot.ascii(3, 8).startsWith('EXFAT')) return undefined
  const sectorBytes = boot.u16(11)
  const clusterSectors = boot.u8(13)
  const reservedSectors = boot.u16(14)
  const fatCount = boot.u8(16)
  const rootEntries = boot.u16(17)
  const fatSectors16 = boot.u16(22)
  const fatSectors = fatSectors16 !== 0 ? fatSectors16 : boot.u32(36)
  const sectors16 = boot.u16(19)
  const sectorCount = sectors16 !== 0 ? sectors16 : boot.u32(32)
  // These are what makes a boot sector FAT's. GRUB's, PXELINUX's and an MBR's code begin with a jump as well.
  if (![512, 1024, 2048, 4096].includes(sectorBytes)) return undefined
  if (clusterSectors === 0 || (clusterSectors & (clusterSectors - 1)) !== 0) return undefined
  if (reservedSectors === 0 || fatCount === 0 || fatCount > 4 || fatSectors === 0 || boot.u8(21) < 0xf0)
    return undefined

  const rootBytes = Math.ceil((rootEntries * entryBytes) / sectorBytes) * sectorBytes
  const fatOffset = reservedSectors * sectorBytes
  const rootOffset = fatOffset + fatCount * fatSectors * sectorBytes
  const dataOffset = rootOffset + rootBytes
  const clusterBytes = clusterSectors * sectorBytes
  const clusterCount = Math.floor((sectorCount * sectorBytes - dataOffset) / clusterBytes)
  if (clusterCount < 1) throw malformed('FAT', `${sectorCount} sectors leave no room for files`)
  // Some tools count the sectors of the whole disk; what is past the end cannot be read and need not be.
  if (dataOffset > sizeBytes) throw malformed('FAT', 'its tables reach past the end')
  // Linux and EDK2 tell FAT32 by the 16-bit size of the FAT being zero; mkfs.fat makes small FAT32 volumes too.
  const kind = fatSectors16 === 0 ? 'fat32' : clusterCount < 4085 ? 'fat12' : 'fat16'
  const extension = kind === 'fat32' ? 66 : 38
  const hasExtension = boot.u8(extension) === 0x29 || boot.u8(extension) === 0x28
  const serial = boot
    .u32(extension + 1)
    .toString(16)
    .toUpperCase()
    .padStart(8, '0')
  if (kind === 'fat32' && boot.u16(42) !== 0) throw unsupported('FAT', `FAT32 version ${boot.u16(42)}`)
  const label = hasExtension && boot.u8(extension) === 0x29 ? boot.ascii(extension + 5, 11) : ''
  return {
    kind,
    clusterBytes,
    clusterCount,
    fatOffset,
    fatBytes: fatSectors * sectorBytes,
    rootOffset,
    rootBytes,
    rootCluster: kind === 'fat32' ? boot.u32(44) : 0,
    dataOffset,
    label: label === 'NO NAME' ? '' : label,
    uuid: hasExtension ? `${serial.slice(0, 4)}-${serial.slice(4)}` : '',
  }
}

class Fat implements FileSystem {
  readonly kind: Geometry['kind']
  readonly label: string
  readonly uuid: string
  readonly notes: readonly string[] = []
  readonly #source: ByteSource
  readonly #geometry: Geometry
  readonly #fatPieces = new Map<number, Fields>()

  constructor(source: ByteSource, geometry: Geometry) {
    this.#source = source
    this.#geometry = geometry
    this.kind = geometry.kind
    this.label = geometry.label
    this.uuid = geometry.uuid
  }

  async list(path: string): Promise<readonly DirectoryEntry[] | undefined> {
    const found = await this.#find(path)
    if (found === undefined || found.kind !== 'directory') return undefined
    const entries = await this.#entriesOf(found)
    return entries.filter((entry) => !entry.isLabel && entry.name !== '.' && entry.name !== '..').map(publicEntry)
  }

  async open(path: string): Promise<ByteSource | undefined> {
    const found = await this.#find(path)
    if (found === undefined || found.kind !== 'file') return undefined
    const runs = found.sizeBytes === 0 ? [] : await this.#chain(found.cluster, found.sizeBytes)
    return sourceOfRuns('FAT', runs, found.sizeBytes)
  }

  async stat(path: string): Promise<DirectoryEntry | undefined> {
    const found = await this.#find(path)
    return found === undefined ? undefined : publicEntry(found)
  }

  async #find(path: string): Promise<FatEntry | undefined> {
    let entry: FatEntry = {
      name: '/',
      shortName: '/',
      kind: 'directory',
      sizeBytes: 0,
      cluster: this.#geometry.rootCluster,
      isLabel: false,
    }
    for (const part of pathParts(path)) {
      if (entry.kind !== 'directory') return undefined
      const wanted = part.toUpperCase()
      const next: FatEntry | undefined = (await this.#entriesOf(entry)).find(
        (each) => !each.isLabel && (each.name.toUpperCase() === wanted || each.shortName.toUpperCase() === wanted),
      )
      if (next === undefined) return undefined
      entry = next
    }
    return entry
  }

  async #entriesOf(directory: FatEntry): Promise<FatEntry[]> {
    const { rootBytes, rootOffset } = this.#geometry
    // '..' of a directory in the root has cluster 0, whatever the kind of FAT.
    const isRoot = directory.cluster === 0 || directory.name === '/'
    if (isRoot && rootBytes > 0) return decodeDirectory(await this.#source.read(rootOffset, rootBytes))
    const cluster = directory.cluster === 0 ? this.#geometry.rootCluster : directory.cluster
    // One cluster more than the most, so that a directory that goes on is seen to.
    const runs = await this.#chain(cluster, fatDirectoryEntryCountMax * entryBytes + this.#geometry.clusterBytes)
    const bytes = runs.reduce((sum, run) => sum + run.bytes, 0)
    if (bytes > fatDirectoryEntryCountMax * entryBytes) throw malformed('FAT', `a directory of ${bytes} bytes`)
    return decodeDirectory(await sourceOfRuns('FAT', runs, bytes).read(0, bytes))
  }

  /** The clusters from `start` as runs, until the chain's end or until `bytesWanted` are there. */
  async #chain(start: number, bytesWanted: number): Promise<Run[]> {
    const { clusterBytes, clusterCount, dataOffset } = this.#geometry
    const runs: { source: ByteSource; offset: number; bytes: number }[] = []
    let cluster = start
    let count = 0
    while (count * clusterBytes < bytesWanted) {
      if (cluster < firstCluster || cluster >= firstCluster + clusterCount) {
        throw malformed('FAT', `a chain leads to cluster ${cluster}, and there are ${clusterCount}`)
      }
      if (++count > clusterCount) throw malformed('FAT', 'a chain of clusters is a ring')
      const offset = dataOffset + (cluster - firstCluster) * clusterBytes
      const last = runs.at(-1)
      if (last !== undefined && last.offset + last.bytes === offset) last.bytes += clusterBytes
      else runs.push({ source: this.#source, offset, bytes: clusterBytes })
      if (runs.length > fileRunCountMax) throw malformed('FAT', `a file in more than ${fileRunCountMax} pieces`)
      const next = await this.#next(cluster)
      if (next === undefined) break
      cluster = next
    }
    return runs
  }

  /** The cluster after `cluster`; undefined at the end of the chain. */
  async #next(cluster: number): Promise<number | undefined> {
    switch (this.#geometry.kind) {
      case 'fat12': {
        const at = cluster + (cluster >>> 1)
        const pair = (await this.#fatByte(at)) | ((await this.#fatByte(at + 1)) << 8)
        const value = cluster % 2 === 1 ? pair >>> 4 : pair & 0xfff
        return value >= 0xff8 ? undefined : value
      }
      case 'fat16': {
        const value = (await this.#fatPiece(cluster * 2)).u16((cluster * 2) % fatPieceBytes)
        return value >= 0xfff8 ? undefined : value
      }
      case 'fat32': {
        // The upper four bits are reserved.
        const value = (await this.#fatPiece(cluster * 4)).u32((cluster * 4) % fatPieceBytes) & 0x0fffffff
        return value >= 0x0ffffff8 ? undefined : value
      }
    }
  }

  async #fatByte(at: number): Promise<number> {
    return (await this.#fatPiece(at)).u8(at % fatPieceBytes)
  }

  async #fatPiece(at: number): Promise<Fields> {
    const index = Math.floor(at / fatPieceBytes)
    const known = this.#fatPieces.get(index)
    if (known !== undefined) return known
    const { fatOffset, fatBytes } = this.#geometry
    const offset = index * fatPieceBytes
    if (offset >= fatBytes) throw malformed('FAT', 'the table is shorter than its clusters')
    const bytes = await this.#source.read(fatOffset + offset, Math.min(fatPieceBytes, fatBytes - offset))
    const piece = new Fields('FAT', bytes)
    this.#fatPieces.set(index, piece)
    return piece
  }
}

function publicEntry({ name, kind, sizeBytes }: FatEntry): DirectoryEntry {
  return { name, kind, sizeBytes }
}

function decodeDirectory(bytes: Uint8Array): FatEntry[] {
  const entries: FatEntry[] = []
  // A long name stands before its short entry, last piece first, each piece with the short name's checksum.
  let longName = ''
  let longSum = -1
  for (let at = 0; at + entryBytes <= bytes.byteLength; at += entryBytes) {
    const entry = new Fields('FAT', bytes.subarray(at, at + entryBytes))
    const first = entry.u8(0)
    if (first === 0) break
    if (first === 0xe5) {
      longSum = -1
      continue
    }
    const attributes = entry.u8(11)
    if ((attributes & 0x3f) === attribute.longName) {
      const piece = longPiece(entry)
      if ((first & 0x40) !== 0) {
        longName = piece
        longSum = entry.u8(13)
      } else if (longSum === entry.u8(13)) {
        longName = piece + longName
      } else {
        longSum = -1
      }
      continue
    }
    const shortName = shortNameOf(entry)
    const hasLong = longSum === checksumOf(entry.slice(0, 11))
    entries.push({
      name: hasLong ? longName : shortName,
      shortName,
      kind: (attributes & attribute.directory) !== 0 ? 'directory' : 'file',
      sizeBytes: (attributes & attribute.directory) !== 0 ? 0 : entry.u32(28),
      cluster: entry.u16(26) + entry.u16(20) * 0x10000,
      isLabel: (attributes & attribute.volumeLabel) !== 0,
    })
    longSum = -1
  }
  return entries
}

/** 13 UTF-16 units in three places; the name ends at NUL, the rest is 0xffff. */
function longPiece(entry: Fields): string {
  let text = ''
  for (const at of [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30]) {
    const unit = entry.u16(at)
    if (unit === 0) break
    text += String.fromCharCode(unit)
  }
  return text
}

function shortNameOf(entry: Fields): string {
  // Bits 3 and 4 of byte 12 (Windows NT, Linux): the base or the extension is shown in lower case. 0x05 stands for 0xe5.
  const flags = entry.u8(12)
  const base = latin(entry.slice(0, 8), (flags & 0x08) !== 0)
  const extension = latin(entry.slice(8, 3), (flags & 0x10) !== 0)
  return extension === '' ? base : `${base}.${extension}`
}

function latin(bytes: Uint8Array, lowerCase: boolean): string {
  const text = Array.from(bytes, (byte) => String.fromCharCode(byte))
    .join('')
    .trimEnd()
  return lowerCase ? text.toLowerCase() : text
}

function checksumOf(shortName: Uint8Array): number {
  let sum = 0
  for (const byte of shortName) sum = (((sum & 1) << 7) + (sum >>> 1) + byte) & 0xff
  return sum
}
