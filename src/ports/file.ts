/**
 * One open file of fixed-position reads and writes. Numbers are bytes. Methods that return `undefined` have finished;
 * a promise means the disk is slow and the loop goes on.
 *
 * What a program may rely on, and no more:
 *   - An operation sees all of what ended before it was called.
 *   - What is in flight has no order: it takes place at any time before it ends, in pieces, before or after what was called
 *     later. Where two that are in flight touch the same bytes, any mixture of them may be left there, or be read.
 *   - `sizeBytes` counts what has ended. What is in flight may have made the file longer already.
 *   - A sync makes durable what ended before it was called; of the rest, anything may be. After one that failed nobody knows
 *     what is durable, and a later one does not mend it.
 *   - `truncate` is alone: nothing that changes the file is in flight beside it. `grow` is beside anything.
 *   - A write that failed may have written any part of itself.
 * `SimulatedFile` (block/testing) does all the rest of what is allowed here; `SystemFile` (host/file.ts) is the real one.
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
  /** Makes it exactly this long. What is cut off is gone; what is added reads as zeroes. */
  truncate(sizeBytes: number): Promise<void>
  /** Makes it at least this long, and cuts off nothing, whatever is written meanwhile. */
  grow(sizeBytes: number): Promise<void>
  close(): Promise<void>
}

export interface FileExtent {
  readonly allocated: boolean
  /** Where it ends: the file's end at the latest. */
  readonly end: number
}
