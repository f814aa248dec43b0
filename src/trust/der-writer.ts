/** DER (ITU-T X.690), written. Reading is `disk/der.ts`. */

export function der(tag: number, ...parts: readonly Uint8Array[]): Uint8Array {
  const length = parts.reduce((sum, part) => sum + part.byteLength, 0)
  const lengthBytes: number[] = []
  for (let rest = length; rest > 0; rest = Math.floor(rest / 256)) lengthBytes.unshift(rest % 256)
  const header = length < 0x80 ? [tag, length] : [tag, 0x80 | lengthBytes.length, ...lengthBytes]
  const bytes = new Uint8Array(header.length + length)
  bytes.set(header)
  let at = header.length
  for (const part of parts) {
    bytes.set(part, at)
    at += part.byteLength
  }
  return bytes
}

export const sequence = (...parts: readonly Uint8Array[]): Uint8Array => der(0x30, ...parts)
export const set = (...parts: readonly Uint8Array[]): Uint8Array => der(0x31, ...parts)
export const boolean = (value: boolean): Uint8Array => der(0x01, Uint8Array.of(value ? 0xff : 0))
export const octets = (content: Uint8Array): Uint8Array => der(0x04, content)
export const nothing = (): Uint8Array => der(0x05)
export const utf8String = (text: string): Uint8Array => der(0x0c, new TextEncoder().encode(text))
/** [number] EXPLICIT, or any constructed context tag. */
export const context = (number: number, ...parts: readonly Uint8Array[]): Uint8Array => der(0xa0 | number, ...parts)
/** [number] IMPLICIT of a primitive. */
export const contextPrimitive = (number: number, content: Uint8Array): Uint8Array => der(0x80 | number, content)

/** A number that is not negative, most significant byte first. */
export function integer(magnitude: Uint8Array): Uint8Array {
  let start = 0
  while (start < magnitude.byteLength - 1 && magnitude[start] === 0) start++
  const bytes = magnitude.subarray(start)
  return ((bytes[0] ?? 0) & 0x80) !== 0 ? der(0x02, Uint8Array.of(0), bytes) : der(0x02, bytes)
}

export function bits(content: Uint8Array, unusedBitCount: number = 0): Uint8Array {
  return der(0x03, Uint8Array.of(unusedBitCount), content)
}

export function objectId(dotted: string): Uint8Array {
  const [first = 0, second = 0, ...rest] = dotted.split('.').map(Number)
  const bytes: number[] = []
  for (const number of [first * 40 + second, ...rest]) {
    const groups = [number % 128]
    for (let more = Math.floor(number / 128); more > 0; more = Math.floor(more / 128))
      groups.unshift(128 + (more % 128))
    bytes.push(...groups)
  }
  return der(0x06, Uint8Array.from(bytes))
}
