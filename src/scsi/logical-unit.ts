/**
 * One disk: its geometry, what initiators have set and reserved, and the path of every command through it.
 *
 * A command passes, in this order: order among tasks, known opcode, pending unit attention, reservations, readiness,
 * write protection; then its handler runs. Whatever the handler throws ends that task and no other.
 */
import { assert } from '../base/assert.ts'
import type { BlockDevice } from '../block/device.ts'
import { type Command, type Reply, ReservationConflict } from './command.ts'
import { commandOf } from './command-table.ts'
import { senseOf } from './device-access.ts'
import { waitingTasksMax } from './limits.ts'
import { defaultMode, type ModeState } from './mode.ts'
import { RangeGate } from './range-gate.ts'
import { Reservations } from './reservations/reservations.ts'
import { type Notice, type PortName, samePort } from './reservations/state.ts'
import type { ReservationStore } from './reservations/store.ts'
import type { SanitizeStore } from './sanitize-store.ts'
import { CheckCondition, type Condition, condition, encodeSense, invalidCdbField, type SenseDetail } from './sense.ts'
import { type Nexus, scsiStatus, type Task } from './task.ts'

export interface DiskOptions {
  readonly device: BlockDevice
  /** At most 32 printable ASCII characters, the same for this disk after every restart and on every path. */
  readonly serialNumber: string
  /** What an LBA counts. Not less than the device's own block. Default 512, or the device's. */
  readonly logicalBlockBytes?: 512 | 4096
  /** Below this a write costs a read. Default 4096. */
  readonly physicalBlockBytes?: number
  readonly vendor?: string
  readonly product?: string
  readonly revision?: string
  /** Where registrations that must outlive a restart are kept. Without one APTPL is refused. */
  readonly reservationStore?: ReservationStore
  /** Where a SANITIZE that a restart cuts off is remembered: the disk is then shut. Without one it is forgotten. */
  readonly sanitizeStore?: SanitizeStore
}

/** What the unit knows of the target around it. */
export interface TargetContext {
  /** The iSCSI name. */
  readonly targetName: string
  /** Relative target port identifiers run from 1 to this. */
  readonly portCount: number
  /** LUNs of all units. */
  readonly luns: readonly number[]
  /** The unit whose device identification page has this designator. */
  unitNamed(designatorType: number, designator: Uint8Array): LogicalUnit | undefined
  /** A device's error, or a mistake of ours, that ended a task: for the log. */
  report(error: unknown): void
  pause(milliseconds: number): Promise<void>
}

/** What became of an EXTENDED COPY. */
export interface CopyResult {
  status: 'running' | 'done' | 'failed'
  /** How many segments and bytes have been copied. */
  segments: number
  bytes: number
  sense: Uint8Array
}

/** What one unit keeps for one initiator port at one target port. */
export interface NexusRecord {
  readonly nexus: Nexus
  readonly port: PortName
  /** Oldest first, each at most once. SAM-5 §5.14. */
  readonly attentions: Condition[]
  /** Of EXTENDED COPYs, by list identifier, until they are asked for. */
  readonly copies: Map<number, CopyResult>
}

export interface NotReady {
  readonly condition: Condition
  readonly detail: SenseDetail
}

const noSense = new Uint8Array(0)

export class LogicalUnit {
  readonly device: BlockDevice
  readonly number: number
  readonly serialNumber: string
  readonly vendor: string
  readonly product: string
  readonly revision: string
  readonly blockBytes: number
  readonly physicalBlockBytes: number
  readonly ranges: RangeGate = new RangeGate()
  readonly reservations: Reservations
  /** NAA 3h: 60 bits that we choose, made from the serial number so that they stay. SPC-4 §7.8.5.6.4. */
  readonly locallyAssignedName: bigint
  blockCount: number
  mode: ModeState = defaultMode()
  /** Why commands to the medium are refused for now. */
  notReady: NotReady | undefined
  /** AUSE of the last SANITIZE: its failure may be left without another. */
  sanitizeMayBeLeft = false
  readonly sanitizeStore: SanitizeStore | undefined
  /** The one that is under way, and goes on when its command has ended. Never fails. */
  sanitizing: Promise<void> | undefined
  /** What takes long ends at its next piece. */
  isStopping = false
  isPrefetching = false
  copiesRunning = 0

  readonly #context: TargetContext
  readonly #records = new Map<Nexus, NexusRecord>()
  readonly #waiting: Task[] = []
  /** Tasks that did not end at once. */
  readonly #running = new Set<Running>()
  /** One of these is ordered: then it is the oldest, and only tasks at the head of the queue have passed it. */
  #orderedRuns = false
  /** Who pauses. */
  readonly #pauses = new Set<() => void>()
  #lendTo: Task | undefined
  readonly #lendPiece = (bytes: Uint8Array): void => {
    this.#lendTo?.lend(bytes)
  }

  constructor(number: number, options: DiskOptions, context: TargetContext) {
    const { device } = options
    this.device = device
    this.number = number
    this.serialNumber = options.serialNumber
    assert(/^[\x21-\x7e]{1,32}$/.test(this.serialNumber), 'a serial number is 1 to 32 printable characters')
    this.vendor = options.vendor ?? 'SLIPWAY'
    this.product = options.product ?? 'NETWORK DISK'
    this.revision = options.revision ?? '1'
    this.blockBytes = options.logicalBlockBytes ?? Math.max(512, device.blockBytes)
    assert(this.blockBytes % device.blockBytes === 0, 'a logical block is whole blocks of the device')
    this.physicalBlockBytes = Math.max(options.physicalBlockBytes ?? 4096, this.blockBytes)
    this.blockCount = Math.floor(device.sizeBytes / this.blockBytes)
    this.locallyAssignedName = (3n << 60n) | (hash64(this.serialNumber) >> 4n)
    this.reservations = new Reservations(options.reservationStore, (notices) => this.#notify(notices))
    this.#context = context
    this.sanitizeStore = options.sanitizeStore
    const cutOff = options.sanitizeStore?.saved
    if (cutOff === undefined) return
    this.notReady = { condition: condition.sanitizeFailed, detail: {} }
    this.sanitizeMayBeLeft = cutOff.mayBeLeft
  }

  get targetName(): string {
    return this.#context.targetName
  }

  get portCount(): number {
    return this.#context.portCount
  }

  get lunsOfTarget(): readonly number[] {
    return this.#context.luns
  }

  /** Why a write would be refused, if it would. */
  get writeProtection(): Condition | undefined {
    if (this.device.readOnly) return condition.writeProtected
    return this.mode.softwareWriteProtect ? condition.softwareWriteProtected : undefined
  }

  unitNamed(designatorType: number, designator: Uint8Array): LogicalUnit | undefined {
    return this.#context.unitNamed(designatorType, designator)
  }

  /** Shorter when the disk is to be served no more. */
  pause(milliseconds: number): Promise<void> {
    if (this.isStopping) return Promise.resolve()
    return new Promise((resolve) => {
      const over = (): void => {
        this.#pauses.delete(over)
        resolve()
      }
      this.#pauses.add(over)
      void this.#context.pause(milliseconds).then(over)
    })
  }

  /** The device is at work, also for those who have gone: it must not be closed. */
  get isBusy(): boolean {
    return this.#running.size > 0 || this.#waiting.length > 0 || this.sanitizing !== undefined || this.isPrefetching
  }

  /** Nobody sends anything more: resolves when the device may be closed. A SANITIZE is cut off, and has then failed. */
  async stop(): Promise<void> {
    this.isStopping = true
    for (const over of this.#pauses) over()
    while (this.#running.size > 0 || this.sanitizing !== undefined) {
      await Promise.all([this.sanitizing, ...Array.from(this.#running, ({ ended }) => ended.promise)])
    }
  }

  report(error: unknown): void {
    this.#context.report(error)
  }

  // ---- initiators

  attach(nexus: Nexus): NexusRecord {
    const port = { initiatorPort: nexus.initiatorPort, targetPort: nexus.targetPort }
    const record: NexusRecord = { nexus, port, attentions: [condition.powerOnOrReset], copies: new Map() }
    this.#records.set(nexus, record)
    return record
  }

  /** I_T nexus loss: what was kept for this nexus alone goes. */
  detach(nexus: Nexus): void {
    this.#records.delete(nexus)
    if (this.reservations.legacyHolder === nexus) this.reservations.legacyHolder = undefined
  }

  /** Initiator ports that are logged in under this initiator's name. */
  portsOfInitiator(initiatorName: string): string[] {
    const ports: string[] = []
    for (const { nexus } of this.#records.values()) {
      if (nexus.initiatorName === initiatorName) ports.push(nexus.initiatorPort)
    }
    return ports
  }

  /** Queues a unit attention for everybody, or for everybody but one. */
  attention(what: Condition, except?: NexusRecord): void {
    for (const record of this.#records.values()) if (record !== except) raise(record, what)
  }

  /** Unit attentions for ports that are logged in; who logs in later hears of the power-on, which says more. */
  #notify(notices: readonly Notice[]): void {
    for (const { port, attention } of notices) {
      for (const record of this.#records.values()) if (samePort(record.port, port)) raise(record, attention)
    }
  }

  // ---- tasks

  execute(task: Task): void {
    const waits = this.#waiting.length > 0 || this.#mustWait(task)
    if (!waits || task.attribute === 'headOfQueue') {
      this.#run(task)
    } else if (this.#waiting.length < waitingTasksMax) {
      this.#waiting.push(task)
    } else {
      task.fail(scsiStatus.taskSetFull, noSense)
    }
  }

  /** An ordered task waits for all that began before it, and all that come after it wait for its end. SAM-5 §8.6. */
  #mustWait(task: Task): boolean {
    return this.#orderedRuns || (task.attribute === 'ordered' && this.#running.size > 0)
  }

  /** Logical unit reset, SAM-5 §6.3.3: what initiators set is forgotten. A SANITIZE goes on. */
  reset(what: Condition): void {
    this.mode = defaultMode()
    this.reservations.legacyHolder = undefined
    this.attention(what)
  }

  /** CLEAR TASK SET, SAM-5 §7.5: whoever else has tasks here loses them. */
  tasksCleared(by: Nexus, inTransport: readonly Nexus[]): void {
    const losers = new Set<Nexus>(inTransport)
    for (const { task } of this.#running) losers.add(task.nexus)
    for (const task of this.#waiting) losers.add(task.nexus)
    losers.delete(by)
    for (const record of this.#records.values()) {
      if (losers.has(record.nexus)) raise(record, condition.commandsCleared)
    }
  }

  /**
   * PREEMPT AND ABORT, SPC-4 §5.9.11.5: no task of these ports touches the medium any more. What the device is already
   * doing cannot be called back, so it is waited for. Such tasks end with TASK ABORTED, also without TAS: a transport
   * counts on the end of every task, and an initiator that is told need not wait for a timeout.
   */
  async abortTasksOf(ports: readonly PortName[]): Promise<void> {
    const isTheirs = (task: Task): boolean =>
      ports.some((port) => port.initiatorPort === task.nexus.initiatorPort && port.targetPort === task.nexus.targetPort)
    for (const task of this.#waiting.filter(isTheirs)) {
      this.#waiting.splice(this.#waiting.indexOf(task), 1)
      task.fail(scsiStatus.taskAborted, noSense)
    }
    const ends: Promise<void>[] = []
    for (const running of this.#running) {
      if (!isTheirs(running.task)) continue
      running.isPreempted = true
      ends.push(running.ended.promise)
    }
    await Promise.all(ends)
  }

  /** The device has another size now. SBC-3 §4.5: everybody is told. */
  capacityChanged(): void {
    this.blockCount = Math.floor(this.device.sizeBytes / this.blockBytes)
    this.attention(condition.capacityChanged)
  }

  /** Passes cached memory to the transport without a copy; false if the device has none. */
  lend(task: Task, offset: number, bytes: number): boolean {
    if (this.device.lend === undefined) return false
    this.#lendTo = task
    return this.device.lend(offset, bytes, this.#lendPiece)
  }

  #run(task: Task): void {
    const command = commandOf(this, task.cdb)
    let reply: Reply
    try {
      reply = this.#admit(command, task)
    } catch (error) {
      this.#end(task, command, error)
      return
    }
    if (typeof reply === 'number') task.good(reply)
    else void this.#endLater(task, command, reply)
  }

  #admit(command: Command | undefined, task: Task): Reply {
    const from = this.#records.get(task.nexus) ?? this.attach(task.nexus)
    if (command === undefined) throw unknownCommand(this, task.cdb)
    if (from.attentions.length > 0 && command.ignoresAttention !== true) {
      throw new CheckCondition(from.attentions.shift() as Condition)
    }
    if (!this.reservations.isFree && this.reservations.conflicts(from.nexus, from.port, command.access)) {
      throw new ReservationConflict()
    }
    const { cdb } = task
    // NACA: we have no auto contingent allegiance. SAM-5 §5.2.
    if (((cdb[controlByte(cdb)] as number) & 0x04) !== 0) throw invalidCdbField(controlByte(cdb), 2)
    if (this.notReady !== undefined && !isAllowed(command, this.notReady)) {
      throw new CheckCondition(this.notReady.condition, this.notReady.detail)
    }
    if (command.writes === true) {
      const protection = this.writeProtection
      if (protection !== undefined) throw new CheckCondition(protection)
    }
    return command.run(this, task, from)
  }

  async #endLater(task: Task, command: Command | undefined, reply: Promise<number>): Promise<void> {
    const running: Running = { task, isPreempted: false, ended: Promise.withResolvers<void>() }
    const isOrdered = task.attribute === 'ordered'
    this.#running.add(running)
    if (isOrdered) this.#orderedRuns = true
    const outcome = await settle(reply)
    this.#running.delete(running)
    if (isOrdered) this.#orderedRuns = false
    if (running.isPreempted) task.fail(scsiStatus.taskAborted, noSense)
    else if (outcome.kind === 'good') task.good(outcome.wanted)
    else this.#end(task, command, outcome.error)
    running.ended.resolve()
    this.#runWaiting()
  }

  #runWaiting(): void {
    for (;;) {
      const next = this.#waiting[0]
      if (next === undefined || this.#mustWait(next)) return
      this.#waiting.shift()
      // The transport waits for the end of a task that it has aborted, and drops what it says.
      if (next.aborted) next.fail(scsiStatus.taskAborted, noSense)
      else this.#run(next)
    }
  }

  /** The one place where an error becomes a status. SPC-4 §4.5. */
  #end(task: Task, command: Command | undefined, error: unknown): void {
    const descriptorFormat = this.mode.descriptorSense
    if (error instanceof CheckCondition) {
      const sense = encodeSense(error.condition, error.detail, descriptorFormat)
      task.fail(scsiStatus.checkCondition, sense, error.detail.bytesWanted)
      return
    }
    if (error instanceof ReservationConflict) {
      task.fail(scsiStatus.reservationConflict, noSense)
      return
    }
    // What changes the medium or brings the cache to it fails as a write does.
    const what = senseOf(error, command?.access === 'write') ?? condition.internalTargetFailure
    task.fail(scsiStatus.checkCondition, encodeSense(what, {}, descriptorFormat))
    // Last: whoever listens may hold that a mistake of ours ends everything.
    this.report(error)
  }
}

function isAllowed(command: Command, notReady: NotReady): boolean {
  if (command.duringSanitize === true) return true
  return command.sanitizes === true && notReady.condition !== condition.sanitizeInProgress
}

interface Running {
  readonly task: Task
  isPreempted: boolean
  readonly ended: PromiseWithResolvers<void>
}

type Settled = { readonly kind: 'good'; readonly wanted: number } | { readonly kind: 'failed'; readonly error: unknown }

function settle(reply: Promise<number>): Promise<Settled> {
  return reply.then(
    (wanted): Settled => ({ kind: 'good', wanted }),
    (error): Settled => ({ kind: 'failed', error }),
  )
}

/** Each condition waits at most once; a reset says more than whatever came before it. */
function raise(record: NexusRecord, what: Condition): void {
  if (record.attentions.includes(what)) return
  if (what.code >> 8 === 0x29) record.attentions.length = 0
  record.attentions.push(what)
}

/** CONTROL is the last byte of a CDB, whose length is in its opcode's group. SPC-4 §4.2.5.1. */
function controlByte(cdb: Uint8Array): number {
  switch ((cdb[0] as number) >> 5) {
    case 0:
      return 5
    case 1:
    case 2:
      return 9
    case 4:
      return 15
    default:
      return 11
  }
}

/** An opcode that has service actions was known; the service action was not: then the field is wrong. SPC-4 §4.2.5.2. */
function unknownCommand(unit: LogicalUnit, cdb: Uint8Array): CheckCondition {
  const opcode = cdb[0] as number
  for (let serviceAction = 0; serviceAction < 0x20; serviceAction++) {
    if (commandOf(unit, Uint8Array.of(opcode, serviceAction)) !== undefined) return invalidCdbField(1, 4)
  }
  return new CheckCondition(condition.invalidOpcode, { field: { where: 'cdb', byte: 0 } })
}

/** FNV-1a, 64 bits: spreads serial numbers that differ in one character. */
function hash64(text: string): bigint {
  let hash = 0xcbf2_9ce4_8422_2325n
  for (let i = 0; i < text.length; i++) {
    hash = ((hash ^ BigInt(text.charCodeAt(i))) * 0x100_0000_01b3n) & 0xffff_ffff_ffff_ffffn
  }
  return hash
}
