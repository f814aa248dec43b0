import { readFile, rm } from 'node:fs/promises'
import type { SanitizeStore } from '../scsi/sanitize-store.ts'
import { codeOf, describeOpen } from './file.ts'
import { writeWholeFile } from './whole-file.ts'

/**
 * That a disk is being sanitized, in a small JSON file; no file means that it is not. One that cannot be read counts as a SANITIZE that
 * may not be left: what was to be erased is better kept from everybody than read.
 * @throws {OperationError} fileForbidden
 */
export async function openSanitizeFile(path: string): Promise<SanitizeStore> {
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    if (codeOf(error) === 'ENOENT') return undefined
    throw describeOpen(path, error)
  })
  return {
    saved: text === undefined ? undefined : { mayBeLeft: /"mayBeLeft": ?true/.test(text) },
    save: async (sanitize) => {
      if (sanitize === undefined) await rm(path, { force: true })
      else await writeWholeFile(path, `${JSON.stringify(sanitize)}\n`, 0o600)
    },
  }
}
