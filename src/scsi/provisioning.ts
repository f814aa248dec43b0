/** UNMAP, WRITE SAME (10), (16), GET LBA STATUS. SBC-3 §5.32, §5.47, §5.48, §5.4, §4.7. */
import { putU32, putU64, u16, u32, u64 } from '../wire/big-endian.ts'
import { type Command, type Reply, respond } from './command.ts'
import { gather, parameterList } from './data-out.ts'
import { shared } from './device-access.ts'
import {
  pieceBytes,
  statusDescriptorsMax,
  statusExtentsMax,
  statusExtentsOfTurn,
  unmapBlocksMax,
  unmapDescriptorsMax,
  writeSameBlocksMax,
} from './limits.ts'
import type { LogicalUnit } from './logical-unit.ts'
import { checkProtection, checkRange } from './range.ts'
import { CheckCondition, condition, invalidCdbField, invalidParameter } from './sense.ts'
import type { Task } from './task.ts'

/** LBPME: only what gives space back when told to may say so. */
const isThin = (unit: LogicalUnit): boolean => unit.device.thin

export const provisioningCommands: readonly Command[] = [
  {
    opcode: 0x42,
    name: 'UNMAP',
    usage: '42 01 00000000 1f ffff 04',
    access: 'write',
    writes: true,
    supported: isThin,
    run: unmap,
  },
  {
    opcode: 0x41,
    name: 'WRITE SAME (10)',
    usage: '41 f8 ffffffff 1f ffff 04',
    access: 'write',
    writes: true,
    run: (unit, task) =>
      writeSame(unit, task, { lba: u32(task.cdb, 2), blocks: u16(task.cdb, 7), lengthByte: 7 }, false),
  },
  {
    opcode: 0x93,
    name: 'WRITE SAME (16)',
    usage: '93 f9 ffffffffffffffff ffffffff 1f 04',
    access: 'write',
    writes: true,
    run: (unit, task) => {
      const withoutData = ((task.cdb[1] as number) & 0x01) !== 0
      return writeSame(unit, task, { lba: u64(task.cdb, 2), blocks: u32(task.cdb, 10), lengthByte: 10 }, withoutData)
    },
  },
  {
    opcode: 0x9e,
    serviceAction: 0x12,
    name: 'GET LBA STATUS',
    usage: '9e 1f ffffffffffffffff ffffffff 00 04',
    access: 'read',
    supported: isThin,
    run: getLbaStatus,
  },
]

/**
 * Table 113: 0..1 data length | 2..3 descriptor data length | 8.. descriptors: LBA (8), blocks (4), reserved (4).
 * Everything is checked before anything is discarded.
 */
async function unmap(unit: LogicalUnit, task: Task): Promise<number> {
  const { cdb } = task
  if (((cdb[1] as number) & 0x01) !== 0) throw invalidCdbField(1, 0)
  const bytes = u16(cdb, 7)
  if (bytes === 0) return 0
  if (bytes < 8) throw new CheckCondition(condition.parameterListLength)
  const list = parameterList(task, bytes)
  const count = Math.floor(Math.min(u16(list, 2), bytes - 8) / 16)
  if (count > unmapDescriptorsMax) throw invalidParameter(2)
  const ranges = Array.from({ length: count }, (_, i) => ({
    lba: u64(list, 8 + 16 * i),
    blocks: u32(list, 16 + 16 * i),
  }))
  let total = 0
  for (const range of ranges) {
    checkRange(unit, range.lba, range.blocks)
    total += range.blocks
  }
  if (total > unmapBlocksMax) throw invalidParameter(8)
  for (const { lba, blocks } of ranges) {
    if (blocks === 0) continue
    const offset = lba * unit.blockBytes
    const size = blocks * unit.blockBytes
    await shared(unit, offset, size, () => unit.device.discard(offset, size))
  }
  if (!unit.mode.writeCacheEnabled) await unit.device.flush()
  return bytes
}

interface BlockRange {
  readonly lba: number
  readonly blocks: number
  readonly lengthByte: number
}

/** Byte 1: WRPROTECT | ANCHOR | UNMAP | obsolete PBDATA, LBDATA | NDOB. */
function writeSame(unit: LogicalUnit, task: Task, range: BlockRange, withoutData: boolean): Reply {
  const { cdb } = task
  checkProtection(cdb)
  const flags = cdb[1] as number
  const mayUnmap = (flags & 0x08) !== 0
  if ((flags & 0x10) !== 0) throw invalidCdbField(1, 4)
  if (mayUnmap && !unit.device.thin) throw invalidCdbField(1, 3)
  if ((flags & 0x06) !== 0) throw invalidCdbField(1, 2)
  const { lba, blocks, lengthByte } = range
  checkRange(unit, lba, blocks)
  // WSNZ: 0 does not mean "up to the end"; and no more than MAXIMUM WRITE SAME LENGTH.
  if (blocks === 0 || blocks > writeSameBlocksMax) throw invalidCdbField(lengthByte)
  const wanted = withoutData ? 0 : unit.blockBytes
  if (task.dataOutBytes !== wanted) throw invalidCdbField(lengthByte)
  const block = withoutData ? undefined : gather(task, unit.blockBytes)
  const offset = lba * unit.blockBytes
  const bytes = blocks * unit.blockBytes
  // §5.47: what is unmapped reads as zeroes (LBPRZ); another pattern than zeroes is written all the same.
  const isZero = block === undefined || block.every((byte) => byte === 0)
  const work = isZero ? zero(unit, offset, bytes, mayUnmap) : repeat(unit, offset, bytes, block)
  return work.then(async () => {
    if (!unit.mode.writeCacheEnabled) await unit.device.flush()
    return wanted
  })
}

function zero(unit: LogicalUnit, offset: number, bytes: number, mayUnmap: boolean): Promise<void> {
  return shared(unit, offset, bytes, () => unit.device.writeZeroes(offset, bytes, mayUnmap))
}

async function repeat(unit: LogicalUnit, offset: number, bytes: number, block: Uint8Array): Promise<void> {
  const piece = new Uint8Array(Math.min(pieceBytes, bytes))
  for (let at = 0; at < piece.byteLength; at += block.byteLength) piece.set(block, at)
  // All of it is held at once: a SANITIZE that begins meanwhile has nothing written after it.
  await shared(unit, offset, bytes, async () => {
    for (let at = 0; at < bytes; at += piece.byteLength) {
      await unit.device.write(offset + at, piece.subarray(0, Math.min(piece.byteLength, bytes - at)))
    }
  })
}

/** Table 56: 0..3 length | 8.. descriptors: LBA (8), blocks (4), PROVISIONING STATUS 0h mapped, 1h deallocated. */
async function getLbaStatus(unit: LogicalUnit, task: Task): Promise<number> {
  const start = u64(task.cdb, 2)
  const allocation = u32(task.cdb, 10)
  // The LBA itself must be there: the answer has at least one descriptor.
  if (start >= unit.blockCount) checkRange(unit, start, 1)
  const room = Math.min(statusDescriptorsMax, Math.max(1, Math.floor((allocation - 8) / 16)))
  const found: { lba: number; blocks: number; mapped: boolean }[] = []
  let lba = start
  for (let extents = 0; extents < statusExtentsMax && lba < unit.blockCount && !task.aborted; extents++) {
    if (extents % statusExtentsOfTurn === statusExtentsOfTurn - 1) await unit.pause(0)
    const { blocks, mapped } = await statusAt(unit, lba)
    const last = found.at(-1)
    if (last !== undefined && last.mapped === mapped && last.blocks + blocks <= 0xffff_ffff) last.blocks += blocks
    else if (found.length === room) break
    else found.push({ lba, blocks, mapped })
    lba += blocks
  }
  const data = new Uint8Array(8 + 16 * found.length)
  putU32(data, 0, data.byteLength - 4)
  found.forEach((each, i) => {
    putU64(data, 8 + 16 * i, each.lba)
    putU32(data, 16 + 16 * i, each.blocks)
    data[20 + 16 * i] = each.mapped ? 0 : 1
  })
  return respond(task, data, allocation)
}

async function statusAt(unit: LogicalUnit, lba: number): Promise<{ blocks: number; mapped: boolean }> {
  const blocksMax = Math.min(unit.blockCount - lba, 0xffff_ffff)
  const extent = await unit.device.extent(lba * unit.blockBytes, blocksMax * unit.blockBytes)
  const blocks = Math.floor(extent.bytes / unit.blockBytes)
  // A block of which only a part is free takes space.
  return blocks === 0 ? { blocks: 1, mapped: true } : { blocks, mapped: extent.allocated }
}
