/** INQUIRY. SPC-4 §6.6. */
import { putU16, u16 } from '../wire/big-endian.ts'
import { type Command, respond } from './command.ts'
import { invalidCdbField } from './sense.ts'
import { vitalProductData } from './vpd.ts'

/** Peripheral qualifier and device type, the first byte of everything INQUIRY returns. SPC-4 tables 174 and 175. */
export const peripheral = {
  disk: 0x00,
  wellKnown: 0x1e,
  /** 011b and 1Fh: nothing is there, and nothing can be. */
  nothing: 0x7f,
} as const

export const inquiryCommand: Command = {
  opcode: 0x12,
  name: 'INQUIRY',
  usage: '12 01 ff ffff 04',
  access: 'always',
  ignoresAttention: true,
  duringSanitize: true,
  run: (unit, task) => {
    const cdb = task.cdb
    const page = cdb[2] as number
    if (((cdb[1] as number) & 0x01) === 0) {
      // §6.6.1: a page without EVPD is an error.
      if (page !== 0) throw invalidCdbField(2, 7)
      return respond(task, standardInquiry(peripheral.disk, unit), u16(cdb, 3))
    }
    const data = vitalProductData(unit, task.nexus, page)
    if (data === undefined) throw invalidCdbField(2, 7)
    return respond(task, data, u16(cdb, 3))
  },
}

export interface ProductNames {
  readonly vendor: string
  readonly product: string
  readonly revision: string
}

/** SAM-5, SPC-4, SBC-3, iSCSI, all without a version claimed. SPC-4 table 179. */
const versionDescriptors = [0x00a0, 0x0460, 0x04c0, 0x0960]

/**
 * SPC-4 table 173:
 *   0 peripheral | 1 RMB | 2 version | 3 NORMACA HISUP format | 4 additional length | 5 SCCS TPGS 3PC PROTECT |
 *   6 MULTIP | 7 CMDQUE | 8..15 vendor | 16..31 product | 32..35 revision | 58..73 version descriptors
 */
export function standardInquiry(kind: number, names: ProductNames): Uint8Array {
  const data = new Uint8Array(96)
  data[0] = kind
  data[2] = 0x06
  data[3] = 0x10 | 0x02
  data[4] = data.byteLength - 5
  // Implicit asymmetric access (REPORT TARGET PORT GROUPS works) and third-party copy.
  if (kind === peripheral.disk) data[5] = 0x10 | 0x08
  data[6] = 0x10
  data[7] = 0x02
  putAscii(data, 8, 8, names.vendor)
  putAscii(data, 16, 16, names.product)
  putAscii(data, 32, 4, names.revision)
  versionDescriptors.forEach((version, i) => {
    putU16(data, 58 + 2 * i, version)
  })
  return data
}

/** Left-aligned, filled with spaces, printable characters only. SPC-4 §4.3.1. */
export function putAscii(bytes: Uint8Array, at: number, size: number, text: string): void {
  for (let i = 0; i < size; i++) {
    const code = i < text.length ? text.charCodeAt(i) : 0x20
    bytes[at + i] = code >= 0x20 && code <= 0x7e ? code : 0x20
  }
}
