/**
 * How the data of write commands comes in: memory for it, R2Ts, and which Data-Out may come. RFC 7143 §11.7, §11.8.
 *
 *   command ─▶ [unsolicited Data-Out ...] ─▶ memory ─▶ R2T, R2T ... ─▶ Data-Out ... ─▶ whole
 *                                              └── none to be had: waits, in order
 */
import { type ScsiStatus, scsiStatus } from '../scsi/task.ts'
import type { DataOutMemory } from './data-out-memory.ts'
import { noTag } from './header.ts'
import type { DataOut } from './initiator-pdu.ts'
import { sessionDataOutBytesMax, sessionDataOutFloorBytes } from './limits.ts'
import type { ScsiTask } from './scsi-task.ts'
import { noData, type SessionOutput } from './session-output.ts'

type Refusal = { readonly status: ScsiStatus; readonly sense: Uint8Array }

/** SPC-4 §4.5.3, fixed format, current: what the transport itself has to say about a command. */
function senseData(key: number, additional: number, qualifier: number): Uint8Array {
  const sense = new Uint8Array(18)
  sense.set([0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, additional, qualifier])
  return sense
}
/** ILLEGAL REQUEST, INVALID FIELD IN CDB: more data than one command may bring. */
const tooMuchData: Refusal = { status: scsiStatus.checkCondition, sense: senseData(0x05, 0x24, 0x00) }
/** ABORTED COMMAND, PROTOCOL SERVICE CRC ERROR: RFC 7143 §11.4.7.2. */
export const damagedData: Refusal = { status: scsiStatus.checkCondition, sense: senseData(0x0b, 0x47, 0x05) }
/** ABORTED COMMAND, NOT ENOUGH UNSOLICITED DATA ("incorrect amount of data"): the same table. */
const missingData: Refusal = { status: scsiStatus.checkCondition, sense: senseData(0x0b, 0x0c, 0x0d) }
const noMemory: Refusal = { status: scsiStatus.busy, sense: noData }

/** All of one session. */
export class DataOutFlow {
  readonly #output: SessionOutput
  readonly #memory: DataOutMemory
  /** For one command. */
  readonly #bytesMax: number
  #usedBytes = 0
  #hasMoved = false
  /** Write commands whose R2T waits for memory. In order. */
  #unfunded: ScsiTask[] = []

  constructor(output: SessionOutput, memory: DataOutMemory, bytesMax: number) {
    this.#output = output
    this.#memory = memory
    this.#bytesMax = bytesMax
  }

  /** A command has begun to come in, with `immediateBytes` of its data. Data that cannot be kept is thrown away. */
  begin(task: ScsiTask, immediateBytes: number): void {
    task.unsolicitedOpen = this.#expectsUnsolicited(task, immediateBytes)
    if (immediateBytes > 0 || task.unsolicitedOpen) {
      if (!this.#fund(task)) task.refusal ??= noMemory
    } else if (task.wantedDataOutBytes > this.#bytesMax) {
      task.refusal = tooMuchData
    }
    task.receivedBytes = immediateBytes
    task.solicitedBytes = immediateBytes
  }

  /** Asks for what is still missing, as much at once as was agreed to. */
  solicit(task: ScsiTask): void {
    if (task.buffer === undefined && (this.#unfunded.length > 0 || !this.#fund(task))) {
      this.#unfunded.push(task)
      this.#memory.wait(this.#fundAgain)
      return
    }
    const output = this.#output
    const { burstBytesMax, outstandingReadyToTransferMax } = output.parameters
    while (task.transfers.length < outstandingReadyToTransferMax && task.solicitedBytes < task.wantedDataOutBytes) {
      const bytes = Math.min(burstBytesMax, task.wantedDataOutBytes - task.solicitedBytes)
      const tag = output.newTransferTag()
      const offset = task.solicitedBytes
      task.transfers.push({ tag, offset, dataNumber: 0, end: offset + bytes })
      task.solicitedBytes += bytes
      output.send(
        {
          kind: 'readyToTransfer',
          ...output.upcomingNumbers(),
          lun: task.lun,
          initiatorTaskTag: task.initiatorTaskTag,
          targetTransferTag: tag,
          readyNumber: task.readyCount++,
          bufferOffset: offset,
          desiredBytes: bytes,
        },
        noData,
      )
    }
  }

  /** Says what is wrong with a Data-Out so that the initiator's word is worth nothing any more; undefined if nothing is. */
  accept(task: ScsiTask, pdu: DataOut, dataBytes: number): string | undefined {
    const broken = breachOf(task, pdu, dataBytes, this.#output.parameters.firstBurstBytesMax)
    if (broken !== undefined) return broken
    task.refusal ??= gapBefore(task, pdu, dataBytes)
    const [transfer] = task.transfers
    if (pdu.targetTransferTag === noTag) {
      task.unsolicitedNumber++
      task.solicitedBytes += dataBytes
    } else if (transfer !== undefined) {
      transfer.offset += dataBytes
      transfer.dataNumber++
    }
    task.receivedBytes += dataBytes
    this.#hasMoved = true
    return undefined
  }

  /** Whether data has come since it was asked last. */
  hasMoved(): boolean {
    const hasMoved = this.#hasMoved
    this.#hasMoved = false
    return hasMoved
  }

  /** The accepted Data-Out is here whole. */
  finish(task: ScsiTask, pdu: DataOut): void {
    if (pdu.targetTransferTag === noTag) {
      if (!pdu.final) return
      task.unsolicitedOpen = false
      // §11.4.7.2: of a transfer longer than the first burst, the first burst comes whole. What is shorter is asked for by R2T.
      const { firstBurstBytesMax } = this.#output.parameters
      const isShort = task.receivedBytes < firstBurstBytesMax && task.wantedDataOutBytes > firstBurstBytesMax
      if (isShort) task.refusal ??= missingData
      return
    }
    const [transfer] = task.transfers
    // All that was asked for is here, or the initiator says that there will be no more.
    if (transfer !== undefined && (pdu.final || transfer.offset === transfer.end)) task.transfers.shift()
  }

  /** Gives back what the task holds. */
  unfund(task: ScsiTask): void {
    const { buffer } = task
    if (buffer === undefined) return
    task.buffer = undefined
    this.#usedBytes -= task.wantedDataOutBytes
    this.#memory.give(buffer)
  }

  /** Memory may have come back: those that wait for it try again. */
  refill(): void {
    if (this.#unfunded.length > 0) this.#fundAgain()
  }

  /** Tasks that ended while they waited wait no more. */
  prune(): void {
    this.#unfunded = this.#unfunded.filter(({ state }) => state === 'collecting')
  }

  stop(): void {
    this.#memory.stopWaiting(this.#fundAgain)
  }

  readonly #fundAgain = (): void => {
    const unfunded = this.#unfunded
    this.#unfunded = []
    for (const task of unfunded) if (task.state === 'collecting') this.solicit(task)
    this.#output.flushSoon()
  }

  /** Buffer for all the data of the command. False when there is none to be had now. */
  #fund(task: ScsiTask): boolean {
    const bytes = task.wantedDataOutBytes
    if (bytes > this.#bytesMax) {
      task.refusal = tooMuchData
      return false
    }
    if (this.#usedBytes > 0 && this.#usedBytes + bytes > sessionDataOutBytesMax) return false
    const buffer = this.#memory.take(bytes, this.#usedBytes + bytes <= sessionDataOutFloorBytes)
    if (buffer === undefined) return false
    task.buffer = buffer
    this.#usedBytes += bytes
    return true
  }

  #expectsUnsolicited({ command, wantedDataOutBytes }: ScsiTask, immediateBytes: number): boolean {
    const { initialReadyToTransfer, firstBurstBytesMax } = this.#output.parameters
    return (
      !command.final && !initialReadyToTransfer && immediateBytes < Math.min(wantedDataOutBytes, firstBurstBytesMax)
    )
  }
}

/** Data that nobody asked for. */
function breachOf(task: ScsiTask, pdu: DataOut, dataBytes: number, firstBurstBytesMax: number): string | undefined {
  const end = pdu.bufferOffset + dataBytes
  if (pdu.targetTransferTag === noTag) {
    if (!task.unsolicitedOpen) return 'unsolicited data that was not announced'
    const most = Math.min(firstBurstBytesMax, task.wantedDataOutBytes)
    return end > most || task.receivedBytes + dataBytes > most ? 'more unsolicited data than agreed to' : undefined
  }
  const [transfer] = task.transfers
  if (transfer === undefined || transfer.tag !== pdu.targetTransferTag) return 'data for no R2T'
  return end > transfer.end || transfer.offset + dataBytes > transfer.end
    ? 'more data than the R2T asked for'
    : undefined
}

/** A PDU that is missing or out of order costs the command, at error recovery level 0, but not the connection. §7.9 */
function gapBefore(task: ScsiTask, pdu: DataOut, dataBytes: number): Refusal | undefined {
  if (pdu.targetTransferTag === noTag) {
    const inOrder = pdu.dataNumber === task.unsolicitedNumber && pdu.bufferOffset === task.receivedBytes
    return inOrder ? undefined : damagedData
  }
  const [transfer] = task.transfers
  if (transfer === undefined) return undefined
  if (pdu.dataNumber !== transfer.dataNumber || pdu.bufferOffset !== transfer.offset) return damagedData
  return pdu.final && pdu.bufferOffset + dataBytes < transfer.end ? missingData : undefined
}
