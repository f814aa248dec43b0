/**
 * EXTENDED COPY (LID1) and RECEIVE COPY RESULTS. SPC-4 §6.4, §6.17 to §6.20: blocks from one place of a disk to another,
 * or to another disk of this target, without their crossing the network.
 *
 * Parameter list, table 108:
 *   0 list identifier | 1 STR, LIST ID USAGE, PRIORITY | 2..3 target descriptors' length | 8..11 segment descriptors'
 *   length | 12..15 inline data length | 16.. target descriptors (32 each) | segment descriptors
 */
import { putU16, putU32, u16, u24, u32, u64 } from '../wire/big-endian.ts'
import { type Command, respond } from './command.ts'
import { parameterList } from './data-out.ts'
import { readRange, senseOf } from './device-access.ts'
import {
  copiesMax,
  copyResultsMax,
  copySegmentBlocksMax,
  copySegmentsMax,
  copyTargetsMax,
  pieceBytes,
} from './limits.ts'
import type { CopyResult, LogicalUnit, NexusRecord } from './logical-unit.ts'
import { CheckCondition, condition, encodeSense, invalidCdbField, invalidParameter } from './sense.ts'
import type { Task } from './task.ts'

/** Identification descriptor target descriptor, §6.4.5.3, and block device to block device segment, §6.4.6.2. */
const identificationTarget = 0xe4
const targetBytes = 32
const blockToBlock = 0x02
const segmentBytes = 28
const headerBytes = 16
const descriptorBytesMax = copyTargetsMax * targetBytes + copySegmentsMax * segmentBytes

export const copyCommands: readonly Command[] = [
  {
    opcode: 0x83,
    serviceAction: 0x00,
    name: 'EXTENDED COPY (LID1)',
    usage: '83 1f 0000000000000000 ffffffff 00 04',
    access: 'write',
    run: extendedCopy,
  },
  {
    opcode: 0x84,
    serviceAction: 0x00,
    name: 'RECEIVE COPY STATUS (LID1)',
    usage: '84 1f ff 00000000000000 ffffffff 00 04',
    access: 'write',
    run: (_unit, task, from) => {
      const result = takeResult(from, task)
      // Table 267:  0..3 available | 4 HDD, status | 5..6 segments | 7 units (0: bytes) | 8..11 count
      const data = new Uint8Array(12)
      putU32(data, 0, 8)
      data[4] = statusCode[result.status]
      putU16(data, 5, result.segments)
      data[7] = 0x01
      putU32(data, 8, Math.floor(result.bytes / 1024))
      return respond(task, data, u32(task.cdb, 10))
    },
  },
  {
    opcode: 0x84,
    serviceAction: 0x03,
    name: 'RECEIVE COPY OPERATING PARAMETERS',
    usage: '84 1f 00 00000000000000 ffffffff 00 04',
    access: 'write',
    run: (unit, task) => respond(task, operatingParameters(unit), u32(task.cdb, 10)),
  },
  {
    opcode: 0x84,
    serviceAction: 0x04,
    name: 'RECEIVE COPY FAILURE DETAILS (LID1)',
    usage: '84 1f ff 00000000000000 ffffffff 00 04',
    access: 'write',
    run: (_unit, task, from) => {
      const result = from.copies.get(task.cdb[2] as number)
      if (result === undefined || result.status !== 'failed') throw invalidCdbField(2, 7)
      from.copies.delete(task.cdb[2] as number)
      // Table 272:  0..3 available | 56 status | 58..59 sense length | 60.. sense data
      const data = new Uint8Array(60 + result.sense.byteLength)
      putU32(data, 0, data.byteLength - 4)
      data[56] = 0x02
      putU16(data, 58, result.sense.byteLength)
      data.set(result.sense, 60)
      return respond(task, data, u32(task.cdb, 10))
    },
  },
]

/** Table 268. Failures stay until their details are asked for. */
const statusCode = { running: 0x00, done: 0x01, failed: 0x02 } as const

function takeResult(from: NexusRecord, task: Task): CopyResult {
  const identifier = task.cdb[2] as number
  const result = from.copies.get(identifier)
  if (result === undefined) throw invalidCdbField(2, 7)
  if (result.status === 'done') from.copies.delete(identifier)
  return result
}

/** Table 263. */
function operatingParameters(unit: LogicalUnit): Uint8Array {
  const descriptors = [blockToBlock, identificationTarget]
  const data = new Uint8Array(44 + descriptors.length)
  putU32(data, 0, data.byteLength - 4)
  // SNLID: a list need not have an identifier.
  data[4] = 0x01
  putU16(data, 8, copyTargetsMax)
  putU16(data, 10, copySegmentsMax)
  putU32(data, 12, descriptorBytesMax)
  putU32(data, 16, copySegmentBlocksMax * unit.blockBytes)
  putU16(data, 34, copiesMax)
  data[36] = copiesMax
  data[37] = Math.log2(unit.blockBytes)
  data[43] = descriptors.length
  data.set(descriptors, 44)
  return data
}

interface Segment {
  readonly source: LogicalUnit
  readonly destination: LogicalUnit
  readonly sourceLba: number
  readonly destinationLba: number
  readonly blocks: number
}

async function extendedCopy(unit: LogicalUnit, task: Task, from: NexusRecord): Promise<number> {
  const bytes = u32(task.cdb, 10)
  // §6.4.1: an empty list is no error.
  if (bytes === 0) return 0
  if (bytes < headerBytes || bytes > headerBytes + descriptorBytesMax + 65536) {
    throw new CheckCondition(condition.parameterListLength)
  }
  const list = parameterList(task, bytes)
  const segments = parseList(unit, list, from)
  const usage = ((list[1] as number) >> 3) & 0x03
  const identifier = list[0] as number
  if (usage === 1 || (usage === 3 && identifier !== 0)) throw invalidParameter(usage === 1 ? 1 : 0, usage === 1 ? 4 : 7)
  // 00b keeps the result until it is asked for, 10b and 11b do not.
  const result: CopyResult = { status: 'running', segments: 0, bytes: 0, sense: new Uint8Array(0) }
  if (usage !== 3 && from.copies.get(identifier)?.status === 'running') throw invalidParameter(0, 7)
  if (unit.copiesRunning >= copiesMax) throw new CheckCondition(condition.insufficientResources)
  if (usage === 0) keep(from, identifier, result)
  unit.copiesRunning++
  try {
    for (const segment of segments) {
      await copySegment(segment, task, from, result)
      result.segments++
    }
    result.status = 'done'
    return bytes
  } catch (error) {
    result.status = 'failed'
    result.sense = senseOfFailure(unit, error)
    throw error instanceof CheckCondition || senseOf(error, true) !== undefined
      ? new CheckCondition(condition.copyDeviceFailure)
      : error
  } finally {
    unit.copiesRunning--
  }
}

/** The newest results of one initiator. */
function keep(from: NexusRecord, identifier: number, result: CopyResult): void {
  from.copies.delete(identifier)
  for (const [oldest, { status }] of from.copies) {
    if (from.copies.size < copyResultsMax) break
    if (status !== 'running') from.copies.delete(oldest)
  }
  from.copies.set(identifier, result)
}

/** What the disk said: kept for RECEIVE COPY FAILURE DETAILS. The command itself ends with COPY ABORTED, §6.4.3. */
function senseOfFailure(unit: LogicalUnit, error: unknown): Uint8Array {
  if (error instanceof CheckCondition) return encodeSense(error.condition, error.detail, false)
  unit.report(error)
  return encodeSense(senseOf(error, true) ?? condition.internalTargetFailure, {}, false)
}

function parseList(unit: LogicalUnit, list: Uint8Array, from: NexusRecord): Segment[] {
  const targetsBytes = u16(list, 2)
  const segmentsBytes = u32(list, 8)
  const inlineBytes = u32(list, 12)
  if (targetsBytes + segmentsBytes > descriptorBytesMax || targetsBytes % targetBytes !== 0) {
    throw new CheckCondition(condition.parameterListLength)
  }
  if (inlineBytes !== 0) throw new CheckCondition(condition.inlineDataTooLong)
  if (headerBytes + targetsBytes + segmentsBytes > list.byteLength) {
    throw new CheckCondition(condition.parameterListLength)
  }
  if (targetsBytes / targetBytes > copyTargetsMax) throw new CheckCondition(condition.tooManyTargetDescriptors)
  const targets: (LogicalUnit | undefined)[] = []
  for (let at = headerBytes; at < headerBytes + targetsBytes; at += targetBytes)
    targets.push(parseTarget(unit, list, at))
  const segments: Segment[] = []
  const end = headerBytes + targetsBytes + segmentsBytes
  let at = headerBytes + targetsBytes
  while (at < end) {
    if (segments.length === copySegmentsMax) throw new CheckCondition(condition.tooManySegmentDescriptors)
    if (list[at] !== blockToBlock) throw unsupported(condition.unsupportedSegmentDescriptor, at)
    if (at + segmentBytes > end || u16(list, at + 2) !== segmentBytes - 4) throw invalidParameter(at + 2)
    segments.push(parseSegment(list, at, targets))
    at += segmentBytes
  }
  for (const segment of segments) checkAccess(segment, from)
  return segments
}

/**
 * Table 113: 0 E4h | 1 LU ID TYPE (obsolete), peripheral type | 4 code set | 5 designator type | 7 length | 8..27
 * designator | 29..31 block length. Undefined: a disk that is not here.
 */
function parseTarget(unit: LogicalUnit, list: Uint8Array, at: number): LogicalUnit | undefined {
  if (list[at] !== identificationTarget) throw unsupported(condition.unsupportedTargetDescriptor, at)
  if (((list[at + 1] as number) & 0x1f) !== 0) throw invalidParameter(at + 1, 4)
  const length = list[at + 7] as number
  if (length > 20) throw invalidParameter(at + 7)
  const type = (list[at + 5] as number) & 0x0f
  const found = unit.unitNamed(type, list.subarray(at + 8, at + 8 + length))
  if (found !== undefined && u24(list, at + 29) !== found.blockBytes) throw invalidParameter(at + 29)
  return found
}

/** Table 132: 1 DC CAT | 2..3 length | 4..5 source | 6..7 destination | 10..11 blocks | 12..19 and 20..27 LBAs. */
function parseSegment(list: Uint8Array, at: number, targets: readonly (LogicalUnit | undefined)[]): Segment {
  const source = targets[u16(list, at + 4)]
  const destination = targets[u16(list, at + 6)]
  if (source === undefined || destination === undefined) throw new CheckCondition(condition.copyTargetUnreachable)
  // DC says whose block length the count is in; lengths that differ would need padding rules that nobody uses.
  if (source.blockBytes !== destination.blockBytes) throw new CheckCondition(condition.copyTargetTypeIncorrect)
  const segment: Segment = {
    source,
    destination,
    blocks: u16(list, at + 10),
    sourceLba: u64(list, at + 12),
    destinationLba: u64(list, at + 20),
  }
  if (
    segment.sourceLba + segment.blocks > source.blockCount ||
    segment.destinationLba + segment.blocks > destination.blockCount
  ) {
    throw new CheckCondition(condition.copyAborted)
  }
  return segment
}

/** The copy manager may not read and write where its initiator may not. §5.17.3. */
function checkAccess({ source, destination }: Segment, from: NexusRecord): void {
  const protection = destination.writeProtection
  if (protection !== undefined) throw new CheckCondition(protection)
  const isReserved =
    source.reservations.conflicts(from.nexus, from.port, 'read') ||
    destination.reservations.conflicts(from.nexus, from.port, 'write')
  if (isReserved || source.notReady !== undefined || destination.notReady !== undefined) {
    throw new CheckCondition(condition.copyTargetUnreachable)
  }
}

function unsupported(
  what: typeof condition.unsupportedSegmentDescriptor | typeof condition.unsupportedTargetDescriptor,
  at: number,
): CheckCondition {
  return new CheckCondition(what, { field: { where: 'parameters', byte: at } })
}

async function copySegment(segment: Segment, task: Task, from: NexusRecord, result: CopyResult): Promise<void> {
  const { source, destination, sourceLba, destinationLba } = segment
  const bytes = segment.blocks * source.blockBytes
  // Onto itself, further on: from its end, or it would read what it has written.
  const isBackward = source === destination && destinationLba > sourceLba
  for (let done = 0; done < bytes; ) {
    const size = Math.min(pieceBytes, bytes - done)
    const at = isBackward ? bytes - done - size : done
    await copyPiece(segment, at, size, () => {
      if (task.aborted || destination.isStopping) throw new CheckCondition(condition.copyAborted)
      checkAccess(segment, from)
    })
    done += size
    result.bytes += size
  }
  if (!destination.mode.writeCacheEnabled) await destination.device.flush()
}

/**
 * Holds both ranges from reading to the end of writing: a SANITIZE that has begun meanwhile waits for it, and what was there before
 * never comes back after it. Both are asked for at once, so that nobody comes between them whom each would wait for.
 */
async function copyPiece(
  { source, destination, sourceLba, destinationLba }: Segment,
  at: number,
  size: number,
  check: () => void,
): Promise<void> {
  const readAt = sourceLba * source.blockBytes + at
  const writeAt = destinationLba * destination.blockBytes + at
  const entering = [source.ranges.enter(readAt, size, false), destination.ranges.enter(writeAt, size, false)]
  const held = await Promise.all(entering)
  try {
    check()
    await destination.device.write(writeAt, await readRange(source, readAt, size))
  } finally {
    for (const each of held) each.release()
  }
}
