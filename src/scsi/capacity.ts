/** READ CAPACITY (10), (16). SBC-3 §5.15, §5.16. */
import { putU16, putU32, putU64, u32, u64 } from '../wire/big-endian.ts'
import { type Command, respond } from './command.ts'
import { invalidCdbField } from './sense.ts'

export const capacityCommands: readonly Command[] = [
  {
    opcode: 0x25,
    name: 'READ CAPACITY (10)',
    usage: '25 00 00000000 0000 00 04',
    access: 'information',
    run: (unit, task) => {
      // PMI and an LBA are obsolete; without PMI the LBA must be zero.
      if (((task.cdb[8] as number) & 0x01) === 0 && u32(task.cdb, 2) !== 0) throw invalidCdbField(2)
      const data = new Uint8Array(8)
      putU32(data, 0, Math.min(unit.blockCount - 1, 0xffff_ffff))
      putU32(data, 4, unit.blockBytes)
      return respond(task, data, data.byteLength)
    },
  },
  {
    opcode: 0x9e,
    serviceAction: 0x10,
    name: 'READ CAPACITY (16)',
    usage: '9e 1f 0000000000000000 ffffffff 00 04',
    access: 'information',
    run: (unit, task) => {
      if (((task.cdb[14] as number) & 0x01) === 0 && u64(task.cdb, 2) !== 0) throw invalidCdbField(2)
      // Table 73:  0..7 last LBA | 8..11 block length | 12 P_TYPE PROT_EN | 13 LBPPBE | 14..15 LBPME LBPRZ lowest aligned
      const data = new Uint8Array(32)
      putU64(data, 0, unit.blockCount - 1)
      putU32(data, 8, unit.blockBytes)
      data[13] = Math.log2(unit.physicalBlockBytes / unit.blockBytes)
      putU16(data, 14, unit.device.thin ? 0xc000 : 0)
      return respond(task, data, u32(task.cdb, 10))
    },
  },
]
