/**
 * What a boot loader is, told from its bytes: which program, for which firmware, which version, what it can do, whom it
 * trusts and who signed it. A loader is a file of the user's; a guess would send a machine into a dead end, so what the
 * bytes do not tell is 'unknown'.
 */
import { OperationError } from '../../base/errors.ts'
import type { Firmware } from '../../disk/inspect.ts'
import { bzImageVersion } from '../../disk/linux-image.ts'
import { isUki, type PeImage, parseSbat, readPe, type SbatEntry, sectionText } from '../../disk/pe.ts'
import { type ByteSource, readWhole } from '../../disk/source.ts'
import { asciiOf, countOf, has, hexOf, offsetsOf } from './bytes.ts'
import { loaderBytesMax, sleepCountMax } from './limits.ts'
import { unpackIpxe } from './lzma.ts'

export type LoaderKind =
  | 'ipxe'
  | 'grub'
  | 'shim'
  /** MokManager or fallback: shim's own, not for a first start. */
  | 'shimTool'
  | 'systemdBoot'
  /** A unified kernel image: kernel, initramfs and command line in one EFI program. */
  | 'uki'
  | 'linux'
  | 'pxelinux'
  | 'memdisk'
  | 'uboot'
  /** An EFI program that says nothing about itself. */
  | 'efi'

/** How it is started. */
export type LoaderForm =
  | 'efiApplication'
  | 'efiDriver'
  /** A BIOS network boot program: what a PXE ROM loads at 0x7c00. */
  | 'pxe'
  /** A bzImage: started by another loader. */
  | 'kernel'
  | 'rom'

export type Ability = 'yes' | 'no' | 'unknown'

export interface Abilities {
  readonly https: Ability
  readonly http: Ability
  readonly iscsi: Ability
  readonly vlan: Ability
  readonly tftp: Ability
}

export interface Loader {
  readonly kind: LoaderKind
  readonly form: LoaderForm
  /** Undefined: it runs on no firmware that is known here. */
  readonly firmware: Firmware | undefined
  readonly version: string | undefined
  readonly sizeBytes: number
  readonly can: Abilities
  /** Names of the known roots whose SHA-256 fingerprint is in it: whom an iPXE trusts for HTTPS. */
  readonly pinned: readonly string[]
  /**
   * It can read the UEFI variable TlsCaCertificate and trust what is enrolled there (iPXE of 2025 and later). It does where
   * the public root is pinned; one that was built with TRUST= does not.
   */
  readonly readsTlsCaVariable: boolean
  /** The script that was built into an iPXE; undefined where there is none or it cannot be seen. */
  readonly embeddedScript: string | undefined
  /** Authenticode is there. Nothing in a signed loader may be changed. */
  readonly signed: boolean
  readonly signers: readonly string[]
  readonly sbat: readonly SbatEntry[]
  /** How often the code rests the processor in the way that U-Boot never ends (see patch.ts). EFI iPXE only. */
  readonly sleepCount: number
  /** Packed, as iPXE's BIOS builds are: it can be looked into, but not changed. */
  readonly compressed: boolean
}

/** A root that may be pinned: its name, and the SHA-256 of its certificate, 32 bytes. */
export interface KnownRoot {
  readonly name: string
  readonly fingerprint: Uint8Array
}

/** iPXE's own default root, "iPXE root CA": the public one, under which a public certificate is cross-signed. */
export const ipxePublicRoot: KnownRoot = {
  name: 'ipxe.org',
  fingerprint: Uint8Array.from(
    '9faf717b7f8ca2f93c256c79f8ac5591895d66d1ff3bee6397a70d29c65eed1a'.match(/../g) ?? [],
    (pair) => Number.parseInt(pair, 16),
  ),
}

const nothingKnown: Abilities = {
  https: 'unknown',
  http: 'unknown',
  iscsi: 'unknown',
  vlan: 'unknown',
  tftp: 'unknown',
}

/**
 * @throws {OperationError} notALoader when nothing is recognised; {DiskError} when a PE header contradicts itself
 */
export async function identifyLoader(source: ByteSource, roots: readonly KnownRoot[] = []): Promise<Loader> {
  const image = await readPe(source)
  // A UKI is as large as its initramfs, and only its sections matter.
  if (image !== undefined && isUki(image)) return identifyUki(source, image)
  if (source.sizeBytes > loaderBytesMax) throw notALoader(`a file of ${source.sizeBytes} bytes`)
  const bytes = await readWhole(source, loaderBytesMax)
  const loader =
    image === undefined
      ? await identifyPlain(source, bytes, [ipxePublicRoot, ...roots])
      : await identifyEfi(source, image, bytes, [ipxePublicRoot, ...roots])
  if (loader === undefined) throw notALoader('nothing in it is known')
  return loader
}

function notALoader(why: string): OperationError {
  return new OperationError(
    'notALoader',
    `This is no boot loader: ${why}.`,
    'Give an EFI program (.efi), an iPXE for BIOS (.pxe, .kpxe, .kkpxe, .lkrn) or a PXELINUX (pxelinux.0).',
  )
}

const blank = (sizeBytes: number): Omit<Loader, 'kind' | 'form' | 'firmware'> => ({
  version: undefined,
  sizeBytes,
  can: nothingKnown,
  pinned: [],
  readsTlsCaVariable: false,
  embeddedScript: undefined,
  signed: false,
  signers: [],
  sbat: [],
  sleepCount: 0,
  compressed: false,
})

async function peFacts(source: ByteSource, image: PeImage): Promise<Omit<Loader, 'kind'>> {
  return {
    ...blank(source.sizeBytes),
    form: image.subsystem === 'driver' ? 'efiDriver' : 'efiApplication',
    firmware: image.subsystem === 'other' ? undefined : image.architecture,
    signed: image.signatures.length > 0,
    signers: image.signatures.flatMap(({ signers }) => signers),
    sbat: parseSbat((await sectionText(source, image, '.sbat')) ?? ''),
  }
}

async function identifyUki(source: ByteSource, image: PeImage): Promise<Loader> {
  const version = (await sectionText(source, image, '.uname'))?.trim()
  const can: Abilities = { https: 'no', http: 'no', iscsi: 'unknown', vlan: 'unknown', tftp: 'no' }
  return { ...(await peFacts(source, image)), kind: 'uki', can, version: version === '' ? undefined : version }
}

async function identifyEfi(
  source: ByteSource,
  image: PeImage,
  bytes: Uint8Array,
  roots: readonly KnownRoot[],
): Promise<Loader> {
  const facts = await peFacts(source, image)
  const text = asciiOf(bytes)
  const sbatOf = (component: string): SbatEntry | undefined => facts.sbat.find((each) => each.component === component)
  const distributed = (component: string): string | undefined => {
    // 'grub.debian' carries the package's version, 'grub' only upstream's.
    return facts.sbat.find((each) => each.component.startsWith(`${component}.`))?.version ?? sbatOf(component)?.version
  }
  if (isIpxe(text)) return identifyIpxeEfi({ ...facts, kind: 'ipxe' }, image, bytes, text, roots)
  const firmwareOnly: Abilities = { https: 'no', http: 'no', iscsi: 'no', vlan: 'no', tftp: 'no' }
  if (image.sections.some(({ name }) => name === 'mods') || sbatOf('grub') !== undefined) {
    // Modules that are built in name themselves; others may come from the network, if a network module is there.
    const module = (name: string): Ability => (has(text, `\0${name}\0`) ? 'yes' : 'no')
    const can: Abilities = { ...firmwareOnly, http: module('http'), tftp: module('tftp') }
    return { ...facts, kind: 'grub', version: distributed('grub'), can }
  }
  if (sbatOf('shim') !== undefined || has(text, 'UEFI SHIM')) {
    const isShim = image.sections.some(({ name }) => name === '.vendor_cert') || has(text, 'UEFI SHIM')
    const version = /\$Version: ([^ $]{1,32}) \$/.exec(text)?.[1] ?? distributed('shim')
    if (!isShim) return { ...facts, kind: 'shimTool', version, can: firmwareOnly }
    // shim fetches its second stage the way it was itself fetched.
    return { ...facts, kind: 'shim', version, can: { ...firmwareOnly, http: 'yes', tftp: 'yes' } }
  }
  const loaderInfo = /#### LoaderInfo: systemd-boot ([^ #]{1,64})/.exec(text)
  if (loaderInfo !== null) return { ...facts, kind: 'systemdBoot', version: loaderInfo[1], can: firmwareOnly }
  if (isLinuxKernel(bytes)) return { ...facts, kind: 'linux', version: await bzImageVersion(source), can: firmwareOnly }
  return { ...facts, kind: 'efi' }
}

function identifyIpxeEfi(
  facts: Loader,
  image: PeImage,
  bytes: Uint8Array,
  text: string,
  roots: readonly KnownRoot[],
): Loader {
  const code = image.sections.filter(({ executable }) => executable)
  const sleepCount = code.reduce((sum, { offset, sizeBytes }) => {
    return sum + sleepOffsets(bytes.subarray(offset, offset + sizeBytes), image).length
  }, 0)
  return { ...facts, ...ipxeFacts(bytes, text, roots), sleepCount }
}

/** What an iPXE's own bytes say, once they are not packed. */
function ipxeFacts(
  bytes: Uint8Array,
  text: string,
  roots: readonly KnownRoot[],
): Pick<Loader, 'version' | 'can' | 'pinned' | 'readsTlsCaVariable' | 'embeddedScript'> {
  // The list that iPXE prints as "Features:" at its banner: a name in it is compiled in, a name not in it is not.
  const feature = (name: string): Ability => (has(text, `\0${name}\0`) ? 'yes' : 'no')
  return {
    version: ipxeVersion(text),
    can: {
      https: feature('HTTPS'),
      http: feature('HTTP'),
      iscsi: feature('iSCSI'),
      vlan: feature('VLAN'),
      tftp: feature('TFTP'),
    },
    pinned: roots.filter(({ fingerprint }) => countOf(bytes, fingerprint) > 0).map(({ name }) => name),
    readsTlsCaVariable: has(text, 'TlsCaCertificate') || has(text, [...'TlsCaCertificate'].join('\0')),
    embeddedScript: embeddedScript(text),
  }
}

/** An iPXE for BIOS: packed. Where it cannot be unpacked, its abilities stay unknown. */
function packedIpxe(loader: Loader, bytes: Uint8Array, roots: readonly KnownRoot[]): Loader {
  const unpacked = unpackIpxe(bytes)
  const text = unpacked && asciiOf(unpacked)
  if (unpacked === undefined || text === undefined || !isIpxe(text)) return loader
  const facts = ipxeFacts(unpacked, text, roots)
  return { ...loader, ...facts, version: facts.version ?? loader.version }
}

/**
 * x86: `hlt; ret`, the end of iPXE's cpu_nap(). That is all of it in builds until 2024, so another function's `ret` stands
 * before it; in later ones it is jumped over (`jne` or `je` by one byte) while the firmware shuts down. Without what stands
 * before, the two bytes would also be found in the middle of other instructions (`jmp -12; ret`).
 */
const x86Sleeps: ReadonlyArray<{ readonly pattern: Uint8Array; readonly hltAt: number }> = [
  { pattern: Uint8Array.of(0xc3, 0xf4, 0xc3), hltAt: 1 },
  { pattern: Uint8Array.of(0x75, 0x01, 0xf4, 0xc3), hltAt: 2 },
  { pattern: Uint8Array.of(0x74, 0x01, 0xf4, 0xc3), hltAt: 2 },
]
const arm64Sleep: Uint8Array = Uint8Array.of(0x7f, 0x20, 0x03, 0xd5)

/** Where in `code` the instruction is that puts the processor to rest: `hlt` on x86, `wfi` at a multiple of four on arm64. */
export function sleepOffsets(code: Uint8Array, image: Pick<PeImage, 'architecture'>): number[] {
  switch (image.architecture) {
    case 'x86':
    case 'x86_64':
      return x86Sleeps.flatMap(({ pattern, hltAt }) => {
        return offsetsOf(code, pattern, sleepCountMax).map((at) => at + hltAt)
      })
    case 'arm64':
      return offsetsOf(code, arm64Sleep, sleepCountMax).filter((at) => at % 4 === 0)
    default:
      return []
  }
}

async function identifyPlain(
  source: ByteSource,
  bytes: Uint8Array,
  roots: readonly KnownRoot[],
): Promise<Loader | undefined> {
  const text = asciiOf(bytes)
  const facts = blank(bytes.byteLength)
  const bios = { ...facts, firmware: 'bios' } as const
  const pxelinux = /PXELINUX ([0-9][^\0\r\n ]{0,15})(?: (PXE|lwIP))?/.exec(text)
  if (pxelinux !== null) {
    const lwip = pxelinux[2] === 'lwIP'
    const can: Abilities = { https: 'no', http: lwip ? 'yes' : 'no', iscsi: 'no', vlan: 'no', tftp: 'yes' }
    return { ...bios, kind: 'pxelinux', form: 'pxe', version: pxelinux[1], can }
  }
  const memdisk = /MEMDISK ([0-9][^\0\r\n ]{0,15})/.exec(text)
  if (memdisk !== null && isLinuxKernel(bytes)) {
    const can: Abilities = { https: 'no', http: 'no', iscsi: 'no', vlan: 'no', tftp: 'no' }
    return { ...bios, kind: 'memdisk', form: 'kernel', version: memdisk[1], can }
  }
  // An iPXE for BIOS is compressed but for the prefix that finds the PXE stack, or unpacks as if it were a kernel.
  if (has(text, 'UNDI code segment') && has(text, 'PXENV+ at')) {
    return packedIpxe({ ...bios, kind: 'ipxe', form: 'pxe', compressed: true }, bytes, roots)
  }
  if (isLinuxKernel(bytes)) {
    const version = await bzImageVersion(source)
    // iPXE's version has no build host; Linux's is '6.1.0 (user@host) #1 SMP ...'.
    const isLinux = version === undefined || /@| #\d/.test(version)
    if (!isLinux) {
      const named = {
        ...bios,
        kind: 'ipxe',
        form: 'kernel',
        compressed: true,
        version: version?.split(' ')[0],
      } as const
      return packedIpxe(named, bytes, roots)
    }
    return { ...bios, kind: 'linux', form: 'kernel', version: version?.split(' ')[0] }
  }
  if (bytes[0] === 0x55 && bytes[1] === 0xaa && has(text.slice(0, 4096), 'iPXE')) {
    return packedIpxe({ ...bios, kind: 'ipxe', form: 'rom', compressed: true }, bytes, roots)
  }
  // arm64's kernel header: 'ARM\x64' at byte 56. One without MZ is a plain Image: nothing but U-Boot starts it.
  if (text.slice(56, 60) === 'ARM\x64') return { ...facts, kind: 'linux', form: 'kernel', firmware: 'arm64' }
  const uboot = /U-Boot (20\d\d\.\d\d[^\0 ]{0,32}) \(/.exec(text)
  if (uboot !== null) return { ...facts, kind: 'uboot', form: 'rom', firmware: undefined, version: uboot[1] }
  return undefined
}

function isIpxe(text: string): boolean {
  return has(text, '\0iPXE\0') && has(text, '#!ipxe')
}

/** '1.0.0+git-20190125.36a4c85-5.1': a version in its own right within 256 bytes of the product's name. */
function ipxeVersion(text: string): string | undefined {
  for (let at = text.indexOf('\0iPXE\0'); at !== -1; at = text.indexOf('\0iPXE\0', at + 1)) {
    const near = text.slice(Math.max(0, at - 256), at + 256)
    const match = /\0(\d{1,3}\.\d{1,3}\.\d{1,3}[+ -]?[\x20-\x7e]{0,64})\0/.exec(near)
    if (match !== null) return match[1]
  }
  return undefined
}

/** A script proper has a line after '#!ipxe'; the bare word is how iPXE knows a script. */
function embeddedScript(text: string): string | undefined {
  return /#!ipxe[^\n\0]{0,64}\n[\t\n\x20-\x7e]{0,4096}/.exec(text)?.[0].trimEnd()
}

function isLinuxKernel(bytes: Uint8Array): boolean {
  return asciiOf(bytes.subarray(0x202, 0x206)) === 'HdrS'
}

/** 'sha256:9faf...': how fingerprints are shown. */
export function formatFingerprint(fingerprint: Uint8Array): string {
  return `sha256:${hexOf(fingerprint)}`
}
