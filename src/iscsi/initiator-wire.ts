/**
 * An initiator's connection: PDUs out with their numbers and digests, PDUs in to whoever waits for them by task tag. What the target asks
 * for by itself (R2T, a ping) is answered here.
 */
import { OperationError } from '../base/errors.ts'
import type { TcpConnection, TcpHandler } from '../ports/tcp.ts'
import { crc32c } from '../wire/crc32c.ts'
import { WireError } from '../wire/reader.ts'
import { FrameReader, type FrameTaker } from './frame.ts'
import { digestBytes, type Header, headerBytes, noTag } from './header.ts'
import { encodeInitiatorPdu, type InitiatorPdu } from './initiator-pdu.ts'
import { receiveSegmentBytesMax } from './limits.ts'
import { defaultParameters, type Parameters } from './negotiation.ts'
import { after } from './serial-number.ts'
import { decodeTargetPdu, type TargetPdu } from './target-pdu.ts'

type Waiting = { readonly answer: (pdu: TargetPdu, data: Uint8Array) => void; readonly lost: (error: Error) => void }
const noData = new Uint8Array(0)

export class InitiatorWire implements TcpHandler, FrameTaker {
  readonly #reader: FrameReader = new FrameReader(this)
  readonly #waiting = new Map<number, Waiting>()
  /** Data of writes under way, by task tag. */
  readonly #transfers = new Map<number, Uint8Array>()
  readonly unasked: TargetPdu[] = []
  readonly closed: Promise<string>
  #ended: (reason: string) => void = () => {}
  #isClosed = false
  #connection: TcpConnection | undefined
  #pdu: TargetPdu | undefined
  #data = noData
  #filledBytes = 0
  #commandNumber = 1
  #expectedStatusNumber = 0
  #taskTag = 0
  #parameters: Parameters = defaultParameters

  constructor() {
    this.#reader.segmentBytesMax = receiveSegmentBytesMax
    this.closed = new Promise((resolve) => {
      this.#ended = resolve
    })
  }

  opened(connection: TcpConnection): this {
    this.#connection = connection
    return this
  }

  get parameters(): Parameters {
    return this.#parameters
  }

  /** What the login has agreed to holds from the next PDU on, in both directions. */
  settle(parameters: Parameters): void {
    this.#parameters = parameters
    this.#reader.headerDigest = parameters.headerDigest
    this.#reader.dataDigest = parameters.dataDigest
  }

  // --- TcpHandler

  onData(chunk: Uint8Array): void {
    try {
      this.#reader.receive(chunk)
    } catch (error) {
      if (!(error instanceof WireError)) throw error
      this.#connection?.destroy()
      this.#lost(error.message)
    }
  }

  onEnd(): void {
    this.#connection?.end()
    this.#lost('the target closed the connection')
  }

  onClose(reason: string): void {
    this.#lost(reason)
  }

  #lost(reason: string): void {
    if (this.#isClosed) return
    this.#isClosed = true
    const error = new OperationError('connectionLost', `connection lost: ${reason}`, 'See what the target says of it.')
    for (const { lost } of this.#waiting.values()) lost(error)
    this.#waiting.clear()
    this.#ended(reason)
  }

  /** Closes when what has been said is sent. */
  hangUp(): void {
    this.#connection?.end()
  }

  /** Closes without a word, as a power cut does. */
  destroy(): void {
    this.#connection?.destroy()
    this.#lost('destroyed')
  }

  // --- FrameTaker

  header(header: Header): void {
    this.#pdu = decodeTargetPdu(header)
    this.#data = new Uint8Array(header.dataBytes)
    this.#filledBytes = 0
  }

  data(bytes: Uint8Array): void {
    this.#data.set(bytes, this.#filledBytes)
    this.#filledBytes += bytes.byteLength
  }

  end(intact: boolean): void {
    if (!intact) throw new WireError('badValue', headerBytes)
    const pdu = this.#pdu
    if (pdu === undefined) return
    if (pdu.kind !== 'dataIn' || pdu.status !== undefined) {
      if (pdu.kind !== 'readyToTransfer') this.#expectedStatusNumber = after(pdu.statusNumber)
    }
    if (pdu.kind === 'readyToTransfer') {
      this.#transfer(pdu)
      return
    }
    if (pdu.kind === 'nopIn' && pdu.initiatorTaskTag === noTag) {
      this.#answerPing(pdu.targetTransferTag, pdu.lun)
      return
    }
    const tag = 'initiatorTaskTag' in pdu ? pdu.initiatorTaskTag : noTag
    const waiting = this.#waiting.get(tag)
    if (waiting === undefined) this.unasked.push(pdu)
    else waiting.answer(pdu, this.#data)
  }

  #transfer(pdu: Extract<TargetPdu, { kind: 'readyToTransfer' }>): void {
    const source = this.#transfers.get(pdu.initiatorTaskTag)
    if (source === undefined) return
    const end = pdu.bufferOffset + pdu.desiredBytes
    // It asks for more than there is.
    if (end > source.byteLength) throw new WireError('badLength', 44)
    let dataNumber = 0
    for (let at = pdu.bufferOffset; at < end; ) {
      const bytes = Math.min(this.#parameters.peerSegmentBytesMax, end - at)
      this.send(
        {
          kind: 'dataOut',
          final: at + bytes === end,
          lun: pdu.lun,
          initiatorTaskTag: pdu.initiatorTaskTag,
          targetTransferTag: pdu.targetTransferTag,
          expectedStatusNumber: this.#expectedStatusNumber,
          dataNumber: dataNumber++,
          bufferOffset: at,
        },
        source.subarray(at, at + bytes),
      )
      at += bytes
    }
  }

  #answerPing(targetTransferTag: number, lun: Uint8Array): void {
    this.send({
      kind: 'nopOut',
      immediate: true,
      lun,
      initiatorTaskTag: noTag,
      targetTransferTag,
      commandNumber: this.#commandNumber,
      expectedStatusNumber: this.#expectedStatusNumber,
    })
  }

  // --- sending

  send(pdu: InitiatorPdu, data: Uint8Array = noData): void {
    const plain = encodeInitiatorPdu(pdu, data)
    const headerEnd = headerBytes + (plain[4] ?? 0) * 4
    if (pdu.kind === 'login') {
      this.#connection?.write(plain)
      return
    }
    const pieces = [plain.subarray(0, headerEnd)]
    if (this.#parameters.headerDigest) pieces.push(digestOf(plain.subarray(0, headerEnd)))
    if (plain.byteLength > headerEnd) {
      pieces.push(plain.subarray(headerEnd))
      if (this.#parameters.dataDigest) pieces.push(digestOf(plain.subarray(headerEnd)))
    }
    for (const piece of pieces) this.#connection?.write(piece)
  }

  newTag(): number {
    this.#taskTag = (this.#taskTag + 1) % noTag
    return this.#taskTag
  }

  /** `take` returns what resolves the promise, or undefined to wait for more. */
  ask<Answer>(
    tag: number,
    send: () => void,
    take: (pdu: TargetPdu, data: Uint8Array) => Answer | undefined,
  ): Promise<Answer> {
    return new Promise((resolve, reject) => {
      if (this.#isClosed) {
        reject(new OperationError('connectionLost', 'the connection is closed', 'Log in again.'))
        return
      }
      this.#waiting.set(tag, {
        answer: (pdu, data) => {
          const answer = take(pdu, data)
          if (answer === undefined) return
          this.#waiting.delete(tag)
          this.#transfers.delete(tag)
          resolve(answer)
        },
        lost: reject,
      })
      send()
    })
  }

  /** For a request that takes a command number. */
  numbers(): { readonly commandNumber: number; readonly expectedStatusNumber: number } {
    const commandNumber = this.#commandNumber
    this.#commandNumber = after(commandNumber)
    return { commandNumber, expectedStatusNumber: this.#expectedStatusNumber }
  }

  /** For an immediate request, which takes none. */
  get currentNumbers(): { readonly commandNumber: number; readonly expectedStatusNumber: number } {
    return { commandNumber: this.#commandNumber, expectedStatusNumber: this.#expectedStatusNumber }
  }

  /** What R2Ts may ask for. */
  offer(tag: number, data: Uint8Array): void {
    this.#transfers.set(tag, data)
  }
}

function digestOf(bytes: Uint8Array): Uint8Array {
  const digest = new Uint8Array(digestBytes)
  new DataView(digest.buffer).setUint32(0, crc32c(bytes), true)
  return digest
}
