/** RFC 1350 §1, RFC 764: on the wire a line ends CR LF, and a CR that ends no line is followed by NUL. */

const lineFeed = 0x0a
const carriageReturn = 0x0d

export function toNetascii(bytes: Uint8Array): Uint8Array {
  let extra = 0
  for (const byte of bytes) if (byte === lineFeed || byte === carriageReturn) extra++
  const target = new Uint8Array(bytes.byteLength + extra)
  let at = 0
  for (const byte of bytes) {
    if (byte === lineFeed) target[at++] = carriageReturn
    target[at++] = byte
    if (byte === carriageReturn) target[at++] = 0
  }
  return target
}
