/**
 * How long a zstd frame is, without unpacking it: RFC 8878 §3.1.1.
 *
 *   magic 4 | descriptor 1 | window 0..1 | dictionary id 0,1,2,4 | content size 0,1,2,4,8 | blocks | checksum 0,4
 *   block: header 3, little-endian: last 1 bit, type 2 bits, size 21 bits | content
 */
export function zstdFrameBytes(bytes: Uint8Array): number | undefined {
  if (bytes.byteLength < 6) return undefined
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (view.getUint32(0, true) !== 0xfd2fb528) return undefined
  const descriptor = view.getUint8(4)
  const contentSizeFlag = descriptor >>> 6
  const singleSegment = (descriptor & 0x20) !== 0
  const windowBytes = singleSegment ? 0 : 1
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3] ?? 0
  const contentSizeBytes = [singleSegment ? 1 : 0, 2, 4, 8][contentSizeFlag] ?? 0
  let at = 5 + windowBytes + dictionaryBytes + contentSizeBytes
  for (;;) {
    if (at + 3 > bytes.byteLength) return undefined
    const header = view.getUint16(at, true) + view.getUint8(at + 2) * 65536
    const type = (header >>> 1) & 3
    // A run-length block has one byte whatever its size; type 3 is reserved.
    if (type === 3) return undefined
    at += 3 + (type === 1 ? 1 : header >>> 3)
    if ((header & 1) !== 0) break
  }
  if ((descriptor & 4) !== 0) at += 4
  return at <= bytes.byteLength ? at : undefined
}
