/** Goal: firmware and partitioning tools accept the disks the laboratory makes. Method: sgdisk judges, and fixed bytes. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { partitionTypes, writeGpt, writeGrubForBios } from '../../../lab/disk-layout.ts'

const id = '5c1b0a7e-0000-4000-8000-536c69707761'
const biosBoot = { name: 'BIOS boot', type: partitionTypes.biosBoot, id, firstSector: 64, sectorCount: 1984 }
const efi = { name: 'EFI system', type: partitionTypes.efiSystem, id, firstSector: 2048, sectorCount: 1024 }

test('sgdisk finds no problem in a table, and the partitions where they were put', () => {
  const disk = new Uint8Array(4096 * 512)
  writeGpt(disk, id, [biosBoot, efi])
  const folder = mkdtempSync(join(tmpdir(), 'slipway-layout-'))
  try {
    const file = join(folder, 'disk.img')
    writeFileSync(file, disk)
    expect(execFileSync('sgdisk', ['-v', file], { encoding: 'utf8' })).toContain('No problems found')
    expect(execFileSync('sgdisk', ['-i', '2', file], { encoding: 'utf8' })).toMatch(
      /C12A7328-F81F-11D2-BA4B-00A0C93EC93B[\s\S]*First sector: 2048[\s\S]*Last sector: 3071[\s\S]*'EFI system'/,
    )
  } finally {
    rmSync(folder, { recursive: true })
  }
})

test('the MBR ends in 55 aa and says where GRUB goes on', () => {
  const disk = new Uint8Array(4096 * 512)
  const boot = new Uint8Array(512).fill(0x11)
  const core = new Uint8Array(3 * 512).fill(0x22)
  writeGrubForBios(disk, { boot, core }, biosBoot)
  writeGpt(disk, id, [biosBoot, efi])
  const view = new DataView(disk.buffer)
  expect(view.getUint16(510)).toBe(0x55aa)
  expect(view.getBigUint64(0x5c, true)).toBe(64n)
  expect(view.getBigUint64(64 * 512 + 500, true)).toBe(65n) // the core image's second sector
  expect(view.getUint16(64 * 512 + 508, true)).toBe(2) // and how many follow
  expect(view.getUint8(450)).toBe(0xee)
})
