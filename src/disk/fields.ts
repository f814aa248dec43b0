import { malformed } from './disk-error.ts'

/**
 * One structure of a disk, read field by field at fixed offsets, little-endian unless the name says otherwise. A field
 * past the end is the disk's fault, not ours. Borrows `bytes`.
 */
export class Fields {
  readonly bytes: Uint8Array
  readonly #view: DataView
  readonly #structure: string

  constructor(structure: string, bytes: Uint8Array) {
    this.#structure = structure
    this.bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  u8(at: number): number {
    this.#check(at, 1)
    return this.#view.getUint8(at)
  }

  u16(at: number): number {
    this.#check(at, 2)
    return this.#view.getUint16(at, true)
  }

  u16be(at: number): number {
    this.#check(at, 2)
    return this.#view.getUint16(at)
  }

  u32(at: number): number {
    this.#check(at, 4)
    return this.#view.getUint32(at, true)
  }

  /** A 64-bit number that must be one a disk can have: at most 2^53 - 1. */
  u64(at: number): number {
    this.#check(at, 8)
    const value = this.#view.getBigUint64(at, true)
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw malformed(this.#structure, `a number of ${value} at byte ${at}`)
    return Number(value)
  }

  slice(at: number, bytes: number): Uint8Array {
    this.#check(at, bytes)
    return this.bytes.subarray(at, at + bytes)
  }

  /** Bytes 0x20 to 0x7e as they are, anything else as '?'; ends at NUL; trailing blanks are padding. */
  ascii(at: number, bytes: number): string {
    let text = ''
    for (const byte of this.slice(at, bytes)) {
      if (byte === 0) break
      text += byte >= 0x20 && byte <= 0x7e ? String.fromCharCode(byte) : '?'
    }
    return text.trimEnd()
  }

  /** `bytes` must be even. Ends at NUL. Unpaired surrogates stay as they are. */
  utf16(at: number, bytes: number): string {
    this.#check(at, bytes)
    let text = ''
    for (let i = at; i < at + bytes; i += 2) {
      const unit = this.#view.getUint16(i, true)
      if (unit === 0) break
      text += String.fromCharCode(unit)
    }
    return text
  }

  /** UEFI 2.10 Appendix A: the first three fields are little-endian, the rest is as printed. */
  guid(at: number): string {
    const b = Array.from(this.slice(at, 16), (byte) => byte.toString(16).padStart(2, '0'))
    const pick = (...indexes: number[]): string => indexes.map((i) => b[i]).join('')
    return `${pick(3, 2, 1, 0)}-${pick(5, 4)}-${pick(7, 6)}-${pick(8, 9)}-${pick(10, 11, 12, 13, 14, 15)}`
  }

  #check(at: number, bytes: number): void {
    if (at < 0 || at + bytes > this.bytes.byteLength) {
      throw malformed(this.#structure, `ends at byte ${this.bytes.byteLength}, wanted ${bytes} at ${at}`)
    }
  }
}

/** No byte of `bytes` is anything but zero. */
export function isZero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0)
}

const utf8 = new TextDecoder()

/** Text that a person wrote; what is no UTF-8 becomes U+FFFD. */
export function textOf(bytes: Uint8Array): string {
  return utf8.decode(bytes)
}
