import { pathBytesMax } from './limits.ts'
import type { ByteSource } from './source.ts'

/** A file system, read only. Paths have forward slashes and start at the root; '' and '/' are the root. */
export interface FileSystem {
  readonly kind: 'fat12' | 'fat16' | 'fat32' | 'ext2' | 'ext3' | 'ext4' | 'iso9660'
  readonly label: string
  /** As /dev/disk/by-uuid has it: 'ABCD-1234' for FAT, a UUID for ext4, '' where there is none. */
  readonly uuid: string
  /** What a person should know: 'was not unmounted'. */
  readonly notes: readonly string[]
  /** The names in a directory, without . and .. ; undefined if there is no such directory. @throws {DiskError} */
  list(path: string): Promise<readonly DirectoryEntry[] | undefined>
  /** A regular file, symbolic links followed; undefined if there is none of that name. @throws {DiskError} */
  open(path: string): Promise<ByteSource | undefined>
  /** What a path names, symbolic links followed except the last; undefined if nothing. @throws {DiskError} */
  stat(path: string): Promise<DirectoryEntry | undefined>
}

export interface DirectoryEntry {
  readonly name: string
  readonly kind: 'file' | 'directory' | 'symlink' | 'other'
  readonly sizeBytes: number
  /** Where a symbolic link points. Only from `stat`. */
  readonly linkTarget?: string
}

/** '/a//b/./c' -> ['a', 'b', 'c']. '..' stays: only the file system knows where it leads. */
export function pathParts(path: string): string[] {
  if (path.length > pathBytesMax) return ['\0']
  return path.split('/').filter((part) => part !== '' && part !== '.')
}
