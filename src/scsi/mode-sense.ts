/** MODE SENSE (6), (10). SPC-4 §6.11, §6.12. */
import { putU16, putU24, putU32, putU64, u16 } from '../wire/big-endian.ts'
import { type Command, respond } from './command.ts'
import type { LogicalUnit } from './logical-unit.ts'
import { defaultMode, type ModePage, modePages } from './mode.ts'
import { CheckCondition, condition, invalidCdbField } from './sense.ts'

export const modeSenseCommands: readonly Command[] = [
  {
    opcode: 0x1a,
    name: 'MODE SENSE (6)',
    usage: '1a 08 ff ff ff 04',
    access: 'read',
    run: (unit, task) => {
      const cdb = task.cdb
      const descriptor = isWanted(cdb) ? shortDescriptor(unit) : new Uint8Array(0)
      const pages = pagesOf(unit, cdb)
      // Table 444:  0 mode data length | 1 medium type | 2 device-specific | 3 block descriptor length
      const data = new Uint8Array(4 + descriptor.byteLength + pages.byteLength)
      data[0] = data.byteLength - 1
      data[2] = deviceSpecific(unit)
      data[3] = descriptor.byteLength
      data.set(descriptor, 4)
      data.set(pages, 4 + descriptor.byteLength)
      return respond(task, data, cdb[4] as number)
    },
  },
  {
    opcode: 0x5a,
    name: 'MODE SENSE (10)',
    usage: '5a 18 ff ff 000000 ffff 04',
    access: 'read',
    run: (unit, task) => {
      const cdb = task.cdb
      const long = ((cdb[1] as number) & 0x10) !== 0
      const describe = long ? longDescriptor : shortDescriptor
      const descriptor = isWanted(cdb) ? describe(unit) : new Uint8Array(0)
      const pages = pagesOf(unit, cdb)
      // Table 445:  0..1 mode data length | 2 medium type | 3 device-specific | 4 LONGLBA | 6..7 block descriptor length
      const data = new Uint8Array(8 + descriptor.byteLength + pages.byteLength)
      putU16(data, 0, data.byteLength - 2)
      data[3] = deviceSpecific(unit)
      data[4] = long && descriptor.byteLength > 0 ? 1 : 0
      putU16(data, 6, descriptor.byteLength)
      data.set(descriptor, 8)
      data.set(pages, 8 + descriptor.byteLength)
      return respond(task, data, u16(cdb, 7))
    },
  },
]

/** DBD, disable block descriptors. */
function isWanted(cdb: Uint8Array): boolean {
  return ((cdb[1] as number) & 0x08) === 0
}

/** SBC-3 §6.5.1: WP and DPOFUA. */
function deviceSpecific(unit: LogicalUnit): number {
  return (unit.writeProtection === undefined ? 0 : 0x80) | 0x10
}

/** SBC-3 table 168:  0..3 number of blocks | 5..7 block length */
function shortDescriptor(unit: LogicalUnit): Uint8Array {
  const bytes = new Uint8Array(8)
  putU32(bytes, 0, Math.min(unit.blockCount, 0xffff_ffff))
  putU24(bytes, 5, unit.blockBytes)
  return bytes
}

/** SBC-3 table 169:  0..7 number of blocks | 12..15 block length */
function longDescriptor(unit: LogicalUnit): Uint8Array {
  const bytes = new Uint8Array(16)
  putU64(bytes, 0, unit.blockCount)
  putU32(bytes, 12, unit.blockBytes)
  return bytes
}

/** PC in byte 2: 0 current, 1 changeable, 2 default, 3 saved. */
function pagesOf(unit: LogicalUnit, cdb: Uint8Array): Uint8Array {
  const pageControl = (cdb[2] as number) >> 6
  const page = (cdb[2] as number) & 0x3f
  const subpage = cdb[3] as number
  if (pageControl === 3) throw new CheckCondition(condition.savingNotSupported)
  const chosen = modePages.filter((each) => (page === 0x3f || each.page === page) && isSubpage(each, subpage))
  if (chosen.length === 0) {
    // Page 00h is vendor specific and empty: initiators ask for it to get the header alone.
    if (page === 0 && subpage === 0) return new Uint8Array(0)
    throw invalidCdbField(modePages.some((each) => each.page === page || page === 0x3f) ? 3 : 2, page === 0x3f ? 7 : 5)
  }
  const rendered = chosen.map((each) => render(unit, each, pageControl))
  const bytes = new Uint8Array(rendered.reduce((sum, each) => sum + each.byteLength, 0))
  let at = 0
  for (const each of rendered) {
    bytes.set(each, at)
    at += each.byteLength
  }
  return bytes
}

/** FFh is every subpage. */
function isSubpage(page: ModePage, subpage: number): boolean {
  return subpage === 0xff || page.subpage === subpage
}

function render(unit: LogicalUnit, page: ModePage, pageControl: number): Uint8Array {
  if (pageControl === 2) return page.render(defaultMode())
  const bytes = page.render(unit.mode)
  if (pageControl === 1) bytes.set(page.changeable.subarray(2), 2)
  return bytes
}
