/**
 * A block device: what a machine's disk is made of. Layers (file, memory, copy-on-write, cache, qcow2) all are one, and
 * stack. One contract suite judges every one of them.
 *
 * Offsets and lengths are bytes, any alignment to `blockBytes`; the caller checks bounds (a range past `sizeBytes` is
 * an assertion). Operations that overlap in flight have no order among them; an operation begun after another's end sees
 * its effect. A method that returns `undefined` has finished already: memory does not wait for a turn.
 */
export interface BlockDevice {
  readonly sizeBytes: number
  /** Smallest unit of reading and writing: 512 or 4096. */
  readonly blockBytes: number
  readonly readOnly: boolean
  /** Discarded ranges read as zeroes and give their space back. */
  readonly thin: boolean

  /** Fills `target` from `offset`. @throws {OperationError} ioError */
  read(offset: number, target: Uint8Array): Pending
  /**
   * Fills `target` if that needs no waiting for a disk; else false, and what is in `target` does not matter. Optional: absent
   * means that nobody can tell.
   */
  readNow?(offset: number, target: Uint8Array): boolean
  /**
   * The bytes at `offset` without a copy, if they are in memory: calls `piece` with memory that never changes again,
   * in order, and returns true; or returns false having called nothing. Optional: absent means never.
   */
  lend?(offset: number, bytes: number, piece: (bytes: Uint8Array) => void): boolean
  /** `source` is lent until done. @throws {OperationError} ioError, noSpace, readOnly */
  write(offset: number, source: Uint8Array): Pending
  /** Resolves when every write that ended before the call is on stable storage, with all that is needed to find it. */
  flush(): Pending
  /** Range reads as zeroes afterwards; gives space back if `mayUnmap` and the layer can. */
  writeZeroes(offset: number, bytes: number, mayUnmap: boolean): Pending
  /** A hint: on a thin device the same as writeZeroes with mayUnmap; elsewhere nothing. */
  discard(offset: number, bytes: number): Pending
  /** Whether the block at `offset` takes space, and how far the same answer holds (at most `bytes`). GET LBA STATUS. */
  extent(offset: number, bytes: number): Extent | Promise<Extent>
  /** Flushes, then lets go of everything. */
  close(): Promise<void>
}

export type Pending = Promise<void> | undefined

export interface Extent {
  readonly allocated: boolean
  readonly bytes: number
}
