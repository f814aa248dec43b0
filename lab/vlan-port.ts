/**
 * What a switch does between a port that carries a VLAN with tags and one that has it without (IEEE 802.1Q §9): for a lab
 * whose kernel need not have VLANs.
 */
const addressesBytes = 12
const tagBytes = 4
const tagType = 0x8100

/** The frame without its tag; undefined if it is none of that VLAN. */
export function untagged(frame: Uint8Array, vlan: number): Uint8Array | undefined {
  if (frame.byteLength < addressesBytes + tagBytes) return undefined
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength)
  // The upper four bits are priority and drop eligibility.
  if (view.getUint16(addressesBytes) !== tagType || (view.getUint16(addressesBytes + 2) & 0x0fff) !== vlan)
    return undefined
  const plain = new Uint8Array(frame.byteLength - tagBytes)
  plain.set(frame.subarray(0, addressesBytes))
  plain.set(frame.subarray(addressesBytes + tagBytes), addressesBytes)
  return plain
}

export function tagged(frame: Uint8Array, vlan: number): Uint8Array {
  const whole = new Uint8Array(frame.byteLength + tagBytes)
  whole.set(frame.subarray(0, addressesBytes))
  new DataView(whole.buffer).setUint32(addressesBytes, tagType * 0x1_0000 + vlan)
  whole.set(frame.subarray(addressesBytes), addressesBytes + tagBytes)
  return whole
}
