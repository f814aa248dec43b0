/** Locks on files that are open. A lock is the file's, under whatever names it has, and goes when it is closed. */
import { type FileHandle, readFile } from 'node:fs/promises'
import { setTimeout as pause } from 'node:timers/promises'
import { OperationError } from '../base/errors.ts'
import { errnoOf, nameOfErrno, native, tryLock } from './native.ts'

/** udev looks into a block device whenever somebody has written to it, and locks it for that moment. */
const deviceTries = 20
const devicePauseMs = 50

/** Nobody else writes to it from here on. @throws {OperationError} fileBusy, ioError */
export async function lockForWriting(path: string, handle: FileHandle): Promise<void> {
  const stat = await handle.stat()
  const triesMax = stat.isBlockDevice() ? deviceTries : 1
  for (let tries = 1; !isLocked(path, handle.fd); tries++) {
    if (tries < triesMax) await pause(devicePauseMs)
    else throw fileBusy(path, await lockHolder(stat.ino))
  }
}

/** Ours now; false: somebody else's. */
function isLocked(path: string, fd: number): boolean {
  if (tryLock(fd)) return true
  const number = native?.errno() ?? 0
  if (number === errnoOf['EAGAIN']) return false
  const hint = 'Its file system cannot lock files: keep disks that are written to on another one.'
  throw new OperationError('ioError', `cannot lock ${path}: ${nameOfErrno(number)}`, hint)
}

function fileBusy(path: string, holder: number | undefined): OperationError {
  if (holder === process.pid) {
    const hint = 'Two disks that write to one file destroy it: name it once; links are names of one file too.'
    return new OperationError('fileBusy', `${path} is open for writing already, perhaps under another name`, hint)
  }
  const by = holder === undefined ? 'another process' : `process ${holder}`
  const hint = 'Two that write to one disk destroy it: stop the other one first, or give this one a file of its own.'
  return new OperationError('fileBusy', `${path} is in use by ${by}`, hint)
}

/**
 * The process that has locked the file with this inode number, if the kernel tells and there is one only. proc(5):
 * '1: FLOCK  ADVISORY  WRITE 1234 08:01:131 0 EOF'. Its device numbers are not everywhere those of stat.
 */
async function lockHolder(inode: number): Promise<number | undefined> {
  const text = await readFile('/proc/locks', 'utf8').catch(() => '')
  const holders = new Set<number>()
  for (const [, holder, locked] of text.matchAll(/: FLOCK .* (\d+) [0-9a-f]+:[0-9a-f]+:(\d+) /g)) {
    if (Number(locked) === inode && Number(holder) > 0) holders.add(Number(holder))
  }
  const [first] = holders
  return holders.size === 1 ? first : undefined
}
