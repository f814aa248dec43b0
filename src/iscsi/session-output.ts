/** What one session says: numbers its PDUs, writes them into the memory that is sent, and puts them into the outbox. */
import { assert } from '../base/assert.ts'
import type { CommandWindow } from './command-window.ts'
import { noTag } from './header.ts'
import type { Parameters } from './negotiation.ts'
import { dataStart, framedBytes, type Outbox, type Region, type SendMemory, sealDigests } from './send-memory.ts'
import { after } from './serial-number.ts'
import { encodeTargetPdu, type Numbers, type TargetPdu } from './target-pdu.ts'

export const noData: Uint8Array = new Uint8Array(0)
export const lunZero: Uint8Array = new Uint8Array(8)

export type OutputTerms = {
  readonly memory: SendMemory
  readonly outbox: Outbox
  readonly window: CommandWindow
  readonly parameters: Parameters
  readonly statusNumber: number
  readonly flushSoon: () => void
}

export class SessionOutput {
  readonly memory: SendMemory
  /** As negotiated; the peer may change what it can receive. */
  parameters: Parameters
  readonly #outbox: Outbox
  readonly #window: CommandWindow
  readonly #flushSoon: () => void
  #statusNumber: number
  #lastTransferTag = 0

  constructor(terms: OutputTerms) {
    this.memory = terms.memory
    this.parameters = terms.parameters
    this.#outbox = terms.outbox
    this.#window = terms.window
    this.#flushSoon = terms.flushSoon
    this.#statusNumber = terms.statusNumber
  }

  /** Bytes that the kernel has not taken yet. */
  get queuedBytes(): number {
    return this.#outbox.queuedBytes
  }

  /** Pieces of lent memory among them. */
  get lentPieces(): number {
    return this.#outbox.lentPieces
  }

  /** For a PDU that carries a status: StatSN counts on. */
  nextNumbers(): Numbers {
    const statusNumber = this.#statusNumber
    this.#statusNumber = after(statusNumber)
    return { statusNumber, expectedCommandNumber: this.#window.expected, maxCommandNumber: this.#window.max }
  }

  /** For one that carries none. */
  currentNumbers(): Numbers {
    return { statusNumber: 0, expectedCommandNumber: this.#window.expected, maxCommandNumber: this.#window.max }
  }

  /** For R2T and our pings, which tell the next StatSN without using it up: §11.8.2, §11.19.2. */
  upcomingNumbers(): Numbers {
    const { expected, max } = this.#window
    return { statusNumber: this.#statusNumber, expectedCommandNumber: expected, maxCommandNumber: max }
  }

  newTransferTag(): number {
    this.#lastTransferTag = (this.#lastTransferTag + 1) % noTag
    return this.#lastTransferTag
  }

  push(region: Region): void {
    this.#outbox.push(region)
  }

  /** What has been pushed leaves, unless the turn that is going on will see to it. */
  flushSoon(): void {
    this.#flushSoon()
  }

  send(pdu: TargetPdu, data: Uint8Array): void {
    const { parameters } = this
    const region = this.memory.take(framedBytes(data.byteLength, parameters))
    const view = region.slab?.view
    assert(view !== undefined, 'taken memory is in a slab')
    encodeTargetPdu(view, region.start, pdu, data.byteLength)
    if (data.byteLength > 0) {
      const from = dataStart(region.start, parameters)
      region.bytes.set(data, from)
      for (let i = data.byteLength; i % 4 !== 0; i++) region.bytes[from + i] = 0
    }
    sealDigests(region, parameters)
    this.#outbox.push(region)
    this.#flushSoon()
  }
}
