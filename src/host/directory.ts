import { mkdir, readdir, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'

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
