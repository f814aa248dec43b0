import { mkdirSync } from 'node:fs'
import { open, readFile, rename } from 'node:fs/promises'
import { join } from 'node:path'
import { Secret } from '../base/secret.ts'
import type { TrustFiles } from '../trust/site.ts'
import { codeOf, describeOpen } from './file.ts'

/** The certificates and keys of a site, in a folder that only its owner may enter. */
export function createTrustFiles(directory: string): TrustFiles {
  return {
    read: async (name) => {
      const path = join(directory, name)
      try {
        return await readFile(path, 'utf8')
      } catch (error) {
        if (codeOf(error) === 'ENOENT') return undefined
        throw describeOpen(path, error)
      }
    },
    write: async (name, text) => {
      mkdirSync(directory, { recursive: true, mode: 0o700 })
      const path = join(directory, name)
      const isSecret = text instanceof Secret
      const draft = `${path}.new`
      try {
        const file = await open(draft, 'w', isSecret ? 0o600 : 0o644)
        try {
          // The mode above counts only where the draft was not left behind by a crash.
          await file.chmod(isSecret ? 0o600 : 0o644)
          await file.writeFile(isSecret ? text.reveal() : text)
          await file.sync()
        } finally {
          await file.close()
        }
        await rename(draft, path)
        const folder = await open(directory, 'r')
        await folder.sync().finally(() => folder.close())
      } catch (error) {
        throw describeOpen(path, error)
      }
    },
  }
}
