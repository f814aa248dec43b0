/** Goal: the ROM that takes QEMU's iPXE out of sight changes what it must and nothing else. */
import { expect, test } from 'vitest'
import { PlainPxe } from '../../../lab/plain-pxe.ts'

const features = 'b105011af41000eb03010000170101'
const ethernet = 'ffffffffffff5254007700100800'

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}

/** A UDP packet to `port`; lengths are right, checksums zero. */
function udp(port: number, payload: Uint8Array): Uint8Array {
  const frame = Buffer.alloc(14 + 20 + 8 + payload.byteLength)
  frame.set(Buffer.from(ethernet, 'hex'))
  frame.set(Buffer.from('4500000000000000401100000000000fffffffff', 'hex'), 14)
  frame.writeUInt16BE(frame.byteLength - 14, 16)
  frame.writeUInt16BE(68, 34)
  frame.writeUInt16BE(port, 36)
  frame.writeUInt16BE(8 + payload.byteLength, 38)
  frame.set(payload, 42)
  return new Uint8Array(frame)
}

function dhcp(options: string): Uint8Array {
  const payload = Buffer.concat([Buffer.alloc(236), Buffer.from(`63825363${options}`, 'hex')])
  payload[0] = 1
  return udp(67, payload)
}

const asked = dhcp(`350101370401 43af cb4d0469505845 af0f${features} 3d0701525400770010 ff`.replaceAll(' ', ''))

test('user class and iPXE options are gone, the rest stands as it was', () => {
  const plain = new PlainPxe().rewrite(asked)
  const shown = hex(plain.subarray(14 + 20 + 8 + 240))
  expect(shown.replace(/(00)*$/, '')).toBe('35010137030143cb3d0701525400770010ff')
  expect(new DataView(plain.buffer).getUint16(38)).toBe(8 + 300)
  expect(plain.byteLength).toBe(14 + 20 + 8 + 300)
})

test('the IP header of a changed packet sums to its checksum', () => {
  const plain = new PlainPxe().rewrite(asked)
  const view = new DataView(plain.buffer)
  let sum = 0
  for (let at = 14; at < 34; at += 2) sum += view.getUint16(at)
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16)
  expect(sum).toBe(0xffff)
})

test('once a file was asked for by TFTP, the loader speaks for itself', () => {
  const machine = new PlainPxe()
  const request = udp(69, new TextEncoder().encode('\0\x01undionly.kpxe\0octet\0'))
  expect(machine.rewrite(request)).toBe(request)
  expect(machine.rewrite(asked)).toBe(asked)
})

test('other frames pass', () => {
  const arp = new Uint8Array(42)
  expect(new PlainPxe().rewrite(arp)).toBe(arp)
})
