/**
 * One open file of fixed-position reads and writes. Numbers are bytes. Methods that return `undefined` have finished;
 * a promise means the disk is slow and the loop goes on.
 */
export interface RandomAccessFile {
  readonly path: string
  readonly readOnly: boolean
  sizeBytes(): number
  /**
   * Fills `target` from `offset`; past the end reads as zeroes.
   * Undefined when the bytes were in the page cache and are already there.
   * @throws {OperationError} ioError, in the promise or at once
   */
  read(offset: number, target: Uint8Array): Promise<void> | undefined
  /** Fills `target` if all of it is in the page cache; else false. Optional: absent where that cannot be asked. */
  readNow?(offset: number, target: Uint8Array): boolean
  /** `source` is lent until done. Extends the file if it must. @throws {OperationError} ioError, noSpace */
  write(offset: number, source: Uint8Array): Promise<void> | undefined
  /** Data and the size are on stable storage when it resolves (fdatasync). */
  sync(): Promise<void>
  /** Gives the range back to the file system; it reads as zeroes. False where the file system cannot. */
  punchHole(offset: number, bytes: number): Promise<boolean>
  /** Whether the byte at `offset` takes space, and how far that holds. Undefined where the file system does not tell. */
  extent?(offset: number): FileExtent | undefined
  /** Only while nothing is written: a write that extends the file meanwhile may be cut off again. */
  truncate(sizeBytes: number): Promise<void>
  /** Makes it at least this long, whatever is written meanwhile. */
  grow(sizeBytes: number): Promise<void>
  close(): Promise<void>
}

export interface FileExtent {
  readonly allocated: boolean
  /** Where it ends: the file's end at the latest. */
  readonly end: number
}
