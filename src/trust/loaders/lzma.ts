/**
 * Raw LZMA (Igor Pavlov, "LZMA specification"), as iPXE's BIOS builds are packed: no header, literal context bits 2, literal
 * position bits 0, position bits 0, an end marker (iPXE src/util/zbin.c, src/arch/x86/prefix/unlzma.S). The branch filter
 * that iPXE puts before it changes jumps only, and nothing here looks at code.
 */

import { prefixBytesMax, unpackedBytesMax } from './limits.ts'

const literalContextBits = 2
const probabilityBits = 11
const probabilityHalf = 1 << (probabilityBits - 1)
const adaptBits = 5
const topValue = 2 ** 24
const lengthMin = 2

export interface Unpacked {
  readonly bytes: Uint8Array
  /** How much of the input it took. */
  readonly consumedBytes: number
  /** Its end marker was found: these bytes were such a stream, and not something else that looked like one. */
  readonly complete: boolean
}

/** What a stream at `start` gives, at most `bytesMax`, complete or not. Any bytes can be tried. */
export function unpackLzma(source: Uint8Array, start: number, bytesMax: number): Unpacked {
  // The range coder's first byte is always zero.
  if (source[start] !== 0 || start + 5 > source.byteLength) return noStream
  const decoder = new RangeDecoder(source, start)
  const out = new Output(bytesMax)
  const literals = probabilities(0x300 << literalContextBits)
  const isMatch = probabilities(12)
  const isRepeat = probabilities(12)
  const isRepeat0 = probabilities(12)
  const isRepeat1 = probabilities(12)
  const isRepeat2 = probabilities(12)
  const isLongRepeat0 = probabilities(12)
  const matchLength = new LengthDecoder()
  const repeatLength = new LengthDecoder()
  const distanceSlots = [0, 1, 2, 3].map(() => probabilities(64))
  const distanceSpecial = probabilities(128)
  const distanceAlign = probabilities(16)
  let state = 0
  let [repeat0, repeat1, repeat2, repeat3] = [0, 0, 0, 0]

  while (!decoder.isPastEnd && out.length < bytesMax) {
    if (decoder.bit(isMatch, state) === 0) {
      const base = 0x300 * (out.previous() >>> (8 - literalContextBits))
      out.push(decodeLiteral(decoder, literals, base, state < 7 ? undefined : out.back(repeat0)))
      state = state < 4 ? 0 : state < 10 ? state - 3 : state - 6
      continue
    }
    let length: number
    if (decoder.bit(isRepeat, state) === 0) {
      repeat3 = repeat2
      repeat2 = repeat1
      repeat1 = repeat0
      length = matchLength.decode(decoder)
      state = state < 7 ? 7 : 10
      repeat0 = decodeDistance(decoder, length, distanceSlots, distanceSpecial, distanceAlign)
      if (repeat0 === 0xffffffff) return { bytes: out.bytes(), consumedBytes: decoder.offset - start, complete: true }
    } else {
      if (decoder.bit(isRepeat0, state) === 0) {
        if (decoder.bit(isLongRepeat0, state) === 0) {
          if (repeat0 >= out.length) break
          state = state < 7 ? 9 : 11
          out.push(out.back(repeat0))
          continue
        }
      } else {
        let distance = repeat1
        if (decoder.bit(isRepeat1, state) === 1) {
          distance = repeat2
          if (decoder.bit(isRepeat2, state) === 1) {
            distance = repeat3
            repeat3 = repeat2
          }
          repeat2 = repeat1
        }
        repeat1 = repeat0
        repeat0 = distance
      }
      length = repeatLength.decode(decoder)
      state = state < 7 ? 8 : 11
    }
    // A distance to before the beginning: these bytes are something else.
    if (repeat0 >= out.length) break
    for (let i = 0; i < length + lengthMin; i++) out.push(out.back(repeat0))
  }
  return { bytes: out.bytes(), consumedBytes: decoder.offset - start, complete: false }
}

const noStream: Unpacked = { bytes: new Uint8Array(0), consumedBytes: 0, complete: false }

function probabilities(count: number): Uint16Array {
  return new Uint16Array(count).fill(probabilityHalf)
}

/** `matched` is the byte at the last distance, after a match: its bits choose among three sets. */
function decodeLiteral(decoder: RangeDecoder, set: Uint16Array, base: number, matched: number | undefined): number {
  let symbol = 1
  if (matched !== undefined) {
    let match = matched
    while (symbol < 0x100) {
      const matchBit = (match >>> 7) & 1
      match <<= 1
      const bit = decoder.bit(set, base + ((1 + matchBit) << 8) + symbol)
      symbol = (symbol << 1) | bit
      if (matchBit !== bit) break
    }
  }
  while (symbol < 0x100) symbol = (symbol << 1) | decoder.bit(set, base + symbol)
  return symbol & 0xff
}

function decodeDistance(
  decoder: RangeDecoder,
  length: number,
  slots: readonly Uint16Array[],
  special: Uint16Array,
  align: Uint16Array,
): number {
  const slotSet = slots[Math.min(length, 3)]
  if (slotSet === undefined) return 0
  const slot = decoder.tree(slotSet, 0, 6)
  if (slot < 4) return slot
  const directBits = (slot >>> 1) - 1
  const base = ((2 | (slot & 1)) << directBits) >>> 0
  if (slot < 14) return base + decoder.reverseTree(special, base - slot, directBits)
  const high = decoder.direct(directBits - 4)
  return (base + high * 16 + decoder.reverseTree(align, 0, 4)) % 2 ** 32
}

class LengthDecoder {
  readonly #choice = probabilities(2)
  readonly #low = probabilities(8)
  readonly #middle = probabilities(8)
  readonly #high = probabilities(256)

  decode(decoder: RangeDecoder): number {
    if (decoder.bit(this.#choice, 0) === 0) return decoder.tree(this.#low, 0, 3)
    if (decoder.bit(this.#choice, 1) === 0) return 8 + decoder.tree(this.#middle, 0, 3)
    return 16 + decoder.tree(this.#high, 0, 8)
  }
}

class RangeDecoder {
  readonly #source: Uint8Array
  #range = 0xffffffff
  #code = 0
  offset: number

  constructor(source: Uint8Array, start: number) {
    this.#source = source
    this.offset = start + 1
    for (let i = 0; i < 4; i++) this.#code = ((this.#code << 8) | this.#next()) >>> 0
  }

  /** A little past the end is still decoded, from zeroes; the caller stops then. */
  get isPastEnd(): boolean {
    return this.offset > this.#source.byteLength + 8
  }

  bit(set: Uint16Array, index: number): 0 | 1 {
    const probability = set[index] ?? probabilityHalf
    const bound = (this.#range >>> probabilityBits) * probability
    let bit: 0 | 1
    if (this.#code < bound) {
      this.#range = bound
      set[index] = probability + (((1 << probabilityBits) - probability) >>> adaptBits)
      bit = 0
    } else {
      this.#range = (this.#range - bound) >>> 0
      this.#code = (this.#code - bound) >>> 0
      set[index] = probability - (probability >>> adaptBits)
      bit = 1
    }
    this.#normalise()
    return bit
  }

  direct(bitCount: number): number {
    let value = 0
    for (let i = 0; i < bitCount; i++) {
      this.#range = this.#range >>> 1
      const bit = this.#code >= this.#range ? 1 : 0
      if (bit === 1) this.#code = (this.#code - this.#range) >>> 0
      value = value * 2 + bit
      this.#normalise()
    }
    return value
  }

  tree(set: Uint16Array, base: number, bitCount: number): number {
    let symbol = 1
    for (let i = 0; i < bitCount; i++) symbol = (symbol << 1) | this.bit(set, base + symbol)
    return symbol - (1 << bitCount)
  }

  reverseTree(set: Uint16Array, base: number, bitCount: number): number {
    let symbol = 1
    let value = 0
    for (let i = 0; i < bitCount; i++) {
      const bit = this.bit(set, base + symbol)
      symbol = (symbol << 1) | bit
      value |= bit << i
    }
    return value
  }

  #normalise(): void {
    if (this.#range >= topValue) return
    this.#range = (this.#range << 8) >>> 0
    this.#code = ((this.#code << 8) | this.#next()) >>> 0
  }

  #next(): number {
    return this.#source[this.offset++] ?? 0
  }
}

/** What was unpacked so far, which is also the dictionary. */
class Output {
  #bytes: Uint8Array
  #length = 0

  constructor(bytesMax: number) {
    this.#bytes = new Uint8Array(Math.min(bytesMax, 64 * 1024))
  }

  get length(): number {
    return this.#length
  }

  push(byte: number): void {
    if (this.#length === this.#bytes.byteLength) {
      const larger = new Uint8Array(this.#bytes.byteLength * 2)
      larger.set(this.#bytes)
      this.#bytes = larger
    }
    this.#bytes[this.#length++] = byte
  }

  previous(): number {
    return this.#length === 0 ? 0 : (this.#bytes[this.#length - 1] ?? 0)
  }

  /** The byte `distance` + 1 before the end. */
  back(distance: number): number {
    return this.#bytes[this.#length - 1 - distance] ?? 0
  }

  bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.#length)
  }
}

/** zbin aligns what it packs to words. */
const wordBytes = 4

/**
 * Everything that is packed in an iPXE for BIOS, in order: nothing in it names the places, so each word is tried where a
 * stream could begin. Undefined where there is none, as in builds of before 2015.
 */
export function unpackIpxe(bytes: Uint8Array): Uint8Array | undefined {
  const parts: Uint8Array[] = []
  // Failed tries count too: bytes that look like a stream everywhere must not cost more than one good file.
  let budgetBytes = unpackedBytesMax
  let at = 0
  while (at < bytes.byteLength && budgetBytes > 0) {
    // The first of them is a few kilobytes in, behind the prefix that unpacks it.
    if (parts.length === 0 && at > prefixBytesMax) return undefined
    const { bytes: part, consumedBytes, complete } = unpackLzma(bytes, at, budgetBytes)
    budgetBytes -= part.byteLength
    if (!complete) at += wordBytes
    else {
      parts.push(part)
      // The decoder reads ahead by up to four bytes.
      at += Math.max(wordBytes, consumedBytes - (consumedBytes % wordBytes) - wordBytes)
    }
  }
  if (parts.length === 0) return undefined
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0))
  let length = 0
  for (const part of parts) {
    whole.set(part, length)
    length += part.byteLength
  }
  return whole
}
