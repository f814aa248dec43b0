/** TEST UNIT READY, REQUEST SENSE, START STOP UNIT, PREVENT ALLOW MEDIUM REMOVAL: SPC-4 §6.47, §6.39; SBC-3 §5.25, §5.9. */
import { type Command, respond } from './command.ts'
import { condition, encodeSense, invalidCdbField } from './sense.ts'

export const unitStateCommands: readonly Command[] = [
  {
    opcode: 0x00,
    name: 'TEST UNIT READY',
    usage: '00 00 00 00 00 04',
    access: 'information',
    run: () => 0,
  },
  {
    opcode: 0x03,
    name: 'REQUEST SENSE',
    usage: '03 01 0000 ff 04',
    access: 'always',
    ignoresAttention: true,
    duringSanitize: true,
    run: (unit, task, from) => {
      // The pending unit attention is delivered, and with that over. SPC-4 §6.39, SAM-5 §5.14.7.
      const pending = from.attentions.shift() ?? unit.notReady?.condition ?? condition.none
      const detail = unit.notReady?.condition === pending ? unit.notReady.detail : {}
      const descriptorFormat = ((task.cdb[1] as number) & 0x01) !== 0
      return respond(task, encodeSense(pending, detail, descriptorFormat), task.cdb[4] as number)
    },
  },
  {
    opcode: 0x1b,
    name: 'START STOP UNIT',
    usage: '1b 01 00 00 f7 04',
    access: 'write',
    run: async (unit, task) => {
      const cdb = task.cdb
      const how = cdb[4] as number
      const powerCondition = how >> 4
      // SBC-3 table 91. No power conditions but being told to be active; the medium does not leave.
      if (powerCondition !== 0) {
        if (![0x1, 0x2, 0x3, 0x7, 0xa, 0xb].includes(powerCondition)) throw invalidCdbField(4, 7)
        return 0
      }
      if ((how & 0x02) !== 0) throw invalidCdbField(4, 1)
      const start = (how & 0x01) !== 0
      const keepsCache = (how & 0x04) !== 0
      // §5.25: stopping writes the cache out first, unless NO_FLUSH. A disk that another machine may boot from at any
      // moment becomes active again with the next command, as from a power condition.
      if (!start && !keepsCache) await unit.device.flush()
      return 0
    },
  },
  {
    opcode: 0x1e,
    name: 'PREVENT ALLOW MEDIUM REMOVAL',
    usage: '1e 00 0000 03 04',
    access: 'information',
    run: (_unit, task) => {
      // The medium is not removable: either wish is granted. 10b and 11b are obsolete.
      if (((task.cdb[4] as number) & 0x02) !== 0) throw invalidCdbField(4, 1)
      return 0
    },
  },
]
