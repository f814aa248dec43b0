import { statSync } from 'node:fs'
import { chmod, mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'

export type ListedFile = { readonly name: string; readonly path: string; readonly sizeBytes: number }

/** The plain files of a directory, links followed, in order of their names. @throws what Node throws: ENOENT, EACCES */
export async function listFiles(directory: string): Promise<ListedFile[]> {
  const listed: ListedFile[] = []
  for (const name of (await readdir(directory)).sort()) {
    const path = join(directory, name)
    const found = await stat(path).catch(() => undefined) // a link to nowhere is not a file
    if (found?.isFile() === true) listed.push({ name, path, sizeBytes: found.size })
  }
  return listed
}

/** With everything above it, readable by its owner only. @throws what Node throws: EACCES, ENOSPC */
export async function makeDirectory(path: string): Promise<void> {
  await mkdir(path, { recursive: true, mode: 0o700 })
}

/** @throws what Node throws: ENOENT, EACCES */
export async function removeFile(path: string): Promise<void> {
  await rm(path)
}

/** What a file really takes on its disk: holes take nothing. @throws what Node throws: ENOENT */
export async function takenBytes(path: string): Promise<number> {
  return (await stat(path)).blocks * 512
}

/** The same at once, for a decision that cannot wait. 0 if it is not there. */
export function takenBytesNow(path: string): number {
  return (statSync(path, { throwIfNoEntry: false })?.blocks ?? 0) * 512
}

/** Undefined if there is nothing by that name. */
export async function kindOf(path: string): Promise<'file' | 'other' | undefined> {
  const found = await stat(path).catch(() => undefined)
  if (found === undefined) return undefined
  return found.isFile() || found.isBlockDevice() ? 'file' : 'other'
}

/**
 * Letters and digits that no other file has, nor this one when its content was written anew; undefined if there is none.
 */
export async function identityOf(path: string): Promise<string | undefined> {
  const found = await stat(path, { bigint: true }).catch(() => undefined)
  if (found === undefined) return undefined
  return [found.dev, found.ino, found.size, found.mtimeNs].map((number) => number.toString(36)).join('-')
}

/** The directory knows of it for good when this resolves; what had the new name is gone. @throws what Node throws */
export async function renameDurably(from: string, to: string): Promise<void> {
  await rename(from, to)
  const directory = await open(dirname(to), 'r')
  await directory.sync().finally(() => directory.close())
}

/** No error if it is not there. @throws what Node throws: EACCES */
export async function removeIfThere(path: string): Promise<void> {
  await rm(path, { force: true })
}

/** From now on nobody opens it for writing by mistake, its owner included. @throws what Node throws */
export async function makeReadOnly(path: string): Promise<void> {
  await chmod(path, 0o400)
}
