import { open, rename } from 'node:fs/promises'
import { dirname } from 'node:path'
import { describeOpen } from './file.ts'

/** Whole or not at all, and on stable storage when it resolves. @throws {OperationError} fileMissing, fileForbidden */
export async function writeWholeFile(path: string, content: string | Uint8Array, mode: number): Promise<void> {
  const draft = `${path}.new`
  try {
    const file = await open(draft, 'w', mode)
    try {
      // The mode above counts only where the draft was not left behind by a crash.
      await file.chmod(mode)
      await file.writeFile(content)
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(draft, path)
    const folder = await open(dirname(path), 'r')
    await folder.sync().finally(() => folder.close())
  } catch (error) {
    throw describeOpen(path, error)
  }
}
