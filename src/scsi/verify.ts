/** VERIFY (10), (12), (16) and WRITE AND VERIFY (10), (12), (16). SBC-3 §5.33 to §5.35, §5.44 to §5.46. */
import { u16, u32, u64 } from '../wire/big-endian.ts'
import type { Command, Reply } from './command.ts'
import { gather } from './data-out.ts'
import { alone, firstDifference, readRange, shared } from './device-access.ts'
import { pieceBytes } from './limits.ts'
import type { LogicalUnit } from './logical-unit.ts'
import { checkProtection, checkRange, checkTransfer } from './range.ts'
import { CheckCondition, condition, invalidCdbField } from './sense.ts'
import type { Task } from './task.ts'
import { startWrite, wholeBlocks } from './write.ts'

export const verifyCommands: readonly Command[] = [
  {
    opcode: 0x2f,
    name: 'VERIFY (10)',
    usage: '2f f6 ffffffff 1f ffff 04',
    access: 'read',
    run: (unit, task) => verify(unit, task, u32(task.cdb, 2), u16(task.cdb, 7), 7),
  },
  {
    opcode: 0xaf,
    name: 'VERIFY (12)',
    usage: 'af f6 ffffffff ffffffff 1f 04',
    access: 'read',
    run: (unit, task) => verify(unit, task, u32(task.cdb, 2), u32(task.cdb, 6), 6),
  },
  {
    opcode: 0x8f,
    name: 'VERIFY (16)',
    usage: '8f f6 ffffffffffffffff ffffffff 1f 04',
    access: 'read',
    run: (unit, task) => verify(unit, task, u64(task.cdb, 2), u32(task.cdb, 10), 10),
  },
  {
    opcode: 0x2e,
    name: 'WRITE AND VERIFY (10)',
    usage: '2e f6 ffffffff 1f ffff 04',
    access: 'write',
    writes: true,
    run: (unit, task) => writeAndVerify(unit, task, u32(task.cdb, 2), u16(task.cdb, 7), 7),
  },
  {
    opcode: 0xae,
    name: 'WRITE AND VERIFY (12)',
    usage: 'ae f6 ffffffff ffffffff 1f 04',
    access: 'write',
    writes: true,
    run: (unit, task) => writeAndVerify(unit, task, u32(task.cdb, 2), u32(task.cdb, 6), 6),
  },
  {
    opcode: 0x8e,
    name: 'WRITE AND VERIFY (16)',
    usage: '8e f6 ffffffffffffffff ffffffff 1f 04',
    access: 'write',
    writes: true,
    run: (unit, task) => writeAndVerify(unit, task, u64(task.cdb, 2), u32(task.cdb, 10), 10),
  },
]

/** BYTCHK, bits 2 and 1 of byte 1: 00b the medium is read, 01b compared with the data-out, 11b with one block of it. */
function byteCheck(cdb: Uint8Array): number {
  return ((cdb[1] as number) >> 1) & 0x03
}

function verify(unit: LogicalUnit, task: Task, lba: number, blocks: number, lengthByte: number): Reply {
  checkProtection(task.cdb)
  const check = byteCheck(task.cdb)
  if (check === 2) throw invalidCdbField(1, 2)
  checkRange(unit, lba, blocks)
  checkTransfer(unit, blocks, lengthByte)
  const offset = lba * unit.blockBytes
  const bytes = blocks * unit.blockBytes
  if (check === 0) return compare(unit, offset, bytes, undefined)
  const wanted = check === 3 ? Math.min(bytes, unit.blockBytes) : bytes
  const came = wholeBlocks(unit, task, wanted)
  if (check === 1) return compare(unit, offset, came, gather(task, came)).then(() => wanted)
  if (came === 0) return wanted
  return compareWithBlock(unit, offset, bytes, gather(task, came)).then(() => wanted)
}

/** Reads, and compares with `expected` if there is any. An unreadable block is a medium error. */
async function compare(
  unit: LogicalUnit,
  offset: number,
  bytes: number,
  expected: Uint8Array | undefined,
): Promise<number> {
  for (let at = 0; at < bytes; at += pieceBytes) {
    const size = Math.min(pieceBytes, bytes - at)
    const found = await shared(unit, offset + at, size, () => readRange(unit, offset + at, size))
    if (expected !== undefined && firstDifference(found, expected.subarray(at, at + size)) !== -1) {
      throw new CheckCondition(condition.miscompare)
    }
  }
  return 0
}

async function compareWithBlock(unit: LogicalUnit, offset: number, bytes: number, block: Uint8Array): Promise<void> {
  const size = Math.min(pieceBytes, bytes)
  const expected = new Uint8Array(size)
  for (let at = 0; at < size; at += block.byteLength) expected.set(block, at)
  for (let at = 0; at < bytes; at += size) {
    const part = Math.min(size, bytes - at)
    await compare(unit, offset + at, part, expected.subarray(0, part))
  }
}

/** The medium is what is verified: written, flushed, then read back before anybody else can write there. */
function writeAndVerify(unit: LogicalUnit, task: Task, lba: number, blocks: number, lengthByte: number): Reply {
  checkProtection(task.cdb)
  const check = byteCheck(task.cdb)
  if (check > 1) throw invalidCdbField(1, 2)
  checkRange(unit, lba, blocks)
  checkTransfer(unit, blocks, lengthByte)
  const wanted = blocks * unit.blockBytes
  const bytes = wholeBlocks(unit, task, wanted)
  if (bytes === 0) return wanted
  const offset = lba * unit.blockBytes
  return alone(unit, offset, bytes, async () => {
    await startWrite(unit, task, offset, bytes)
    await unit.device.flush()
    const found = await readRange(unit, offset, bytes)
    if (check === 1 && firstDifference(found, gather(task, bytes)) !== -1)
      throw new CheckCondition(condition.miscompare)
    return wanted
  })
}
