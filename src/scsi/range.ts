/** Blocks that a CDB names, checked against the disk. */

import { transferBytesMax } from './limits.ts'
import type { LogicalUnit } from './logical-unit.ts'
import { CheckCondition, condition, invalidCdbField } from './sense.ts'

/** SBC-3 §4.5: an LBA or a length past the last block. INFORMATION is the first LBA that is not there. */
export function checkRange(unit: LogicalUnit, lba: number, blocks: number): void {
  if (lba + blocks > unit.blockCount) {
    throw new CheckCondition(condition.addressOutOfRange, { information: Math.max(lba, unit.blockCount) })
  }
}

/** SBC-3 §6.6.4, MAXIMUM TRANSFER LENGTH: `lengthByte` is where in the CDB the length stands. */
export function checkTransfer(unit: LogicalUnit, blocks: number, lengthByte: number): void {
  if (blocks * unit.blockBytes > transferBytesMax) throw invalidCdbField(lengthByte)
}

/** RDPROTECT, WRPROTECT, VRPROTECT: without protection information anything but 0 is refused. SBC-3 §4.22. */
export function checkProtection(cdb: Uint8Array): void {
  if (((cdb[1] as number) & 0xe0) !== 0) throw invalidCdbField(1, 7)
}
