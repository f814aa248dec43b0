/**
 * A cpio archive in the form "newc", as the kernel unpacks it (Linux, Documentation/driver-api/early-userspace/buffer-format): one
 * that comes behind another overrides its files.
 *
 *   entry := '070701' and 13 fields of 8 hex digits | name, NUL | to 4 bytes | content | to 4 bytes
 */
import { assert } from '../base/assert.ts'

export type ArchivedFile =
  | { readonly kind: 'directory'; readonly path: string; readonly mode: number }
  | { readonly kind: 'file'; readonly path: string; readonly mode: number; readonly content: Uint8Array }

const utf8 = new TextEncoder()
const typeBits = { directory: 0o040000, file: 0o100000 } as const

/** All of root's, of no date. Paths are relative, and a folder comes before what is in it. */
export function cpioArchive(files: readonly ArchivedFile[]): Uint8Array {
  const parts = files.map((file, index) => {
    assert(/^[^/\0][^\0]*$/.test(file.path), 'a path in an archive is relative')
    const content = file.kind === 'file' ? file.content : new Uint8Array()
    return entry(file.path, typeBits[file.kind] | file.mode, index + 1, content)
  })
  parts.push(entry('TRAILER!!!', 0, 0, new Uint8Array()))
  const archive = new Uint8Array(parts.reduce((sum, { byteLength }) => sum + byteLength, 0))
  let at = 0
  for (const part of parts) {
    archive.set(part, at)
    at += part.byteLength
  }
  return archive
}

function entry(path: string, mode: number, inode: number, content: Uint8Array): Uint8Array {
  const name = utf8.encode(`${path}\0`)
  const linkCount = (mode & typeBits.directory) !== 0 ? 2 : 1
  // inode | mode | user | group | links | time | file bytes | device, device of a device node: 2 each | name bytes | sum
  const fields = [inode, mode, 0, 0, linkCount, 0, content.byteLength, 0, 0, 0, 0, name.byteLength, 0]
  const header = utf8.encode(`070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`)
  const contentAt = padded(header.byteLength + name.byteLength)
  const bytes = new Uint8Array(contentAt + padded(content.byteLength))
  bytes.set(header)
  bytes.set(name, header.byteLength)
  bytes.set(content, contentAt)
  return bytes
}

const padded = (bytes: number): number => Math.ceil(bytes / 4) * 4
