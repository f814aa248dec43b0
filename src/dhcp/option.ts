/**
 * DHCP options: the registry of those that Slipway reads or writes, and the set that a message carries.
 *
 * RFC 2132 §2: one byte code, one byte length, value. Codes 0 (pad) and 255 (end) have neither length nor value.
 * RFC 3396: a value over 255 bytes is split over several options of the same code, and put together again by the reader.
 * Numbers are big-endian.
 */
import { assert } from '../base/assert.ts'
import { WireError } from '../wire/reader.ts'
import { optionPartsMax } from './limits.ts'

/** A known option: how its value is read and written. */
export type OptionKind<T> = {
  readonly code: number
  /** As IANA's registry calls it. */
  readonly name: string
  /** @throws {WireError} badLength */
  readonly read: (value: Uint8Array) => T
  readonly write: (value: T) => Uint8Array
}

export const subnetMask: OptionKind<number> = ipv4(1, 'subnet mask')
export const routers: OptionKind<readonly number[]> = ipv4List(3, 'router')
export const domainNameServers: OptionKind<readonly number[]> = ipv4List(6, 'domain server')
export const hostName: OptionKind<string> = text(12, 'hostname')
export const domainName: OptionKind<string> = text(15, 'domain name')
export const rootPath: OptionKind<string> = text(17, 'root path')
export const interfaceMtu: OptionKind<number> = unsigned(26, 'MTU interface', 2)
export const broadcastAddress: OptionKind<number> = ipv4(28, 'broadcast address')
export const vendorSpecific: OptionKind<Uint8Array> = opaque(43, 'vendor specific')
export const requestedAddress: OptionKind<number> = ipv4(50, 'address request')
export const leaseSeconds: OptionKind<number> = unsigned(51, 'address time', 4)
/** 1: the `file` field carries options, 2: `sname` does, 3: both (RFC 2132 §9.3). */
export const overload: OptionKind<number> = unsigned(52, 'overload', 1)
export const messageType: OptionKind<number> = unsigned(53, 'DHCP message type', 1)
export const serverIdentifier: OptionKind<number> = ipv4(54, 'DHCP server id')
export const parameterList: OptionKind<Uint8Array> = opaque(55, 'parameter list')
export const errorMessage: OptionKind<string> = text(56, 'DHCP message')
export const messageBytesMax: OptionKind<number> = unsigned(57, 'DHCP max message size', 2)
export const renewalSeconds: OptionKind<number> = unsigned(58, 'renewal time', 4)
export const rebindingSeconds: OptionKind<number> = unsigned(59, 'rebinding time', 4)
export const vendorClass: OptionKind<string> = text(60, 'class id')
export const clientIdentifier: OptionKind<Uint8Array> = opaque(61, 'client id')
export const tftpServerName: OptionKind<string> = text(66, 'server name')
export const bootFileName: OptionKind<string> = text(67, 'bootfile name')
export const userClass: OptionKind<readonly string[]> = {
  code: 77,
  name: 'user class',
  read: readUserClass,
  write: bare,
}
export const relayAgent: OptionKind<Uint8Array> = opaque(82, 'relay agent information')
/** Several architectures where the firmware can do several; the first one is preferred (RFC 4578 §2.1). */
export const clientArchitectures: OptionKind<readonly number[]> = {
  code: 93,
  name: 'client system',
  read: readArchitectures,
  write: (types) => Uint8Array.from(types.flatMap((type) => [type >>> 8, type & 0xff])),
}
/** RFC 4578 §2.2: type 1, major, minor. */
export const clientInterface: OptionKind<Uint8Array> = opaque(94, 'client NDI')
/** RFC 4578 §2.3: type 0 and the 16 bytes of the SMBIOS UUID. */
export const clientMachine: OptionKind<Uint8Array> = opaque(97, 'UUID/GUID')
/** iPXE's own options, encapsulated: `ipxe-options.ts`. */
export const ipxe: OptionKind<Uint8Array> = opaque(175, 'iPXE encapsulated')

const pad = 0
const end = 255

/** The options of one message, in order. Values are lent by whoever gave them. */
export class Options {
  readonly #values: Map<number, Uint8Array> = new Map()

  /** Undefined if the message does not carry it. @throws {WireError} if its value cannot be read */
  get<T>(kind: OptionKind<T>): T | undefined {
    const value = this.#values.get(kind.code)
    return value === undefined ? undefined : kind.read(value)
  }

  /** Adds it at the end, or replaces its value where it stands. */
  set<T>(kind: OptionKind<T>, value: T): this {
    this.#values.set(kind.code, kind.write(value))
    return this
  }

  has(kind: { readonly code: number }): boolean {
    return this.#values.has(kind.code)
  }

  delete(kind: { readonly code: number }): void {
    this.#values.delete(kind.code)
  }

  raw(code: number): Uint8Array | undefined {
    return this.#values.get(code)
  }

  setRaw(code: number, value: Uint8Array): this {
    assert(code > pad && code < end, 'pad and end are no options')
    this.#values.set(code, value)
    return this
  }

  /** In the order they were added. */
  entries(): IterableIterator<[code: number, value: Uint8Array]> {
    return this.#values.entries()
  }

  get count(): number {
    return this.#values.size
  }
}

/**
 * Reads options from `area` into `options` until the end option or the end of the area: several clients forget the
 * end option. Values borrow `area`, except those that were split. `areaOffset` is where the area is in the packet.
 *
 * @throws {WireError} truncated; badLength when there are more parts than `optionPartsMax`
 */
export function readOptions(area: Uint8Array, areaOffset: number, options: Options): void {
  let parts = 0
  let at = 0
  while (at < area.byteLength) {
    const code = area[at] ?? end
    if (code === end) break
    if (code === pad) {
      at++
      continue
    }
    const bytes = area[at + 1]
    if (bytes === undefined || at + 2 + bytes > area.byteLength) throw new WireError('truncated', areaOffset + at)
    const part = area.subarray(at + 2, at + 2 + bytes)
    const before = options.raw(code)
    options.setRaw(code, before === undefined ? part : joined(before, part))
    at += 2 + bytes
    parts++
    if (parts > optionPartsMax) throw new WireError('badLength', areaOffset + at)
  }
}

/** How many bytes `value` takes with its headers: RFC 3396 splits it into parts of at most 255 bytes. */
export function optionBytes(value: Uint8Array): number {
  const parts = Math.max(1, Math.ceil(value.byteLength / 255))
  return value.byteLength + 2 * parts
}

/** Writes one option at `at` of `target` and returns where the next one goes. */
export function writeOption(code: number, value: Uint8Array, target: Uint8Array, at: number): number {
  let next = at
  let from = 0
  do {
    const bytes = Math.min(255, value.byteLength - from)
    target[next] = code
    target[next + 1] = bytes
    // A loop: for values of a few bytes it is several times faster than subarray and set.
    for (let i = 0; i < bytes; i++) target[next + 2 + i] = value[from + i] ?? 0
    next += 2 + bytes
    from += bytes
  } while (from < value.byteLength)
  return next
}

/** Encapsulated options (inside 43, 82 or 175) have the same layout and no splitting. */
export function encapsulate(options: ReadonlyArray<readonly [code: number, value: Uint8Array]>): Uint8Array {
  const target = new Uint8Array(options.reduce((sum, [, value]) => sum + 2 + value.byteLength, 0))
  let at = 0
  for (const [code, value] of options) {
    assert(value.byteLength <= 255, 'an encapsulated value has one length byte')
    at = writeOption(code, value, target, at)
  }
  return target
}

export function asciiBytes(value: string): Uint8Array {
  const bytes = new Uint8Array(value.length)
  for (let i = 0; i < value.length; i++) bytes[i] = value.charCodeAt(i)
  return bytes
}

export function asciiText(bytes: Uint8Array): string {
  return String.fromCharCode(...bytes)
}

function joined(a: Uint8Array, b: Uint8Array): Uint8Array {
  const both = new Uint8Array(a.byteLength + b.byteLength)
  both.set(a)
  both.set(b, a.byteLength)
  return both
}

function opaque(code: number, name: string): OptionKind<Uint8Array> {
  return { code, name, read: (value) => value, write: (value) => value }
}

/** RFC 2132 §2: text is not NUL-terminated, but some clients do and a reader must not mind. */
function text(code: number, name: string): OptionKind<string> {
  const read = (value: Uint8Array): string => {
    let bytes = value.byteLength
    while (bytes > 0 && value[bytes - 1] === 0) bytes--
    return asciiText(value.subarray(0, bytes))
  }
  return { code, name, read, write: asciiBytes }
}

function unsigned(code: number, name: string, bytes: 1 | 2 | 4): OptionKind<number> {
  const read = (value: Uint8Array): number => {
    if (value.byteLength !== bytes) throw new WireError('badLength', 0)
    let result = 0
    for (const byte of value) result = result * 256 + byte
    return result
  }
  const write = (value: number): Uint8Array => {
    const target = new Uint8Array(bytes)
    for (let i = 0; i < bytes; i++) target[i] = value >>> (8 * (bytes - 1 - i))
    return target
  }
  return { code, name, read, write }
}

function ipv4(code: number, name: string): OptionKind<number> {
  return { ...unsigned(code, name, 4), name }
}

function ipv4List(code: number, name: string): OptionKind<readonly number[]> {
  const read = (value: Uint8Array): readonly number[] => {
    if (value.byteLength === 0 || value.byteLength % 4 !== 0) throw new WireError('badLength', 0)
    const addresses: number[] = []
    for (let at = 0; at < value.byteLength; at += 4) addresses.push(address(value, at))
    return addresses
  }
  const write = (addresses: readonly number[]): Uint8Array =>
    Uint8Array.from(addresses.flatMap((a) => [a >>> 24, (a >>> 16) & 0xff, (a >>> 8) & 0xff, a & 0xff]))
  return { code, name, read, write }
}

function address(value: Uint8Array, at: number): number {
  let result = 0
  for (let i = 0; i < 4; i++) result = result * 256 + (value[at + i] ?? 0)
  return result
}

/**
 * RFC 3004 §4: each class has a length byte before it. iPXE sends the bare word 'iPXE' without one; so what does not
 * add up as a list is taken as one class.
 */
function readUserClass(value: Uint8Array): readonly string[] {
  const classes: string[] = []
  let at = 0
  while (at < value.byteLength) {
    const bytes = value[at] ?? 0
    if (bytes === 0 || at + 1 + bytes > value.byteLength) return [asciiText(value)]
    classes.push(asciiText(value.subarray(at + 1, at + 1 + bytes)))
    at += 1 + bytes
  }
  return classes
}

/** As iPXE does when it is one class, by RFC 3004 when there are several. */
function bare(classes: readonly string[]): Uint8Array {
  if (classes.length === 1) return asciiBytes(classes[0] ?? '')
  return Uint8Array.from(classes.flatMap((name) => [name.length, ...asciiBytes(name)]))
}

function readArchitectures(value: Uint8Array): readonly number[] {
  if (value.byteLength === 0 || value.byteLength % 2 !== 0) throw new WireError('badLength', 0)
  const types: number[] = []
  for (let at = 0; at < value.byteLength; at += 2) types.push((value[at] ?? 0) * 256 + (value[at + 1] ?? 0))
  return types
}
