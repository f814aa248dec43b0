/** REPORT TARGET PORT GROUPS. SPC-4 §6.36: all ports are in one group, and all are as good. */
import { putU16, putU32, u32 } from '../wire/big-endian.ts'
import { type Command, respond } from './command.ts'
import { invalidCdbField } from './sense.ts'

export const targetPortCommands: readonly Command[] = [
  {
    opcode: 0xa3,
    serviceAction: 0x0a,
    name: 'REPORT TARGET PORT GROUPS',
    usage: 'a3 ff 00000000 ffffffff 00 04',
    access: 'information',
    duringSanitize: true,
    run: (unit, task) => {
      const format = (task.cdb[1] as number) >> 5
      if (format > 1) throw invalidCdbField(1, 7)
      // Table 296, the extended header, has 4 bytes more: its format and no transition time.
      const header = format === 0 ? 4 : 8
      // Table 297: 0 PREF, state 0h active/optimized | 1 AO_SUP | 2..3 group | 5 status | 7 count | 8.. ports.
      const data = new Uint8Array(header + 8 + 4 * unit.portCount)
      putU32(data, 0, data.byteLength - 4)
      if (format === 1) data[4] = 0x10
      data[header + 1] = 0x01
      putU16(data, header + 2, 1)
      data[header + 7] = unit.portCount
      for (let i = 0; i < unit.portCount; i++) putU16(data, header + 10 + 4 * i, i + 1)
      return respond(task, data, u32(task.cdb, 6))
    },
  },
]
