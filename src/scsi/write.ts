/** WRITE (6), (10), (12), (16). SBC-3 §5.40 to §5.43. */
import { u16, u24, u32, u64 } from '../wire/big-endian.ts'
import type { Command, Reply } from './command.ts'
import { gather } from './data-out.ts'
import { allEnded, shared, startEach } from './device-access.ts'
import type { LogicalUnit } from './logical-unit.ts'
import { checkProtection, checkRange, checkTransfer } from './range.ts'
import { CheckCondition, condition } from './sense.ts'
import type { Task } from './task.ts'

const fuaBit = 0x08

const usual = { access: 'write', writes: true } as const

export const writeCommands: readonly Command[] = [
  {
    ...usual,
    opcode: 0x0a,
    name: 'WRITE (6)',
    usage: '0a 1f ff ff ff 04',
    run: (unit, task) => {
      const blocks = task.cdb[4] === 0 ? 256 : (task.cdb[4] as number)
      return write(unit, task, u24(task.cdb, 1) & 0x1fffff, blocks, false, 4)
    },
  },
  {
    ...usual,
    opcode: 0x2a,
    name: 'WRITE (10)',
    usage: '2a fa ffffffff 1f ffff 04',
    run: (unit, task) => {
      const cdb = task.cdb
      if (((cdb[1] as number) & 0xe0) !== 0) checkProtection(cdb)
      return write(unit, task, u32(cdb, 2), u16(cdb, 7), ((cdb[1] as number) & fuaBit) !== 0, 7)
    },
  },
  {
    ...usual,
    opcode: 0xaa,
    name: 'WRITE (12)',
    usage: 'aa fa ffffffff ffffffff 1f 04',
    run: (unit, task) => {
      checkProtection(task.cdb)
      return write(unit, task, u32(task.cdb, 2), u32(task.cdb, 6), ((task.cdb[1] as number) & fuaBit) !== 0, 6)
    },
  },
  {
    ...usual,
    opcode: 0x8a,
    name: 'WRITE (16)',
    usage: '8a fa ffffffffffffffff ffffffff 1f 04',
    run: (unit, task) => {
      const cdb = task.cdb
      if (((cdb[1] as number) & 0xe0) !== 0) checkProtection(cdb)
      return write(unit, task, u64(cdb, 2), u32(cdb, 10), ((cdb[1] as number) & fuaBit) !== 0, 10)
    },
  },
]

/** The hot path: one piece of memory, a device that answers at once, no force unit access. */
function write(unit: LogicalUnit, task: Task, lba: number, blocks: number, fua: boolean, lengthByte: number): Reply {
  checkRange(unit, lba, blocks)
  checkTransfer(unit, blocks, lengthByte)
  const wanted = blocks * unit.blockBytes
  const bytes = wholeBlocks(unit, task, wanted)
  if (bytes === 0) return wanted
  const offset = lba * unit.blockBytes
  if (fua || !unit.mode.writeCacheEnabled || !unit.ranges.isOpen)
    return writeAside(unit, task, { offset, bytes, wanted }, fua)
  const pending = startWrite(unit, task, offset, bytes)
  if (pending === undefined) return wanted
  unit.ranges.follow(offset, bytes, pending)
  return pending.then(() => wanted)
}

/**
 * How much of `wanted` can be written of what came. The initiator may announce fewer bytes than its CDB names: those are
 * written and the rest is reported as overflow; but half a block cannot be. SAM-5 §5.4.2, RFC 7143 §11.4.5.
 */
export function wholeBlocks(unit: LogicalUnit, task: Task, wanted: number): number {
  const bytes = Math.min(wanted, task.dataOutBytes)
  if (bytes % unit.blockBytes !== 0) {
    throw new CheckCondition(condition.invalidFieldInInformationUnit, { bytesWanted: wanted })
  }
  return bytes
}

/** Starts writing the data-out, piece by piece if each is whole blocks, else gathered into one. */
export function startWrite(unit: LogicalUnit, task: Task, offset: number, bytes: number): Promise<void> | undefined {
  const device = unit.device
  const pieces = task.dataOut
  const first = pieces[0] as Uint8Array
  if (first.byteLength === bytes) return device.write(offset, first)
  if (first.byteLength > bytes) return device.write(offset, first.subarray(0, bytes))
  if (!areBlocks(pieces, device.blockBytes)) return device.write(offset, gather(task, bytes))
  const pendings: Promise<void>[] = []
  let left = bytes
  for (let i = 0; i < pieces.length && left > 0; i++) {
    const piece = pieces[i] as Uint8Array
    const part = piece.byteLength > left ? piece.subarray(0, left) : piece
    startEach(pendings, () => device.write(offset + bytes - left, part))
    left -= part.byteLength
  }
  return pendings.length === 0 ? undefined : allEnded(pendings)
}

function areBlocks(pieces: readonly Uint8Array[], blockBytes: number): boolean {
  for (let i = 0; i < pieces.length; i++) {
    if ((pieces[i] as Uint8Array).byteLength % blockBytes !== 0) return false
  }
  return true
}

interface Extent {
  readonly offset: number
  readonly bytes: number
  readonly wanted: number
}

/** Force unit access, no write cache, or a range that somebody holds. GOOD only when it is on stable storage. */
async function writeAside(unit: LogicalUnit, task: Task, extent: Extent, fua: boolean): Promise<number> {
  await shared(unit, extent.offset, extent.bytes, async () => {
    await startWrite(unit, task, extent.offset, extent.bytes)
    if (fua || !unit.mode.writeCacheEnabled) await unit.device.flush()
  })
  return extent.wanted
}
