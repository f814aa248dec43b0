/** What a partition, or a whole disk, holds: told by the magic numbers that blkid knows. */
import type { DiskError } from './disk-error.ts'
import { openExt4 } from './ext4.ts'
import { openFat } from './fat.ts'
import { Fields } from './fields.ts'
import type { FileSystem } from './file-system.ts'
import { openIso9660 } from './iso9660.ts'
import { type ByteSource, isDiskError } from './source.ts'

export type Content =
  | { readonly kind: 'fileSystem'; readonly fileSystem: FileSystem }
  /** Known by name and not read here. */
  | { readonly kind: 'known'; readonly name: string }
  /** It says what it is, and then contradicts itself or asks for more than this reader knows. */
  | { readonly kind: 'unreadable'; readonly error: DiskError }
  | { readonly kind: 'unknown' }

const magics: ReadonlyArray<readonly [offset: number, magic: string, name: string]> = [
  [0, 'XFSB', 'xfs'],
  [0, 'hsqs', 'squashfs'],
  [0, 'LUKS', 'LUKS (encrypted)'],
  [3, 'NTFS    ', 'ntfs'],
  [3, 'EXFAT   ', 'exfat'],
  [512, 'LABELONE', 'LVM physical volume'],
  [4086, 'SWAPSPACE2', 'swap'],
  [0x10040, '_BHRfS_M', 'btrfs'],
  [1024, '\x10 \xf5\xf2', 'f2fs'],
]

/** Never throws because of the bytes. @throws {OperationError} ioError */
export async function contentOf(source: ByteSource): Promise<Content> {
  try {
    const fileSystem = (await openIso9660(source)) ?? (await openExt4(source)) ?? (await openFat(source))
    if (fileSystem !== undefined) return { kind: 'fileSystem', fileSystem }
    for (const [offset, magic, name] of magics) {
      if (offset + magic.length > source.sizeBytes) continue
      const bytes = new Fields('magic', await source.read(offset, magic.length))
      if ([...magic].every((character, i) => bytes.u8(i) === character.charCodeAt(0))) return { kind: 'known', name }
    }
  } catch (error) {
    if (!isDiskError(error)) throw error
    return { kind: 'unreadable', error }
  }
  return { kind: 'unknown' }
}
