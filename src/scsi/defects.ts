/** READ DEFECT DATA (10), (12). SBC-3 §5.17, §5.18: a disk made of a file has no defects to list. */
import { putU16, u16, u32 } from '../wire/big-endian.ts'
import { type Command, respond } from './command.ts'

/** REQ_PLIST, REQ_GLIST and the format, answered as asked: both lists are valid, and empty. */
const asked = 0x1f

export const defectCommands: readonly Command[] = [
  {
    opcode: 0x37,
    name: 'READ DEFECT DATA (10)',
    usage: '37 00 1f 00000000 ffff 04',
    access: 'information',
    run: (_unit, task) => {
      const data = new Uint8Array(4)
      data[1] = (task.cdb[2] as number) & asked
      return respond(task, data, u16(task.cdb, 7))
    },
  },
  {
    opcode: 0xb7,
    name: 'READ DEFECT DATA (12)',
    usage: 'b7 1f ffffffff ffffffff 00 04',
    access: 'information',
    run: (_unit, task) => {
      const data = new Uint8Array(8)
      data[1] = (task.cdb[1] as number) & asked
      putU16(data, 2, 0)
      return respond(task, data, u32(task.cdb, 6))
    },
  },
]
