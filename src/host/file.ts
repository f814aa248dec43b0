/**
 * RandomAccessFile on a real file.
 *
 * Reads ask the page cache first (preadv2 with RWF_NOWAIT, which never waits for a disk) and go to the thread pool only
 * for what is not there. Linux has no such question for buffered writes on ext4, so writes are made at once while they
 * are fast, and after one that was slow they go to the thread pool until the disk has caught up: a slow disk costs the
 * event loop one slow write in `patienceMsMax`, not all of them.
 */
import { constants, type FileHandle, open, readFile } from 'node:fs/promises'
import { performance } from 'node:perf_hooks'
import { assert } from '../base/assert.ts'
import { OperationError } from '../base/errors.ts'
import type { FileExtent, RandomAccessFile } from '../ports/file.ts'
import { lockForWriting } from './file-lock.ts'
import { errnoOf, nameOfErrno, native } from './native.ts'

/** uio.h RWF_NOWAIT. */
const readNowFlag = 8
/** linux/falloc.h FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE. */
const punchHoleMode = 3
/** unistd.h SEEK_DATA, SEEK_HOLE. */
const seekData = 3
const seekHole = 4
/** A write that took longer than this means that the page cache is pushing back. */
const slowWriteMs = 2
/**
 * How long writes then go through the thread pool before one is tried at once again: short at first, because on a busy
 * machine a write is slow now and then only because another process had the processor; four times as long each time that
 * the one tried is slow too.
 */
const patienceMsMin = 4
const patienceMsMax = 256
/** Larger writes than this always go through the thread pool: copying them would hold the loop for long. */
const writeAtOnceBytesMax = 256 * 1024

export type OpenMode = 'readOnly' | 'readWrite' | 'createNew' | 'createOrTruncate'

/** @throws {OperationError} fileMissing, fileForbidden, fileExists, notAFile */
export async function openFile(path: string, mode: OpenMode): Promise<RandomAccessFile> {
  return fileOf(path, mode, await openHandle(path, mode))
}

/**
 * To write to it as the only one who does: it is locked, under whatever names it has, until it is closed.
 * @throws {OperationError} fileBusy, and what `openFile` throws
 */
export async function openFileAlone(path: string, mode: 'readWrite' | 'createNew'): Promise<RandomAccessFile> {
  const handle = await openHandle(path, mode)
  try {
    await lockForWriting(path, handle)
  } catch (error) {
    await handle.close()
    throw error
  }
  return fileOf(path, mode, handle)
}

async function openHandle(path: string, mode: OpenMode): Promise<FileHandle> {
  const flags = {
    readOnly: constants.O_RDONLY,
    readWrite: constants.O_RDWR,
    createNew: constants.O_RDWR | constants.O_CREAT | constants.O_EXCL,
    createOrTruncate: constants.O_RDWR | constants.O_CREAT | constants.O_TRUNC,
  }[mode]
  try {
    return await open(path, flags, 0o600)
  } catch (error) {
    throw describeOpen(path, error)
  }
}

async function fileOf(path: string, mode: OpenMode, handle: FileHandle): Promise<RandomAccessFile> {
  const stat = await handle.stat()
  if (stat.isFile()) return new SystemFile(path, handle, mode === 'readOnly', stat.size)
  if (stat.isBlockDevice()) return new SystemFile(path, handle, mode === 'readOnly', await blockDeviceBytes(stat.rdev))
  await handle.close()
  throw new OperationError('notAFile', `${path} is not a file`, 'Name an image file or a block device.')
}

/** A block device's stat says size 0; /sys knows it, in units of 512 bytes. */
async function blockDeviceBytes(rdev: number): Promise<number> {
  return Number(await readFile(`/sys/dev/block/${rdev >>> 8}:${rdev & 0xff}/size`, 'utf8')) * 512
}

class SystemFile implements RandomAccessFile {
  readonly path: string
  readonly readOnly: boolean
  readonly #handle: FileHandle
  readonly #iov = new Uint8Array(16)
  readonly #iovView: DataView = new DataView(this.#iov.buffer)
  #sizeBytes: number
  #readsAtOnce: boolean = native !== undefined
  #writesWaitUntilMs = 0
  /** Writes in the thread pool: the file may be longer than `#sizeBytes` says until they have ended. */
  readonly #writesUnderWay = new Set<Promise<void>>()
  #growing: Promise<void> | undefined
  #patienceMs = patienceMsMin

  constructor(path: string, handle: FileHandle, readOnly: boolean, sizeBytes: number) {
    this.path = path
    this.#handle = handle
    this.readOnly = readOnly
    this.#sizeBytes = sizeBytes
  }

  sizeBytes(): number {
    return this.#sizeBytes
  }

  read(offset: number, target: Uint8Array): Promise<void> | undefined {
    const done = this.#readsAtOnce ? this.#readCached(offset, target) : 0
    return done === target.byteLength ? undefined : this.#readSlowly(offset + done, target.subarray(done))
  }

  readNow(offset: number, target: Uint8Array): boolean {
    return this.#readsAtOnce && this.#readCached(offset, target) === target.byteLength
  }

  write(offset: number, source: Uint8Array): Promise<void> | undefined {
    assert(!this.readOnly, 'a file opened read-only is never written')
    if (this.#growing !== undefined) return this.#growing.then(() => this.write(offset, source))
    const beganMs = performance.now()
    if (native === undefined || source.byteLength > writeAtOnceBytesMax || beganMs < this.#writesWaitUntilMs) {
      return this.#writeUnderWay(offset, source)
    }
    const written = native.pwrite(this.#handle.fd, source, source.byteLength, offset)
    const number = written < 0 ? native.errno() : 0
    const endedMs = performance.now()
    if (endedMs - beganMs > slowWriteMs) {
      this.#writesWaitUntilMs = endedMs + this.#patienceMs
      this.#patienceMs = Math.min(this.#patienceMs * 4, patienceMsMax)
    } else this.#patienceMs = patienceMsMin
    if (written < 0) {
      if (number === errnoOf['EINTR'] || number === errnoOf['EAGAIN']) return this.#writeUnderWay(offset, source)
      throw failure(this.path, 'write', nameOfErrno(number))
    }
    this.#sizeBytes = Math.max(this.#sizeBytes, offset + written)
    return written === source.byteLength ? undefined : this.#writeUnderWay(offset + written, source.subarray(written))
  }

  async sync(): Promise<void> {
    await this.#try('flush', () => this.#handle.datasync())
  }

  async punchHole(offset: number, bytes: number): Promise<boolean> {
    if (native === undefined) return false
    if (native.fallocate(this.#handle.fd, punchHoleMode, offset, bytes) === 0) return true
    const number = native.errno()
    if (number === errnoOf['EOPNOTSUPP'] || number === errnoOf['ENOSYS']) return false
    throw failure(this.path, 'punch a hole in', nameOfErrno(number))
  }

  /** All reads and writes name their position, so moving the file's own disturbs nobody. */
  extent(offset: number): FileExtent | undefined {
    if (native === undefined) return undefined
    const { fd } = this.#handle
    const data = native.lseek(fd, offset, seekData)
    if (data < 0 && native.errno() === errnoOf['ENXIO']) return { allocated: false, end: this.#sizeBytes }
    if (data < 0) return undefined
    if (data > offset) return { allocated: false, end: data }
    const hole = native.lseek(fd, offset, seekHole)
    return hole < 0 ? undefined : { allocated: true, end: hole }
  }

  async truncate(sizeBytes: number): Promise<void> {
    await this.#try('resize', () => this.#handle.truncate(sizeBytes))
    this.#sizeBytes = sizeBytes
  }

  async grow(sizeBytes: number): Promise<void> {
    while (this.#growing !== undefined) await this.#growing
    if (this.#sizeBytes >= sizeBytes) return
    // ftruncate would cut off what another write has put behind `sizeBytes` by then: it waits for those that are under
    // way, and those that come wait for it.
    const growing = this.#growAlone(sizeBytes).finally(() => {
      this.#growing = undefined
    })
    this.#growing = growing.catch(() => undefined)
    await growing
  }

  async close(): Promise<void> {
    await this.#handle.close()
  }

  async #growAlone(sizeBytes: number): Promise<void> {
    await Promise.allSettled(this.#writesUnderWay)
    if (this.#sizeBytes < sizeBytes) await this.truncate(sizeBytes)
  }

  #writeUnderWay(offset: number, source: Uint8Array): Promise<void> {
    const writing = this.#writeSlowly(offset, source)
    this.#writesUnderWay.add(writing)
    const ended = (): void => {
      this.#writesUnderWay.delete(writing)
    }
    writing.then(ended, ended)
    return writing
  }

  /** How many bytes from the start of `target` were in the page cache. */
  #readCached(offset: number, target: Uint8Array): number {
    assert(native !== undefined, 'only asked where the system call is there')
    this.#iovView.setBigUint64(0, native.addressOf(target), true)
    this.#iovView.setUint32(8, target.byteLength, true)
    const count = native.preadv2(this.#handle.fd, this.#iov, 1, offset, readNowFlag)
    if (count >= 0) return count
    const number = native.errno()
    // Some file systems (FUSE, NFS) do not know the flag: never ask again.
    if (number === errnoOf['EOPNOTSUPP'] || number === errnoOf['EINVAL']) this.#readsAtOnce = false
    return 0
  }

  async #readSlowly(offset: number, target: Uint8Array): Promise<void> {
    await this.#try('read', async () => {
      let done = 0
      while (done < target.byteLength) {
        const { bytesRead } = await this.#handle.read(target, done, target.byteLength - done, offset + done)
        if (bytesRead === 0) {
          target.fill(0, done)
          return
        }
        done += bytesRead
      }
    })
  }

  async #writeSlowly(offset: number, source: Uint8Array): Promise<void> {
    await this.#try('write', async () => {
      let done = 0
      while (done < source.byteLength) {
        const { bytesWritten } = await this.#handle.write(source, done, source.byteLength - done, offset + done)
        done += bytesWritten
      }
    })
    this.#sizeBytes = Math.max(this.#sizeBytes, offset + source.byteLength)
  }

  async #try<T>(verb: string, action: () => Promise<T>): Promise<T> {
    try {
      return await action()
    } catch (error) {
      throw failure(this.path, verb, codeOf(error), error)
    }
  }
}

function failure(path: string, verb: string, code: string, cause?: unknown): OperationError {
  if (code === 'ENOSPC' || code === 'EDQUOT' || code === 'EFBIG') {
    const hint = 'Free space on the disk that holds it; what was written before is safe.'
    return new OperationError('noSpace', `cannot ${verb} ${path}: the disk is full (${code})`, hint, { cause })
  }
  const hint = 'Look at the kernel log (dmesg) for errors of the disk that holds it.'
  return new OperationError('ioError', `cannot ${verb} ${path}: ${code}`, hint, { cause })
}

/** Why a file could not be opened, in words. */
export function describeOpen(path: string, error: unknown): unknown {
  switch (codeOf(error)) {
    case 'ENOENT':
      return new OperationError('fileMissing', `${path} is not there`, 'Check the path.', { cause: error })
    case 'EACCES':
    case 'EPERM':
    case 'EROFS': {
      const hint = `Give the user that runs Slipway access to it (ls -l ${path} shows who has).`
      return new OperationError('fileForbidden', `${path} may not be opened`, hint, { cause: error })
    }
    case 'EEXIST':
      return new OperationError('fileExists', `${path} exists already`, 'Choose another name.', { cause: error })
    default:
      return error
  }
}

/** Node's name of what went wrong: 'ENOENT'. */
export function codeOf(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  return typeof code === 'string' ? code : 'unknown error'
}
