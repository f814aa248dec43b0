/**
 * What one session hears: PDUs out of a `FrameReader`, their data put where it belongs while it comes in. A write's data
 * goes into the buffer of its command, everything else is short and gathered here.
 */
import { unreachable } from '../base/assert.ts'
import { WireError } from '../wire/reader.ts'
import { type RejectReason, rejectReason } from './codes.ts'
import type { FrameTaker } from './frame.ts'
import { type Header, headerBytes } from './header.ts'
import {
  bidirectionalReadBytes,
  type DataOut,
  decodeInitiatorPdu,
  headerAgain,
  type InitiatorPdu,
  type LoginRequest,
  type LogoutRequest,
  type NopOut,
  type ScsiCommand,
  type SnackRequest,
  type TaskManagementRequest,
  type TextRequest,
} from './initiator-pdu.ts'
import { directReceiveBytesMin, negotiationTextBytesMax } from './limits.ts'
import type { ScsiTask } from './scsi-task.ts'

export type OtherRequest = NopOut | TaskManagementRequest | LoginRequest | TextRequest | LogoutRequest | SnackRequest

export interface InputHost {
  /** What the peer can receive: a NOP-Out's data goes back to it. */
  readonly echoBytesMax: number
  /** Undefined: nobody wants its data, or anything else of it. */
  beginCommand(command: ScsiCommand, readBytes: number, immediateBytes: number): ScsiTask | undefined
  endCommand(task: ScsiTask, intact: boolean): void
  /** Undefined: of a task that is gone, or refused. */
  beginDataOut(pdu: DataOut, dataBytes: number): ScsiTask | undefined
  /** `damagedBytes`: how much came that does not match its digest; 0 if it does. */
  endDataOut(task: ScsiTask, pdu: DataOut, damagedBytes: number): void
  request(pdu: OtherRequest, bytes: Uint8Array): void
  /** `header` is the whole header that is refused. */
  reject(reason: RejectReason, detail: string, header: Uint8Array): void
  breakOff(reason: RejectReason, detail: string, header: Uint8Array): void
}

/** The PDU whose data is coming in. */
type Arriving =
  | { readonly kind: 'command'; readonly task: ScsiTask; position: number }
  | { readonly kind: 'dataOut'; readonly pdu: DataOut; readonly task: ScsiTask; position: number }
  | { readonly kind: 'other'; readonly pdu: OtherRequest; readonly bytes: Uint8Array; position: number }
  | { readonly kind: 'unwanted' }

const unwanted: Arriving = { kind: 'unwanted' }

export class SessionInput implements FrameTaker {
  readonly #host: InputHost
  #arriving: Arriving = unwanted

  constructor(host: InputHost) {
    this.#host = host
  }

  header(header: Header): void {
    this.#arriving = unwanted
    const pdu = this.#decode(header)
    if (pdu === undefined) return
    switch (pdu.kind) {
      case 'scsiCommand': {
        const readBytes = pdu.read && pdu.write ? (bidirectionalReadBytes(header) ?? 0) : 0
        const task = this.#host.beginCommand(pdu, readBytes, header.dataBytes)
        if (task !== undefined) this.#arriving = { kind: 'command', task, position: 0 }
        return
      }
      case 'dataOut': {
        const task = this.#host.beginDataOut(pdu, header.dataBytes)
        if (task !== undefined) this.#arriving = { kind: 'dataOut', pdu, task, position: pdu.bufferOffset }
        return
      }
      case 'nopOut':
      case 'text':
      case 'login':
      case 'logout':
      case 'taskManagement':
      case 'snack': {
        const bytesMax = pdu.kind === 'nopOut' ? this.#host.echoBytesMax : negotiationTextBytesMax
        if (header.dataBytes > bytesMax && pdu.kind !== 'nopOut') {
          this.#host.breakOff(rejectReason.protocolError, 'more text than allowed', headerAgain(pdu, header.dataBytes))
          return
        }
        const bytes = new Uint8Array(Math.min(header.dataBytes, bytesMax))
        this.#arriving = { kind: 'other', pdu, bytes, position: 0 }
        return
      }
      default:
        unreachable(pdu)
    }
  }

  /** Where the network may put the rest of the data segment that is coming in. */
  receiveInto(bytesLeft: number): Uint8Array | undefined {
    const arriving = this.#arriving
    if (bytesLeft < directReceiveBytesMin || (arriving.kind !== 'command' && arriving.kind !== 'dataOut')) {
      return undefined
    }
    const { buffer } = arriving.task
    return buffer?.subarray(arriving.position, arriving.position + bytesLeft)
  }

  data(bytes: Uint8Array): void {
    const arriving = this.#arriving
    switch (arriving.kind) {
      case 'command':
      case 'dataOut': {
        const { buffer } = arriving.task
        if (buffer !== undefined && !isAt(bytes, buffer, arriving.position)) buffer.set(bytes, arriving.position)
        arriving.position += bytes.byteLength
        return
      }
      case 'other': {
        const room = arriving.bytes.byteLength - arriving.position
        arriving.bytes.set(room < bytes.byteLength ? bytes.subarray(0, room) : bytes, arriving.position)
        arriving.position += Math.min(room, bytes.byteLength)
        return
      }
      case 'unwanted':
        return
      default:
        unreachable(arriving)
    }
  }

  end(intact: boolean): void {
    const arriving = this.#arriving
    this.#arriving = unwanted
    switch (arriving.kind) {
      case 'command':
        this.#host.endCommand(arriving.task, intact)
        return
      case 'dataOut':
        this.#host.endDataOut(arriving.task, arriving.pdu, intact ? 0 : arriving.position - arriving.pdu.bufferOffset)
        return
      case 'other':
        if (intact) this.#host.request(arriving.pdu, arriving.bytes)
        else {
          const header = headerAgain(arriving.pdu, arriving.bytes.byteLength)
          this.#host.reject(rejectReason.dataDigestError, 'data digest', header)
        }
        return
      case 'unwanted':
        return
      default:
        unreachable(arriving)
    }
  }

  /** No more comes. Returns the command whose immediate data has not come whole, if there is one. */
  stop(): ScsiTask | undefined {
    const arriving = this.#arriving
    this.#arriving = unwanted
    return arriving.kind === 'command' ? arriving.task : undefined
  }

  #decode(header: Header): InitiatorPdu | undefined {
    try {
      return decodeInitiatorPdu(header)
    } catch (error) {
      if (!(error instanceof WireError)) throw error
      const copy = new Uint8Array(header.bytes.subarray(header.at, header.at + headerBytes))
      if (error.code === 'unknownOpcode') this.#host.reject(rejectReason.commandNotSupported, error.message, copy)
      else this.#host.breakOff(rejectReason.invalidPduField, error.message, copy)
      return undefined
    }
  }
}

/** Whether `bytes` are the very memory at `position` of `buffer`: received in place. */
function isAt(bytes: Uint8Array, buffer: Uint8Array, position: number): boolean {
  return bytes.buffer === buffer.buffer && bytes.byteOffset === buffer.byteOffset + position
}
