import { mkdirSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { OperationError } from '../base/errors.ts'
import { Secret } from '../base/secret.ts'
import type { TrustFiles } from '../trust/site.ts'
import { codeOf, describeOpen } from './file.ts'
import { type FileLock, lockFile } from './lock.ts'
import { writeWholeFile } from './whole-file.ts'

/** Who makes an authority and two certificates is done within seconds. */
const lockMsMax = 60_000
const lockPauseMs = 50

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
    alone: async (action) => {
      const lock = await waitForLock(directory)
      try {
        return await action()
      } finally {
        lock.release()
      }
    },
  }
}

async function waitForLock(directory: string): Promise<FileLock> {
  try {
    mkdirSync(directory, { recursive: true, mode: 0o700 })
  } catch (error) {
    throw describeOpen(directory, error)
  }
  for (let waitedMs = 0; waitedMs < lockMsMax; waitedMs += lockPauseMs) {
    const lock = lockFile(join(directory, 'lock'), 'make')
    if (lock !== undefined) return lock
    await pause(lockPauseMs)
  }
  const hint = 'Another slipway command may hang: look with `fuser`, or try again.'
  throw new OperationError('trustInUse', `${directory} is being written by another Slipway`, hint)
}
