/** READ (6), (10), (12), (16). SBC-3 §5.11 to §5.14. */
import { u16, u24, u32, u64 } from '../wire/big-endian.ts'
import type { Command, Reply } from './command.ts'
import { allEnded, readRange, shared, startEach } from './device-access.ts'
import type { LogicalUnit } from './logical-unit.ts'
import { checkProtection, checkRange, checkTransfer } from './range.ts'
import type { Task } from './task.ts'

/** Byte 1 of the longer CDBs: DPO is a hint about caching that nothing here depends on; FUA is kept. */
const fuaBit = 0x08

const usual = { access: 'read' } as const

export const readCommands: readonly Command[] = [
  {
    ...usual,
    opcode: 0x08,
    name: 'READ (6)',
    usage: '08 1f ff ff ff 04',
    run: (unit, task) => {
      // SBC-3 §5.11: a transfer length of 0 is 256 blocks.
      const blocks = task.cdb[4] === 0 ? 256 : (task.cdb[4] as number)
      return read(unit, task, u24(task.cdb, 1) & 0x1fffff, blocks, false, 4)
    },
  },
  {
    ...usual,
    opcode: 0x28,
    name: 'READ (10)',
    usage: '28 f8 ffffffff 1f ffff 04',
    run: (unit, task) => {
      const cdb = task.cdb
      if (((cdb[1] as number) & 0xe0) !== 0) checkProtection(cdb)
      return read(unit, task, u32(cdb, 2), u16(cdb, 7), ((cdb[1] as number) & fuaBit) !== 0, 7)
    },
  },
  {
    ...usual,
    opcode: 0xa8,
    name: 'READ (12)',
    usage: 'a8 f8 ffffffff ffffffff 1f 04',
    run: (unit, task) => {
      checkProtection(task.cdb)
      return read(unit, task, u32(task.cdb, 2), u32(task.cdb, 6), ((task.cdb[1] as number) & fuaBit) !== 0, 6)
    },
  },
  {
    ...usual,
    opcode: 0x88,
    name: 'READ (16)',
    usage: '88 f8 ffffffffffffffff ffffffff 1f 04',
    run: (unit, task) => {
      const cdb = task.cdb
      if (((cdb[1] as number) & 0xe0) !== 0) checkProtection(cdb)
      return read(unit, task, u64(cdb, 2), u32(cdb, 10), ((cdb[1] as number) & fuaBit) !== 0, 10)
    },
  },
]

/**
 * The way of nearly every command: memory lends its pages, or a synchronous device fills the transport's buffers;
 * nothing is allocated and no promise is made.
 */
function read(unit: LogicalUnit, task: Task, lba: number, blocks: number, fua: boolean, lengthByte: number): Reply {
  checkRange(unit, lba, blocks)
  checkTransfer(unit, blocks, lengthByte)
  const bytes = blocks * unit.blockBytes
  const offset = lba * unit.blockBytes
  if (bytes === 0) return 0
  if (fua || bytes > task.dataInBytesMax || !unit.ranges.isOpen) return readAside(unit, task, offset, bytes, fua)
  if (unit.lend(task, offset, bytes)) return bytes
  const pieces = task.reserve(bytes)
  if (!areBlocks(pieces, unit.device.blockBytes)) {
    const ended = readThenCopy(unit, pieces, offset, bytes)
    unit.ranges.follow(offset, bytes, ended)
    return ended
  }
  let at = offset
  for (let i = 0; i < pieces.length; i++) {
    const piece = pieces[i] as Uint8Array
    const pending = unit.device.read(at, piece)
    at += piece.byteLength
    if (pending !== undefined) return readRest(unit, pieces.slice(i + 1), pending, { offset, at, bytes })
  }
  return bytes
}

function areBlocks(pieces: readonly Uint8Array[], blockBytes: number): boolean {
  for (let i = 0; i < pieces.length; i++) {
    if ((pieces[i] as Uint8Array).byteLength % blockBytes !== 0) return false
  }
  return true
}

interface Progress {
  readonly offset: number
  readonly at: number
  readonly bytes: number
}

/** The device did not answer at once: the remaining pieces are asked for together. */
function readRest(
  unit: LogicalUnit,
  rest: readonly Uint8Array[],
  first: Promise<void>,
  progress: Progress,
): Promise<number> {
  const pendings: Promise<void>[] = [first]
  let at = progress.at
  for (const piece of rest) {
    startEach(pendings, () => unit.device.read(at, piece))
    at += piece.byteLength
  }
  const ended = allEnded(pendings)
  unit.ranges.follow(progress.offset, progress.bytes, ended)
  return ended.then(() => progress.bytes)
}

/** The transport's pieces are no whole blocks: the device fills memory of our own. */
async function readThenCopy(
  unit: LogicalUnit,
  pieces: readonly Uint8Array[],
  offset: number,
  bytes: number,
): Promise<number> {
  copyInto(pieces, await readRange(unit, offset, bytes))
  return bytes
}

/** Force unit access, less room than blocks, or a range that somebody holds. */
async function readAside(unit: LogicalUnit, task: Task, offset: number, bytes: number, fua: boolean): Promise<number> {
  await shared(unit, offset, bytes, async () => {
    // SBC-3 §5.12: with FUA what is newer in the cache goes to the medium first.
    if (fua) await unit.device.flush()
    const room = Math.min(bytes, task.dataInBytesMax)
    if (room === 0) return
    const whole = await readRange(unit, offset, Math.ceil(room / unit.blockBytes) * unit.blockBytes)
    copyInto(task.reserve(room), whole)
  })
  return bytes
}

function copyInto(pieces: readonly Uint8Array[], source: Uint8Array): void {
  let at = 0
  for (const piece of pieces) {
    piece.set(source.subarray(at, at + piece.byteLength))
    at += piece.byteLength
  }
}
