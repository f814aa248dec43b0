/**
 * One SCSI command on its way through the target: the transport's side of `scsi/task.ts`.
 *
 *   collecting ──all data-out is here──▶ ready ──▶ executing ──good, fail──▶ ended
 *        └──────────── aborted ───────────┴───────────┴── (an aborted one that executes ends in silence)
 *
 * Data-in is built where it leaves from: `reserve` writes the header of a Data-In PDU and gives out the bytes behind it,
 * so that neither is copied again.
 */
import { assert } from '../base/assert.ts'
import type { Nexus, ScsiStatus, Task, TaskAttribute } from '../scsi/task.ts'
import { headerBytes, noTag } from './header.ts'
import type { ScsiCommand } from './initiator-pdu.ts'
import { lendBytesMin, lentPiecesMax, receiveSegmentBytesMax } from './limits.ts'
import { dataStart, framedBytes, Region, sealDigests } from './send-memory.ts'
import type { SessionOutput } from './session-output.ts'
import { encodeTargetPdu, endDataIn, type Residual, setNumbers } from './target-pdu.ts'

/** What a task needs of its session. */
export interface TaskOwner {
  readonly nexus: Nexus
  readonly output: SessionOutput
  /** The task is over: takes it out of all lists and opens the window by one. Before its response is numbered. */
  ended(task: ScsiTask, before: ScsiTask['state']): void
  /** Everything for this command has been pushed; `dataInBytes` of it are the initiator's data. */
  answered(dataInBytes: number): void
  /** It executed, and its end was silent: what it held is free. */
  endedInSilence(): void
}

/** One R2T that the initiator has not answered whole. */
export type OpenTransfer = {
  readonly tag: number
  /** Where the next Data-Out must begin, and its number. */
  offset: number
  dataNumber: number
  readonly end: number
}

const nothing: readonly Uint8Array[] = []
const noResidual: Residual = { kind: 'none' }

export class ScsiTask implements Task {
  readonly nexus: Nexus
  readonly lun: Uint8Array
  readonly cdb: Uint8Array
  readonly attribute: TaskAttribute
  readonly dataInBytesMax: number
  dataOut: readonly Uint8Array[] = nothing
  dataOutBytes = 0
  aborted = false

  readonly command: ScsiCommand
  readonly #owner: TaskOwner
  state: 'collecting' | 'ready' | 'executing' | 'ended' = 'collecting'
  /** In the session's table of tasks. */
  listed = false
  /** Its turn by CmdSN has come. */
  delivered = false
  /** It did not end at once: how much of its session's reading it may hold. */
  readingBytes = 0
  /** Called when an aborted task that executes has ended. */
  whenEnded: (() => void) | undefined

  // Data-out, while collecting.
  buffer: Uint8Array | undefined
  receivedBytes = 0
  /** Unsolicited Data-Out is still to come; number of the next. */
  unsolicitedOpen = false
  unsolicitedNumber = 0
  /** R2Ts sent and not answered, in order. */
  readonly transfers: OpenTransfer[] = []
  /** How far R2Ts have asked for data; how many were sent. */
  solicitedBytes = 0
  readyCount = 0
  /** Data is thrown away and the command ends with this instead of being executed. */
  refusal: { readonly status: ScsiStatus; readonly sense: Uint8Array } | undefined

  // Data-in.
  #regions: Region[] = []
  #lastHeader: Region | undefined
  #dataInBytes = 0
  #burstBytes = 0
  #lentPieces = 0
  #dataNumber = 0

  constructor(owner: TaskOwner, command: ScsiCommand, bidirectionalReadBytes: number) {
    this.#owner = owner
    this.nexus = owner.nexus
    this.command = command
    this.lun = command.lun
    this.cdb = command.cdb
    this.attribute = command.attribute
    if (!command.read) this.dataInBytesMax = 0
    else this.dataInBytesMax = command.write ? bidirectionalReadBytes : command.expectedTransferBytes
  }

  get initiatorTaskTag(): number {
    return this.command.initiatorTaskTag
  }

  get wantedDataOutBytes(): number {
    return this.command.write ? this.command.expectedTransferBytes : 0
  }

  reserve(bytes: number): readonly Uint8Array[] {
    const pieces: Uint8Array[] = []
    for (let left = bytes; left > 0; ) {
      const segmentBytes = Math.min(left, this.#segmentRoom())
      pieces.push(this.#reserveSegment(segmentBytes))
      left -= segmentBytes
    }
    return pieces
  }

  lend(bytes: Uint8Array): void {
    if (bytes.byteLength < lendBytesMin || !this.#mayLend(bytes.byteLength)) {
      let from = 0
      for (const piece of this.reserve(bytes.byteLength)) {
        piece.set(bytes.subarray(from, from + piece.byteLength))
        from += piece.byteLength
      }
      return
    }
    for (let from = 0; from < bytes.byteLength; ) {
      const segmentBytes = Math.min(bytes.byteLength - from, this.#segmentRoom())
      this.#beginSegment(headerBytes, segmentBytes)
      this.#regions.push(new Region(undefined, bytes, from, from + segmentBytes))
      this.#lentPieces++
      from += segmentBytes
    }
  }

  good(bytesWanted: number): void {
    if (!this.#end()) return
    const residual = this.#residual(bytesWanted)
    const last = this.#lastHeader
    if (last === undefined) {
      this.#respond(0, noSense, residual)
      return
    }
    const view = last.slab?.view
    assert(view !== undefined, 'headers are in slabs')
    // §11.7.3: GOOD may ride on the last Data-In; one PDU and one wake-up of the initiator less.
    endDataIn(view, last.start, 0, residual)
    setNumbers(view, last.start, this.#owner.output.nextNumbers())
    this.#pushAll()
    this.#owner.answered(this.#dataInBytes)
  }

  fail(status: ScsiStatus, sense: Uint8Array, bytesWanted?: number): void {
    if (!this.#end()) return
    for (const region of this.#regions) this.#owner.output.memory.release(region)
    this.#regions = []
    this.#dataInBytes = 0
    this.#dataNumber = 0
    this.#respond(status, sense, bytesWanted === undefined ? noResidual : this.#residual(bytesWanted))
  }

  /** Frees what it holds without a word to the initiator. For tasks that do not execute. */
  discard(): void {
    assert(this.state !== 'executing' && this.state !== 'ended', 'only a task at rest can be discarded')
    this.aborted = true
    this.#end()
  }

  /** False if nobody waits for the answer any more. */
  #end(): boolean {
    assert(this.state !== 'ended', 'a task ended twice')
    const before = this.state
    this.state = 'ended'
    this.#owner.ended(this, before)
    if (this.aborted) {
      for (const region of this.#regions) this.#owner.output.memory.release(region)
      this.#regions = []
      this.whenEnded?.()
      if (before === 'executing') this.#owner.endedInSilence()
      return false
    }
    return true
  }

  #residual(bytesWanted: number): Residual {
    const { read, write, expectedTransferBytes } = this.command
    const room = read && !write ? this.dataInBytesMax : write ? expectedTransferBytes : 0
    if (bytesWanted > room) return { kind: 'overflow', bytes: bytesWanted - room }
    const moved = read && !write ? this.#dataInBytes : Math.min(bytesWanted, room)
    return moved < room ? { kind: 'underflow', bytes: room - moved } : noResidual
  }

  /** §11.4.5: a command that both writes and reads has a second residual. No command of a disk reads as well. */
  #readResidual(): Residual {
    const { read, write } = this.command
    const missing = read && write ? this.dataInBytesMax - this.#dataInBytes : 0
    return missing > 0 ? { kind: 'underflow', bytes: missing } : noResidual
  }

  /** A digest has to read every byte anyway, and wants header and data side by side. Padding has no place in lent memory. */
  #mayLend(bytes: number): boolean {
    const { headerDigest, dataDigest, peerSegmentBytesMax, burstBytesMax } = this.#owner.output.parameters
    if (headerDigest || dataDigest) return false
    if (this.#lentPieces + this.#owner.output.lentPieces >= lentPiecesMax) return false
    return ((bytes | peerSegmentBytesMax | burstBytesMax | this.#burstBytes) & 3) === 0
  }

  #segmentRoom(): number {
    const { peerSegmentBytesMax, burstBytesMax } = this.#owner.output.parameters
    return Math.min(peerSegmentBytesMax, receiveSegmentBytesMax, burstBytesMax - this.#burstBytes)
  }

  #reserveSegment(dataBytes: number): Uint8Array {
    const { parameters } = this.#owner.output
    const region = this.#beginSegment(framedBytes(dataBytes, parameters), dataBytes)
    const from = dataStart(region.start, parameters)
    // The slab has old bytes in it, which are somebody else's.
    for (let i = dataBytes; i % 4 !== 0; i++) region.bytes[from + i] = 0
    return region.bytes.subarray(from, from + dataBytes)
  }

  #beginSegment(regionBytes: number, dataBytes: number): Region {
    assert(this.#dataInBytes + dataBytes <= this.dataInBytesMax, 'more data-in than the initiator has room for')
    const { burstBytesMax } = this.#owner.output.parameters
    const region = this.#owner.output.memory.take(regionBytes)
    const view = region.slab?.view
    assert(view !== undefined, 'taken memory is in a slab')
    this.#burstBytes += dataBytes
    const burstIsFull = this.#burstBytes >= burstBytesMax
    if (burstIsFull) this.#burstBytes = 0
    encodeTargetPdu(
      view,
      region.start,
      {
        kind: 'dataIn',
        statusNumber: 0,
        expectedCommandNumber: 0,
        maxCommandNumber: 0,
        final: burstIsFull,
        status: undefined,
        initiatorTaskTag: this.command.initiatorTaskTag,
        targetTransferTag: noTag,
        dataNumber: this.#dataNumber,
        bufferOffset: this.#dataInBytes,
        residual: noResidual,
      },
      dataBytes,
    )
    this.#dataNumber++
    this.#dataInBytes += dataBytes
    this.#regions.push(region)
    this.#lastHeader = region
    return region
  }

  #pushAll(): void {
    const { output } = this.#owner
    for (const region of this.#regions) {
      const view = region.slab?.view
      if (view !== undefined && region !== this.#lastHeader) setNumbers(view, region.start, output.currentNumbers())
      if (view !== undefined) sealDigests(region, output.parameters)
      output.push(region)
    }
    this.#regions = []
  }

  #respond(status: number, sense: Uint8Array, residual: Residual): void {
    const owner = this.#owner
    // §11.4.7: two bytes of length in front of the sense data.
    const dataBytes = sense.byteLength === 0 ? 0 : 2 + sense.byteLength
    const numbers = owner.output.nextNumbers()
    // Each write ends here: a spread is several times slower than naming the three.
    const pdu = {
      kind: 'scsiResponse',
      statusNumber: numbers.statusNumber,
      expectedCommandNumber: numbers.expectedCommandNumber,
      maxCommandNumber: numbers.maxCommandNumber,
      response: 0,
      status,
      initiatorTaskTag: this.command.initiatorTaskTag,
      expectedDataNumber: this.readyCount + this.#dataNumber,
      readResidual: this.#readResidual(),
      residual,
    } as const
    const data = dataBytes === 0 ? noSense : new Uint8Array(dataBytes)
    if (dataBytes > 0) {
      data[0] = sense.byteLength >> 8
      data[1] = sense.byteLength & 0xff
      data.set(sense, 2)
    }
    owner.output.send(pdu, data)
    owner.answered(this.#dataInBytes)
  }
}

const noSense = new Uint8Array(0)
