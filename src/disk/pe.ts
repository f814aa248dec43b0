/**
 * PE/COFF, the format of everything UEFI starts (Microsoft, "PE Format"; UEFI 2.10 §2.1.1): for which processor, which
 * sections, signed by whom, and what systemd's unified kernel images and shim's SBAT write into sections.
 */
import { signersOf } from './der.ts'
import { malformed } from './disk-error.ts'
import { Fields, textOf } from './fields.ts'
import { peSectionCountMax, peSignatureBytesMax, peSignatureCountMax, peTextBytesMax } from './limits.ts'
import { type ByteSource, isDiskError, sliceOf } from './source.ts'

/** A processor, by the names the DHCP room uses. */
export type Architecture = 'x86' | 'x86_64' | 'arm32' | 'arm64' | 'riscv64' | 'loongarch64'

/** IMAGE_FILE_HEADER.Machine. */
const machines: Readonly<Record<number, Architecture>> = {
  332: 'x86',
  34404: 'x86_64',
  448: 'arm32',
  450: 'arm32',
  452: 'arm32',
  43620: 'arm64',
  20580: 'riscv64',
  25188: 'loongarch64',
}
const subsystems: Readonly<Record<number, PeImage['subsystem']>> = { 10: 'application', 11: 'driver', 12: 'driver' }
const certificateDirectory = 4

export interface PeImage {
  /** Undefined: a machine type that no firmware of ours has; `machine` says which. */
  readonly architecture: Architecture | undefined
  readonly machine: number
  /** What UEFI does with it: start it, or load it as a driver; 'other' is none of UEFI's. */
  readonly subsystem: 'application' | 'driver' | 'other'
  readonly sections: readonly PeSection[]
  readonly signatures: readonly PeSignature[]
}

export interface PeSection {
  readonly name: string
  /** Where it lies in the file, and how much of it is meant: the smaller of its two sizes. */
  readonly offset: number
  readonly sizeBytes: number
  readonly executable: boolean
}

/** Authenticode is there; whether it holds is the firmware's to judge. */
export interface PeSignature {
  /** 'CN=..., O=...' of each signer; empty when the signature could not be read. */
  readonly signers: readonly string[]
}

/** Undefined when it is no PE image. @throws {DiskError} when it is one and its headers are impossible */
export async function readPe(source: ByteSource): Promise<PeImage | undefined> {
  if (source.sizeBytes < 64) return undefined
  const dos = new Fields('PE', await source.read(0, 64))
  if (dos.u16(0) !== 0x5a4d) return undefined
  const peAt = dos.u32(60)
  if (peAt + 24 > source.sizeBytes) return undefined
  // 4 'PE\0\0' | 2 machine | 2 sections | 4 time | 4 symbols | 4 symbol count | 2 optional header bytes | 2 flags
  const coff = new Fields('PE', await source.read(peAt, 24))
  if (coff.u32(0) !== 0x4550) return undefined
  const machine = coff.u16(4)
  const sectionCount = coff.u16(6)
  const optionalBytes = coff.u16(20)
  if (sectionCount > peSectionCountMax) throw malformed('PE', `${sectionCount} sections`)
  const optional = new Fields('PE', await source.read(peAt + 24, optionalBytes))
  const optionalMagic = optional.u16(0)
  if (optionalMagic !== 0x10b && optionalMagic !== 0x20b)
    throw malformed('PE', `optional header 0x${optionalMagic.toString(16)}`)
  // PE32+ has no BaseOfData and an 8-byte ImageBase and stack sizes: its directories begin 16 bytes later.
  const directoriesAt = optionalMagic === 0x20b ? 112 : 96
  const table = new Fields('PE', await source.read(peAt + 24 + optionalBytes, sectionCount * 40))
  const longNames = await longNamesOf(source, coff.u32(12), coff.u32(16))
  const sections: PeSection[] = []
  for (let index = 0; index < sectionCount; index++) {
    // 8 name | 4 virtual size | 4 virtual address | 4 raw size | 4 raw offset | 4 | 4 | 2 | 2 | 4 characteristics
    const at = index * 40
    const virtualBytes = table.u32(at + 8)
    const rawBytes = table.u32(at + 16)
    const offset = table.u32(at + 20)
    const sizeBytes = virtualBytes === 0 ? rawBytes : Math.min(virtualBytes, rawBytes)
    if (offset + sizeBytes > source.sizeBytes)
      throw malformed('PE', `section ${table.ascii(at, 8)} reaches past the end`)
    const executable = (table.u32(at + 36) & 0x20000000) !== 0
    sections.push({ name: longNames(table.ascii(at, 8)), offset, sizeBytes, executable })
  }
  const directoryCount = optional.u32(directoriesAt - 4)
  const hasCertificates = directoryCount > certificateDirectory && optionalBytes >= directoriesAt + 40
  const certificatesAt = directoriesAt + certificateDirectory * 8
  return {
    architecture: machines[machine],
    machine,
    subsystem: subsystems[optional.u16(68)] ?? 'other',
    sections,
    signatures: hasCertificates
      ? await readSignatures(source, optional.u32(certificatesAt), optional.u32(certificatesAt + 4))
      : [],
  }
}

/** The text in a section, such as .sbat, .osrel, .cmdline, .uname; undefined without that section. @throws {DiskError} */
export async function sectionText(source: ByteSource, image: PeImage, name: string): Promise<string | undefined> {
  const section = image.sections.find((each) => each.name === name)
  if (section === undefined) return undefined
  if (section.sizeBytes > peTextBytesMax) throw malformed('PE', `${name} of ${section.sizeBytes} bytes is no text`)
  const bytes = await source.read(section.offset, section.sizeBytes)
  const end = bytes.indexOf(0)
  return textOf(end === -1 ? bytes : bytes.subarray(0, end))
}

/** The section's bytes as a source, such as .linux and .initrd; undefined without it. */
export function sectionSource(source: ByteSource, image: PeImage, name: string): ByteSource | undefined {
  const section = image.sections.find((each) => each.name === name)
  return section === undefined ? undefined : sliceOf(source, section.offset, section.sizeBytes)
}

/** A unified kernel image: systemd-stub with a kernel in it (UAPI.5). */
export function isUki(image: PeImage): boolean {
  return ['.linux', '.osrel'].every((name) => image.sections.some((section) => section.name === name))
}

export interface SbatEntry {
  readonly component: string
  readonly generation: number
  readonly vendor: string
  readonly version: string
}

/** shim's SBAT.md: component, generation, vendor name, vendor package, version, URL. Lines that are none are left out. */
export function parseSbat(text: string): SbatEntry[] {
  return text.split('\n').flatMap((line) => {
    const [component, generation, vendor = '', , version = ''] = line.split(',')
    return component && /^\d{1,9}$/.test(generation ?? '')
      ? [{ component, generation: Number(generation), vendor, version }]
      : []
  })
}

/**
 * Names over 8 characters stand as '/14': an offset into the string table behind the symbols. Real in shim. Where the
 * table cannot be read the name stays as it is: no firmware looks at it.
 */
async function longNamesOf(
  source: ByteSource,
  symbolsAt: number,
  symbolCount: number,
): Promise<(name: string) => string> {
  const stringsAt = symbolsAt + symbolCount * 18
  if (symbolsAt === 0 || stringsAt + 4 > source.sizeBytes) return (name) => name
  const sizeBytes = Math.min(source.sizeBytes - stringsAt, peTextBytesMax)
  const strings = new Fields('PE', await source.read(stringsAt, sizeBytes))
  return (name) => {
    const match = /^\/(\d{1,7})$/.exec(name)
    const at = Number(match?.[1] ?? 0)
    return at === 0 || at >= sizeBytes ? name : strings.ascii(at, Math.min(64, sizeBytes - at))
  }
}

/** The attribute certificate table: 4 length | 2 revision | 2 type | CMS, each entry padded to 8 bytes. */
async function readSignatures(source: ByteSource, offset: number, tableBytes: number): Promise<PeSignature[]> {
  if (offset === 0 || tableBytes === 0) return []
  if (tableBytes > peSignatureBytesMax) throw malformed('PE', `signatures of ${tableBytes} bytes`)
  const table = new Fields('PE', await source.read(offset, tableBytes))
  const signatures: PeSignature[] = []
  for (let at = 0; at + 8 <= tableBytes && signatures.length < peSignatureCountMax; ) {
    const entryBytes = table.u32(at)
    if (entryBytes < 8 || at + entryBytes > tableBytes) throw malformed('PE', `a signature of ${entryBytes} bytes`)
    // Type 2: PKCS #7 SignedData. Another type counts as a signature that nobody here can read.
    const isCms = table.u16(at + 6) === 2
    signatures.push({ signers: isCms ? signersOrNone(table.slice(at + 8, entryBytes - 8)) : [] })
    at += Math.ceil(entryBytes / 8) * 8
  }
  return signatures
}

function signersOrNone(cms: Uint8Array): string[] {
  try {
    return signersOf(cms)
  } catch (error) {
    if (!isDiskError(error)) throw error
    return []
  }
}
