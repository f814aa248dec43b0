/**
 * The seam between a transport (iscsi) and the device server (this room): SAM-5 §5.1 Execute Command.
 *
 * The transport makes a `Task` when the command and all its data-out have arrived, and calls `LogicalUnits.execute`.
 * The device server calls `reserve` or `lend` for the data-in, in order, then exactly one of the ends, perhaps at once
 * inside `execute`, perhaps later. A task whose `aborted` became true ends all the same, as soon as it
 * touches the medium no more; the transport drops what it says.
 */

/** One initiator port talking to one target port. SAM-5 §4.6. Identity is the object; `id` is what survives a reconnect. */
export interface Nexus {
  /** 'iqn.2026-01.lab:m1,i,0x400027230001': name and ISID. Reservations and unit attentions are kept by it. */
  readonly initiatorPort: string
  /** Relative target port identifier, from 1. */
  readonly targetPort: number
  /** The initiator's iSCSI name alone, for TransportIDs (SPC-4 §7.6.4.6). */
  readonly initiatorName: string
  /** ISID as 12 hexadecimal digits. */
  readonly isid: string
}

export type TaskAttribute = 'untagged' | 'simple' | 'ordered' | 'headOfQueue' | 'aca'

export interface Task {
  readonly nexus: Nexus
  /** The 8 bytes of the LUN field as sent. SAM-5 §4.7. */
  readonly lun: Uint8Array
  /** At least 16 bytes; more with an extended CDB (variable length, opcode 0x7f). */
  readonly cdb: Uint8Array
  readonly attribute: TaskAttribute
  /** All data-out that arrived, in order; lent until the task ends. Contiguous if it came in one piece. */
  readonly dataOut: readonly Uint8Array[]
  readonly dataOutBytes: number
  /** How many bytes of data-in the initiator has room for: reserve no more than this and report the rest as overflow. */
  readonly dataInBytesMax: number
  readonly aborted: boolean

  /** Memory for the next `bytes` of data-in, in order, in one or several pieces (one for each PDU). Fill before the end. */
  reserve(bytes: number): readonly Uint8Array[]
  /** The next data-in, without a copy: memory that never changes again. */
  lend(bytes: Uint8Array): void
  /**
   * Ends with GOOD. `bytesWanted`: what the command would have moved with room enough, data-in if it reads and data-out
   * if it writes; the transport makes the residual of it. More than the initiator announced is an overflow, and what
   * was announced has been done.
   */
  good(bytesWanted: number): void
  /**
   * Ends with another status. `sense` is complete sense data, without the transport's length field, and may be empty.
   * `bytesWanted` as for `good`; absent when the command did not come as far as knowing it: no residual then.
   */
  fail(status: ScsiStatus, sense: Uint8Array, bytesWanted?: number): void
}

/** SAM-5 §5.3.1, the ones we send. */
export const scsiStatus = {
  good: 0x00,
  checkCondition: 0x02,
  conditionMet: 0x04,
  busy: 0x08,
  reservationConflict: 0x18,
  taskSetFull: 0x28,
  taskAborted: 0x40,
} as const

export type ScsiStatus = (typeof scsiStatus)[keyof typeof scsiStatus]

/** Task management, SAM-5 §7. The transport aborts its own tasks; the device server clears state and reports attentions. */
export type TaskManagement = 'abortTask' | 'abortTaskSet' | 'clearTaskSet' | 'logicalUnitReset' | 'targetReset'

/** All logical units behind one target: what a transport sees. */
export interface DeviceServer {
  /** The initiator port has logged in: unit attentions for it begin (power on, reset). */
  attach(nexus: Nexus): void
  /** The session ended. */
  detach(nexus: Nexus): void
  execute(task: Task): void
  /**
   * 'lunMissing' is for the transport to report (RFC 7143 §11.6.1). `losers`: nexuses with tasks that CLEAR TASK SET ends before
   * they came here.
   */
  manage(nexus: Nexus, lun: Uint8Array, request: TaskManagement, losers?: readonly Nexus[]): 'done' | 'lunMissing'
  /** Most data-out one command may bring, in bytes: the transport refuses more before buffering it. */
  readonly dataOutBytesMax: number
}
