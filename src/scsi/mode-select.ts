/** MODE SELECT (6), (10). SPC-4 §6.9, §6.10. */
import { u16, u24, u32, u64 } from '../wire/big-endian.ts'
import type { Command } from './command.ts'
import { parameterList } from './data-out.ts'
import { alone } from './device-access.ts'
import type { LogicalUnit, NexusRecord } from './logical-unit.ts'
import { type ModeState, modePages } from './mode.ts'
import { CheckCondition, condition, invalidCdbField, invalidParameter } from './sense.ts'
import type { Task } from './task.ts'

export const modeSelectCommands: readonly Command[] = [
  {
    opcode: 0x15,
    name: 'MODE SELECT (6)',
    usage: '15 11 0000 ff 04',
    access: 'write',
    run: (unit, task, from) => {
      // Table 444: 4 bytes of header, the block descriptors' length in byte 3.
      return select(unit, task, from, task.cdb[4] as number, (list) => ({
        header: 4,
        descriptor: list[3] as number,
        isLong: false,
      }))
    },
  },
  {
    opcode: 0x55,
    name: 'MODE SELECT (10)',
    usage: '55 11 0000000000 ffff 04',
    access: 'write',
    run: (unit, task, from) => {
      // Table 445: 8 bytes of header, LONGLBA in byte 4, the block descriptors' length in bytes 6 and 7.
      return select(unit, task, from, u16(task.cdb, 7), (list) => ({
        header: 8,
        descriptor: u16(list, 6),
        isLong: ((list[4] as number) & 0x01) !== 0,
      }))
    },
  },
]

interface Layout {
  readonly header: number
  readonly descriptor: number
  readonly isLong: boolean
}

/** All pages are checked before any is taken. Other initiators hear that parameters changed. SPC-4 §5.13. */
async function select(
  unit: LogicalUnit,
  task: Task,
  from: NexusRecord,
  bytes: number,
  layoutOf: (list: Uint8Array) => Layout,
): Promise<number> {
  const flags = task.cdb[1] as number
  // SP: nothing can be saved. PF: pages are as the standard says, or there are none.
  if ((flags & 0x01) !== 0) throw invalidCdbField(1, 0)
  if (bytes === 0) return 0
  if ((flags & 0x10) === 0) throw invalidCdbField(1, 4)
  const list = parameterList(task, bytes)
  const headerBytes = task.cdb[0] === 0x15 ? 4 : 8
  if (bytes < headerBytes) throw new CheckCondition(condition.parameterListLength)
  const { header, descriptor, isLong } = layoutOf(list)
  if (bytes < header + descriptor) throw new CheckCondition(condition.parameterListLength)
  checkDescriptor(unit, list, header, descriptor, isLong)
  const next = takePages(unit.mode, list, header + descriptor)
  const losesCache = unit.mode.writeCacheEnabled && !next.writeCacheEnabled
  const hasChanged = JSON.stringify(next) !== JSON.stringify(unit.mode)
  unit.mode = next
  if (hasChanged) unit.attention(condition.modeParametersChanged, from)
  // What was acknowledged from the cache must not wait for a flush that nobody sends any more; nor what began before this and is
  // acknowledged meanwhile.
  if (losesCache) await alone(unit, 0, unit.device.sizeBytes, async () => unit.device.flush())
  return bytes
}

/** SBC-3 §6.5.2: a block descriptor may say again what is so, or 0 for "as it is"; formatting is not offered. */
function checkDescriptor(unit: LogicalUnit, list: Uint8Array, at: number, bytes: number, isLong: boolean): void {
  if (bytes === 0) return
  if (bytes !== (isLong ? 16 : 8)) throw new CheckCondition(condition.parameterListLength)
  const blocks = isLong ? u64(list, at) : u32(list, at)
  const blockBytes = isLong ? u32(list, at + 12) : u24(list, at + 5)
  const isAll = !isLong && blocks === 0xffff_ffff && unit.blockCount >= blocks
  if (blocks !== 0 && blocks !== unit.blockCount && !isAll) throw invalidParameter(at)
  if (blockBytes !== unit.blockBytes) throw invalidParameter(isLong ? at + 12 : at + 5)
}

function takePages(mode: ModeState, list: Uint8Array, start: number): ModeState {
  let next = mode
  let at = start
  while (at < list.byteLength) {
    const first = list[at] as number
    if (at + 2 > list.byteLength) throw new CheckCondition(condition.parameterListLength)
    // SPF, subpage format: we have none of those.
    const page = (first & 0x40) === 0 ? modePages.find((each) => each.page === (first & 0x3f)) : undefined
    if (page === undefined) throw invalidParameter(at, 5)
    const current = page.render(next)
    if (list[at + 1] !== current[1]) throw invalidParameter(at + 1)
    if (at + current.byteLength > list.byteLength) throw new CheckCondition(condition.parameterListLength)
    const bytes = list.subarray(at, at + current.byteLength)
    for (let i = 2; i < current.byteLength; i++) {
      const fixed = ~(page.changeable[i] as number) & 0xff
      if ((((bytes[i] as number) ^ (current[i] as number)) & fixed) !== 0) throw invalidParameter(at + i)
    }
    next = page.apply(next, bytes)
    at += current.byteLength
  }
  return next
}
