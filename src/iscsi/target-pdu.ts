/** PDUs that a target sends: RFC 7143 §11, each in wire order. What all have in common is in `header.ts`. */
import { WireError } from '../wire/reader.ts'
import { opcode } from './codes.ts'
import {
  clear,
  copyOf,
  finalBit,
  type Header,
  hexadecimal,
  moreBit,
  noTag,
  setIsid,
  setLun,
  stageBits,
} from './header.ts'

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
  /** Of what a command that both writes and reads has read. */
  readonly readResidual: Residual
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
      // Byte 1: 1 0 0 o u O U 0
      view.setUint8(at + 1, finalBit | (residualBits(pdu.readResidual) << 2) | residualBits(pdu.residual))
      view.setUint8(at + 2, pdu.response)
      view.setUint8(at + 3, pdu.status)
      view.setUint32(at + 16, pdu.initiatorTaskTag)
      view.setUint32(at + 36, pdu.expectedDataNumber)
      view.setUint32(at + 40, pdu.readResidual.kind === 'none' ? 0 : pdu.readResidual.bytes)
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
        readResidual: residualOf(flags >> 2, view.getUint32(at + 40)),
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

function residualBits(residual: Residual): number {
  if (residual.kind === 'none') return 0
  return residual.kind === 'overflow' ? 0x04 : 0x02
}

function residualOf(flags: number, bytes: number): Residual {
  if ((flags & 0x04) !== 0) return { kind: 'overflow', bytes }
  return (flags & 0x02) === 0 ? { kind: 'none' } : { kind: 'underflow', bytes }
}
