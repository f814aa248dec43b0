/** REPORT LUNS. SPC-4 §6.33, and the well-known logical unit that answers it alone, SPC-4 §8.2. */
import { putU16, putU32, u32 } from '../wire/big-endian.ts'
import { type Command, respond } from './command.ts'
import { invalidCdbField } from './sense.ts'
import type { Task } from './task.ts'

export const reportLunsCommand: Command = {
  opcode: 0xa0,
  name: 'REPORT LUNS',
  usage: 'a0 00 ff 000000 ffffffff 00 04',
  access: 'always',
  ignoresAttention: true,
  duringSanitize: true,
  run: (unit, task) => reportLuns(task, unit.lunsOfTarget),
}

/** C1 01: extended addressing, the REPORT LUNS well-known logical unit. SAM-5 §4.7.7.5. */
export const reportLunsWellKnown: readonly number[] = [0xc1, 0x01]

/** Table 266 SELECT REPORT: 0 addressed units, 1 well-known ones, 2 all; 10h to 12h, administrative: here nobody. */
export function reportLuns(task: Task, units: readonly number[]): number {
  const select = task.cdb[2] as number
  const allocation = u32(task.cdb, 6)
  if (![0x00, 0x01, 0x02, 0x10, 0x11, 0x12].includes(select)) throw invalidCdbField(2, 7)
  // §6.33: less than the header and one LUN is an error.
  if (allocation < 16) throw invalidCdbField(6, 7)
  const addressed = select === 0x00 || select === 0x02 ? units.map(encodeLun) : []
  const wellKnown =
    select === 0x01 || select === 0x02 ? [Uint8Array.from([...reportLunsWellKnown, 0, 0, 0, 0, 0, 0])] : []
  const list = [...addressed, ...wellKnown]
  const data = new Uint8Array(8 + 8 * list.length)
  putU32(data, 0, 8 * list.length)
  list.forEach((lun, i) => {
    data.set(lun, 8 + 8 * i)
  })
  return respond(task, data, allocation)
}

/** SAM-5 §4.7.7: peripheral device addressing up to 255, flat space above. */
function encodeLun(unit: number): Uint8Array {
  const lun = new Uint8Array(8)
  putU16(lun, 0, unit < 256 ? unit : 0x4000 | unit)
  return lun
}

/** The unit that a LUN field names; undefined for a form that we do not use. */
export function decodeLun(lun: Uint8Array): number | 'reportLuns' | undefined {
  const first = lun[0] as number
  const second = lun[1] as number
  for (let i = 2; i < 8; i++) if (lun[i] !== 0) return undefined
  switch (first >> 6) {
    case 0:
      return (first & 0x3f) === 0 ? second : undefined
    case 1:
      return ((first & 0x3f) << 8) | second
    case 3:
      return first === reportLunsWellKnown[0] && second === reportLunsWellKnown[1] ? 'reportLuns' : undefined
    default:
      return undefined
  }
}
