/**
 * The bytes around a disk's file systems: GPT (UEFI 2.10 §5.3) with a protective MBR that also carries GRUB's BIOS boot
 * code, so that one image boots from either firmware.
 *
 *   sector 0          protective MBR: GRUB's boot.img, one partition of type ee, 55 aa
 *          1          GPT header
 *          2 .. 33    128 entries of 128 bytes
 *          ...        partitions
 *     last-32 .. -1   the entries again
 *          last       the header again
 */
import { crc32 } from 'node:zlib'
import { assert } from '../src/base/assert.ts'

export const sectorBytes: number = 512

export type Partition = {
  readonly name: string
  /** GUIDs as they are printed. */
  readonly type: string
  readonly id: string
  readonly firstSector: number
  readonly sectorCount: number
}

export const partitionTypes = {
  efiSystem: 'c12a7328-f81f-11d2-ba4b-00a0c93ec93b',
  biosBoot: '21686148-6449-6e6f-744e-656564454649',
  linuxData: '0fc63daf-8483-4772-8e79-3d69d8477de4',
} as const

const entryCount = 128
const entryBytes = 128
const tableSectors = (entryCount * entryBytes) / sectorBytes

/** Writes table and MBR into a disk of `disk.byteLength`; leaves everything else as it is. */
export function writeGpt(disk: Uint8Array, diskId: string, partitions: readonly Partition[]): void {
  assert(disk.byteLength % sectorBytes === 0, 'a disk is whole sectors')
  const sectorCount = disk.byteLength / sectorBytes
  const entries = new Uint8Array(entryCount * entryBytes)
  for (const [index, partition] of partitions.entries()) {
    const last = partition.firstSector + partition.sectorCount - 1
    assert(
      partition.firstSector > 1 + tableSectors && last < sectorCount - 1 - tableSectors,
      'partition inside the disk',
    )
    writeEntry(entries.subarray(index * entryBytes, (index + 1) * entryBytes), partition)
  }

  const primary = { own: 1, other: sectorCount - 1, table: 2 }
  const backup = { own: sectorCount - 1, other: 1, table: sectorCount - 1 - tableSectors }
  for (const place of [primary, backup]) {
    disk.set(entries, place.table * sectorBytes)
    disk.set(header(place, sectorCount, diskId, crc32(entries)), place.own * sectorBytes)
  }
  writeProtectiveMbr(disk, sectorCount)
}

function writeEntry(entry: Uint8Array, partition: Partition): void {
  const view = new DataView(entry.buffer, entry.byteOffset, entry.byteLength)
  entry.set(guidBytes(partition.type), 0)
  entry.set(guidBytes(partition.id), 16)
  view.setBigUint64(32, BigInt(partition.firstSector), true)
  view.setBigUint64(40, BigInt(partition.firstSector + partition.sectorCount - 1), true) // inclusive
  for (let i = 0; i < partition.name.length; i++) view.setUint16(56 + 2 * i, partition.name.charCodeAt(i), true)
}

function header(
  place: { readonly own: number; readonly other: number; readonly table: number },
  sectorCount: number,
  diskId: string,
  entriesCrc: number,
): Uint8Array {
  const bytes = new Uint8Array(92)
  const view = new DataView(bytes.buffer)
  bytes.set(new TextEncoder().encode('EFI PART'), 0)
  view.setUint32(8, 0x00010000, true) // revision 1.0
  view.setUint32(12, bytes.byteLength, true)
  view.setBigUint64(24, BigInt(place.own), true)
  view.setBigUint64(32, BigInt(place.other), true)
  view.setBigUint64(40, BigInt(2 + tableSectors), true) // first usable
  view.setBigUint64(48, BigInt(sectorCount - 2 - tableSectors), true) // last usable
  bytes.set(guidBytes(diskId), 56)
  view.setBigUint64(72, BigInt(place.table), true)
  view.setUint32(80, entryCount, true)
  view.setUint32(84, entryBytes, true)
  view.setUint32(88, entriesCrc, true)
  view.setUint32(16, crc32(bytes), true) // over itself with this field zero
  return bytes
}

/** iPXE's BIOS `sanboot` gives up with "Input/output error (1d852039)" on a disk whose first sector lacks 55 aa. */
function writeProtectiveMbr(disk: Uint8Array, sectorCount: number): void {
  const view = new DataView(disk.buffer, disk.byteOffset, sectorBytes)
  // Marked active: some BIOSes start no disk without an active partition.
  disk.set([0x80, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff], 446)
  view.setUint32(454, 1, true)
  view.setUint32(458, Math.min(sectorCount - 1, 0xffffffff), true)
  disk.fill(0, 462, 510)
  view.setUint16(510, 0xaa55, true)
}

/**
 * Puts GRUB's boot.img into the MBR and its core image into the BIOS boot partition, as grub-bios-setup does (GRUB 2.06
 * include/grub/i386/pc/boot.h): each sector loader is told where the next stage lies.
 */
export function writeGrubForBios(
  disk: Uint8Array,
  grub: { readonly boot: Uint8Array; readonly core: Uint8Array },
  biosBoot: Partition,
): void {
  assert(grub.boot.byteLength === sectorBytes, 'boot.img is one sector')
  const coreSectors = Math.ceil(grub.core.byteLength / sectorBytes)
  assert(coreSectors <= biosBoot.sectorCount, 'the core image fits its partition')

  const kernelSectorAt = 0x5c // GRUB_BOOT_MACHINE_KERNEL_SECTOR
  const driveCheckAt = 0x66 // GRUB_BOOT_MACHINE_DRIVE_CHECK
  const codeEnd = 440 // disk signature and partition table stay
  const mbr = new Uint8Array(grub.boot)
  new DataView(mbr.buffer).setBigUint64(kernelSectorAt, BigInt(biosBoot.firstSector), true)
  mbr.set([0x90, 0x90], driveCheckAt) // trust the drive number the BIOS gives, as for every hard disk
  disk.set(mbr.subarray(0, codeEnd), 0)

  const core = new Uint8Array(grub.core)
  // The last block list entry of core.img's first sector: where the rest of it is.
  const list = new DataView(core.buffer, sectorBytes - 12, 12)
  list.setBigUint64(0, BigInt(biosBoot.firstSector + 1), true)
  list.setUint16(8, coreSectors - 1, true)
  disk.set(core, biosBoot.firstSector * sectorBytes)
}

/** The first three fields are little-endian (UEFI 2.10 appendix A). */
function guidBytes(text: string): Uint8Array {
  const hex = text.replaceAll('-', '')
  assert(/^[0-9a-f]{32}$/.test(hex), 'a GUID is 32 hex digits')
  const bytes = Buffer.from(hex, 'hex')
  const order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15]
  return Uint8Array.from(order, (from) => bytes[from] ?? 0)
}
