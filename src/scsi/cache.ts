/** SYNCHRONIZE CACHE (10), (16) and PRE-FETCH (10), (16). SBC-3 §5.29, §5.30, §5.7, §5.8. */
import { u16, u32, u64 } from '../wire/big-endian.ts'
import type { Command, Reply } from './command.ts'
import { readRange } from './device-access.ts'
import { pieceBytes, prefetchBytesMax } from './limits.ts'
import type { LogicalUnit } from './logical-unit.ts'
import { checkRange } from './range.ts'

const immediateBit = 0x02

export const cacheCommands: readonly Command[] = [
  {
    opcode: 0x35,
    name: 'SYNCHRONIZE CACHE (10)',
    usage: '35 02 ffffffff 1f ffff 04',
    access: 'write',
    run: (unit, task) => synchronize(unit, u32(task.cdb, 2), u16(task.cdb, 7)),
  },
  {
    opcode: 0x91,
    name: 'SYNCHRONIZE CACHE (16)',
    usage: '91 02 ffffffffffffffff ffffffff 1f 04',
    access: 'write',
    run: (unit, task) => synchronize(unit, u64(task.cdb, 2), u32(task.cdb, 10)),
  },
  {
    opcode: 0x34,
    name: 'PRE-FETCH (10)',
    usage: '34 02 ffffffff 1f ffff 04',
    access: 'read',
    run: (unit, task) => prefetch(unit, task.cdb, u32(task.cdb, 2), u16(task.cdb, 7)),
  },
  {
    opcode: 0x90,
    name: 'PRE-FETCH (16)',
    usage: '90 02 ffffffffffffffff ffffffff 1f 04',
    access: 'read',
    run: (unit, task) => prefetch(unit, task.cdb, u64(task.cdb, 2), u32(task.cdb, 10)),
  },
]

/**
 * All of the cache, whichever range was named: the device knows no less. IMMED allows an earlier answer and does not ask
 * for one; GOOD means here that the data is on stable storage.
 */
function synchronize(unit: LogicalUnit, lba: number, blocks: number): Reply {
  checkRange(unit, lba, blocks)
  const pending = unit.device.flush()
  return pending === undefined ? 0 : pending.then(zero)
}

function zero(): number {
  return 0
}

/** No block is promised to stay cached, so the answer is GOOD and never CONDITION MET. 0 blocks is up to the last. */
function prefetch(unit: LogicalUnit, cdb: Uint8Array, lba: number, blocks: number): Reply {
  checkRange(unit, lba, blocks)
  const offset = lba * unit.blockBytes
  const toTheEnd = unit.blockCount * unit.blockBytes - offset
  const bytes = Math.min(blocks === 0 ? toTheEnd : blocks * unit.blockBytes, toTheEnd, prefetchBytesMax)
  if (((cdb[1] as number) & immediateBit) === 0) return warm(unit, offset, bytes)
  // Nobody waits for it: one at a time, and a read error is told to whoever reads the block.
  if (unit.isPrefetching) return 0
  unit.isPrefetching = true
  const over = (): void => {
    unit.isPrefetching = false
  }
  warm(unit, offset, bytes).then(over, over)
  return 0
}

async function warm(unit: LogicalUnit, offset: number, bytes: number): Promise<number> {
  for (let at = 0; at < bytes; at += pieceBytes) await readRange(unit, offset + at, Math.min(pieceBytes, bytes - at))
  return 0
}
