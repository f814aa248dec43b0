import { mkdirSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Secret } from '../base/secret.ts'
import type { TrustFiles } from '../trust/site.ts'
import { codeOf, describeOpen } from './file.ts'
import { writeWholeFile } from './whole-file.ts'

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
      const isSecret = text instanceof Secret
      await writeWholeFile(join(directory, name), isSecret ? text.reveal() : text, isSecret ? 0o600 : 0o644)
    },
  }
}
