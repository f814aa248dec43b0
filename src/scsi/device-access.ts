/** Reads and writes of the block device for commands that are not the hot path. */
import { OperationError } from '../base/errors.ts'
import type { Pending } from '../block/device.ts'
import type { LogicalUnit } from './logical-unit.ts'
import { CheckCondition, type Condition, condition } from './sense.ts'

/** Waits for all, so that nothing is in flight in memory that goes back to its owner; then fails as the first failed. */
export async function allEnded(pendings: readonly Promise<void>[]): Promise<void> {
  for (const outcome of await Promise.allSettled(pendings)) {
    if (outcome.status === 'rejected') throw outcome.reason
  }
}

/**
 * Starts one of several operations. What fails at once becomes a pending that has failed: those already in flight still
 * hold memory that must not go back before they end.
 */
export function startEach(pendings: Promise<void>[], start: () => Pending): void {
  try {
    const pending = start()
    if (pending !== undefined) pendings.push(pending)
  } catch (error) {
    pendings.push(Promise.reject(error))
  }
}

/** What the device's refusal is in sense data. Undefined: not the device's, and not to be hidden. */
export function senseOf(error: unknown, writing: boolean): Condition | undefined {
  if (!(error instanceof OperationError)) return undefined
  switch (error.code) {
    case 'noSpace':
      return condition.spaceAllocationFailed
    case 'readOnly':
      return condition.writeProtected
    case 'ioError':
    case 'imageCorrupt':
      return writing ? condition.writeError : condition.readError
    default:
      return condition.internalTargetFailure
  }
}

/** @throws {CheckCondition} UNRECOVERED READ ERROR, also inside a command that writes */
export async function readInto(unit: LogicalUnit, offset: number, target: Uint8Array): Promise<void> {
  try {
    await unit.device.read(offset, target)
  } catch (error) {
    const sense = senseOf(error, false)
    if (sense === undefined) throw error
    unit.report(error)
    throw new CheckCondition(sense, { information: Math.floor(offset / unit.blockBytes) })
  }
}

export async function readRange(unit: LogicalUnit, offset: number, bytes: number): Promise<Uint8Array> {
  const target = new Uint8Array(bytes)
  await readInto(unit, offset, target)
  return target
}

/** Does `work` on a range together with others, but not while somebody has the range alone. */
export async function shared<T>(
  unit: LogicalUnit,
  offset: number,
  bytes: number,
  work: () => Promise<T> | T,
): Promise<T> {
  const held = await unit.ranges.enter(offset, bytes, false)
  try {
    return await work()
  } finally {
    held.release()
  }
}

/** Does `work` on a range that nobody else reads or writes meanwhile. */
export async function alone<T>(unit: LogicalUnit, offset: number, bytes: number, work: () => Promise<T>): Promise<T> {
  const held = await unit.ranges.enter(offset, bytes, true)
  try {
    return await work()
  } finally {
    held.release()
  }
}

/** Where two pieces of memory of one length first differ; -1 if they do not. */
export function firstDifference(a: Uint8Array, b: Uint8Array): number {
  for (let i = 0; i < a.byteLength; i++) if (a[i] !== b[i]) return i
  return -1
}
