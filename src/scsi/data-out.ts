/** Parameter lists and blocks that came with a command. */
import { CheckCondition, condition } from './sense.ts'
import type { Task } from './task.ts'

/** The first `bytes` of the data-out as one piece: lent if it came as one, else a copy. */
export function gather(task: Task, bytes: number): Uint8Array {
  const first = task.dataOut[0]
  if (first !== undefined && first.byteLength >= bytes) return first.subarray(0, bytes)
  const whole = new Uint8Array(bytes)
  let at = 0
  for (const piece of task.dataOut) {
    if (at === bytes) break
    const part = piece.subarray(0, bytes - at)
    whole.set(part, at)
    at += part.byteLength
  }
  return whole
}

/**
 * A parameter list of exactly `bytes`, as the CDB announced it.
 * @throws {CheckCondition} PARAMETER LIST LENGTH ERROR if less came
 */
export function parameterList(task: Task, bytes: number): Uint8Array {
  if (task.dataOutBytes < bytes) {
    throw new CheckCondition(condition.parameterListLength, { bytesWanted: bytes })
  }
  return gather(task, bytes)
}
