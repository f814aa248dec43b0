/**
 * What makes a flush survive any crash, in this order (`#commit`):
 *   1. once after opening: the dirty bit, synced. From here on a crash may leave clusters counted but unused.
 *   2. reference counts that went up, the file's length; then a sync, which covers all data written before
 *   3. the L2 and L1 entries as they were when the flush began; then a sync
 *   4. only now are clusters that lost their last reference counted down, punched and used again
 * An entry on disk therefore never names a cluster whose data or count is not on disk, nor one that has another's data.
 */
import { OperationError } from '../../base/errors.ts'
import type { RandomAccessFile } from '../../ports/file.ts'
import type { Pending } from '../device.ts'
import { Flusher } from '../flusher.ts'
import { dirtyTableBytesHard, dirtyTableBytesSoft } from '../limits.ts'
import { headerField, incompatible, type Qcow2Header } from './header.ts'
import type { Mapping } from './mapping.ts'
import type { RefcountStore } from './refcounts.ts'
import type { TableWrite } from './table-cache.ts'

/** The flushes of one writable image. */
export class Commits {
  readonly #file: RandomAccessFile
  readonly #header: Qcow2Header
  readonly #mapping: Mapping
  readonly #refcounts: RefcountStore
  /** Reads and writes of the file's clusters under way: a cluster is not used again before they have ended. */
  readonly #inFlight = new Set<Promise<void>>()
  readonly #flusher = new Flusher(() => this.#commit())
  #unsynced = false
  /** The dirty bit is on disk. */
  #markedDirty: boolean
  /** A sync failed: nobody knows what is on disk. */
  #lost: unknown

  constructor(file: RandomAccessFile, header: Qcow2Header, mapping: Mapping, refcounts: RefcountStore) {
    this.#file = file
    this.#header = header
    this.#mapping = mapping
    this.#refcounts = refcounts
    this.#markedDirty = header.dirty
  }

  /** @throws {OperationError} ioError, after a sync that failed */
  assertSound(): void {
    if (this.#lost !== undefined) throw this.#lost
  }

  flush(): Pending {
    return this.#flusher.flush()
  }

  /** Data was written: there is something to sync. */
  wrote(): void {
    this.#unsynced = true
  }

  /** A read or write of a cluster goes on until `pending` ends. Returns `pending`. */
  track(pending: Promise<void>): Promise<void> {
    const inFlight = this.#inFlight
    const ended = (): void => {
      inFlight.delete(pending)
    }
    inFlight.add(pending)
    pending.then(ended, ended)
    return pending
  }

  /** After a clean end nothing is counted that is not used, and the file says so. */
  async finish(): Promise<void> {
    if (this.#lost !== undefined) return
    await this.flush()
    // A table that moved releases its old place only when the move is durable.
    while (this.#refcounts.hasDifferences || this.#refcounts.hasReleased) await this.flush()
    if (!this.#markedDirty || this.#header.version === 2) return
    await this.#sync()
    await this.#setIncompatible(this.#header.incompatibleLow & ~incompatible.dirty)
    await this.#sync()
    this.#markedDirty = false
  }

  /** Tables changed faster than anybody flushes: starts to write them; above the hard bound, whoever changes more waits. */
  relieve(): Pending {
    const { changedBytes } = this.#mapping.cache
    if (changedBytes <= dirtyTableBytesSoft) return undefined
    return this.#flusher.relieve(changedBytes > dirtyTableBytesHard)
  }

  #commit(): Pending {
    this.assertSound()
    const refcounts = this.#refcounts
    const writes: TableWrite[] = []
    this.#mapping.takeDirty(writes)
    if (writes.length === 0 && !refcounts.hasDifferences && !refcounts.hasReleased) {
      if (!this.#unsynced) return undefined
      this.#unsynced = false
      return this.#sync()
    }
    return this.#commitTables(writes, refcounts.takeReleased())
  }

  async #commitTables(
    writes: readonly TableWrite[],
    released: ReturnType<RefcountStore['takeReleased']>,
  ): Promise<void> {
    const refcounts = this.#refcounts
    try {
      this.#unsynced = false
      await this.#markDirty()
      await refcounts.settle()
      const bytes = refcounts.end * this.#mapping.clusterBytes
      // Not `truncate`: writes go on meanwhile, into clusters that were taken after `end` was asked for.
      await this.#file.grow(bytes)
      await this.#sync()
      if (writes.length > 0) {
        for (const { offset, bytes } of writes) await this.#file.write(offset, bytes)
        await this.#sync()
      }
    } catch (error) {
      for (const write of writes) write.restore()
      refcounts.restoreReleased(released)
      this.#unsynced = true
      throw error
    } finally {
      for (const write of writes) write.settled()
    }
    if (released.length === 0) return
    await Promise.allSettled(this.#inFlight)
    refcounts.countDown(released)
    await refcounts.settle()
  }

  async #markDirty(): Promise<void> {
    if (this.#markedDirty || this.#header.version === 2) return
    await this.#setIncompatible(this.#header.incompatibleLow | incompatible.dirty)
    // Bitmaps would have to follow every write; without their bit whoever knows them knows that they are stale.
    if (this.#header.hasAutoclear) await this.#file.write(headerField.autoclearFeatures, new Uint8Array(8))
    await this.#sync()
    this.#markedDirty = true
  }

  async #setIncompatible(low: number): Promise<void> {
    const bytes = new Uint8Array(4)
    new DataView(bytes.buffer).setUint32(0, low)
    await this.#file.write(headerField.incompatibleFeatures + 4, bytes)
  }

  async #sync(): Promise<void> {
    try {
      await this.#file.sync()
    } catch (error) {
      this.#lost = new OperationError(
        'ioError',
        `${this.#file.path} could not be brought to stable storage`,
        'Look at the disk (dmesg); what was written since the last flush may be lost. Then start again.',
        { cause: error },
      )
      throw this.#lost
    }
  }
}
