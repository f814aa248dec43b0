const latin1 = new TextDecoder('latin1')

/** One character a byte, so that an index in the text is an offset in the bytes. */
export function asciiOf(bytes: Uint8Array): string {
  return latin1.decode(bytes)
}

export function has(text: string, part: string): boolean {
  return text.includes(part)
}

/** Where `pattern` begins in `bytes`, overlaps too, at most `countMax` of them. `pattern` is not empty. */
export function offsetsOf(bytes: Uint8Array, pattern: Uint8Array, countMax: number): number[] {
  const offsets: number[] = []
  const first = pattern[0] ?? 0
  for (let at = bytes.indexOf(first); at !== -1 && offsets.length < countMax; at = bytes.indexOf(first, at + 1)) {
    let same = at + pattern.byteLength <= bytes.byteLength
    for (let i = 1; same && i < pattern.byteLength; i++) same = bytes[at + i] === pattern[i]
    if (same) offsets.push(at)
  }
  return offsets
}

export function countOf(bytes: Uint8Array, pattern: Uint8Array): number {
  return offsetsOf(bytes, pattern, 16).length
}

export function hexOf(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')
}
