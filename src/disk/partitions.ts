/**
 * Partition tables: MBR (the four entries and the chain of extended boot records) and GPT (UEFI 2.10 §5.3), both of its
 * headers. A GPT whose first header is bad is read from its second, as firmware does.
 */
import { crc32 } from '@node-rs/crc32'
import { DiskError, malformed } from './disk-error.ts'
import { Fields, isZero } from './fields.ts'
import { gptEntryBytesMax, gptEntryCountMax, logicalPartitionCountMax } from './limits.ts'
import { type ByteSource, isDiskError } from './source.ts'

export interface PartitionTable {
  readonly kind: 'gpt' | 'mbr' | 'none'
  /** The unit the table counts in: 512 or 4096. */
  readonly sectorBytes: number
  /** GPT's disk GUID, or the MBR's signature as 8 hex digits (what PARTUUID is made of). */
  readonly diskId: string
  readonly partitions: readonly Partition[]
  /** What is wrong with it though it could be read: 'the first GPT header is damaged; the second was used'. */
  readonly problems: readonly string[]
  readonly bootSector: BootSector
}

export interface BootSector {
  /** Bytes 510 and 511 are 55 AA: without it no BIOS, and not iPXE's sanboot, starts the disk. */
  readonly hasSignature: boolean
  /** The 440 bytes of code are not all zero. */
  readonly hasCode: boolean
}

export interface Partition {
  /** As Linux counts: sda1 is 1. */
  readonly number: number
  /** GPT: the type's GUID, lower case. MBR: the type byte, as '0x0c'. */
  readonly type: string
  readonly name: string
  /** PARTUUID. */
  readonly id: string
  readonly offsetBytes: number
  readonly sizeBytes: number
  /** MBR's active flag, or GPT's legacy BIOS bootable attribute. */
  readonly active: boolean
}

export const espTypeGuid = 'c12a7328-f81f-11d2-ba4b-00a0c93ec93b'
export const biosBootTypeGuid = '21686148-6449-6e6f-744e-656564454649'
const espTypeByte = '0xef'
const protectiveType = 0xee
const extendedTypes: readonly number[] = [0x05, 0x0f, 0x85]
const bootCodeBytes = 440

export function isEsp(partition: Partition): boolean {
  return partition.type === espTypeGuid || partition.type === espTypeByte
}

/**
 * Whatever table is on the disk; `none` when there is none, which is a fact and not an error.
 * @throws {DiskError} malformed when a GPT is announced and neither of its copies can be read
 */
export async function readPartitionTable(source: ByteSource): Promise<PartitionTable> {
  const noBootSector: BootSector = { hasSignature: false, hasCode: false }
  if (source.sizeBytes < 512) return none(noBootSector)
  const sector = new Fields('MBR', await source.read(0, 512))
  const bootSector: BootSector = {
    hasSignature: sector.u16(510) === 0xaa55,
    hasCode: !isZero(sector.slice(0, bootCodeBytes)),
  }
  const gpt = await readGpt(source, bootSector, isProtective(sector))
  if (gpt !== undefined) return gpt
  if (!bootSector.hasSignature) return none(bootSector)
  return (await readMbr(source, sector, bootSector)) ?? none(bootSector)
}

function none(bootSector: BootSector): PartitionTable {
  return { kind: 'none', sectorBytes: 512, diskId: '', partitions: [], problems: [], bootSector }
}

// MBR: 440 bytes code | 4 disk signature | 2 | 4 entries of 16 | 55 AA
// entry: 1 status | 3 CHS first | 1 type | 3 CHS last | 4 first sector | 4 sector count
interface MbrEntry {
  readonly status: number
  readonly type: number
  readonly firstSector: number
  readonly sectorCount: number
}

function mbrEntry(sector: Fields, index: number): MbrEntry {
  const at = 446 + 16 * index
  return {
    status: sector.u8(at),
    type: sector.u8(at + 4),
    firstSector: sector.u32(at + 8),
    sectorCount: sector.u32(at + 12),
  }
}

function isProtective(sector: Fields): boolean {
  return sector.u16(510) === 0xaa55 && [0, 1, 2, 3].some((i) => mbrEntry(sector, i).type === protectiveType)
}

/** Undefined when the four entries make no sense: a file system's boot sector ends with 55 AA too. */
async function readMbr(
  source: ByteSource,
  sector: Fields,
  bootSector: BootSector,
): Promise<PartitionTable | undefined> {
  const sectorBytes = 512
  const entries = [0, 1, 2, 3].map((i) => mbrEntry(sector, i))
  const used = entries.filter((entry) => entry.type !== 0 && entry.sectorCount > 0)
  const sane = (entry: MbrEntry): boolean => (entry.status & 0x7f) === 0 && entry.firstSector > 0
  if (used.length === 0 || !used.every(sane)) return undefined
  // A FAT boot sector with code where the entries are: only partitions that begin inside the disk count.
  if (used.every((entry) => entry.firstSector * sectorBytes >= source.sizeBytes)) return undefined

  const diskId = sector.u32(440).toString(16).padStart(8, '0')
  const partitions: Partition[] = []
  const problems: string[] = []
  const add = (number: number, entry: MbrEntry, base: number): void => {
    const offsetBytes = (base + entry.firstSector) * sectorBytes
    const sizeBytes = entry.sectorCount * sectorBytes
    if (offsetBytes + sizeBytes > source.sizeBytes)
      problems.push(`partition ${number} reaches past the end of the disk`)
    partitions.push({
      number,
      type: `0x${entry.type.toString(16).padStart(2, '0')}`,
      name: '',
      id: `${diskId}-${number.toString(16).padStart(2, '0')}`,
      offsetBytes,
      sizeBytes,
      active: entry.status === 0x80,
    })
  }
  for (const [index, entry] of entries.entries()) {
    if (entry.type === 0 || entry.sectorCount === 0) continue
    if (!extendedTypes.includes(entry.type)) {
      add(index + 1, entry, 0)
      continue
    }
    // Each extended boot record names one logical partition (relative to itself) and the next record (relative to the
    // first). A record that points back would be a ring: the count ends it.
    let record = entry.firstSector
    for (let number = 5; number < 5 + logicalPartitionCountMax; number++) {
      if ((record + 1) * sectorBytes > source.sizeBytes) {
        problems.push(`logical partition ${number} is described past the end of the disk`)
        break
      }
      const ebr = new Fields('MBR', await source.read(record * sectorBytes, 512))
      if (ebr.u16(510) !== 0xaa55) {
        problems.push(`the record of logical partition ${number} is not one`)
        break
      }
      const logical = mbrEntry(ebr, 0)
      const next = mbrEntry(ebr, 1)
      if (logical.type !== 0 && logical.sectorCount > 0) add(number, logical, record)
      if (next.type === 0 || next.sectorCount === 0) break
      record = entry.firstSector + next.firstSector
    }
  }
  return { kind: 'mbr', sectorBytes, diskId, partitions, problems, bootSector }
}

interface GptHeader {
  readonly ownSector: number
  readonly otherSector: number
  readonly diskId: string
  readonly partitions: readonly Partition[]
}

async function readGpt(
  source: ByteSource,
  bootSector: BootSector,
  isAnnounced: boolean,
): Promise<PartitionTable | undefined> {
  const reasons: string[] = []
  let anySignature = false
  // An image of a disk with 4096-byte sectors is a file like any other; only the place of the header tells.
  for (const sectorBytes of [512, 4096]) {
    const sectorCount = Math.floor(source.sizeBytes / sectorBytes)
    if (sectorCount < 6) continue
    const attempt = async (sector: number): Promise<GptHeader | undefined> => {
      try {
        return await readGptCopy(source, sectorBytes, sector)
      } catch (error) {
        if (!isDiskError(error)) throw error
        anySignature = true
        reasons.push(error.message)
        return undefined
      }
    }
    const first = await attempt(1)
    const problems: string[] = []
    if (first !== undefined) {
      const second = first.otherSector < sectorCount ? await attempt(first.otherSector) : undefined
      if (second === undefined) problems.push('the second GPT header is missing or damaged (repair: sgdisk -e)')
      else if (first.otherSector !== sectorCount - 1) {
        problems.push(
          'the second GPT header is not at the end of the disk: the disk was made larger (repair: sgdisk -e)',
        )
      }
      return gptTable(first, sectorBytes, source, problems, bootSector)
    }
    // Without a protective MBR an old second header at the end of a disk that was partitioned anew would be believed.
    if (!isAnnounced && !anySignature) continue
    const second = await attempt(sectorCount - 1)
    if (second !== undefined) {
      problems.push('the first GPT header is damaged; the second was used (repair: sgdisk -g or gdisk, r, b)')
      return gptTable(second, sectorBytes, source, problems, bootSector)
    }
  }
  if (anySignature) throw new DiskError('malformed', 'GPT', `no usable copy (${reasons.join('; ')})`)
  if (isAnnounced) throw malformed('GPT', 'the MBR announces one (type 0xee), and neither copy is there')
  return undefined
}

function gptTable(
  header: GptHeader,
  sectorBytes: number,
  source: ByteSource,
  problems: string[],
  bootSector: BootSector,
): PartitionTable {
  for (const { number, offsetBytes, sizeBytes } of header.partitions) {
    if (offsetBytes + sizeBytes > source.sizeBytes)
      problems.push(`partition ${number} reaches past the end of the disk`)
  }
  const { diskId, partitions } = header
  return { kind: 'gpt', sectorBytes, diskId, partitions, problems, bootSector }
}

/** Undefined when there is no GPT signature at all. @throws {DiskError} when there is one and the rest is wrong. */
async function readGptCopy(source: ByteSource, sectorBytes: number, sector: number): Promise<GptHeader | undefined> {
  // UEFI 2.10 table 5.5: 8 signature | 4 revision | 4 header size | 4 header CRC-32 | 4 | 8 own LBA | 8 other LBA |
  // 8 first usable | 8 last usable | 16 disk GUID | 8 entries LBA | 4 entry count | 4 entry size | 4 entries CRC-32
  const header = new Fields('GPT', await source.read(sector * sectorBytes, sectorBytes))
  if (header.ascii(0, 8) !== 'EFI PART') return undefined
  const headerBytes = header.u32(12)
  if (headerBytes < 92 || headerBytes > sectorBytes) throw malformed('GPT', `a header of ${headerBytes} bytes`)
  const summed = new Uint8Array(header.slice(0, headerBytes))
  summed.fill(0, 16, 20)
  if (crc32(summed) !== header.u32(16)) throw malformed('GPT', `the header at sector ${sector} has a wrong CRC`)
  const ownSector = header.u64(24)
  if (ownSector !== sector) throw malformed('GPT', `the header at sector ${sector} says it is at ${ownSector}`)

  const entriesAt = header.u64(72) * sectorBytes
  const entryCount = header.u32(80)
  const entryBytes = header.u32(84)
  if (entryCount > gptEntryCountMax)
    throw malformed('GPT', `${entryCount} entries, and ${gptEntryCountMax} is the most`)
  if (entryBytes < 128 || entryBytes > gptEntryBytesMax || entryBytes % 8 !== 0) {
    throw malformed('GPT', `entries of ${entryBytes} bytes`)
  }
  const array = await source.read(entriesAt, entryCount * entryBytes)
  if (crc32(array) !== header.u32(88))
    throw malformed('GPT', `the entries of sector ${sector}'s header have a wrong CRC`)

  const partitions: Partition[] = []
  for (let index = 0; index < entryCount; index++) {
    // Table 5.6: 16 type GUID | 16 unique GUID | 8 first LBA | 8 last LBA, inclusive | 8 attributes | 72 name, UTF-16
    const entry = new Fields('GPT', array.subarray(index * entryBytes, (index + 1) * entryBytes))
    if (isZero(entry.slice(0, 16))) continue
    const firstSector = entry.u64(32)
    const lastSector = entry.u64(40)
    if (lastSector < firstSector) throw malformed('GPT', `partition ${index + 1} ends before it begins`)
    partitions.push({
      number: index + 1,
      type: entry.guid(0),
      name: entry.utf16(56, 72),
      id: entry.guid(16),
      offsetBytes: firstSector * sectorBytes,
      sizeBytes: (lastSector - firstSector + 1) * sectorBytes,
      // Bit 2: legacy BIOS bootable.
      active: (entry.u8(48) & 4) !== 0,
    })
  }
  return { ownSector, otherSector: header.u64(32), diskId: header.guid(56), partitions }
}
