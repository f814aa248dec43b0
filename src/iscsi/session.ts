/**
 * Full-feature phase of one session (and its one connection): RFC 7143 §4.2, §11. PDUs come from a `FrameReader`, answers
 * go to an `Outbox`; no sockets or clocks.
 *
 *   SCSI Command ─▶ in order of CmdSN ─▶ [R2T, Data-Out ...] ─▶ DeviceServer.execute ─▶ Data-In ..., status
 *
 * Error recovery level 0: a fault of the protocol gets a Reject and ends the connection; commands then have to come again.
 */
import { assert, unreachable } from '../base/assert.ts'
import { type DeviceServer, type Nexus, scsiStatus } from '../scsi/task.ts'
import { WireError } from '../wire/reader.ts'
import type { DataOutMemory } from './data-out-memory.ts'
import type { FrameReader, FrameTaker } from './frame.ts'
import {
  commandWindow,
  directReceiveBytesMin,
  immediateTasksMax,
  negotiationTextBytesMax,
  receiveSegmentBytesMax,
  sendQueueBytesMax,
  sendTargetsBytesMax,
  sessionDataOutBytesMax,
  timeToWaitSeconds,
} from './limits.ts'
import { type Parameters, renegotiate } from './negotiation.ts'
import {
  after,
  asyncEvent,
  bidirectionalReadBytes,
  type DataOut,
  decodeInitiatorPdu,
  encodeInitiatorPdu,
  encodeTargetPdu,
  type Header,
  headerBytes,
  type InitiatorPdu,
  isBefore,
  type LogoutRequest,
  logoutReason,
  logoutResponse,
  type NopOut,
  type Numbers,
  noTag,
  type RejectReason,
  rejectReason,
  type TargetPdu,
  type TaskManagementRequest,
  type TextRequest,
  taskManagementFunction,
  taskManagementResponse,
} from './pdu.ts'
import type { LoginAttempt, SessionEnd, SessionIdentity, TargetListing } from './policy.ts'
import { formatPortal } from './portal.ts'
import { ScsiTask, type TaskOwner } from './scsi-task.ts'
import { dataStart, framedBytes, type Outbox, type Region, type SendMemory, sealDigests } from './send-memory.ts'
import { decodeText, encodeText, type KeyValue, textValue } from './text.ts'

/** The connection under a session, and the target around it. */
export interface SessionHost {
  readonly memory: SendMemory
  readonly dataOut: DataOutMemory
  readonly outbox: Outbox
  readonly reader: FrameReader
  /** Sends what has been pushed, unless the turn that is going on will do so. */
  flushSoon(): void
  /** Sends what is queued, then ends the connection. The session has ended already. */
  hangUp(): void
  /** The session is over: out of the registry, into the journal. */
  sessionEnded(session: Session, end: SessionEnd): void
  rejected(session: Session, reason: string, detail: string): void
  /** Sessions at the same logical units, this one among them. */
  sharing(session: Session): readonly Session[]
  listTargets(attempt: LoginAttempt): readonly TargetListing[] | Promise<readonly TargetListing[]>
}

export type SessionTerms = {
  readonly identity: SessionIdentity
  readonly attempt: LoginAttempt
  /** Undefined in a discovery session. */
  readonly key: string | undefined
  readonly handle: number // TSIH
  readonly connectionId: number
  readonly parameters: Parameters
  readonly nexus: Nexus
  readonly deviceServer: DeviceServer | undefined
  readonly commandNumber: number
  readonly statusNumber: number
}

/** The PDU whose data is coming in. */
type Arriving =
  | { readonly kind: 'command'; readonly task: ScsiTask; position: number }
  | { readonly kind: 'dataOut'; readonly pdu: DataOut; readonly task: ScsiTask; position: number }
  | { readonly kind: 'bytes'; readonly pdu: InitiatorPdu; readonly bytes: Uint8Array; position: number }
  /** Nobody wants it: of a task that is gone, or a command outside the window. */
  | { readonly kind: 'unwanted' }

type PendingText = { readonly initiatorTaskTag: number; readonly targetTransferTag: number; readonly rest: Uint8Array }

const noData = new Uint8Array(0)
const lunZero = new Uint8Array(8)
const unwanted: Arriving = { kind: 'unwanted' }

/** SPC-4 §4.5.3, fixed format, current: what the transport itself has to say about a command. */
function senseData(key: number, additional: number, qualifier: number): Uint8Array {
  const sense = new Uint8Array(18)
  sense.set([0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, additional, qualifier])
  return sense
}
/** ILLEGAL REQUEST, INVALID FIELD IN CDB: more data than one command may bring. */
const tooMuchData = { status: scsiStatus.checkCondition, sense: senseData(0x05, 0x24, 0x00) } as const
/** ABORTED COMMAND, PROTOCOL SERVICE CRC ERROR: RFC 7143 §11.4.7.2. */
const damagedData = { status: scsiStatus.checkCondition, sense: senseData(0x0b, 0x47, 0x05) } as const
/** ABORTED COMMAND, NOT ENOUGH UNSOLICITED DATA ("incorrect amount of data"): the same table. */
const missingData = { status: scsiStatus.checkCondition, sense: senseData(0x0b, 0x0c, 0x0d) } as const
const noMemory = { status: scsiStatus.busy, sense: noData } as const

export class Session implements FrameTaker, TaskOwner {
  readonly identity: SessionIdentity
  readonly key: string | undefined
  readonly handle: number
  readonly nexus: Nexus
  readonly deviceServer: DeviceServer | undefined
  parameters: Parameters
  readonly #attempt: LoginAttempt
  readonly #connectionId: number
  readonly #host: SessionHost

  #expectedCommandNumber: number
  #maxCommandNumber: number
  #statusNumber: number
  #lastTransferTag = 0
  #immediateTasks = 0

  #arriving: Arriving = unwanted
  readonly #tasks = new Map<number, ScsiTask>()
  /** What came before its turn, by CmdSN. */
  readonly #held = new Map<number, () => void>()
  /** Complete commands that wait for the initiator to read what it was sent. In order. */
  #backlog: ScsiTask[] = []
  /** Write commands whose R2T waits for memory. In order. */
  #unfunded: ScsiTask[] = []
  #dataOutBytes = 0
  #executing = 0
  #quietListeners: (() => void)[] = []
  #textSoFar = noData
  #textPending: PendingText | undefined
  #over = false
  #pingTag = 0

  commandCount = 0
  readBytes = 0
  writtenBytes = 0

  constructor(terms: SessionTerms, host: SessionHost) {
    this.identity = terms.identity
    this.key = terms.key
    this.handle = terms.handle
    this.nexus = terms.nexus
    this.deviceServer = terms.deviceServer
    this.parameters = terms.parameters
    this.#attempt = terms.attempt
    this.#connectionId = terms.connectionId
    this.#host = host
    this.#expectedCommandNumber = terms.commandNumber
    this.#maxCommandNumber = after(terms.commandNumber, commandWindow - 1)
    this.#statusNumber = terms.statusNumber
    host.reader.segmentBytesMax = receiveSegmentBytesMax
    host.reader.headerDigest = terms.parameters.headerDigest
    host.reader.dataDigest = terms.parameters.dataDigest
  }

  get memory(): SendMemory {
    return this.#host.memory
  }

  get connectionId(): number {
    return this.#connectionId
  }

  /** No command of this session executes. */
  get isQuiet(): boolean {
    return this.#executing === 0
  }

  whenQuiet(then: () => void): void {
    if (this.isQuiet) then()
    else this.#quietListeners.push(then)
  }

  // --- receiving

  header(header: Header): void {
    this.#arriving = unwanted
    const pdu = this.#decode(header)
    if (pdu === undefined) return
    switch (pdu.kind) {
      case 'scsiCommand': {
        const readBytes = pdu.read && pdu.write ? (bidirectionalReadBytes(header) ?? 0) : 0
        this.#beginCommand(new ScsiTask(this, pdu, readBytes), header.dataBytes)
        return
      }
      case 'dataOut':
        this.#beginDataOut(pdu, header.dataBytes)
        return
      case 'nopOut':
      case 'text':
      case 'login':
      case 'logout':
      case 'taskManagement':
      case 'snack': {
        const bytesMax = pdu.kind === 'nopOut' ? this.parameters.peerSegmentBytesMax : negotiationTextBytesMax
        if (header.dataBytes > bytesMax && pdu.kind !== 'nopOut') {
          this.#breakOff(rejectReason.protocolError, 'more text than allowed', encodeInitiatorPdu(pdu))
          return
        }
        const bytes = new Uint8Array(Math.min(header.dataBytes, bytesMax))
        this.#arriving = { kind: 'bytes', pdu, bytes, position: 0 }
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
      case 'bytes': {
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
        if (intact) this.#endCommand(arriving.task)
        else this.#damagedCommand(arriving.task)
        return
      case 'dataOut':
        if (!intact) {
          this.#reject(rejectReason.dataDigestError, 'data digest', encodeInitiatorPdu(arriving.pdu))
          // §7.8: with level 0 the command ends so, but only after all its data has come.
          arriving.task.refusal ??= damagedData
        }
        if (arriving.task.state === 'collecting') this.#endDataOut(arriving.task, arriving.pdu)
        return
      case 'bytes':
        if (intact) this.#inOrder(arriving.pdu, arriving.bytes)
        else this.#reject(rejectReason.dataDigestError, 'data digest', encodeInitiatorPdu(arriving.pdu))
        return
      case 'unwanted':
        return
      default:
        unreachable(arriving)
    }
  }

  #decode(header: Header): InitiatorPdu | undefined {
    try {
      return decodeInitiatorPdu(header)
    } catch (error) {
      if (!(error instanceof WireError)) throw error
      const copy = new Uint8Array(header.bytes.subarray(header.at, header.at + headerBytes))
      if (error.code === 'unknownOpcode') this.#reject(rejectReason.commandNotSupported, error.message, copy)
      else this.#breakOff(rejectReason.invalidPduField, error.message, copy)
      return undefined
    }
  }

  /** Commands have their own way, without a closure each: `#endCommand`. */
  #inOrder(pdu: InitiatorPdu, bytes: Uint8Array): void {
    if (pdu.kind === 'snack') {
      // §11.16: SNACK is of error recovery level 1 and above.
      this.#reject(rejectReason.snackRejected, 'SNACK', encodeInitiatorPdu(pdu))
      return
    }
    if (pdu.kind === 'login') {
      this.#breakOff(rejectReason.protocolError, 'a login in full-feature phase', encodeInitiatorPdu(pdu))
      return
    }
    if (pdu.kind === 'dataOut' || pdu.kind === 'scsiCommand') return
    if (pdu.immediate) {
      this.#act(pdu, bytes)
      return
    }
    // A NOP-Out that answers our ping carries a CmdSN but is not a command. §11.18.
    if (!this.#isTurnOf(pdu.commandNumber)) {
      this.#hold(pdu.commandNumber, () => this.#turn(() => this.#act(pdu, bytes)))
      return
    }
    this.#turn(() => this.#act(pdu, bytes))
    this.#releaseHeld()
  }

  /** One numbered request that is not a task: its place in the window is free again at once. */
  #turn(act: () => void): void {
    this.#expectedCommandNumber = after(this.#expectedCommandNumber)
    this.#maxCommandNumber = after(this.#maxCommandNumber)
    act()
  }

  #act(pdu: NopOut | TaskManagementRequest | TextRequest | LogoutRequest, bytes: Uint8Array): void {
    switch (pdu.kind) {
      case 'nopOut':
        this.#answerNop(pdu, bytes)
        return
      case 'taskManagement':
        this.#manage(pdu)
        return
      case 'text':
        this.#answerText(pdu, bytes)
        return
      case 'logout':
        this.#logout(pdu)
        return
      default:
        unreachable(pdu)
    }
  }

  #isTurnOf(commandNumber: number): boolean {
    return commandNumber === this.#expectedCommandNumber
  }

  /** §4.2.2.1: what is outside the window, or there twice, is ignored in silence. */
  #hold(commandNumber: number, act: () => void): boolean {
    const early = isBefore(this.#expectedCommandNumber, commandNumber)
    if (!early || isBefore(this.#maxCommandNumber, commandNumber) || this.#held.has(commandNumber)) return false
    this.#held.set(commandNumber, act)
    return true
  }

  #releaseHeld(): void {
    while (this.#held.size > 0 && !this.#over) {
      const act = this.#held.get(this.#expectedCommandNumber)
      if (act === undefined) return
      this.#held.delete(this.#expectedCommandNumber)
      act()
    }
  }

  // --- commands

  #beginCommand(task: ScsiTask, immediateBytes: number): void {
    const { command } = task
    const broken = this.#faultOfCommand(task, immediateBytes)
    if (broken !== undefined) {
      task.state = 'ended'
      if (broken.fatal) this.#breakOff(broken.reason, broken.detail, encodeInitiatorPdu(command))
      else this.#reject(broken.reason, broken.detail, encodeInitiatorPdu(command))
      return
    }
    if (!command.immediate && isBefore(command.commandNumber, this.#expectedCommandNumber)) {
      task.state = 'ended'
      return
    }
    task.unsolicitedOpen = this.#expectsUnsolicited(task, immediateBytes)
    if (immediateBytes > 0 || task.unsolicitedOpen) {
      if (!this.#fund(task)) task.refusal ??= noMemory
    } else if (task.wantedDataOutBytes > this.#dataOutBytesMax) {
      task.refusal = tooMuchData
    }
    this.#arriving = { kind: 'command', task, position: 0 }
    task.receivedBytes = immediateBytes
    task.solicitedBytes = immediateBytes
  }

  get #dataOutBytesMax(): number {
    return this.deviceServer?.dataOutBytesMax ?? 0
  }

  #faultOfCommand(
    { command, wantedDataOutBytes }: ScsiTask,
    immediateBytes: number,
  ): { readonly reason: RejectReason; readonly detail: string; readonly fatal: boolean } | undefined {
    if (this.deviceServer === undefined) {
      return { reason: rejectReason.commandNotSupported, detail: 'a SCSI command in a discovery session', fatal: false }
    }
    if (command.immediate && this.#immediateTasks >= immediateTasksMax) {
      return { reason: rejectReason.tooManyImmediateCommands, detail: 'immediate commands', fatal: false }
    }
    if (command.initiatorTaskTag === noTag) {
      return { reason: rejectReason.invalidPduField, detail: 'a command without a task tag', fatal: true }
    }
    if (this.#tasks.has(command.initiatorTaskTag)) {
      return { reason: rejectReason.taskInProgress, detail: 'a task tag in use', fatal: false }
    }
    const { immediateData, firstBurstBytesMax } = this.parameters
    if (immediateBytes > 0 && (!immediateData || immediateBytes > Math.min(firstBurstBytesMax, wantedDataOutBytes))) {
      return { reason: rejectReason.protocolError, detail: 'immediate data that was not agreed to', fatal: true }
    }
    return undefined
  }

  #expectsUnsolicited({ command, wantedDataOutBytes }: ScsiTask, immediateBytes: number): boolean {
    const { initialReadyToTransfer, firstBurstBytesMax } = this.parameters
    return (
      !command.final && !initialReadyToTransfer && immediateBytes < Math.min(wantedDataOutBytes, firstBurstBytesMax)
    )
  }

  #endCommand(task: ScsiTask): void {
    const { immediate, commandNumber } = task.command
    if (immediate) {
      this.#immediateTasks++
      this.#admit(task)
      this.#deliver(task)
      return
    }
    if (this.#isTurnOf(commandNumber)) {
      this.#expectedCommandNumber = after(commandNumber)
      this.#admit(task)
      this.#deliver(task)
      if (this.#held.size > 0) this.#releaseHeld()
      return
    }
    const held = this.#hold(commandNumber, () => {
      this.#expectedCommandNumber = after(commandNumber)
      if (task.state === 'ended') this.#maxCommandNumber = after(this.#maxCommandNumber)
      else this.#deliver(task)
    })
    if (held) this.#list(task)
    else this.#forget(task)
  }

  /** Data-Out may follow before anything else happens, so the task has to be found by its tag. */
  #admit(task: ScsiTask): void {
    if (task.wantedDataOutBytes > task.receivedBytes) this.#list(task)
  }

  #list(task: ScsiTask): void {
    task.listed = true
    this.#tasks.set(task.initiatorTaskTag, task)
  }

  /** A command that never was: outside the window, or damaged on the way. */
  #forget(task: ScsiTask): void {
    task.state = 'ended'
    this.#unfund(task)
  }

  #damagedCommand(task: ScsiTask): void {
    this.#forget(task)
    this.#reject(rejectReason.dataDigestError, 'data digest', encodeInitiatorPdu(task.command))
  }

  /** Its turn by CmdSN has come. */
  #deliver(task: ScsiTask): void {
    task.delivered = true
    if (task.unsolicitedOpen) return
    if (task.refusal !== undefined) this.#refuse(task)
    else if (task.receivedBytes >= task.wantedDataOutBytes) this.#ready(task)
    else this.#solicit(task)
  }

  #refuse(task: ScsiTask): void {
    const { refusal } = task
    assert(refusal !== undefined, 'a refused task says why')
    task.fail(refusal.status, refusal.sense)
  }

  #ready(task: ScsiTask): void {
    task.state = 'ready'
    if (this.#backlog.length > 0 || this.#host.outbox.queuedBytes >= sendQueueBytesMax) {
      this.#list(task)
      this.#backlog.push(task)
    } else this.#execute(task)
  }

  #execute(task: ScsiTask): void {
    const { deviceServer } = this
    assert(deviceServer !== undefined, 'a discovery session has no commands')
    if (task.buffer !== undefined) {
      task.dataOutBytes = task.receivedBytes
      task.dataOut = [task.buffer.subarray(0, task.receivedBytes)]
      this.writtenBytes += task.receivedBytes
    }
    task.state = 'executing'
    this.#executing++
    deviceServer.execute(task)
    // Most commands have ended by now, and were never in the table.
    if (task.state === 'executing' && !task.listed) this.#list(task)
  }

  /** The kernel has taken something: commands that waited for that go on. */
  drained(): void {
    if (this.#backlog.length === 0 || this.#host.outbox.queuedBytes > sendQueueBytesMax / 2) return
    const backlog = this.#backlog
    this.#backlog = []
    for (const [index, task] of backlog.entries()) {
      if (this.#host.outbox.queuedBytes >= sendQueueBytesMax) {
        this.#backlog = [...backlog.slice(index), ...this.#backlog]
        break
      }
      if (task.state === 'ready') this.#execute(task)
    }
    this.#host.flushSoon()
  }

  // --- data-out

  /** Buffer for all the data of the command. False when there is none to be had now. */
  #fund(task: ScsiTask): boolean {
    const bytes = task.wantedDataOutBytes
    if (bytes > this.#dataOutBytesMax) {
      task.refusal = tooMuchData
      return false
    }
    if (this.#dataOutBytes > 0 && this.#dataOutBytes + bytes > sessionDataOutBytesMax) return false
    const buffer = this.#host.dataOut.take(bytes)
    if (buffer === undefined) return false
    task.buffer = buffer
    this.#dataOutBytes += bytes
    return true
  }

  #unfund(task: ScsiTask): void {
    const { buffer } = task
    if (buffer === undefined) return
    task.buffer = undefined
    this.#dataOutBytes -= task.wantedDataOutBytes
    this.#host.dataOut.give(buffer)
  }

  readonly #fundAgain = (): void => {
    const unfunded = this.#unfunded
    this.#unfunded = []
    for (const task of unfunded) if (task.state === 'collecting') this.#solicit(task)
    this.#host.flushSoon()
  }

  #solicit(task: ScsiTask): void {
    if (task.buffer === undefined && (this.#unfunded.length > 0 || !this.#fund(task))) {
      this.#unfunded.push(task)
      this.#host.dataOut.wait(this.#fundAgain)
      return
    }
    const { burstBytesMax, outstandingReadyToTransferMax } = this.parameters
    while (task.transfers.length < outstandingReadyToTransferMax && task.solicitedBytes < task.wantedDataOutBytes) {
      const bytes = Math.min(burstBytesMax, task.wantedDataOutBytes - task.solicitedBytes)
      const tag = this.#newTransferTag()
      const offset = task.solicitedBytes
      task.transfers.push({ tag, offset, dataNumber: 0, end: offset + bytes })
      task.solicitedBytes += bytes
      this.send(
        {
          kind: 'readyToTransfer',
          ...this.currentNumbers(),
          // §11.8: R2T carries the next StatSN without using it up.
          statusNumber: this.#statusNumber,
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

  #newTransferTag(): number {
    this.#lastTransferTag = (this.#lastTransferTag + 1) % noTag
    return this.#lastTransferTag
  }

  #beginDataOut(pdu: DataOut, dataBytes: number): void {
    const task = this.#tasks.get(pdu.initiatorTaskTag)
    // Of a task that was aborted or has failed: its data may still be on the way, and means nothing.
    if (task === undefined || task.state !== 'collecting') return
    const broken = breachOfDataOut(task, pdu, dataBytes, this.parameters.firstBurstBytesMax)
    if (broken !== undefined) {
      this.#breakOff(rejectReason.protocolError, broken, encodeInitiatorPdu(pdu))
      return
    }
    task.refusal ??= gapBefore(task, pdu, dataBytes)
    this.#arriving = { kind: 'dataOut', pdu, task, position: pdu.bufferOffset }
    const [transfer] = task.transfers
    if (pdu.targetTransferTag === noTag) {
      task.unsolicitedNumber++
      task.solicitedBytes += dataBytes
    } else if (transfer !== undefined) {
      transfer.offset += dataBytes
      transfer.dataNumber++
    }
    task.receivedBytes += dataBytes
  }

  #endDataOut(task: ScsiTask, pdu: DataOut): void {
    if (pdu.targetTransferTag === noTag) {
      if (pdu.final) task.unsolicitedOpen = false
    } else {
      const [transfer] = task.transfers
      // All that was asked for is here, or the initiator says that there will be no more.
      if (transfer !== undefined && (pdu.final || transfer.offset === transfer.end)) task.transfers.shift()
    }
    if (!task.delivered || task.unsolicitedOpen) return
    if (task.transfers.length === 0) this.#deliver(task)
    else if (task.refusal === undefined) this.#solicit(task)
  }

  // --- what a task needs: TaskOwner

  ended(task: ScsiTask, before: ScsiTask['state']): void {
    if (task.listed) this.#tasks.delete(task.initiatorTaskTag)
    if (task.command.immediate) this.#immediateTasks--
    else if (task.delivered) this.#maxCommandNumber = after(this.#maxCommandNumber)
    this.#unfund(task)
    this.commandCount++
    if (before === 'executing') {
      this.#executing--
      if (this.#executing === 0 && this.#quietListeners.length > 0) this.#tellQuiet()
    }
    if (this.#unfunded.length > 0) this.#fundAgain()
  }

  #tellQuiet(): void {
    const listeners = this.#quietListeners
    this.#quietListeners = []
    for (const listener of listeners) listener()
  }

  nextNumbers(): Numbers {
    const statusNumber = this.#statusNumber
    this.#statusNumber = after(statusNumber)
    return {
      statusNumber,
      expectedCommandNumber: this.#expectedCommandNumber,
      maxCommandNumber: this.#maxCommandNumber,
    }
  }

  currentNumbers(): Numbers {
    return {
      statusNumber: 0,
      expectedCommandNumber: this.#expectedCommandNumber,
      maxCommandNumber: this.#maxCommandNumber,
    }
  }

  push(region: Region): void {
    this.#host.outbox.push(region)
  }

  answered(dataInBytes: number): void {
    this.readBytes += dataInBytes
    this.#host.flushSoon()
  }

  send(pdu: TargetPdu, data: Uint8Array): void {
    const { parameters } = this
    const region = this.memory.take(framedBytes(data.byteLength, parameters))
    const view = region.slab?.view
    assert(view !== undefined, 'taken memory is in a slab')
    encodeTargetPdu(view, region.start, pdu, data.byteLength)
    if (data.byteLength > 0) {
      const from = dataStart(region.start, parameters)
      region.bytes.set(data, from)
      for (let i = data.byteLength; i % 4 !== 0; i++) region.bytes[from + i] = 0
    }
    sealDigests(region, parameters)
    this.#host.outbox.push(region)
    this.#host.flushSoon()
  }

  // --- other requests

  /** Are you there? Whoever does not answer is not dropped for it (iPXE never does): TCP finds out. §11.19. */
  ping(): void {
    this.#pingTag = this.#newTransferTag()
    this.send(
      {
        kind: 'nopIn',
        ...this.currentNumbers(),
        statusNumber: this.#statusNumber,
        lun: lunZero,
        initiatorTaskTag: noTag,
        targetTransferTag: this.#pingTag,
      },
      noData,
    )
  }

  #answerNop(pdu: NopOut, bytes: Uint8Array): void {
    if (pdu.initiatorTaskTag === noTag) return
    this.send(
      {
        kind: 'nopIn',
        ...this.nextNumbers(),
        lun: pdu.lun,
        initiatorTaskTag: pdu.initiatorTaskTag,
        targetTransferTag: noTag,
      },
      bytes,
    )
  }

  #answerText(pdu: TextRequest, bytes: Uint8Array): void {
    const pending = this.#textPending
    if (pdu.targetTransferTag !== noTag) {
      // The rest of a long answer is fetched with empty requests that carry our tag. §11.10.4.
      if (pending === undefined || pending.targetTransferTag !== pdu.targetTransferTag || bytes.byteLength > 0) {
        this.#reject(rejectReason.invalidPduField, 'a text answer that is not there', encodeInitiatorPdu(pdu))
        return
      }
      this.#sendText(pdu, pending.rest)
      return
    }
    this.#textPending = undefined
    const text = new Uint8Array(this.#textSoFar.byteLength + bytes.byteLength)
    text.set(this.#textSoFar)
    text.set(bytes, this.#textSoFar.byteLength)
    this.#textSoFar = noData
    if (text.byteLength > negotiationTextBytesMax) {
      this.#breakOff(rejectReason.protocolError, 'more text than allowed', encodeInitiatorPdu(pdu))
      return
    }
    if (pdu.more) {
      this.#textSoFar = text
      this.#textAnswer(pdu, noData, { final: false, more: false, tag: this.#newTransferTag() })
      return
    }
    let offers: readonly KeyValue[]
    try {
      offers = decodeText(text)
    } catch (error) {
      if (!(error instanceof WireError)) throw error
      this.#reject(rejectReason.protocolError, error.message, encodeInitiatorPdu(pdu))
      return
    }
    const negotiated = renegotiate(this.parameters, offers)
    this.parameters = negotiated.parameters
    const wanted = textValue(offers, 'SendTargets')
    if (wanted === undefined) this.#sendText(pdu, encodeText(negotiated.answers))
    else this.#sendTargets(pdu, wanted, negotiated.answers)
  }

  /** §4.3, appendix C. In a normal session only its own target is told. */
  #sendTargets(pdu: TextRequest, wanted: string, answers: readonly KeyValue[]): void {
    const own = this.identity.targetName
    if (own !== undefined && wanted !== '' && wanted.toLowerCase() !== own) {
      this.#sendText(pdu, encodeText([...answers, ['SendTargets', 'Reject']]))
      return
    }
    const name = own ?? (wanted === 'All' ? undefined : wanted.toLowerCase())
    const finish = (listings: readonly TargetListing[]): void => {
      if (this.#over) return
      const chosen = listings.filter(({ targetName }) => name === undefined || targetName === name)
      const text = encodeText([...answers, ...chosen.flatMap((listing) => describe(listing, this.#attempt))])
      // Cut between targets would be kinder, but this many means a catalogue that no initiator could use.
      this.#sendText(pdu, text.byteLength > sendTargetsBytesMax ? encodeText([['SendTargets', 'Reject']]) : text)
    }
    const listings = this.#host.listTargets(this.#attempt)
    if (listings instanceof Promise) listings.then(finish, () => finish([]))
    else finish(listings)
  }

  #sendText(pdu: TextRequest, text: Uint8Array): void {
    const bytesMax = this.parameters.peerSegmentBytesMax
    if (text.byteLength <= bytesMax) {
      this.#textPending = undefined
      this.#textAnswer(pdu, text, { final: true, more: false, tag: noTag })
      return
    }
    const tag = this.#newTransferTag()
    this.#textPending = {
      initiatorTaskTag: pdu.initiatorTaskTag,
      targetTransferTag: tag,
      rest: text.subarray(bytesMax),
    }
    this.#textAnswer(pdu, text.subarray(0, bytesMax), { final: false, more: true, tag })
  }

  #textAnswer(
    pdu: TextRequest,
    text: Uint8Array,
    how: { readonly final: boolean; readonly more: boolean; readonly tag: number },
  ): void {
    this.send(
      {
        kind: 'textResponse',
        ...this.nextNumbers(),
        final: how.final,
        more: how.more,
        lun: pdu.lun,
        initiatorTaskTag: pdu.initiatorTaskTag,
        targetTransferTag: how.tag,
      },
      text,
    )
  }

  #logout(pdu: LogoutRequest): void {
    const answer = (response: number): void =>
      this.send(
        {
          kind: 'logoutResponse',
          ...this.nextNumbers(),
          response,
          initiatorTaskTag: pdu.initiatorTaskTag,
          timeToWaitSeconds: this.parameters.timeToWaitSeconds,
          timeToRetainSeconds: 0,
        },
        noData,
      )
    if (pdu.reason === logoutReason.removeForRecovery) {
      answer(logoutResponse.recoveryNotSupported)
    } else if (pdu.reason === logoutReason.closeConnection && pdu.connectionId !== this.#connectionId) {
      answer(logoutResponse.connectionMissing)
    } else if (pdu.reason > logoutReason.removeForRecovery) {
      this.#reject(rejectReason.invalidPduField, 'logout for no known reason', encodeInitiatorPdu(pdu))
    } else {
      // With one connection, closing it is closing the session. §11.14.
      answer(logoutResponse.success)
      this.finish('logout')
      this.#host.hangUp()
    }
  }

  // --- task management

  #manage(pdu: TaskManagementRequest): void {
    const { deviceServer } = this
    const answer = (response: number): void =>
      this.send(
        {
          kind: 'taskManagementResponse',
          ...this.nextNumbers(),
          response,
          initiatorTaskTag: pdu.initiatorTaskTag,
        },
        noData,
      )
    if (deviceServer === undefined) {
      answer(taskManagementResponse.rejected)
      return
    }
    const complete = (): void => answer(taskManagementResponse.complete)
    const sameUnit = (task: ScsiTask): boolean => equalLuns(task.lun, pdu.lun)
    switch (pdu.function) {
      case taskManagementFunction.abortTask:
        this.#abortTask(pdu, deviceServer, answer)
        return
      case taskManagementFunction.abortTaskSet:
      case taskManagementFunction.clearTaskSet:
      case taskManagementFunction.logicalUnitReset: {
        const request = requestNames[pdu.function]
        const sessions = request === 'abortTaskSet' ? [this] : this.#host.sharing(this)
        if (deviceServer.manage(this.nexus, pdu.lun, request) === 'lunMissing') {
          answer(taskManagementResponse.lunMissing)
          return
        }
        // The answer waits for commands under way: a write that lands after it would undo what comes next.
        const executing = sessions.flatMap((session) => session.abort(sameUnit))
        whenAllEnded(executing, complete)
        return
      }
      case taskManagementFunction.targetWarmReset:
      case taskManagementFunction.targetColdReset: {
        deviceServer.manage(this.nexus, lunZero, 'targetReset')
        const sessions = this.#host.sharing(this)
        const executing = sessions.flatMap((session) => session.abort(() => true))
        whenAllEnded(executing, () => {
          complete()
          if (pdu.function === taskManagementFunction.targetWarmReset) return
          // §11.5.1: a cold reset is like a power cycle; all connections go.
          for (const session of sessions) session.close('targetReset')
        })
        return
      }
      case taskManagementFunction.taskReassign:
        answer(taskManagementResponse.reassignNotSupported)
        return
      default:
        answer(taskManagementResponse.notSupported)
    }
  }

  #abortTask(pdu: TaskManagementRequest, deviceServer: DeviceServer, answer: (response: number) => void): void {
    const task = this.#tasks.get(pdu.referencedTaskTag)
    if (task !== undefined && equalLuns(task.lun, pdu.lun)) {
      deviceServer.manage(this.nexus, pdu.lun, 'abortTask')
      whenAllEnded(
        this.abort((one) => one === task),
        () => answer(taskManagementResponse.complete),
      )
      return
    }
    // §11.5.1: a command that has not come yet, but is due, counts as come and aborted.
    const number = pdu.referencedCommandNumber
    const due = !isBefore(number, this.#expectedCommandNumber) && !isBefore(this.#maxCommandNumber, number)
    const skipped = due && number !== pdu.commandNumber && this.#skip(number)
    answer(skipped ? taskManagementResponse.complete : taskManagementResponse.taskMissing)
  }

  #skip(commandNumber: number): boolean {
    const pass = (): void => this.#turn(() => {})
    if (!this.#isTurnOf(commandNumber)) return this.#hold(commandNumber, pass)
    pass()
    this.#releaseHeld()
    return true
  }

  /** Ends the tasks that `choose` names in silence; returns those which execute and will end later. */
  abort(choose: (task: ScsiTask) => boolean): ScsiTask[] {
    const executing: ScsiTask[] = []
    for (const task of [...this.#tasks.values()]) {
      if (!choose(task) || task.aborted) continue
      if (task.state === 'executing') {
        task.aborted = true
        executing.push(task)
      } else task.discard()
    }
    this.#backlog = this.#backlog.filter(({ state }) => state === 'ready')
    this.#unfunded = this.#unfunded.filter(({ state }) => state === 'collecting')
    return executing
  }

  // --- the end

  /** Asks the initiator to log out; Linux does, iPXE does not know what it is being told. §11.9.1. */
  requestLogout(withinSeconds: number): void {
    this.#tell(asyncEvent.logoutRequested, [0, 0, withinSeconds])
  }

  /** Tells that the connection goes and ends it. */
  close(end: SessionEnd): void {
    if (this.#over) return
    // Parameters: CID, Time2Wait, Time2Retain.
    this.#tell(asyncEvent.sessionDropping, [this.#connectionId, timeToWaitSeconds, 0])
    this.finish(end)
    this.#host.hangUp()
  }

  /** The session is over, whatever becomes of the connection. Idempotent. */
  finish(end: SessionEnd): void {
    if (this.#over) return
    this.#over = true
    this.#host.reader.stop()
    this.#held.clear()
    this.abort(() => true)
    const arriving = this.#arriving
    this.#arriving = unwanted
    if (arriving.kind === 'command') this.#forget(arriving.task)
    this.#host.dataOut.stopWaiting(this.#fundAgain)
    this.#host.sessionEnded(this, end)
  }

  #tell(event: number, parameters: readonly [number, number, number]): void {
    this.send({ kind: 'asyncMessage', ...this.nextNumbers(), lun: lunZero, event, vendorCode: 0, parameters }, noData)
  }

  #reject(reason: RejectReason, detail: string, header: Uint8Array): void {
    this.#host.rejected(this, nameOf(reason), detail)
    const rejected = header.subarray(0, headerBytes)
    this.send({ kind: 'reject', ...this.nextNumbers(), reason, dataNumber: 0 }, rejected)
  }

  /** The initiator broke the protocol so that nothing it says now can be trusted. */
  #breakOff(reason: RejectReason, detail: string, header: Uint8Array): void {
    this.#reject(reason, detail, header)
    this.finish('protocolError')
    this.#host.hangUp()
  }
}

const requestNames = {
  [taskManagementFunction.abortTaskSet]: 'abortTaskSet',
  [taskManagementFunction.clearTaskSet]: 'clearTaskSet',
  [taskManagementFunction.logicalUnitReset]: 'logicalUnitReset',
} as const

/** What makes the initiator's word worthless: data that nobody asked for. Undefined if there is no such thing. */
function breachOfDataOut(
  task: ScsiTask,
  pdu: DataOut,
  dataBytes: number,
  firstBurstBytesMax: number,
): string | undefined {
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
function gapBefore(task: ScsiTask, pdu: DataOut, dataBytes: number): ScsiTask['refusal'] {
  if (pdu.targetTransferTag === noTag) {
    const inOrder = pdu.dataNumber === task.unsolicitedNumber && pdu.bufferOffset === task.receivedBytes
    return inOrder ? undefined : damagedData
  }
  const [transfer] = task.transfers
  if (transfer === undefined) return undefined
  if (pdu.dataNumber !== transfer.dataNumber || pdu.bufferOffset !== transfer.offset) return damagedData
  return pdu.final && pdu.bufferOffset + dataBytes < transfer.end ? missingData : undefined
}

/** Whether `bytes` are the very memory at `position` of `buffer`: received in place. */
function isAt(bytes: Uint8Array, buffer: Uint8Array, position: number): boolean {
  return bytes.buffer === buffer.buffer && bytes.byteOffset === buffer.byteOffset + position
}

function describe({ targetName, portals }: TargetListing, attempt: LoginAttempt): KeyValue[] {
  const addresses = portals.length === 0 ? [{ ...attempt.local, group: 1 }] : portals
  const told = addresses.map((portal): KeyValue => ['TargetAddress', formatPortal({ group: 1, ...portal })])
  return [['TargetName', targetName], ...told]
}

function whenAllEnded(tasks: readonly ScsiTask[], then: () => void): void {
  let left = tasks.length
  if (left === 0) then()
  for (const task of tasks) {
    const before = task.whenEnded
    task.whenEnded = () => {
      before?.()
      left--
      if (left === 0) then()
    }
  }
}

function equalLuns(a: Uint8Array, b: Uint8Array): boolean {
  for (let i = 0; i < 8; i++) if (a[i] !== b[i]) return false
  return true
}

function nameOf(reason: RejectReason): string {
  return Object.entries(rejectReason).find(([, number]) => number === reason)?.[0] ?? String(reason)
}
