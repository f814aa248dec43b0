/** COMPARE AND WRITE, ORWRITE (16), WRITE ATOMIC (16): nobody sees them half done. SBC-3 §5.2, §5.6; SBC-4 §5.48. */
import { u16, u32, u64 } from '../wire/big-endian.ts'
import type { Command, Reply } from './command.ts'
import { gather } from './data-out.ts'
import { alone, firstDifference, readRange } from './device-access.ts'
import { atomicBytesMax } from './limits.ts'
import type { LogicalUnit } from './logical-unit.ts'
import { checkProtection, checkRange, checkTransfer } from './range.ts'
import { CheckCondition, condition, invalidCdbField } from './sense.ts'
import type { Task } from './task.ts'
import { wholeBlocks } from './write.ts'

const fuaBit = 0x08

export const atomicCommands: readonly Command[] = [
  {
    opcode: 0x89,
    name: 'COMPARE AND WRITE',
    usage: '89 f8 ffffffffffffffff 000000 ff 1f 04',
    access: 'write',
    writes: true,
    run: compareAndWrite,
  },
  {
    opcode: 0x8b,
    name: 'ORWRITE (16)',
    usage: '8b f8 ffffffffffffffff ffffffff 1f 04',
    access: 'write',
    writes: true,
    run: orWrite,
  },
  {
    opcode: 0x9c,
    name: 'WRITE ATOMIC (16)',
    usage: '9c f8 ffffffffffffffff ffff ffff 1f 04',
    access: 'write',
    writes: true,
    run: writeAtomic,
  },
]

/** The data-out is what is expected there, then what to write: twice the number of blocks, neither more nor less. */
function compareAndWrite(unit: LogicalUnit, task: Task): Reply {
  const { cdb } = task
  checkProtection(cdb)
  const lba = u64(cdb, 2)
  const blocks = cdb[13] as number
  checkRange(unit, lba, blocks)
  const bytes = blocks * unit.blockBytes
  if (task.dataOutBytes !== 2 * bytes) throw invalidCdbField(13)
  if (bytes === 0) return 0
  const offset = lba * unit.blockBytes
  const data = gather(task, 2 * bytes)
  return alone(unit, offset, bytes, async () => {
    const difference = firstDifference(await readRange(unit, offset, bytes), data.subarray(0, bytes))
    // INFORMATION: how many bytes of the data-out were as expected.
    if (difference !== -1) throw new CheckCondition(condition.miscompare, { information: difference })
    await unit.device.write(offset, data.subarray(bytes))
    await flushIfAsked(unit, cdb)
    return 2 * bytes
  })
}

function orWrite(unit: LogicalUnit, task: Task): Reply {
  const { cdb } = task
  checkProtection(cdb)
  const lba = u64(cdb, 2)
  const blocks = u32(cdb, 10)
  checkRange(unit, lba, blocks)
  checkTransfer(unit, blocks, 10)
  const wanted = blocks * unit.blockBytes
  const bytes = wholeBlocks(unit, task, wanted)
  if (bytes === 0) return wanted
  const offset = lba * unit.blockBytes
  return alone(unit, offset, bytes, async () => {
    const merged = await readRange(unit, offset, bytes)
    const bits = gather(task, bytes)
    for (let i = 0; i < bytes; i++) merged[i] = (merged[i] as number) | (bits[i] as number)
    await unit.device.write(offset, merged)
    await flushIfAsked(unit, cdb)
    return wanted
  })
}

/**
 * Whole in the eyes of every other command, and handed to the device as one write. Boundaries inside a write are not
 * offered: the block limits page says 0 for them.
 */
function writeAtomic(unit: LogicalUnit, task: Task): Reply {
  const { cdb } = task
  checkProtection(cdb)
  const lba = u64(cdb, 2)
  const blocks = u16(cdb, 12)
  if (u16(cdb, 10) !== 0) throw invalidCdbField(10)
  checkRange(unit, lba, blocks)
  const bytes = blocks * unit.blockBytes
  if (bytes > atomicBytesMax) throw invalidCdbField(12)
  // A part of it would not be whole.
  if (task.dataOutBytes < bytes) {
    throw new CheckCondition(condition.invalidFieldInInformationUnit, { bytesWanted: bytes })
  }
  if (bytes === 0) return 0
  const offset = lba * unit.blockBytes
  return alone(unit, offset, bytes, async () => {
    await unit.device.write(offset, gather(task, bytes))
    await flushIfAsked(unit, cdb)
    return bytes
  })
}

async function flushIfAsked(unit: LogicalUnit, cdb: Uint8Array): Promise<void> {
  if (((cdb[1] as number) & fuaBit) !== 0 || !unit.mode.writeCacheEnabled) await unit.device.flush()
}
