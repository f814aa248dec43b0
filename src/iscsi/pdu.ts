/**
 * PDUs of RFC 7143 §11: the basic header segment of each, in wire order. Byte 0 of every header is
 *
 *    |. I|   opcode  |      I: immediate delivery (requests only)
 *
 * and bytes 4..7 are TotalAHSLength (4-byte words) and DataSegmentLength (bytes, without padding). All is big-endian.
 * Initiator task tag, target transfer tag: 0xffffffff means none. `lun` is the 8 bytes of SAM-5 §4.7.
 */
import { WireError } from '../wire/reader.ts'

export const headerBytes = 48
export const digestBytes = 4
export const noTag = 0xffffffff

export const opcode = {
  nopOut: 0x00,
  scsiCommand: 0x01,
  taskManagement: 0x02,
  login: 0x03,
  text: 0x04,
  dataOut: 0x05,
  logout: 0x06,
  snack: 0x10,
  nopIn: 0x20,
  scsiResponse: 0x21,
  taskManagementResponse: 0x22,
  loginResponse: 0x23,
  textResponse: 0x24,
  dataIn: 0x25,
  logoutResponse: 0x26,
  readyToTransfer: 0x31,
  asyncMessage: 0x32,
  reject: 0x3f,
} as const

/** §11.3.1.1 ATTR, in this order. */
export const taskAttributes = ['untagged', 'simple', 'ordered', 'headOfQueue', 'aca'] as const
export type TaskAttributeName = (typeof taskAttributes)[number]

/** §11.5.1. */
export const taskManagementFunction = {
  abortTask: 1,
  abortTaskSet: 2,
  clearAca: 3,
  clearTaskSet: 4,
  logicalUnitReset: 5,
  targetWarmReset: 6,
  targetColdReset: 7,
  taskReassign: 8,
} as const

/** §11.6.1. */
export const taskManagementResponse = {
  complete: 0,
  taskMissing: 1,
  lunMissing: 2,
  taskStillAllegiant: 3,
  reassignNotSupported: 4,
  notSupported: 5,
  authorizationFailed: 6,
  rejected: 255,
} as const

/** §11.14.1. */
export const logoutReason = { closeSession: 0, closeConnection: 1, removeForRecovery: 2 } as const
/** §11.15.1. */
export const logoutResponse = { success: 0, connectionMissing: 1, recoveryNotSupported: 2, cleanUpFailed: 3 } as const

/** §11.17.1. */
export const rejectReason = {
  dataDigestError: 0x02,
  snackRejected: 0x03,
  protocolError: 0x04,
  commandNotSupported: 0x05,
  tooManyImmediateCommands: 0x06,
  taskInProgress: 0x07,
  invalidDataAck: 0x08,
  invalidPduField: 0x09,
  longOperationRejected: 0x0a,
  waitingForLogout: 0x0c,
} as const
export type RejectReason = (typeof rejectReason)[keyof typeof rejectReason]

/** §11.9.1. */
export const asyncEvent = {
  scsi: 0,
  logoutRequested: 1,
  connectionDropping: 2,
  sessionDropping: 3,
  negotiationRequested: 4,
} as const

/** §11.13.5, class in the upper byte. */
export const loginStatus = {
  success: 0x0000,
  movedTemporarily: 0x0101,
  movedPermanently: 0x0102,
  initiatorError: 0x0200,
  authenticationFailed: 0x0201,
  forbidden: 0x0202,
  targetNotFound: 0x0203,
  targetRemoved: 0x0204,
  versionNotSupported: 0x0205,
  tooManyConnections: 0x0206,
  parameterMissing: 0x0207,
  cannotJoinSession: 0x0208,
  sessionTypeNotSupported: 0x0209,
  sessionMissing: 0x020a,
  invalidDuringLogin: 0x020b,
  targetError: 0x0300,
  serviceUnavailable: 0x0301,
  outOfResources: 0x0302,
} as const
export type LoginStatus = (typeof loginStatus)[keyof typeof loginStatus]

/** §11.12.3. Number 2 is not used. */
export const stage = { security: 0, operational: 1, fullFeature: 3 } as const
export type Stage = (typeof stage)[keyof typeof stage]

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

/** In every PDU of ours: where the window stands, and which status this is. */
export type Numbers = {
  readonly statusNumber: number // StatSN
  readonly expectedCommandNumber: number // ExpCmdSN
  readonly maxCommandNumber: number // MaxCmdSN
}

/** §11.19. `initiatorTaskTag` is none when we ping. */
export type NopIn = Numbers & {
  readonly kind: 'nopIn'
  readonly lun: Uint8Array
  readonly initiatorTaskTag: number
  readonly targetTransferTag: number
}

export type Residual = { readonly kind: 'none' } | { readonly kind: 'overflow' | 'underflow'; readonly bytes: number }

/** §11.4. The data segment is sense data behind its length. */
export type ScsiResponse = Numbers & {
  readonly kind: 'scsiResponse'
  /** 0: completed at target; 1: target failure. */
  readonly response: number
  readonly status: number
  readonly initiatorTaskTag: number
  readonly expectedDataNumber: number // ExpDataSN
  readonly residual: Residual
}

/** §11.6. */
export type TaskManagementResponse = Numbers & {
  readonly kind: 'taskManagementResponse'
  readonly response: number
  readonly initiatorTaskTag: number
}

/** §11.13. */
export type LoginResponse = Numbers & {
  readonly kind: 'loginResponse'
  readonly transit: boolean
  readonly more: boolean
  readonly currentStage: number
  readonly nextStage: number
  readonly versionMax: number
  readonly versionActive: number
  readonly isid: string
  readonly tsih: number
  readonly initiatorTaskTag: number
  readonly status: number
}

/** §11.11. */
export type TextResponse = Numbers & {
  readonly kind: 'textResponse'
  readonly final: boolean
  readonly more: boolean
  readonly lun: Uint8Array
  readonly initiatorTaskTag: number
  readonly targetTransferTag: number
}

/** §11.7. With `status` it also ends the command, and only then is `statusNumber` meant. */
export type DataIn = Numbers & {
  readonly kind: 'dataIn'
  readonly final: boolean
  readonly status: number | undefined
  readonly initiatorTaskTag: number
  readonly targetTransferTag: number
  readonly dataNumber: number
  readonly bufferOffset: number
  readonly residual: Residual
}

/** §11.15. */
export type LogoutResponse = Numbers & {
  readonly kind: 'logoutResponse'
  readonly response: number
  readonly initiatorTaskTag: number
  readonly timeToWaitSeconds: number
  readonly timeToRetainSeconds: number
}

/** §11.8 (R2T). */
export type ReadyToTransfer = Numbers & {
  readonly kind: 'readyToTransfer'
  readonly lun: Uint8Array
  readonly initiatorTaskTag: number
  readonly targetTransferTag: number
  readonly readyNumber: number // R2TSN
  readonly bufferOffset: number
  readonly desiredBytes: number
}

/** §11.9. */
export type AsyncMessage = Numbers & {
  readonly kind: 'asyncMessage'
  readonly lun: Uint8Array
  readonly event: number
  readonly vendorCode: number
  readonly parameters: readonly [number, number, number]
}

/** §11.17. The data segment is the header that we did not like. */
export type Reject = Numbers & {
  readonly kind: 'reject'
  readonly reason: number
  readonly dataNumber: number
}

export type TargetPdu =
  | NopIn
  | ScsiResponse
  | TaskManagementResponse
  | LoginResponse
  | TextResponse
  | DataIn
  | LogoutResponse
  | ReadyToTransfer
  | AsyncMessage
  | Reject

/** One header with its view, borrowed from whoever received it. */
export type Header = {
  readonly bytes: Uint8Array
  readonly view: DataView
  readonly at: number
  /** Additional header segments behind the 48 bytes; a multiple of 4. */
  readonly additionalBytes: number
  readonly dataBytes: number
}

/** Bits of byte 1 and 0. */
const finalBit = 0x80
const immediateBit = 0x40
const moreBit = 0x40

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

/** Reads a header that stands alone, as captures and tests have it. */
export function headerOf(bytes: Uint8Array): Header {
  if (bytes.byteLength < headerBytes) throw new WireError('truncated', bytes.byteLength)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const additionalBytes = view.getUint8(4) * 4
  const dataBytes = view.getUint32(4) & 0xffffff
  if (headerBytes + additionalBytes + dataBytes > bytes.byteLength) throw new WireError('truncated', bytes.byteLength)
  return { bytes, view, at: 0, additionalBytes, dataBytes }
}

/** The data segment of a header that stands alone. */
export function dataOf({ bytes, at, additionalBytes, dataBytes }: Header): Uint8Array {
  const from = at + headerBytes + additionalBytes
  return bytes.subarray(from, from + dataBytes)
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

/** Next multiple of 4: how segments are padded. §11.1. */
export function paddedBytes(bytes: number): number {
  return (bytes + 3) & ~3
}

/** Writes all 48 bytes at `at`; `dataBytes` is the data segment's length without padding. */
export function encodeTargetPdu(view: DataView, at: number, pdu: TargetPdu, dataBytes: number): void {
  clear(view, at)
  view.setUint32(at + 4, dataBytes)
  view.setUint32(at + 24, pdu.statusNumber)
  view.setUint32(at + 28, pdu.expectedCommandNumber)
  view.setUint32(at + 32, pdu.maxCommandNumber)
  switch (pdu.kind) {
    case 'scsiResponse':
      view.setUint8(at, opcode.scsiResponse)
      view.setUint8(at + 1, finalBit | residualBits(pdu.residual))
      view.setUint8(at + 2, pdu.response)
      view.setUint8(at + 3, pdu.status)
      view.setUint32(at + 16, pdu.initiatorTaskTag)
      view.setUint32(at + 36, pdu.expectedDataNumber)
      view.setUint32(at + 44, pdu.residual.kind === 'none' ? 0 : pdu.residual.bytes)
      return
    case 'dataIn':
      view.setUint8(at, opcode.dataIn)
      // Byte 1: F A 0 0 0 O U S
      view.setUint8(at + 1, pdu.final ? finalBit : 0)
      view.setUint32(at + 16, pdu.initiatorTaskTag)
      view.setUint32(at + 20, pdu.targetTransferTag)
      view.setUint32(at + 36, pdu.dataNumber)
      view.setUint32(at + 40, pdu.bufferOffset)
      if (pdu.status === undefined) view.setUint32(at + 24, 0)
      else endDataIn(view, at, pdu.status, pdu.residual)
      return
    case 'readyToTransfer':
      view.setUint8(at, opcode.readyToTransfer)
      view.setUint8(at + 1, finalBit)
      setLun(view, at, pdu.lun)
      view.setUint32(at + 16, pdu.initiatorTaskTag)
      view.setUint32(at + 20, pdu.targetTransferTag)
      view.setUint32(at + 36, pdu.readyNumber)
      view.setUint32(at + 40, pdu.bufferOffset)
      view.setUint32(at + 44, pdu.desiredBytes)
      return
    case 'nopIn':
      view.setUint8(at, opcode.nopIn)
      view.setUint8(at + 1, finalBit)
      setLun(view, at, pdu.lun)
      view.setUint32(at + 16, pdu.initiatorTaskTag)
      view.setUint32(at + 20, pdu.targetTransferTag)
      return
    case 'taskManagementResponse':
      view.setUint8(at, opcode.taskManagementResponse)
      view.setUint8(at + 1, finalBit)
      view.setUint8(at + 2, pdu.response)
      view.setUint32(at + 16, pdu.initiatorTaskTag)
      return
    case 'loginResponse':
      view.setUint8(at, opcode.loginResponse)
      view.setUint8(at + 1, stageBits(pdu))
      view.setUint8(at + 2, pdu.versionMax)
      view.setUint8(at + 3, pdu.versionActive)
      setIsid(view, at, pdu.isid)
      view.setUint16(at + 14, pdu.tsih)
      view.setUint32(at + 16, pdu.initiatorTaskTag)
      view.setUint16(at + 36, pdu.status)
      return
    case 'textResponse':
      view.setUint8(at, opcode.textResponse)
      view.setUint8(at + 1, (pdu.final ? finalBit : 0) | (pdu.more ? moreBit : 0))
      setLun(view, at, pdu.lun)
      view.setUint32(at + 16, pdu.initiatorTaskTag)
      view.setUint32(at + 20, pdu.targetTransferTag)
      return
    case 'logoutResponse':
      view.setUint8(at, opcode.logoutResponse)
      view.setUint8(at + 1, finalBit)
      view.setUint8(at + 2, pdu.response)
      view.setUint32(at + 16, pdu.initiatorTaskTag)
      view.setUint16(at + 40, pdu.timeToWaitSeconds)
      view.setUint16(at + 42, pdu.timeToRetainSeconds)
      return
    case 'asyncMessage':
      view.setUint8(at, opcode.asyncMessage)
      view.setUint8(at + 1, finalBit)
      setLun(view, at, pdu.lun)
      view.setUint32(at + 16, noTag)
      view.setUint8(at + 36, pdu.event)
      view.setUint8(at + 37, pdu.vendorCode)
      for (const [index, value] of pdu.parameters.entries()) view.setUint16(at + 38 + 2 * index, value)
      return
    case 'reject':
      view.setUint8(at, opcode.reject)
      view.setUint8(at + 1, finalBit)
      view.setUint8(at + 2, pdu.reason)
      view.setUint32(at + 16, noTag)
      view.setUint32(at + 36, pdu.dataNumber)
      return
  }
}

/** Turns a Data-In into the last of its command, which carries the status: bits F and S, status, residual. */
export function endDataIn(view: DataView, at: number, status: number, residual: Residual): void {
  view.setUint8(at + 1, finalBit | residualBits(residual) | 0x01)
  view.setUint8(at + 3, status)
  view.setUint32(at + 44, residual.kind === 'none' ? 0 : residual.bytes)
}

/** Puts newer numbers into a header that is about to leave. */
export function setNumbers(view: DataView, at: number, numbers: Numbers): void {
  view.setUint32(at + 24, numbers.statusNumber)
  view.setUint32(at + 28, numbers.expectedCommandNumber)
  view.setUint32(at + 32, numbers.maxCommandNumber)
}

/** What an initiator receives. @throws {WireError} unknownOpcode */
export function decodeTargetPdu({ bytes, view, at }: Header): TargetPdu {
  const flags = view.getUint8(at + 1)
  const numbers: Numbers = {
    statusNumber: view.getUint32(at + 24),
    expectedCommandNumber: view.getUint32(at + 28),
    maxCommandNumber: view.getUint32(at + 32),
  }
  const lun = copyOf(bytes, at + 8, at + 16)
  const initiatorTaskTag = view.getUint32(at + 16)
  const targetTransferTag = view.getUint32(at + 20)
  switch (view.getUint8(at) & 0x3f) {
    case opcode.scsiResponse:
      return {
        kind: 'scsiResponse',
        ...numbers,
        response: view.getUint8(at + 2),
        status: view.getUint8(at + 3),
        initiatorTaskTag,
        expectedDataNumber: view.getUint32(at + 36),
        residual: residualOf(flags, view.getUint32(at + 44)),
      }
    case opcode.dataIn:
      return {
        kind: 'dataIn',
        ...numbers,
        final: (flags & finalBit) !== 0,
        status: (flags & 0x01) === 0 ? undefined : view.getUint8(at + 3),
        initiatorTaskTag,
        targetTransferTag,
        dataNumber: view.getUint32(at + 36),
        bufferOffset: view.getUint32(at + 40),
        residual: residualOf(flags, view.getUint32(at + 44)),
      }
    case opcode.readyToTransfer:
      return {
        kind: 'readyToTransfer',
        ...numbers,
        lun,
        initiatorTaskTag,
        targetTransferTag,
        readyNumber: view.getUint32(at + 36),
        bufferOffset: view.getUint32(at + 40),
        desiredBytes: view.getUint32(at + 44),
      }
    case opcode.nopIn:
      return { kind: 'nopIn', ...numbers, lun, initiatorTaskTag, targetTransferTag }
    case opcode.taskManagementResponse:
      return { kind: 'taskManagementResponse', ...numbers, response: view.getUint8(at + 2), initiatorTaskTag }
    case opcode.loginResponse:
      return {
        kind: 'loginResponse',
        ...numbers,
        transit: (flags & finalBit) !== 0,
        more: (flags & moreBit) !== 0,
        currentStage: (flags >> 2) & 3,
        nextStage: flags & 3,
        versionMax: view.getUint8(at + 2),
        versionActive: view.getUint8(at + 3),
        isid: hexadecimal(bytes, at + 8, 6),
        tsih: view.getUint16(at + 14),
        initiatorTaskTag,
        status: view.getUint16(at + 36),
      }
    case opcode.textResponse:
      return {
        kind: 'textResponse',
        ...numbers,
        final: (flags & finalBit) !== 0,
        more: (flags & moreBit) !== 0,
        lun,
        initiatorTaskTag,
        targetTransferTag,
      }
    case opcode.logoutResponse:
      return {
        kind: 'logoutResponse',
        ...numbers,
        response: view.getUint8(at + 2),
        initiatorTaskTag,
        timeToWaitSeconds: view.getUint16(at + 40),
        timeToRetainSeconds: view.getUint16(at + 42),
      }
    case opcode.asyncMessage:
      return {
        kind: 'asyncMessage',
        ...numbers,
        lun,
        event: view.getUint8(at + 36),
        vendorCode: view.getUint8(at + 37),
        parameters: [view.getUint16(at + 38), view.getUint16(at + 40), view.getUint16(at + 42)],
      }
    case opcode.reject:
      return { kind: 'reject', ...numbers, reason: view.getUint8(at + 2), dataNumber: view.getUint32(at + 36) }
    default:
      throw new WireError('unknownOpcode', at)
  }
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

/** Serial number arithmetic of RFC 1982 on 32 bits: whether `a` comes before `b`. §4.2.2. */
export function isBefore(a: number, b: number): boolean {
  return ((a - b) | 0) < 0
}

export function after(serial: number, count: number = 1): number {
  return (serial + count) >>> 0
}

function stageBits(pdu: LoginRequest | LoginResponse): number {
  const bits = (pdu.transit ? finalBit : 0) | (pdu.more ? moreBit : 0)
  return bits | (pdu.currentStage << 2) | (pdu.transit ? pdu.nextStage : 0)
}

function residualBits(residual: Residual): number {
  if (residual.kind === 'none') return 0
  return residual.kind === 'overflow' ? 0x04 : 0x02
}

function residualOf(flags: number, bytes: number): Residual {
  if ((flags & 0x04) !== 0) return { kind: 'overflow', bytes }
  return (flags & 0x02) === 0 ? { kind: 'none' } : { kind: 'underflow', bytes }
}

function setLun(view: DataView, at: number, lun: Uint8Array): void {
  for (let i = 0; i < 8; i++) view.setUint8(at + 8 + i, lun[i] ?? 0)
}

function setIsid(view: DataView, at: number, isid: string): void {
  for (let i = 0; i < 6; i++) view.setUint8(at + 8 + i, Number.parseInt(isid.slice(2 * i, 2 * i + 2), 16))
}

function hexadecimal(bytes: Uint8Array, from: number, count: number): string {
  let text = ''
  for (let i = from; i < from + count; i++) text += (bytes[i] ?? 0).toString(16).padStart(2, '0')
  return text
}

/** Not `slice`, which for Node's Buffer gives a view: headers are borrowed. */
function copyOf(bytes: Uint8Array, from: number, to: number): Uint8Array {
  const copy = new Uint8Array(to - from)
  for (let i = from; i < to; i++) copy[i - from] = bytes[i] as number
  return copy
}

function clear(view: DataView, at: number): void {
  for (let i = 0; i < headerBytes; i += 4) view.setUint32(at + i, 0)
}
