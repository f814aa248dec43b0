/** What a command is to the logical unit: how it is recognised, who may send it when, and what carries it out. */
import type { LogicalUnit, NexusRecord } from './logical-unit.ts'
import type { Task } from './task.ts'

/**
 * Bytes the command wanted to move (the transport's residual), now or when it is done. Memory answers without a turn of
 * the event loop, so the number comes without a promise wherever it can.
 */
export type Reply = number | Promise<number>

/**
 * What a reservation does to a command from somebody else. SPC-4 table 66, SBC-3 table 4:
 *
 *   always       never conflicts: INQUIRY, REPORT LUNS, REQUEST SENSE
 *   information  conflicts with RESERVE (6) alone: TEST UNIT READY, READ CAPACITY
 *   read         conflicts with exclusive access
 *   write        conflicts with write exclusive too: whatever changes the medium or the unit
 *   own          the command looks for itself: PERSISTENT RESERVE OUT, RELEASE
 */
export type Access = 'always' | 'information' | 'read' | 'write' | 'own'

export interface Command {
  readonly opcode: number
  readonly serviceAction?: number
  /** As the standard prints it, for logs and tests. */
  readonly name: string
  /** CDB USAGE DATA in hexadecimal, SPC-4 §6.34.3: a one for each bit that is looked at. Its length is the CDB's. */
  readonly usage: string
  readonly access: Access
  /** Refused when the disk is write-protected, and a device that fails it has failed a write. */
  readonly writes?: boolean
  /** INQUIRY, REPORT LUNS and REQUEST SENSE leave a unit attention pending. SAM-5 §5.14. */
  readonly ignoresAttention?: boolean
  /** Works while the medium is being sanitized. SBC-3 §4.11. */
  readonly duringSanitize?: boolean
  /** SANITIZE itself: works also after one that failed, not while one goes on. */
  readonly sanitizes?: boolean
  /** Absent: on every disk. */
  supported?(unit: LogicalUnit): boolean
  run(unit: LogicalUnit, task: Task, from: NexusRecord): Reply
}

/** RESERVATION CONFLICT: a status without sense data. SAM-5 §5.3.1. */
export class ReservationConflict extends Error {
  override readonly name: string = 'ReservationConflict'
}

/** Answers with `data`, cut to ALLOCATION LENGTH and to what the initiator has room for. SPC-4 §4.2.5.6. */
export function respond(task: Task, data: Uint8Array, allocationBytes: number): number {
  const wanted = Math.min(data.byteLength, allocationBytes)
  let at = 0
  const bytes = Math.min(wanted, task.dataInBytesMax)
  if (bytes === 0) return wanted
  for (const piece of task.reserve(bytes)) {
    piece.set(data.subarray(at, at + piece.byteLength))
    at += piece.byteLength
  }
  return wanted
}
