/** Locks between processes. A lock goes with its process, however that ends. */
import { closeSync, openSync } from 'node:fs'
import { describeOpen } from './file.ts'
import { tryLock } from './native.ts'

export interface FileLock {
  release(): void
}

/** Undefined: somebody else has it. `make`: the file is made if it is not there. @throws {OperationError} fileMissing, ... */
export function lockFile(path: string, make: 'make' | 'mustBeThere'): FileLock | undefined {
  let fd: number
  try {
    fd = openSync(path, make === 'make' ? 'a' : 'r', 0o600)
  } catch (error) {
    throw describeOpen(path, error)
  }
  if (!tryLock(fd)) {
    closeSync(fd)
    return undefined
  }
  return { release: () => closeSync(fd) }
}
