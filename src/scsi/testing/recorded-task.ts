/** A transport made of arrays, for tests: runs a CDB and keeps what the device server said. */
import { assert } from '../../base/assert.ts'
import type { DeviceServer, Nexus, ScsiStatus, Task, TaskAttribute } from '../task.ts'

export interface TaskInput {
  readonly cdb: string | Uint8Array
  readonly lun?: Uint8Array
  readonly attribute?: TaskAttribute
  readonly dataOut?: Uint8Array | readonly Uint8Array[]
  readonly dataInBytesMax?: number
  /** `reserve` hands out pieces of this size. Default: one piece. */
  readonly pieceBytes?: number
}

export interface Ending {
  readonly status: ScsiStatus
  readonly sense: Uint8Array
  readonly data: Uint8Array
  readonly wanted: number | undefined
}

export class RecordedTask implements Task {
  readonly nexus: Nexus
  readonly lun: Uint8Array
  readonly cdb: Uint8Array
  readonly attribute: TaskAttribute
  readonly dataOut: readonly Uint8Array[]
  readonly dataOutBytes: number
  readonly dataInBytesMax: number
  aborted = false
  ending: Ending | undefined
  lentBytes = 0
  readonly done: Promise<Ending>
  readonly #pieceBytes: number
  readonly #dataIn: Uint8Array[] = []
  readonly #resolve: (ending: Ending) => void

  constructor(nexus: Nexus, input: TaskInput) {
    this.nexus = nexus
    this.cdb = new Uint8Array(16)
    this.cdb.set(typeof input.cdb === 'string' ? hex(input.cdb) : input.cdb)
    this.lun = input.lun ?? new Uint8Array(8)
    this.attribute = input.attribute ?? 'simple'
    const out = input.dataOut ?? []
    this.dataOut = out instanceof Uint8Array ? [out] : out
    this.dataOutBytes = this.dataOut.reduce((sum, piece) => sum + piece.byteLength, 0)
    this.dataInBytesMax = input.dataInBytesMax ?? 1 << 25
    this.#pieceBytes = input.pieceBytes ?? Number.POSITIVE_INFINITY
    const { promise, resolve } = Promise.withResolvers<Ending>()
    this.done = promise
    this.#resolve = resolve
  }

  reserve(bytes: number): readonly Uint8Array[] {
    this.#take(bytes)
    const pieces: Uint8Array[] = []
    for (let left = bytes; left > 0; ) {
      // Filled with rubbish, as a pool's memory is.
      const piece = new Uint8Array(Math.min(left, this.#pieceBytes)).fill(0xee)
      pieces.push(piece)
      left -= piece.byteLength
    }
    this.#dataIn.push(...pieces)
    return pieces
  }

  lend(bytes: Uint8Array): void {
    this.#take(bytes.byteLength)
    this.lentBytes += bytes.byteLength
    this.#dataIn.push(bytes)
  }

  good(bytesWanted: number): void {
    assert(Number.isSafeInteger(bytesWanted) && bytesWanted >= 0, 'a residual is made of a whole number')
    this.#end({ status: 0, sense: new Uint8Array(0), data: this.#data(), wanted: bytesWanted })
  }

  fail(status: ScsiStatus, sense: Uint8Array, bytesWanted?: number): void {
    assert(status !== 0, 'GOOD is no failure')
    this.#end({ status, sense, data: new Uint8Array(0), wanted: bytesWanted })
  }

  #take(bytes: number): void {
    assert(this.ending === undefined, 'no data after the end')
    const before = this.#dataIn.reduce((sum, piece) => sum + piece.byteLength, 0)
    assert(bytes > 0 && before + bytes <= this.dataInBytesMax, 'data-in fits in what the initiator has room for')
  }

  #data(): Uint8Array {
    const data = new Uint8Array(this.#dataIn.reduce((sum, piece) => sum + piece.byteLength, 0))
    let at = 0
    for (const piece of this.#dataIn) {
      data.set(piece, at)
      at += piece.byteLength
    }
    return data
  }

  #end(ending: Ending): void {
    assert(this.ending === undefined, 'a task ends once')
    this.ending = ending
    this.#resolve(ending)
  }
}

export function nexusNamed(name: string, targetPort = 1): Nexus {
  const isid = '400000000001'
  return { initiatorPort: `${name},i,0x${isid}`, targetPort, initiatorName: name, isid }
}

/** One initiator that has logged in and has read its power-on attention. */
export class Initiator {
  readonly nexus: Nexus
  readonly #server: DeviceServer

  constructor(server: DeviceServer, name = 'iqn.2026-01.lab:m1', targetPort = 1) {
    this.#server = server
    this.nexus = nexusNamed(name, targetPort)
    server.attach(this.nexus)
    this.start('00 00 00 00 00 00')
  }

  start(cdb: string | Uint8Array, input: Omit<TaskInput, 'cdb'> = {}): RecordedTask {
    const task = new RecordedTask(this.nexus, { ...input, cdb })
    this.#server.execute(task)
    return task
  }

  run(cdb: string | Uint8Array, input: Omit<TaskInput, 'cdb'> = {}): Promise<Ending> {
    return this.start(cdb, input).done
  }
}

export function hex(text: string): Uint8Array {
  const digits = text.replaceAll(/\s/g, '')
  return Uint8Array.from({ length: digits.length / 2 }, (_, i) => Number.parseInt(digits.slice(2 * i, 2 * i + 2), 16))
}

export function toHex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')
}

/** 'good', 'conflict', or the sense as '5/2400', with '@cdb 2.7' for the field and '+17' for information. */
export function outcomeOf(ending: Ending): string {
  switch (ending.status) {
    case 0x00:
      return 'good'
    case 0x18:
      return 'conflict'
    case 0x02:
      return senseText(ending.sense)
    default:
      return `status ${ending.status}`
  }
}

export function senseText(sense: Uint8Array): string {
  const at = (index: number): number => sense[index] ?? 0
  assert(at(0) === 0x70 || at(0) === 0xf0, 'fixed format sense data')
  const code = ((at(12) << 8) | at(13)).toString(16).padStart(4, '0')
  const information = at(0) === 0xf0 ? `+${((at(3) << 24) | (at(4) << 16) | (at(5) << 8) | at(6)) >>> 0}` : ''
  const isField = (at(15) & 0x80) !== 0 && at(2) === 5
  const bit = (at(15) & 0x08) === 0 ? '' : `.${at(15) & 7}`
  const field = isField ? `@${(at(15) & 0x40) === 0 ? 'parameters' : 'cdb'} ${(at(16) << 8) | at(17)}${bit}` : ''
  return `${at(2).toString(16)}/${code}${information}${field}`
}
