/** PDUs that an initiator sends: RFC 7143 §11, each in wire order. What all have in common is in `header.ts`. */
import { WireError } from '../wire/reader.ts'
import { opcode, type TaskAttributeName, taskAttributes } from './codes.ts'
import {
  copyOf,
  finalBit,
  type Header,
  headerBytes,
  hexadecimal,
  immediateBit,
  moreBit,
  paddedBytes,
  setIsid,
  setLun,
  stageBits,
} from './header.ts'

/** §11.18. An answer to our ping carries our tag back. */
export type NopOut = {
  readonly kind: 'nopOut'
  readonly immediate: boolean
  readonly lun: Uint8Array
  readonly initiatorTaskTag: number
  readonly targetTransferTag: number
  readonly commandNumber: number // CmdSN
  readonly expectedStatusNumber: number // ExpStatSN
}

/** §11.3. The data segment is immediate data. */
export type ScsiCommand = {
  readonly kind: 'scsiCommand'
  readonly immediate: boolean
  /** No unsolicited Data-Out follows. */
  readonly final: boolean
  readonly read: boolean
  readonly write: boolean
  readonly attribute: TaskAttributeName
  readonly lun: Uint8Array
  readonly initiatorTaskTag: number
  readonly expectedTransferBytes: number // Expected Data Transfer Length
  readonly commandNumber: number
  readonly expectedStatusNumber: number
  /** 16 bytes; more only with an additional header. */
  readonly cdb: Uint8Array
}

/** §11.5. */
export type TaskManagementRequest = {
  readonly kind: 'taskManagement'
  readonly immediate: boolean
  /** One of `taskManagementFunction`, or a number that we do not know. */
  readonly function: number
  readonly lun: Uint8Array
  readonly initiatorTaskTag: number
  readonly referencedTaskTag: number
  readonly commandNumber: number
  readonly expectedStatusNumber: number
  readonly referencedCommandNumber: number // RefCmdSN
}

/** §11.12. The data segment is text. */
export type LoginRequest = {
  readonly kind: 'login'
  /** T: ready to go to `nextStage`. */
  readonly transit: boolean
  /** C: more text follows before we may answer with anything. */
  readonly more: boolean
  readonly currentStage: number
  readonly nextStage: number
  readonly versionMax: number
  readonly versionMin: number
  /** 12 hexadecimal digits. */
  readonly isid: string
  readonly tsih: number
  readonly initiatorTaskTag: number
  readonly connectionId: number // CID
  readonly commandNumber: number
  readonly expectedStatusNumber: number
}

/** §11.10. The data segment is text. */
export type TextRequest = {
  readonly kind: 'text'
  readonly immediate: boolean
  readonly final: boolean
  readonly more: boolean
  readonly lun: Uint8Array
  readonly initiatorTaskTag: number
  readonly targetTransferTag: number
  readonly commandNumber: number
  readonly expectedStatusNumber: number
}

/** §11.7. */
export type DataOut = {
  readonly kind: 'dataOut'
  readonly final: boolean
  readonly lun: Uint8Array
  readonly initiatorTaskTag: number
  /** That of the R2T; none if unsolicited. */
  readonly targetTransferTag: number
  readonly expectedStatusNumber: number
  readonly dataNumber: number // DataSN
  readonly bufferOffset: number
}

/** §11.14. */
export type LogoutRequest = {
  readonly kind: 'logout'
  readonly immediate: boolean
  readonly reason: number
  readonly initiatorTaskTag: number
  readonly connectionId: number
  readonly commandNumber: number
  readonly expectedStatusNumber: number
}

/** §11.16. */
export type SnackRequest = {
  readonly kind: 'snack'
  readonly type: number
  readonly lun: Uint8Array
  readonly initiatorTaskTag: number
  readonly targetTransferTag: number
  readonly expectedStatusNumber: number
  readonly begin: number // BegRun
  readonly runLength: number // RunLength
}

export type InitiatorPdu =
  | NopOut
  | ScsiCommand
  | TaskManagementRequest
  | LoginRequest
  | TextRequest
  | DataOut
  | LogoutRequest
  | SnackRequest

/** @throws {WireError} unknownOpcode, badLength. */
export function decodeInitiatorPdu(header: Header): InitiatorPdu {
  const { bytes, view, at } = header
  const first = view.getUint8(at)
  const flags = view.getUint8(at + 1)
  const immediate = (first & immediateBit) !== 0
  switch (first & 0x3f) {
    case opcode.scsiCommand:
      return {
        kind: 'scsiCommand',
        immediate,
        // Byte 1: F R W 0 0 ATTR
        final: (flags & finalBit) !== 0,
        read: (flags & 0x40) !== 0,
        write: (flags & 0x20) !== 0,
        attribute: taskAttributes[flags & 0x07] ?? 'simple',
        lun: copyOf(bytes, at + 8, at + 16),
        initiatorTaskTag: view.getUint32(at + 16),
        expectedTransferBytes: view.getUint32(at + 20),
        commandNumber: view.getUint32(at + 24),
        expectedStatusNumber: view.getUint32(at + 28),
        cdb: header.additionalBytes === 0 ? copyOf(bytes, at + 32, at + 48) : extendedCdb(header),
      }
    case opcode.dataOut:
      return {
        kind: 'dataOut',
        final: (flags & finalBit) !== 0,
        lun: copyOf(bytes, at + 8, at + 16),
        initiatorTaskTag: view.getUint32(at + 16),
        targetTransferTag: view.getUint32(at + 20),
        // 24..27 reserved
        expectedStatusNumber: view.getUint32(at + 28),
        // 32..35 reserved
        dataNumber: view.getUint32(at + 36),
        bufferOffset: view.getUint32(at + 40),
      }
    case opcode.nopOut:
      return {
        kind: 'nopOut',
        immediate,
        lun: copyOf(bytes, at + 8, at + 16),
        initiatorTaskTag: view.getUint32(at + 16),
        targetTransferTag: view.getUint32(at + 20),
        commandNumber: view.getUint32(at + 24),
        expectedStatusNumber: view.getUint32(at + 28),
      }
    case opcode.taskManagement:
      return {
        kind: 'taskManagement',
        immediate,
        function: flags & 0x7f,
        lun: copyOf(bytes, at + 8, at + 16),
        initiatorTaskTag: view.getUint32(at + 16),
        referencedTaskTag: view.getUint32(at + 20),
        commandNumber: view.getUint32(at + 24),
        expectedStatusNumber: view.getUint32(at + 28),
        referencedCommandNumber: view.getUint32(at + 32),
      }
    case opcode.login:
      return {
        kind: 'login',
        // Byte 1: T C 0 0 CSG(2) NSG(2)
        transit: (flags & finalBit) !== 0,
        more: (flags & moreBit) !== 0,
        currentStage: (flags >> 2) & 3,
        nextStage: flags & 3,
        versionMax: view.getUint8(at + 2),
        versionMin: view.getUint8(at + 3),
        isid: hexadecimal(bytes, at + 8, 6),
        tsih: view.getUint16(at + 14),
        initiatorTaskTag: view.getUint32(at + 16),
        connectionId: view.getUint16(at + 20),
        commandNumber: view.getUint32(at + 24),
        expectedStatusNumber: view.getUint32(at + 28),
      }
    case opcode.text:
      return {
        kind: 'text',
        immediate,
        final: (flags & finalBit) !== 0,
        more: (flags & moreBit) !== 0,
        lun: copyOf(bytes, at + 8, at + 16),
        initiatorTaskTag: view.getUint32(at + 16),
        targetTransferTag: view.getUint32(at + 20),
        commandNumber: view.getUint32(at + 24),
        expectedStatusNumber: view.getUint32(at + 28),
      }
    case opcode.logout:
      return {
        kind: 'logout',
        immediate,
        reason: flags & 0x7f,
        initiatorTaskTag: view.getUint32(at + 16),
        connectionId: view.getUint16(at + 20),
        commandNumber: view.getUint32(at + 24),
        expectedStatusNumber: view.getUint32(at + 28),
      }
    case opcode.snack:
      return {
        kind: 'snack',
        type: flags & 0x0f,
        lun: copyOf(bytes, at + 8, at + 16),
        initiatorTaskTag: view.getUint32(at + 16),
        targetTransferTag: view.getUint32(at + 20),
        expectedStatusNumber: view.getUint32(at + 28),
        begin: view.getUint32(at + 40),
        runLength: view.getUint32(at + 44),
      }
    default:
      throw new WireError('unknownOpcode', at)
  }
}

/** §11.2.2.3: AHSLength counts the reserved byte and the CDB's bytes past the sixteenth. */
const ahsExtendedCdb = 1

const ahsBidirectional = 2

function extendedCdb({ bytes, view, at, additionalBytes }: Header): Uint8Array {
  const segment = findAdditional(view, at + headerBytes, additionalBytes, ahsExtendedCdb)
  if (segment === undefined) return copyOf(bytes, at + 32, at + 48)
  const extraBytes = segment.bytes - 1
  const cdb = new Uint8Array(16 + extraBytes)
  cdb.set(bytes.subarray(at + 32, at + 48))
  cdb.set(bytes.subarray(segment.at + 4, segment.at + 4 + extraBytes), 16)
  return cdb
}

/** §11.2.2.4: how much a command that both writes and reads may read. Undefined without that header. */
export function bidirectionalReadBytes({ view, at, additionalBytes }: Header): number | undefined {
  const segment = findAdditional(view, at + headerBytes, additionalBytes, ahsBidirectional)
  return segment === undefined || segment.bytes < 5 ? undefined : view.getUint32(segment.at + 4)
}

/** §11.2.2: AHSLength (2), AHSType (1), specific (AHSLength bytes), padding to 4. */
function findAdditional(
  view: DataView,
  from: number,
  totalBytes: number,
  type: number,
): { readonly at: number; readonly bytes: number } | undefined {
  const end = from + totalBytes
  for (let at = from; at < end; ) {
    const specificBytes = view.getUint16(at)
    const next = at + paddedBytes(3 + specificBytes)
    if (specificBytes === 0 || next > end) throw new WireError('badLength', at)
    if ((view.getUint8(at + 2) & 0x3f) === type) return { at, bytes: specificBytes }
    at = next
  }
  return undefined
}

/** The header of a PDU that came with `dataBytes` of data, for a Reject. */
export function headerAgain(pdu: InitiatorPdu, dataBytes: number): Uint8Array {
  const header = encodeInitiatorPdu(pdu).subarray(0, headerBytes)
  // Bytes 5 to 7: DataSegmentLength.
  header[5] = dataBytes >> 16
  header[6] = (dataBytes >> 8) & 0xff
  header[7] = dataBytes & 0xff
  return header
}

/** What an initiator sends: header, data segment and padding, without digests. */
export function encodeInitiatorPdu(pdu: InitiatorPdu, data: Uint8Array = new Uint8Array(0)): Uint8Array {
  const extraCdbBytes = pdu.kind === 'scsiCommand' ? Math.max(0, pdu.cdb.byteLength - 16) : 0
  const additionalBytes = extraCdbBytes === 0 ? 0 : paddedBytes(4 + extraCdbBytes)
  const bytes = new Uint8Array(headerBytes + additionalBytes + paddedBytes(data.byteLength))
  const view = new DataView(bytes.buffer)
  bytes.set(data, headerBytes + additionalBytes)
  view.setUint32(4, data.byteLength)
  view.setUint8(4, additionalBytes / 4)
  view.setUint32(16, pdu.initiatorTaskTag)
  view.setUint32(28, pdu.expectedStatusNumber)
  if ('lun' in pdu) setLun(view, 0, pdu.lun)
  if ('commandNumber' in pdu) view.setUint32(24, pdu.commandNumber)
  const immediate = 'immediate' in pdu && pdu.immediate ? immediateBit : 0
  switch (pdu.kind) {
    case 'scsiCommand': {
      view.setUint8(0, opcode.scsiCommand | immediate)
      const direction = (pdu.read ? 0x40 : 0) | (pdu.write ? 0x20 : 0)
      view.setUint8(1, (pdu.final ? finalBit : 0) | direction | taskAttributes.indexOf(pdu.attribute))
      view.setUint32(20, pdu.expectedTransferBytes)
      bytes.set(pdu.cdb.subarray(0, 16), 32)
      if (extraCdbBytes > 0) {
        view.setUint16(headerBytes, 1 + extraCdbBytes)
        view.setUint8(headerBytes + 2, ahsExtendedCdb)
        bytes.set(pdu.cdb.subarray(16), headerBytes + 4)
      }
      break
    }
    case 'dataOut':
      view.setUint8(0, opcode.dataOut)
      view.setUint8(1, pdu.final ? finalBit : 0)
      view.setUint32(20, pdu.targetTransferTag)
      view.setUint32(36, pdu.dataNumber)
      view.setUint32(40, pdu.bufferOffset)
      break
    case 'nopOut':
      view.setUint8(0, opcode.nopOut | immediate)
      view.setUint8(1, finalBit)
      view.setUint32(20, pdu.targetTransferTag)
      break
    case 'taskManagement':
      view.setUint8(0, opcode.taskManagement | immediate)
      view.setUint8(1, finalBit | pdu.function)
      view.setUint32(20, pdu.referencedTaskTag)
      view.setUint32(32, pdu.referencedCommandNumber)
      break
    case 'login':
      view.setUint8(0, opcode.login | immediateBit)
      view.setUint8(1, stageBits(pdu))
      view.setUint8(2, pdu.versionMax)
      view.setUint8(3, pdu.versionMin)
      setIsid(view, 0, pdu.isid)
      view.setUint16(14, pdu.tsih)
      view.setUint16(20, pdu.connectionId)
      break
    case 'text':
      view.setUint8(0, opcode.text | immediate)
      view.setUint8(1, (pdu.final ? finalBit : 0) | (pdu.more ? moreBit : 0))
      view.setUint32(20, pdu.targetTransferTag)
      break
    case 'logout':
      view.setUint8(0, opcode.logout | immediate)
      view.setUint8(1, finalBit | pdu.reason)
      view.setUint16(20, pdu.connectionId)
      break
    case 'snack':
      view.setUint8(0, opcode.snack)
      view.setUint8(1, finalBit | pdu.type)
      view.setUint32(20, pdu.targetTransferTag)
      view.setUint32(40, pdu.begin)
      view.setUint32(44, pdu.runLength)
      break
  }
  return bytes
}
