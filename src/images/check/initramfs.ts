/**
 * What is in an initramfs (Linux, Documentation/driver-api/early-userspace/buffer-format): cpio archives "newc", one
 * after the other with zeroes between, each bare or compressed. Debian's begins with a bare one of microcode.
 */
import { type DiskError, malformed } from '../../disk/disk-error.ts'
import type { Packing, Unpacker } from '../../ports/unpack.ts'
import { archiveEntryCountMax, archiveNameBytesMax, archiveSegmentCountMax, unpackedBytesMax } from '../limits.ts'

export interface InitramfsListing {
  /** Without a leading slash. */
  readonly names: ReadonlySet<string>
  /** Small files that were asked for. */
  readonly texts: ReadonlyMap<string, string>
  /** Compressed in a way that nothing here can unpack: the names are not all. */
  readonly unreadPacking: Packing | undefined
}

const magics: ReadonlyArray<readonly [packing: Packing, magic: readonly number[]]> = [
  ['gzip', [0x1f, 0x8b]],
  ['zstd', [0x28, 0xb5, 0x2f, 0xfd]],
  ['xz', [0xfd, 0x37, 0x7a, 0x58, 0x5a]],
  ['bzip2', [0x42, 0x5a, 0x68]],
  ['lz4', [0x02, 0x21, 0x4c, 0x18]],
  ['lz4', [0x04, 0x22, 0x4d, 0x18]],
  ['lzop', [0x89, 0x4c, 0x5a, 0x4f]],
  ['lzma', [0x5d, 0x00, 0x00]],
]

const headerBytes = 110
const utf8 = new TextDecoder()

/** @throws {DiskError} malformed; {OperationError} unpackFailed */
export async function listInitramfs(
  bytes: Uint8Array,
  wantedTexts: readonly string[],
  unpacker: Unpacker,
): Promise<InitramfsListing> {
  const names = new Set<string>()
  const texts = new Map<string, string>()
  let rest = bytes
  for (let segment = 0; rest.byteLength > 0; segment++) {
    if (segment > archiveSegmentCountMax) throw broken('too many archives, one after the other')
    const start = rest.findIndex((byte) => byte !== 0)
    if (start === -1) break
    rest = rest.subarray(start)
    if (isCpio(rest)) {
      rest = rest.subarray(readCpio(rest, wantedTexts, names, texts))
      continue
    }
    const packing = magics.find(([, magic]) => magic.every((byte, i) => rest[i] === byte))?.[0]
    // Padding that is no zeroes, behind an archive, is nobody's.
    if (packing === undefined) {
      if (segment === 0) throw broken('neither a cpio archive nor one of the known compressions')
      break
    }
    const unpacked = await unpacker.unpack(packing, rest, unpackedBytesMax)
    if (unpacked === undefined) return { names, texts, unreadPacking: packing }
    // What is compressed comes last: nothing that makes an initramfs puts another behind it.
    for (let at = 0; at < unpacked.byteLength; ) {
      const inner = unpacked.subarray(at)
      if (!isCpio(inner)) break
      at += readCpio(inner, wantedTexts, names, texts)
    }
    break
  }
  return { names, texts, unreadPacking: undefined }
}

function isCpio(bytes: Uint8Array): boolean {
  const magic = utf8.decode(bytes.subarray(0, 6))
  return magic === '070701' || magic === '070702'
}

/** Reads entries up to TRAILER!!! and returns how many bytes they took. */
function readCpio(
  bytes: Uint8Array,
  wantedTexts: readonly string[],
  names: Set<string>,
  texts: Map<string, string>,
): number {
  let at = 0
  while (at + headerBytes <= bytes.byteLength && isCpio(bytes.subarray(at))) {
    // 6 magic | then fields of 8 hex digits: 0 inode, 1 mode, ... 6 file bytes, ... 11 name bytes with its NUL, 12 sum
    const fileBytes = hexField(bytes, at, 6)
    const nameBytes = hexField(bytes, at, 11)
    if (nameBytes < 1 || nameBytes > archiveNameBytesMax) throw broken(`a name of ${nameBytes} bytes`)
    const nameAt = at + headerBytes
    const contentAt = nameAt + nameBytes + padding(headerBytes + nameBytes)
    const next = contentAt + fileBytes + padding(fileBytes)
    if (contentAt + fileBytes > bytes.byteLength) throw broken('an entry reaches past the end')
    const name = utf8.decode(bytes.subarray(nameAt, nameAt + nameBytes - 1)).replace(/^(\.?\/)+/, '')
    if (name === 'TRAILER!!!') return Math.min(next, bytes.byteLength)
    if (names.size >= archiveEntryCountMax) throw broken(`more than ${archiveEntryCountMax} files`)
    names.add(name)
    if (wantedTexts.includes(name)) texts.set(name, utf8.decode(bytes.subarray(contentAt, contentAt + fileBytes)))
    at = next
  }
  return Math.min(at, bytes.byteLength)
}

function hexField(bytes: Uint8Array, entryAt: number, index: number): number {
  const at = entryAt + 6 + index * 8
  const text = utf8.decode(bytes.subarray(at, at + 8))
  if (!/^[0-9a-fA-F]{8}$/.test(text)) throw broken('a header with a number that is none')
  return Number.parseInt(text, 16)
}

/** To a multiple of four. */
function padding(bytes: number): number {
  return (4 - (bytes % 4)) % 4
}

function broken(what: string): DiskError {
  return malformed('initramfs', what)
}
