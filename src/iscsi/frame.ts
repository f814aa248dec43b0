/**
 * Cuts a stream of bytes into PDUs. RFC 7143 §11.1:
 *
 *   | header 48 | additional headers 0..272 | header digest 0 or 4 | data, padded to 4 | data digest 0 or 4 |
 *
 * Data is passed on as it comes, however the stream is cut: whoever takes it decides at the header where it goes, and
 * nothing is gathered here but a header that straddles two chunks. Announced lengths are checked before any data is taken.
 */

import { crc32c } from '../wire/crc32c.ts'
import { WireError } from '../wire/reader.ts'
import { digestBytes, type Header, headerBytes, paddedBytes } from './header.ts'
import { additionalHeaderBytesMax, loginSegmentBytesMax } from './limits.ts'

export interface FrameTaker {
  /** A header has come whole; it is borrowed until the call returns. @throws {WireError} to end the stream. */
  header(header: Header): void
  /** The next bytes of the data segment, borrowed until the call returns. */
  data(bytes: Uint8Array): void
  /** The PDU is whole. `intact` is false when its data does not match its digest. */
  end(intact: boolean): void
}

const scratchBytes = headerBytes + additionalHeaderBytesMax + digestBytes

export class FrameReader {
  /** Changes once: from login to session, at the end of a PDU. */
  taker: FrameTaker
  headerDigest = false
  dataDigest = false
  /** Longest data segment that the peer may send. */
  segmentBytesMax: number = loginSegmentBytesMax

  #stopped = false
  /** A header that has not come whole yet. Made when first needed: most headers lie in one chunk. */
  #scratch: Uint8Array | undefined
  #scratchFilled = 0
  /** Of the PDU whose header has come: data, then padding and digest, still to come. */
  #inBody = false
  #dataLeft = 0
  #tailLeft = 0
  #padBytes = 0
  #digest = 0
  /** The digest that the peer sent, byte by byte. */
  #sentDigest = 0

  constructor(taker: FrameTaker) {
    this.taker = taker
  }

  /** Bytes of the data segment that is coming in which are still to come. */
  get dataLeft(): number {
    return this.#inBody ? this.#dataLeft : 0
  }

  /** No more PDUs are passed on. */
  stop(): void {
    this.#stopped = true
  }

  /** `chunk` is borrowed. @throws {WireError} badLength, badValue (header digest), and what the taker throws. */
  receive(chunk: Uint8Array): void {
    const view = new DataView(chunk.buffer, chunk.byteOffset, chunk.byteLength)
    const end = chunk.byteLength
    let at = 0
    while (at < end && !this.#stopped) {
      if (this.#inBody) at = this.#body(chunk, at, end)
      else if (this.#scratchFilled === 0 && this.#isWhole(chunk, at, end)) at = this.#inPlace(chunk, view, at)
      else at = this.#gather(chunk, at, end)
    }
  }

  #isWhole(chunk: Uint8Array, at: number, end: number): boolean {
    return end - at >= headerBytes && end - at >= this.#wholeHeaderBytes(chunk[at + 4] ?? 0)
  }

  #inPlace(chunk: Uint8Array, view: DataView, at: number): number {
    const bytes = this.#wholeHeaderBytes(chunk[at + 4] ?? 0)
    this.#begin(chunk, view, at)
    return at + bytes
  }

  #gather(chunk: Uint8Array, at: number, end: number): number {
    this.#scratch ??= new Uint8Array(scratchBytes)
    const scratch = this.#scratch
    const wanted = this.#scratchFilled < headerBytes ? headerBytes : this.#wholeHeaderBytes(scratch[4] ?? 0)
    const bytes = Math.min(wanted - this.#scratchFilled, end - at)
    scratch.set(chunk.subarray(at, at + bytes), this.#scratchFilled)
    this.#scratchFilled += bytes
    if (this.#scratchFilled >= headerBytes && this.#scratchFilled === this.#wholeHeaderBytes(scratch[4] ?? 0)) {
      this.#scratchFilled = 0
      this.#begin(scratch, new DataView(scratch.buffer), 0)
    }
    return at + bytes
  }

  #wholeHeaderBytes(additionalWords: number): number {
    const additionalBytes = additionalWords * 4
    if (additionalBytes > additionalHeaderBytesMax) throw new WireError('badLength', 4)
    return headerBytes + additionalBytes + (this.headerDigest ? digestBytes : 0)
  }

  #begin(bytes: Uint8Array, view: DataView, at: number): void {
    const additionalBytes = view.getUint8(at + 4) * 4
    const digestAt = at + headerBytes + additionalBytes
    // §7.8: behind a damaged header nothing can be told apart any more; the connection ends.
    if (this.headerDigest && view.getUint32(digestAt, true) !== crc32c(bytes.subarray(at, digestAt))) {
      throw new WireError('badValue', digestAt)
    }
    const dataBytes = view.getUint32(at + 4) & 0xffffff
    if (dataBytes > this.segmentBytesMax) throw new WireError('badLength', at + 5)
    this.#dataLeft = dataBytes
    this.#padBytes = paddedBytes(dataBytes) - dataBytes
    this.#tailLeft = dataBytes === 0 ? 0 : this.#padBytes + (this.dataDigest ? digestBytes : 0)
    this.#digest = 0
    this.#sentDigest = 0
    this.taker.header({ bytes, view, at, additionalBytes, dataBytes })
    if (dataBytes === 0) this.taker.end(true)
    else this.#inBody = true
  }

  #body(chunk: Uint8Array, from: number, end: number): number {
    let at = from
    if (this.#dataLeft > 0) {
      const bytes = Math.min(this.#dataLeft, end - at)
      const piece = chunk.subarray(at, at + bytes)
      if (this.dataDigest) this.#digest = crc32c(piece, this.#digest)
      this.#dataLeft -= bytes
      at += bytes
      this.taker.data(piece)
    }
    if (this.#dataLeft > 0) return at
    while (this.#tailLeft > 0 && at < end) at = this.#tail(chunk, at)
    if (this.#tailLeft === 0) {
      this.#inBody = false
      this.taker.end(!this.dataDigest || this.#digest === this.#sentDigest)
    }
    return at
  }

  /** One byte of padding (which the digest covers) or of the digest (least significant first). */
  #tail(chunk: Uint8Array, at: number): number {
    const byte = chunk[at] ?? 0
    const digestLeft = this.dataDigest ? digestBytes : 0
    if (this.#tailLeft > digestLeft) {
      if (this.dataDigest) this.#digest = crc32c(chunk.subarray(at, at + 1), this.#digest)
    } else {
      this.#sentDigest = (this.#sentDigest | (byte << (8 * (digestBytes - this.#tailLeft)))) >>> 0
    }
    this.#tailLeft--
    return at + 1
  }
}
