/** A PE32+ image of the given sections and nothing else: what a test says about a loader, in bytes. */
export function buildPe(options: {
  readonly machine?: number
  readonly sections: ReadonlyArray<readonly [name: string, content: Uint8Array, executable?: boolean]>
  /** DER of a CMS; wrapped into one WIN_CERTIFICATE. */
  readonly signature?: Uint8Array
}): Uint8Array {
  const { machine = 0x8664, sections, signature } = options
  const headerBytes = 0x400
  const padded = sections.map(([, content]) => Math.ceil(content.byteLength / 16) * 16)
  const imageBytes = headerBytes + padded.reduce((sum, bytes) => sum + bytes, 0)
  const certificateBytes = signature === undefined ? 0 : 8 + Math.ceil(signature.byteLength / 8) * 8
  const bytes = new Uint8Array(imageBytes + certificateBytes)
  const view = new DataView(bytes.buffer)
  bytes.set([0x4d, 0x5a])
  view.setUint32(60, 64, true)
  bytes.set([0x50, 0x45, 0, 0], 64)
  view.setUint16(68, machine, true)
  view.setUint16(70, sections.length, true)
  view.setUint16(84, 240, true)
  const optional = 88
  view.setUint16(optional, 0x20b, true)
  view.setUint16(optional + 68, 10, true)
  view.setUint32(optional + 108, 16, true)
  if (signature !== undefined) {
    view.setUint32(optional + 144, imageBytes, true)
    view.setUint32(optional + 148, certificateBytes, true)
    view.setUint32(imageBytes, 8 + signature.byteLength, true)
    view.setUint16(imageBytes + 4, 0x200, true)
    view.setUint16(imageBytes + 6, 2, true)
    bytes.set(signature, imageBytes + 8)
  }
  let at = headerBytes
  for (const [index, [name, content, executable = false]] of sections.entries()) {
    const header = optional + 240 + index * 40
    bytes.set(new TextEncoder().encode(name.slice(0, 8)), header)
    view.setUint32(header + 8, content.byteLength, true)
    view.setUint32(header + 16, padded[index] ?? 0, true)
    view.setUint32(header + 20, at, true)
    view.setUint32(header + 36, executable ? 0x60000020 : 0x40000040, true)
    bytes.set(content, at)
    at += padded[index] ?? 0
  }
  return bytes
}
