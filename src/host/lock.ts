/** Locks between processes. A lock goes with its process, however that ends. */
import { closeSync, openSync } from 'node:fs'
import { describeOpen } from './file.ts'
import { native } from './native.ts'

/** LOCK_EX | LOCK_NB. */
const lockNow = 2 | 4

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
  if (native !== undefined && native.flock(fd, lockNow) !== 0) {
    closeSync(fd)
    return undefined
  }
  return { release: () => closeSync(fd) }
}
