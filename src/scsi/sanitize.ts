/**
 * SANITIZE. SBC-3 §5.24, §4.11:
 *
 *              start                          done
 *   ready ----------------> in progress ----------------> ready
 *     ^                         | the device fails
 *     | exit failure mode       v
 *     +--- (if AUSE) --- failed ----- start ----> in progress
 *
 * Once begun it goes on, whatever happens to the command, its session or the unit: aborts and resets do not stop it. What is cut off
 * by the end of this program has failed when the disk is served again: it stands in the store from before the first piece.
 * There is no cryptographic erase: nothing here is encrypted, so forgetting a key would erase nothing.
 */
import { OperationError } from '../base/errors.ts'
import { u16 } from '../wire/big-endian.ts'
import type { Command, Reply } from './command.ts'
import { parameterList } from './data-out.ts'
import { pieceBytes, sanitizeBytesPerSecond, sanitizeMsMin } from './limits.ts'
import type { LogicalUnit } from './logical-unit.ts'
import { condition, invalidCdbField, invalidParameter } from './sense.ts'
import type { Task } from './task.ts'

const usual = { opcode: 0x48, access: 'write', writes: true, sanitizes: true } as const

/** IMMED | reserved | AUSE | service action; bytes 2 to 6 reserved, and looked at: this command destroys. */
const usage = '48 bf 0000000000 ffff 04'

export const sanitizeCommands: readonly Command[] = [
  {
    ...usual,
    serviceAction: 0x01,
    name: 'SANITIZE, OVERWRITE',
    usage,
    supported: canOverwrite,
    run: (unit, task) => {
      checkReserved(task.cdb)
      return sanitize(unit, task, u16(task.cdb, 7), overwriteOf(unit, task))
    },
  },
  {
    ...usual,
    serviceAction: 0x02,
    name: 'SANITIZE, BLOCK ERASE',
    usage,
    supported: canErase,
    run: (unit, task) => {
      checkReserved(task.cdb)
      if (u16(task.cdb, 7) !== 0) throw invalidCdbField(7)
      return sanitize(unit, task, 0, erase)
    },
  },
  {
    ...usual,
    serviceAction: 0x1f,
    name: 'SANITIZE, EXIT FAILURE MODE',
    usage,
    supported: canOverwrite,
    run: (unit, task) => {
      checkReserved(task.cdb)
      if (u16(task.cdb, 7) !== 0) throw invalidCdbField(7)
      // Without a failure there is nothing to leave. Only a failed SANITIZE that allowed it (AUSE) can be left.
      if (unit.notReady === undefined) return 0
      if (!unit.sanitizeMayBeLeft) throw invalidCdbField(1, 4)
      return leaveFailure(unit)
    },
  },
]

/** Where the device may be written. */
export function canOverwrite(unit: LogicalUnit): boolean {
  return !unit.device.readOnly
}

/** §4.11.3: erasing leaves every block deallocated, so only where there is such a thing. */
export function canErase(unit: LogicalUnit): boolean {
  return !unit.device.readOnly && unit.device.thin
}

function checkReserved(cdb: Uint8Array): void {
  if (((cdb[1] as number) & 0x40) !== 0) throw invalidCdbField(1, 6)
  for (let i = 2; i < 7; i++) if (cdb[i] !== 0) throw invalidCdbField(i)
}

/** Does the work, and tells after each piece how many bytes of how many are done. */
type Work = (unit: LogicalUnit, progress: (done: number) => void) => Promise<void>

function sanitize(unit: LogicalUnit, task: Task, wanted: number, work: Work): Reply {
  const flags = task.cdb[1] as number
  const before = unit.notReady
  const couldBeLeft = unit.sanitizeMayBeLeft
  unit.sanitizeMayBeLeft = (flags & 0x20) !== 0
  unit.notReady = { condition: condition.sanitizeInProgress, detail: { progress: 0 } }
  const noted = unit.sanitizeStore?.save({ mayBeLeft: unit.sanitizeMayBeLeft })
  const begun = (noted ?? Promise.resolve()).catch((error: unknown) => {
    // It cannot be noted, so nothing is begun, and the disk is as it was.
    unit.notReady = before
    unit.sanitizeMayBeLeft = couldBeLeft
    throw error
  })
  return begun.then(() => carryOut(unit, task, wanted, work))
}

function carryOut(unit: LogicalUnit, task: Task, wanted: number, work: Work): number | Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>()
  const end = (): void => resolve(wanted)
  // Aborting the command ends the command, not the work.
  const working = overwriteAll(unit, work, () => {
    if (task.aborted) end()
  })
  const sanitizing = working.then(end, reject).then(() => {
    if (unit.sanitizing === sanitizing) unit.sanitizing = undefined
  })
  unit.sanitizing = sanitizing
  const isImmediate = ((task.cdb[1] as number) & 0x80) !== 0
  if (!isImmediate) return promise
  // The answer is given before the work is done; its failure is what every later command hears.
  promise.catch(nothing)
  return wanted
}

function nothing(): void {}

async function leaveFailure(unit: LogicalUnit): Promise<number> {
  await unit.sanitizeStore?.save(undefined)
  unit.notReady = undefined
  return 0
}

async function overwriteAll(unit: LogicalUnit, work: Work, afterPiece: () => void): Promise<void> {
  // New commands are refused already; what is in flight ends first.
  const held = await unit.ranges.enter(0, unit.device.sizeBytes, true)
  try {
    await work(unit, (done) => {
      const progress = Math.min(0xffff, Math.floor((done / unit.device.sizeBytes) * 0x1_0000))
      unit.notReady = { condition: condition.sanitizeInProgress, detail: { progress } }
      afterPiece()
      if (unit.isStopping) throw cutOff()
    })
    await unit.device.flush()
    await unit.sanitizeStore?.save(undefined)
    unit.notReady = undefined
  } catch (error) {
    unit.report(error)
    unit.notReady = { condition: condition.sanitizeFailed, detail: {} }
    throw error
  } finally {
    held.release()
  }
}

function cutOff(): OperationError {
  const hint = 'Its machine finds the disk shut until another SANITIZE has succeeded; a clone may be reset instead.'
  return new OperationError('sanitizeCutOff', 'a SANITIZE was cut off: the disk is served no more', hint)
}

async function erase(unit: LogicalUnit, progress: (done: number) => void): Promise<void> {
  const size = unit.device.sizeBytes
  const stepBytes = 64 * pieceBytes
  for (let at = 0; at < size; at += stepBytes) {
    await unit.device.writeZeroes(at, Math.min(stepBytes, size - at), true)
    await unit.pause(0)
    progress(at)
  }
}

/** Table 96:  0 INVERT, overwrite count | 2..3 pattern length | 4.. pattern, at most one block. */
function overwriteOf(unit: LogicalUnit, task: Task): Work {
  const bytes = u16(task.cdb, 7)
  if (bytes < 5 || bytes > unit.blockBytes + 4) throw invalidCdbField(7)
  const list = parameterList(task, bytes)
  const isInverted = ((list[0] as number) & 0x80) !== 0
  const passes = (list[0] as number) & 0x1f
  const patternBytes = u16(list, 2)
  if (passes === 0) throw invalidParameter(0, 4)
  if (patternBytes === 0 || patternBytes !== bytes - 4) throw invalidParameter(2)
  const piece = new Uint8Array(pieceBytes)
  for (let i = 0; i < pieceBytes; i++) piece[i] = list[4 + ((i % unit.blockBytes) % patternBytes)] as number
  return async (of, progress) => {
    const size = of.device.sizeBytes
    for (let pass = 0; pass < passes; pass++) {
      // Inverted in every second pass, such that the last one has the pattern as it was given.
      const flip = isInverted && (passes - 1 - pass) % 2 === 1
      const pattern = flip ? piece.map((byte) => ~byte) : piece
      await fill(of, pattern, sanitizeMsMin / passes, (at) => progress((pass * size + at) / passes))
    }
  }
}

async function fill(
  unit: LogicalUnit,
  piece: Uint8Array,
  millisecondsMin: number,
  progress: (done: number) => void,
): Promise<void> {
  const size = unit.device.sizeBytes
  for (let at = 0; at < size; at += piece.byteLength) {
    const part = piece.subarray(0, Math.min(piece.byteLength, size - at))
    await unit.device.write(at, part)
    progress(at)
    await unit.pause(part.byteLength * Math.max(1000 / sanitizeBytesPerSecond, millisecondsMin / size))
  }
}
