/**
 * Makes QEMU's PXE ROM look like one that is not iPXE. Debian's ROMs all are, and say so in each DHCP packet (user class
 * "iPXE" in option 77, what they can do in option 175); a plain ROM says neither and gets a boot loader by TFTP. This takes
 * both options out of what the machine sends, from power-on until it asks for a file by TFTP: from then on the loader that
 * it fetched speaks for itself.
 */
const ethernetBytes = 14
const udpBytes = 8
const bootpBytes = 236
const magicCookie = 0x63825363
const options = { pad: 0, userClass: 77, etherboot: 175, parameterRequest: 55, end: 255 } as const

/** One power-on of a machine. */
export class PlainPxe {
  #askedForFile = false

  /** The frame as a plain PXE ROM would have sent it. */
  rewrite(frame: Uint8Array): Uint8Array {
    const udp = findUdp(frame)
    if (udp === undefined) return frame
    const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength)
    const port = view.getUint16(udp.at + 2)
    if (port === 69) this.#askedForFile = true
    if (this.#askedForFile || (port !== 67 && port !== 4011)) return frame
    return withoutIpxeOptions(frame, udp)
  }
}

type Udp = { readonly ipAt: number; readonly at: number }

function findUdp(frame: Uint8Array): Udp | undefined {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength)
  if (frame.byteLength < ethernetBytes + 20 + udpBytes || view.getUint16(12) !== 0x0800) return undefined
  const at = ethernetBytes + (view.getUint8(ethernetBytes) & 0x0f) * 4
  const isFragment = (view.getUint16(ethernetBytes + 6) & 0x1fff) !== 0
  if (view.getUint8(ethernetBytes + 9) !== 17 || isFragment || at + udpBytes > frame.byteLength) return undefined
  return { ipAt: ethernetBytes, at }
}

function withoutIpxeOptions(frame: Uint8Array, udp: Udp): Uint8Array {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength)
  const optionsAt = udp.at + udpBytes + bootpBytes + 4
  if (optionsAt > frame.byteLength || view.getUint32(optionsAt - 4) !== magicCookie) return frame
  const kept: number[] = []
  const end = udp.at + view.getUint16(udp.at + 4)
  for (let at = optionsAt; at + 1 < end; ) {
    const code = view.getUint8(at)
    if (code === options.end) break
    if (code === options.pad) {
      at++
      continue
    }
    const next = at + 2 + view.getUint8(at + 1)
    if (code === options.parameterRequest) {
      const wanted = frame.subarray(at + 2, next).filter((option) => option !== options.etherboot)
      kept.push(code, wanted.byteLength, ...wanted)
    } else if (code !== options.userClass && code !== options.etherboot) {
      kept.push(...frame.subarray(at, next))
    }
    at = next
  }

  // BOOTP packets are never shorter than 300 bytes (RFC 1542 §2.1); what was removed is padding now.
  const udpLength = Math.max(udpBytes + bootpBytes + 4 + kept.length + 1, udpBytes + 300)
  const changed = new Uint8Array(udp.at + udpLength)
  changed.set(frame.subarray(0, optionsAt))
  changed.set(kept, optionsAt)
  changed[optionsAt + kept.length] = options.end
  const out = new DataView(changed.buffer)
  out.setUint16(udp.ipAt + 2, changed.byteLength - udp.ipAt)
  out.setUint16(udp.ipAt + 10, 0)
  out.setUint16(udp.ipAt + 10, internetChecksum(changed.subarray(udp.ipAt, udp.at)))
  out.setUint16(udp.at + 4, udpLength)
  out.setUint16(udp.at + 6, 0) // no checksum (RFC 768)
  return changed
}

/** RFC 1071, over an even number of bytes. */
function internetChecksum(bytes: Uint8Array): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let sum = 0
  for (let at = 0; at < bytes.byteLength; at += 2) sum += view.getUint16(at)
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16)
  return ~sum & 0xffff
}
