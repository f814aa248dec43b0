/** Images of other makers, recognised by what they begin with. */
export type RecognisedFormat = 'raw' | 'qcow2' | 'vmdk' | 'vhdx' | 'vdi' | 'vpc' | 'vmdkDescriptor'

/** How much of the file's start `recogniseFormat` looks at. */
export const recognisedBytes: number = 512

export function recogniseFormat(head: Uint8Array): RecognisedFormat {
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength)
  const text = (at: number, characters: number): string =>
    String.fromCharCode(...head.subarray(at, Math.min(at + characters, head.byteLength)))
  if (text(0, 4) === 'QFI\xfb') return 'qcow2'
  if (text(0, 4) === 'KDMV' || text(0, 4) === 'COWD') return 'vmdk' // VMware Virtual Disk Format 5.0, SparseExtentHeader
  if (text(0, 21) === '# Disk DescriptorFile') return 'vmdkDescriptor'
  if (text(0, 8) === 'vhdxfile') return 'vhdx' // MS-VHDX §2.2.1
  if (text(0, 8) === 'conectix') return 'vpc' // a dynamic VHD begins with a copy of its footer
  if (head.byteLength >= 68 && view.getUint32(64, true) === 0xbeda107f) return 'vdi' // VDIPREHEADER.u32Signature
  return 'raw'
}
