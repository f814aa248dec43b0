/** Vital product data: SPC-4 §7.8, SBC-3 §6.6. The pages, in ascending order, are the table at the end. */
import { putU16, putU32, putU64, putU64Exact } from '../wire/big-endian.ts'
import {
  atomicBytesMax,
  compareBlocksMax,
  granuleBytes,
  transferBytesMax,
  transferBytesOptimal,
  unmapBlocksMax,
  unmapDescriptorsMax,
  writeSameBlocksMax,
} from './limits.ts'
import type { LogicalUnit } from './logical-unit.ts'
import { canErase } from './sanitize.ts'
import type { Nexus } from './task.ts'

/** One page with its header, as asked for over `nexus`; undefined if there is no such page. */
export function vitalProductData(unit: LogicalUnit, nexus: Nexus, page: number): Uint8Array | undefined {
  const body = pages.find(([code]) => code === page)?.[1]
  if (body === undefined) return undefined
  const content = body(unit, nexus)
  const data = new Uint8Array(4 + content.byteLength)
  data[1] = page
  putU16(data, 2, content.byteLength)
  data.set(content, 4)
  return data
}

type Body = (unit: LogicalUnit, nexus: Nexus) => Uint8Array

const supportedPages: Body = () => Uint8Array.from(pages, ([code]) => code)

const serialNumber: Body = (unit) => ascii(unit.serialNumber)

/** SPC-4 §7.8.5: the disk by two names, then the port that the question came through, then the target. */
const identification: Body = (unit, nexus) => {
  const portNumber = new Uint8Array(4)
  putU16(portNumber, 2, nexus.targetPort)
  const portGroup = new Uint8Array(4)
  putU16(portGroup, 2, 1)
  return concatenate([
    ...unitDesignators(unit).map(({ set, type, value }) => designator(association.unit, set, type, value)),
    designator(association.port, codeSet.binary, 0x4, portNumber),
    designator(association.port, codeSet.binary, 0x5, portGroup),
    designator(
      association.port,
      codeSet.utf8,
      0x8,
      nameString(`${unit.targetName},t,0x${nexus.targetPort.toString(16).padStart(4, '0')}`),
    ),
    designator(association.target, codeSet.utf8, 0x8, nameString(unit.targetName)),
  ])
}

interface UnitDesignator {
  readonly set: number
  readonly type: number
  readonly value: Uint8Array
}

/** The names of the disk: T10 vendor ID, NAA, SCSI name string. SPC-4 §7.8.5.4, §7.8.5.6, §7.8.5.11. */
function unitDesignators(unit: LogicalUnit): UnitDesignator[] {
  const naa = new Uint8Array(8)
  putU64Exact(naa, 0, unit.locallyAssignedName)
  const name = `${unit.targetName},L,0x${unit.locallyAssignedName.toString(16).padStart(16, '0')}`
  return [
    { set: codeSet.ascii, type: 0x1, value: ascii(`${unit.vendor.padEnd(8).slice(0, 8)}${unit.serialNumber}`) },
    { set: codeSet.binary, type: 0x3, value: naa },
    { set: codeSet.utf8, type: 0x8, value: nameString(name) },
  ]
}

/** Whether the disk has this name. A target descriptor of EXTENDED COPY has room for 20 bytes: longer names are cut. */
export function isNamed(unit: LogicalUnit, type: number, designator: Uint8Array): boolean {
  return unitDesignators(unit).some(
    (each) =>
      each.type === type &&
      designator.byteLength === Math.min(20, each.value.byteLength) &&
      designator.every((byte, i) => byte === each.value[i]),
  )
}

const association = { unit: 0, port: 1, target: 2 } as const
const codeSet = { binary: 1, ascii: 2, utf8: 3 } as const

/** Table 457:  0 protocol|code set | 1 PIV|association|type | 3 length | 4.. designator. Protocol 5h is iSCSI. */
function designator(of: number, set: number, type: number, value: Uint8Array): Uint8Array {
  const hasProtocol = of !== association.unit
  const bytes = new Uint8Array(4 + value.byteLength)
  bytes[0] = (hasProtocol ? 0x50 : 0) | set
  bytes[1] = (hasProtocol ? 0x80 : 0) | (of << 4) | type
  bytes[3] = value.byteLength
  bytes.set(value, 4)
  return bytes
}

/** SPC-4 §7.8.5.11: ends with a NUL and is filled to a multiple of four. */
function nameString(text: string): Uint8Array {
  const bytes = new Uint8Array(Math.ceil((text.length + 1) / 4) * 4)
  bytes.set(ascii(text))
  return bytes
}

/** SPC-4 §7.8.7. HEADSUP, ORDSUP, SIMPSUP; V_SUP: there is a volatile cache; LUICLR. */
const extendedInquiry: Body = () => {
  const bytes = new Uint8Array(60)
  bytes[1] = 0x07
  bytes[2] = 0x01
  bytes[3] = 0x01
  return bytes
}

/** SBC-3 §6.6.4. Offsets are the page's own, less its 4 bytes of header. */
const blockLimits: Body = (unit) => {
  const bytes = new Uint8Array(60)
  const granule = Math.max(unit.physicalBlockBytes, granuleBytes) / unit.blockBytes
  const blocks = (size: number): number => Math.floor(size / unit.blockBytes)
  // WSNZ: WRITE SAME of 0 blocks is refused.
  bytes[0] = 0x01
  bytes[1] = compareBlocksMax
  putU16(bytes, 2, granule)
  putU32(bytes, 4, blocks(transferBytesMax))
  putU32(bytes, 8, blocks(transferBytesOptimal))
  if (unit.device.thin) {
    putU32(bytes, 16, unmapBlocksMax)
    putU32(bytes, 20, unmapDescriptorsMax)
    putU32(bytes, 24, granule)
    // UGAVALID: granules begin at block 0.
    putU32(bytes, 28, 0x8000_0000)
  }
  putU64(bytes, 32, writeSameBlocksMax)
  putU32(bytes, 40, blocks(atomicBytesMax))
  // Any alignment and any length up to the maximum, of one block's granularity.
  putU32(bytes, 44, 1)
  putU32(bytes, 48, 1)
  return bytes
}

/** SBC-3 §6.6.2: nothing rotates; FUAB: SYNCHRONIZE CACHE and FUA reach the medium; form factor not told. */
const characteristics: Body = (unit) => {
  const bytes = new Uint8Array(60)
  putU16(bytes, 0, 0x0001)
  // WABEREQ 01b, after a block erase reads succeed (with zeroes); WACEREQ 00b, there is no cryptographic erase.
  if (canErase(unit)) bytes[3] = 0x40
  bytes[4] = 0x02
  return bytes
}

/** SBC-3 §6.6.6: LBPU, LBPWS, LBPWS10 and LBPRZ only where discarded blocks really give their space back. */
const provisioning: Body = (unit) => {
  const bytes = new Uint8Array(4)
  if (unit.device.thin) {
    bytes[1] = 0x80 | 0x40 | 0x20 | 0x04
    bytes[2] = 0x02
  }
  return bytes
}

const pages: readonly (readonly [number, Body])[] = [
  [0x00, supportedPages],
  [0x80, serialNumber],
  [0x83, identification],
  [0x86, extendedInquiry],
  [0xb0, blockLimits],
  [0xb1, characteristics],
  [0xb2, provisioning],
]

function ascii(text: string): Uint8Array {
  return Uint8Array.from(text, (character) => character.charCodeAt(0))
}

function concatenate(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0))
  let at = 0
  for (const part of parts) {
    bytes.set(part, at)
    at += part.byteLength
  }
  return bytes
}
