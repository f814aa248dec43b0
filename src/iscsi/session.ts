/**
 * Full-feature phase of one session (and its one connection): RFC 7143 §4.2, §11. PDUs come from a `FrameReader`, answers
 * go to an `Outbox`; no sockets or clocks.
 *
 *   `SessionInput` ─▶ command ─▶ `CommandWindow` ─▶ `DataOutFlow` ─▶ DeviceServer.execute ─▶ `ScsiTask`: Data-In, status
 *          └────────▶ others  ─▶ `CommandWindow` ─▶ `TextExchange`, `manage`, NOP, logout ─▶ `SessionOutput`
 *
 * Error recovery level 0: a fault of the protocol gets a Reject and ends the connection; commands then have to come again.
 */
import { assert, unreachable } from '../base/assert.ts'
import type { DeviceServer, Nexus } from '../scsi/task.ts'
import { asyncEvent, logoutReason, logoutResponse, type RejectReason, rejectReason } from './codes.ts'
import { CommandWindow } from './command-window.ts'
import { DataOutFlow, damagedData } from './data-out.ts'
import type { DataOutMemory } from './data-out-memory.ts'
import type { FrameReader } from './frame.ts'
import { headerBytes, noTag } from './header.ts'
import {
  type DataOut,
  headerAgain,
  type LogoutRequest,
  type NopOut,
  type ScsiCommand,
  type TaskManagementRequest,
  type TextRequest,
} from './initiator-pdu.ts'
import {
  dataOutWithinMs,
  heldBytesMax,
  immediateTasksMax,
  readingBytesMax,
  receiveSegmentBytesMax,
  sendQueueBytesMax,
  timeToWaitSeconds,
  totalReadingBytesMax,
} from './limits.ts'
import type { Parameters } from './negotiation.ts'
import type { LoginAttempt, SessionEnd, SessionIdentity, TargetListing } from './policy.ts'
import { ScsiTask, type TaskOwner } from './scsi-task.ts'
import type { Outbox, SendMemory } from './send-memory.ts'
import { type InputHost, type OtherRequest, SessionInput } from './session-input.ts'
import { lunZero, noData, SessionOutput } from './session-output.ts'
import { type ManagedSession, manage } from './task-management.ts'
import { TextExchange, type TextHost } from './text-exchange.ts'

/** What has its turn by CmdSN and is no command. */
type NumberedRequest = NopOut | TaskManagementRequest | TextRequest | LogoutRequest

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

export class Session implements InputHost, TaskOwner, TextHost, ManagedSession {
  readonly identity: SessionIdentity
  readonly key: string | undefined
  readonly handle: number
  readonly connectionId: number
  readonly nexus: Nexus
  readonly deviceServer: DeviceServer | undefined
  readonly attempt: LoginAttempt
  readonly window: CommandWindow
  readonly output: SessionOutput
  readonly input: SessionInput = new SessionInput(this)
  readonly #host: SessionHost
  readonly #dataOut: DataOutFlow
  readonly #text: TextExchange = new TextExchange(this)

  readonly #tasks = new Map<number, ScsiTask>()
  #immediateTasks = 0
  /** Complete commands that wait for the initiator to read what it was sent. In order. */
  #backlog: ScsiTask[] = []
  #executing = 0
  /** Data-in that executing commands may bring, of those that did not end at once. */
  #readingBytes = 0
  /** Data of requests that wait for their turn. */
  #heldBytes = 0
  #stalledMs = 0
  #quietListeners: (() => void)[] = []
  #over = false

  commandCount = 0
  readBytes = 0
  writtenBytes = 0

  constructor(terms: SessionTerms, host: SessionHost) {
    const { parameters, statusNumber } = terms
    const { memory, outbox, reader } = host
    this.identity = terms.identity
    this.key = terms.key
    this.handle = terms.handle
    this.connectionId = terms.connectionId
    this.nexus = terms.nexus
    this.deviceServer = terms.deviceServer
    this.attempt = terms.attempt
    this.#host = host
    this.window = new CommandWindow(terms.commandNumber)
    const flushSoon = (): void => host.flushSoon()
    this.output = new SessionOutput({ memory, outbox, window: this.window, parameters, statusNumber, flushSoon })
    this.#dataOut = new DataOutFlow(this.output, host.dataOut, terms.deviceServer?.dataOutBytesMax ?? 0)
    reader.segmentBytesMax = receiveSegmentBytesMax
    reader.headerDigest = parameters.headerDigest
    reader.dataDigest = parameters.dataDigest
  }

  get isOver(): boolean {
    return this.#over
  }

  /** No command of this session executes. */
  get isQuiet(): boolean {
    return this.#executing === 0
  }

  whenQuiet(then: () => void): void {
    if (this.isQuiet) then()
    else this.#quietListeners.push(then)
  }

  // --- what comes in: InputHost

  get echoBytesMax(): number {
    return this.output.parameters.peerSegmentBytesMax
  }

  /** Everything but commands and their data. */
  request(pdu: OtherRequest, bytes: Uint8Array): void {
    if (pdu.kind === 'snack') {
      // §11.16: SNACK is of error recovery level 1 and above.
      this.reject(rejectReason.snackRejected, 'SNACK', headerAgain(pdu, bytes.byteLength))
      return
    }
    if (pdu.kind === 'login') {
      this.breakOff(rejectReason.protocolError, 'a login in full-feature phase', headerAgain(pdu, bytes.byteLength))
      return
    }
    if (pdu.immediate) {
      this.#act(pdu, bytes)
      return
    }
    // A NOP-Out that answers our ping carries a CmdSN but is not a command. §11.18.
    if (!this.window.isTurnOf(pdu.commandNumber)) {
      this.#hold(pdu, bytes)
      return
    }
    this.window.turn(() => this.#act(pdu, bytes))
    this.window.release()
  }

  #hold(pdu: NumberedRequest, bytes: Uint8Array): void {
    if (this.#heldBytes + bytes.byteLength > heldBytesMax && this.window.isExpected(pdu.commandNumber)) {
      this.breakOff(rejectReason.protocolError, 'too much before its turn', headerAgain(pdu, bytes.byteLength))
      return
    }
    const held = this.window.hold(pdu.commandNumber, () => {
      this.#heldBytes -= bytes.byteLength
      this.window.turn(() => this.#act(pdu, bytes))
    })
    if (held) this.#heldBytes += bytes.byteLength
  }

  #act(pdu: NumberedRequest, bytes: Uint8Array): void {
    switch (pdu.kind) {
      case 'nopOut':
        this.#answerNop(pdu, bytes)
        return
      case 'taskManagement':
        manage(this, pdu)
        return
      case 'text':
        this.#text.answer(pdu, bytes)
        return
      case 'logout':
        this.#logout(pdu)
        return
      default:
        unreachable(pdu)
    }
  }

  // --- commands

  beginCommand(command: ScsiCommand, readBytes: number, immediateBytes: number): ScsiTask | undefined {
    // §4.2.2.1: what is outside the window, or there already, is ignored in silence.
    if (!command.immediate && !this.window.isExpected(command.commandNumber)) return undefined
    const task = new ScsiTask(this, command, readBytes)
    const broken = this.#faultOfCommand(task, immediateBytes)
    if (broken !== undefined) {
      const header = headerAgain(command, immediateBytes)
      if (broken.fatal) {
        this.breakOff(broken.reason, broken.detail, header)
        return undefined
      }
      this.reject(broken.reason, broken.detail, header)
      // It has had its turn: those behind it must not wait for it.
      if (!command.immediate) this.window.skip(command.commandNumber)
      return undefined
    }
    this.#dataOut.begin(task, immediateBytes)
    return task
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
    const { immediateData, firstBurstBytesMax } = this.output.parameters
    if (immediateBytes > 0 && (!immediateData || immediateBytes > Math.min(firstBurstBytesMax, wantedDataOutBytes))) {
      return { reason: rejectReason.protocolError, detail: 'immediate data that was not agreed to', fatal: true }
    }
    return undefined
  }

  endCommand(task: ScsiTask, intact: boolean): void {
    if (!intact) {
      this.#forget(task)
      this.reject(rejectReason.dataDigestError, 'data digest', headerAgain(task.command, task.receivedBytes))
      return
    }
    const { immediate, commandNumber } = task.command
    const { window } = this
    if (immediate) {
      this.#immediateTasks++
      this.#admit(task)
      this.#deliver(task)
      return
    }
    if (window.isTurnOf(commandNumber)) {
      window.advance()
      this.#admit(task)
      this.#deliver(task)
      window.release()
      return
    }
    const held = window.hold(commandNumber, () => {
      window.advance()
      if (task.state === 'ended') window.widen()
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

  /** A command that never was: there twice, or damaged on the way. */
  #forget(task: ScsiTask): void {
    task.state = 'ended'
    this.#dataOut.unfund(task)
  }

  /** Its turn by CmdSN has come. */
  #deliver(task: ScsiTask): void {
    task.delivered = true
    if (task.unsolicitedOpen) return
    if (task.refusal !== undefined) this.#refuse(task)
    else if (task.receivedBytes >= task.wantedDataOutBytes) this.#ready(task)
    else this.#dataOut.solicit(task)
  }

  #refuse(task: ScsiTask): void {
    const { refusal } = task
    assert(refusal !== undefined, 'a refused task says why')
    task.fail(refusal.status, refusal.sense)
  }

  #ready(task: ScsiTask): void {
    task.state = 'ready'
    if (this.#backlog.length > 0 || this.#isFull(task)) {
      this.#list(task)
      this.#backlog.push(task)
    } else this.#execute(task)
  }

  /** What it was sent and has not read, or what is being read for it, is as much as may be held. */
  #isFull(task: ScsiTask): boolean {
    if (this.output.queuedBytes >= sendQueueBytesMax) return true
    const bytes = task.dataInBytesMax
    if (this.#readingBytes === 0 || bytes === 0) return false
    return (
      this.#readingBytes + bytes > readingBytesMax || this.output.memory.readingBytes + bytes > totalReadingBytesMax
    )
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
    if (task.state !== 'executing') return
    if (!task.listed) this.#list(task)
    task.readingBytes = task.dataInBytesMax
    this.#readingBytes += task.readingBytes
    this.output.memory.readingBytes += task.readingBytes
  }

  /** The kernel has taken something: commands that waited for that go on. */
  drained(): void {
    if (this.#backlog.length === 0 || this.output.queuedBytes > sendQueueBytesMax / 2) return
    const backlog = this.#backlog
    this.#backlog = []
    for (const [index, task] of backlog.entries()) {
      if (this.#isFull(task)) {
        this.#backlog = [...backlog.slice(index), ...this.#backlog]
        break
      }
      if (task.state === 'ready') this.#execute(task)
    }
    this.output.flushSoon()
  }

  // --- data-out

  beginDataOut(pdu: DataOut, dataBytes: number): ScsiTask | undefined {
    const task = this.#tasks.get(pdu.initiatorTaskTag)
    // Of a task that was aborted or has failed: its data may still be on the way, and means nothing.
    if (task === undefined || task.state !== 'collecting') return undefined
    const broken = this.#dataOut.accept(task, pdu, dataBytes)
    if (broken === undefined) return task
    this.breakOff(rejectReason.protocolError, broken, headerAgain(pdu, dataBytes))
    return undefined
  }

  endDataOut(task: ScsiTask, pdu: DataOut, damagedBytes: number): void {
    if (damagedBytes > 0) {
      this.reject(rejectReason.dataDigestError, 'data digest', headerAgain(pdu, damagedBytes))
      // §7.8: with level 0 the command ends so, but only after all its data has come.
      task.refusal ??= damagedData
    }
    if (task.state !== 'collecting') return
    this.#dataOut.finish(task, pdu)
    if (!task.delivered || task.unsolicitedOpen) return
    if (task.transfers.length === 0) this.#deliver(task)
    else if (task.refusal === undefined) this.#dataOut.solicit(task)
  }

  // --- what a task needs: TaskOwner

  ended(task: ScsiTask, before: ScsiTask['state']): void {
    if (task.listed) this.#tasks.delete(task.initiatorTaskTag)
    if (task.command.immediate) this.#immediateTasks--
    else if (task.delivered) this.window.widen()
    this.#dataOut.unfund(task)
    this.commandCount++
    if (task.readingBytes > 0) {
      this.#readingBytes -= task.readingBytes
      this.output.memory.readingBytes -= task.readingBytes
    }
    if (before === 'executing') {
      this.#executing--
      if (this.#executing === 0 && this.#quietListeners.length > 0) this.#tellQuiet()
    }
    this.#dataOut.refill()
  }

  #tellQuiet(): void {
    const listeners = this.#quietListeners
    this.#quietListeners = []
    for (const listener of listeners) listener()
  }

  answered(dataInBytes: number): void {
    this.readBytes += dataInBytes
    this.output.flushSoon()
    if (this.#backlog.length > 0) this.drained()
  }

  endedInSilence(): void {
    if (this.#backlog.length > 0) this.drained()
  }

  // --- other requests

  /** Are you there? Whoever does not answer is not dropped for it (iPXE never does): TCP finds out. §11.19. */
  ping(): void {
    const { output } = this
    output.send(
      {
        kind: 'nopIn',
        ...output.upcomingNumbers(),
        lun: lunZero,
        initiatorTaskTag: noTag,
        targetTransferTag: output.newTransferTag(),
      },
      noData,
    )
  }

  #answerNop(pdu: NopOut, bytes: Uint8Array): void {
    if (pdu.initiatorTaskTag === noTag) return
    this.output.send(
      {
        kind: 'nopIn',
        ...this.output.nextNumbers(),
        lun: pdu.lun,
        initiatorTaskTag: pdu.initiatorTaskTag,
        targetTransferTag: noTag,
      },
      bytes,
    )
  }

  #logout(pdu: LogoutRequest): void {
    const answer = (response: number): void =>
      this.output.send(
        {
          kind: 'logoutResponse',
          ...this.output.nextNumbers(),
          response,
          initiatorTaskTag: pdu.initiatorTaskTag,
          timeToWaitSeconds: this.output.parameters.timeToWaitSeconds,
          timeToRetainSeconds: 0,
        },
        noData,
      )
    if (pdu.reason === logoutReason.removeForRecovery) {
      answer(logoutResponse.recoveryNotSupported)
    } else if (pdu.reason === logoutReason.closeConnection && pdu.connectionId !== this.connectionId) {
      answer(logoutResponse.connectionMissing)
    } else if (pdu.reason > logoutReason.removeForRecovery) {
      this.reject(rejectReason.invalidPduField, 'logout for no known reason', headerAgain(pdu, 0))
    } else {
      // With one connection, closing it is closing the session. §11.14.
      this.#host.reader.stop()
      this.window.clear()
      this.abort(() => true)
      // iPXE logs out and the system that it started logs in under another ISID: what this session still writes must not
      // land on what that one has written.
      this.whenQuiet(() => {
        if (this.#over) return
        answer(logoutResponse.success)
        this.finish('logout')
        this.#host.hangUp()
      })
    }
  }

  listTargets(): readonly TargetListing[] | Promise<readonly TargetListing[]> {
    return this.#host.listTargets(this.attempt)
  }

  // --- task management: ManagedSession

  task(initiatorTaskTag: number): ScsiTask | undefined {
    return this.#tasks.get(initiatorTaskTag)
  }

  hasTask(choose: (task: ScsiTask) => boolean): boolean {
    for (const task of this.#tasks.values()) if (choose(task)) return true
    return false
  }

  sharing(): readonly Session[] {
    return this.#host.sharing(this)
  }

  abort(choose: (task: ScsiTask) => boolean): readonly ScsiTask[] {
    const executing: ScsiTask[] = []
    for (const task of [...this.#tasks.values()]) {
      if (!choose(task)) continue
      // Also one that is aborted already: whoever asks again waits for its end again.
      if (task.state === 'executing') {
        task.aborted = true
        executing.push(task)
      } else task.discard()
    }
    this.#backlog = this.#backlog.filter(({ state }) => state === 'ready')
    this.#dataOut.prune()
    return executing
  }

  // --- the end

  /** Others have waited for memory `sinceMs` longer: whoever keeps it and sends nothing must not keep it for ever. */
  othersWait(sinceMs: number): void {
    const owesData = this.hasTask(({ state, buffer }) => state === 'collecting' && buffer !== undefined)
    this.#stalledMs = this.#dataOut.hasMoved() || !owesData ? 0 : this.#stalledMs + sinceMs
    if (this.#stalledMs > dataOutWithinMs) this.close('stalled')
  }

  /** Asks the initiator to log out; Linux does, iPXE does not know what it is being told. §11.9.1. */
  requestLogout(withinSeconds: number): void {
    this.#tell(asyncEvent.logoutRequested, [0, 0, withinSeconds])
  }

  /** Tells that the connection goes and ends it. */
  close(end: SessionEnd): void {
    if (this.#over) return
    // Parameters: CID, Time2Wait, Time2Retain.
    this.#tell(asyncEvent.sessionDropping, [this.connectionId, timeToWaitSeconds, 0])
    this.finish(end)
    this.#host.hangUp()
  }

  /** The session is over, whatever becomes of the connection. Idempotent. */
  finish(end: SessionEnd): void {
    if (this.#over) return
    this.#over = true
    this.#host.reader.stop()
    this.window.clear()
    this.abort(() => true)
    const halfway = this.input.stop()
    if (halfway !== undefined) this.#forget(halfway)
    this.#dataOut.stop()
    this.#host.sessionEnded(this, end)
  }

  #tell(event: number, parameters: readonly [number, number, number]): void {
    const { output } = this
    output.send(
      { kind: 'asyncMessage', ...output.nextNumbers(), lun: lunZero, event, vendorCode: 0, parameters },
      noData,
    )
  }

  reject(reason: RejectReason, detail: string, header: Uint8Array): void {
    const { output } = this
    this.#host.rejected(this, nameOf(reason), detail)
    output.send({ kind: 'reject', ...output.nextNumbers(), reason, dataNumber: 0 }, header.subarray(0, headerBytes))
  }

  /** The initiator broke the protocol so that nothing it says now can be trusted. */
  breakOff(reason: RejectReason, detail: string, header: Uint8Array): void {
    this.reject(reason, detail, header)
    this.finish('protocolError')
    this.#host.hangUp()
  }
}

function nameOf(reason: RejectReason): string {
  return Object.entries(rejectReason).find(([, number]) => number === reason)?.[0] ?? String(reason)
}
