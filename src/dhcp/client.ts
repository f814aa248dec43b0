/** Finds out from one packet which program sent it. What each firmware says is in docs/quirks.md, captures in `vectors/`. */
import { formatMac, type Mac } from '../base/address.ts'
import type { Architecture, ClientFacts, ClientProgram } from './client-facts.ts'
import { readIpxeFacts } from './ipxe-options.ts'
import type { Message } from './message.ts'
import * as option from './option.ts'

/** IANA, "Processor Architecture Types" (RFC 5970 §5.1). */
const architectures: ReadonlyMap<number, Architecture> = new Map([
  [0, 'bios'],
  [6, 'x86'],
  // 7 was meant for EFI byte code; all x86_64 firmware says 7, and RFC 4578's erratum 4625 swapped it with 9.
  [7, 'x86_64'],
  [9, 'x86_64'],
  [10, 'arm32'],
  [11, 'arm64'],
  [15, 'x86'],
  [16, 'x86_64'],
  [18, 'arm32'],
  [19, 'arm64'],
  [20, 'bios'],
  [21, 'arm32'],
  [22, 'arm64'],
  [27, 'riscv64'],
  [28, 'riscv64'],
  [39, 'loongarch64'],
  [40, 'loongarch64'],
])

/** @throws {WireError} if an option that tells who asks cannot be read */
export function recognise(message: Message): ClientFacts {
  const vendorClass = message.options.get(option.vendorClass)
  return {
    mac: macOf(message),
    program: programOf(message, vendorClass),
    architecture: architectureOf(message, vendorClass),
    uuid: uuidOf(message),
    vendorClass: printable(vendorClass),
    hostName: printable(message.options.get(option.hostName)),
    requestedFile: printable(message.bootFile),
  }
}

/** Anybody on the link chooses these characters, and they end up on somebody's terminal. Undefined when nothing is said. */
function printable(text: string | undefined): string | undefined {
  return text === undefined || text === '' ? undefined : text.replaceAll(/[^ -~]/g, '?')
}

/** The key of everything about a machine. Hardware that is not Ethernet gets its type in front. */
export function macOf(message: Message): Mac {
  const { hardwareType, hardwareAddress } = message
  if (hardwareType === 1 && hardwareAddress.byteLength === 6) return formatMac(hardwareAddress)
  const digits = Array.from(hardwareAddress, (byte) => byte.toString(16).padStart(2, '0'))
  return [hardwareType.toString(16).padStart(2, '0'), ...digits].join('-')
}

function programOf(message: Message, vendorClass: string | undefined): ClientProgram {
  const { options } = message
  const ipxe = options.get(option.ipxe)
  const facts = ipxe === undefined ? undefined : readIpxeFacts(ipxe)
  // A ROM that has iPXE inside but boots as plain PXE sends an option 175 with its bus and nothing else.
  const isIpxe = options.get(option.userClass)?.includes('iPXE') === true || (facts?.features.size ?? 0) > 0
  if (isIpxe) return { kind: 'ipxe', features: facts?.features ?? new Set(), version: facts?.version }
  if (vendorClass === undefined) return { kind: 'other' }
  if (vendorClass.startsWith('HTTPClient')) return { kind: 'uefiHttp' }
  if (vendorClass.startsWith('PXEClient')) {
    return isUbootDistro(message) ? { kind: 'uboot', distro: true } : { kind: 'pxe' }
  }
  if (vendorClass.startsWith('U-Boot')) return { kind: 'uboot', distro: false }
  if (vendorClass === 'Linux ipconfig') return { kind: 'linuxIpconfig' }
  return { kind: 'other' }
}

/**
 * U-Boot's distro boot borrows PXE's class for its EFI step. Real PXE has to send its UUID (RFC 4578 §2.3) and an interface
 * version; U-Boot sends no UUID and version 0.0.
 */
function isUbootDistro(message: Message): boolean {
  const version = message.options.get(option.clientInterface)
  const hasNoVersion = version !== undefined && version[1] === 0 && version[2] === 0
  return hasNoVersion && !message.options.has(option.clientMachine)
}

function architectureOf(message: Message, vendorClass: string | undefined): Architecture {
  const types = message.options.get(option.clientArchitectures)
  const number = types?.[0] ?? Number(/:Arch:(\d{5})/.exec(vendorClass ?? '')?.[1] ?? Number.NaN)
  const known = architectures.get(number)
  if (known !== undefined) return known
  return vendorClass === 'U-Boot.armv8' ? 'arm64' : vendorClass === 'U-Boot.armv7' ? 'arm32' : 'unknown'
}

/** SMBIOS 3.0 §7.2.1: the first three fields are little-endian on the wire. */
function uuidOf(message: Message): string | undefined {
  const value = message.options.get(option.clientMachine)
  if (value === undefined || value.byteLength !== 17 || value[0] !== 0) return undefined
  // U-Boot has no SMBIOS UUID to give to iPXE, and QEMU leaves it zero: no identity.
  if (value.every((byte) => byte === 0)) return undefined
  const order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15]
  const digits = order.map((index) => (value[index + 1] ?? 0).toString(16).padStart(2, '0')).join('')
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}
