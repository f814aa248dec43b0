/** An initramfs, written without root: a "newc" cpio archive (kernel: Documentation/driver-api/early-userspace/buffer-format). */
import { gzipSync } from 'node:zlib'

export type ArchiveEntry =
  | { readonly kind: 'folder'; readonly path: string }
  | { readonly kind: 'link'; readonly path: string; readonly target: string }
  | { readonly kind: 'file'; readonly path: string; readonly content: Uint8Array; readonly executable: boolean }

/** Same entries, same bytes: no time, owner or inode of this machine gets in. */
export function packInitramfs(entries: readonly ArchiveEntry[]): Uint8Array {
  const parts: Uint8Array[] = []
  const known = new Set<string>()
  let inode = 1
  const add = (entry: ArchiveEntry): void => {
    // A file's folders come before it, each once.
    const parent = entry.path.slice(0, Math.max(0, entry.path.lastIndexOf('/')))
    if (parent !== '' && !known.has(parent)) add({ kind: 'folder', path: parent })
    if (known.has(entry.path)) return
    known.add(entry.path)
    parts.push(...record(entry, inode++))
  }
  for (const entry of entries) add(entry)
  parts.push(...record({ kind: 'file', path: 'TRAILER!!!', content: new Uint8Array(0), executable: false }, 0))
  return gzipSync(Buffer.concat(parts), { level: 6 })
}

function record(entry: ArchiveEntry, inode: number): Uint8Array[] {
  const encoder = new TextEncoder()
  const content = entry.kind === 'file' ? entry.content : encoder.encode(entry.kind === 'link' ? entry.target : '')
  const name = encoder.encode(`${entry.path}\0`)
  const fields = [
    inode,
    modeOf(entry),
    0, // uid
    0, // gid
    entry.kind === 'folder' ? 2 : 1, // links
    0, // modification time
    content.byteLength,
    0, // device of the file, major and minor
    0,
    0, // device that a device node names, major and minor
    0,
    name.byteLength,
    0, // checksum: none in "newc"
  ]
  const header = encoder.encode(`070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`)
  return [header, name, padding(header.byteLength + name.byteLength), content, padding(content.byteLength)]
}

function modeOf(entry: ArchiveEntry): number {
  if (entry.kind === 'folder') return 0o040755
  if (entry.kind === 'link') return 0o120777
  return entry.executable ? 0o100755 : 0o100644
}

/** Names and contents are padded to four bytes. */
function padding(bytes: number): Uint8Array {
  return new Uint8Array((4 - (bytes % 4)) % 4)
}
