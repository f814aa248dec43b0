/**
 * A qcow2 image as a block device, read and written.
 *
 * Reading: `Mapping` says what a stretch of the disk is; neighbours of one kind are read together.
 *
 * Writing: `ClusterWriter` and `ZeroWriter`; what makes a flush survive any crash: `Commits`.
 */
import type { RandomAccessFile } from '../../ports/file.ts'
import { assertRange, readOnlyError } from '../bounds.ts'
import type { BlockDevice, Extent, Pending } from '../device.ts'
import { both, failed } from '../pending.ts'
import { ClusterWriter } from './cluster-writer.ts'
import { Commits } from './commits.ts'
import type { CompressedClusters } from './compressed.ts'
import type { Qcow2Header } from './header.ts'
import { type Mapping, runKind } from './mapping.ts'
import type { RefcountStore } from './refcounts.ts'
import { ZeroWriter } from './zero-writer.ts'

export type Qcow2Parts = {
  readonly file: RandomAccessFile
  readonly header: Qcow2Header
  readonly mapping: Mapping
  readonly compressed: CompressedClusters
  /** What unallocated clusters show; undefined for zeroes. */
  readonly backing: BlockDevice | undefined
  /** Closed with this device: a backing image that was opened for it alone. */
  readonly ownsBacking: boolean
  /** Undefined makes it read-only. */
  readonly refcounts: RefcountStore | undefined
  readonly sizeBytes: number
}

/** What a writable image has. */
type Writing = { readonly commits: Commits; readonly writer: ClusterWriter; readonly zeroer: ZeroWriter }

export class Qcow2Device implements BlockDevice {
  readonly header: Qcow2Header
  readonly sizeBytes: number
  readonly blockBytes: number = 512
  readonly readOnly: boolean
  readonly thin: boolean
  readonly #file: RandomAccessFile
  readonly #mapping: Mapping
  readonly #compressed: CompressedClusters
  readonly #backing: BlockDevice | undefined
  readonly #backingBytes: number
  readonly #ownsBacking: boolean
  readonly #clusterBytes: number
  readonly #writing: Writing | undefined

  constructor(parts: Qcow2Parts) {
    this.#file = parts.file
    this.header = parts.header
    this.#mapping = parts.mapping
    this.#compressed = parts.compressed
    this.#backing = parts.backing
    this.#backingBytes = parts.backing?.sizeBytes ?? 0
    this.#ownsBacking = parts.ownsBacking
    this.#clusterBytes = parts.mapping.clusterBytes
    this.sizeBytes = Math.ceil(parts.sizeBytes / this.blockBytes) * this.blockBytes
    this.readOnly = parts.refcounts === undefined
    this.thin = !this.readOnly
    this.#writing = parts.refcounts === undefined ? undefined : this.#prepareWriting(parts, parts.refcounts)
  }

  read(offset: number, target: Uint8Array): Pending {
    assertRange(this, offset, target.byteLength)
    return this.#read(offset, target)
  }

  lend(offset: number, bytes: number, piece: (bytes: Uint8Array) => void): boolean {
    assertRange(this, offset, bytes)
    if (this.#backing?.lend === undefined || offset + bytes > this.#backingBytes) return false
    const mapping = this.#mapping
    if (!mapping.find(offset, bytes) || mapping.kind !== runKind.backing || mapping.runBytes < bytes) return false
    return this.#backing.lend(offset, bytes, piece)
  }

  write(offset: number, source: Uint8Array): Pending {
    assertRange(this, offset, source.byteLength)
    return this.#writable().writer.write(offset, source)
  }

  flush(): Pending {
    return this.#writing?.commits.flush()
  }

  writeZeroes(offset: number, bytes: number, mayUnmap: boolean): Pending {
    assertRange(this, offset, bytes)
    return this.#writable().zeroer.zero(offset, bytes, mayUnmap)
  }

  discard(offset: number, bytes: number): Pending {
    assertRange(this, offset, bytes)
    if (this.readOnly) return undefined
    return this.writeZeroes(offset, bytes, true)
  }

  extent(offset: number, bytes: number): Extent | Promise<Extent> {
    assertRange(this, offset, bytes)
    const mapping = this.#mapping
    if (!mapping.find(offset, bytes)) {
      const loading = mapping.load(offset)
      return loading === undefined ? this.extent(offset, bytes) : loading.then(() => this.extent(offset, bytes))
    }
    if (mapping.kind !== runKind.backing) return { allocated: mapping.kind !== runKind.zero, bytes: mapping.runBytes }
    const below = Math.min(offset + mapping.runBytes, this.#backingBytes) - offset
    if (this.#backing === undefined || below <= 0) return { allocated: false, bytes: mapping.runBytes }
    return this.#backing.extent(offset, below)
  }

  async close(): Promise<void> {
    try {
      await this.#writing?.commits.finish()
    } finally {
      await this.#file.close()
      if (this.#ownsBacking) await this.#backing?.close()
    }
  }

  #prepareWriting({ file, header, mapping, compressed }: Qcow2Parts, refcounts: RefcountStore): Writing {
    const commits = new Commits(file, header, mapping, refcounts)
    const writer = new ClusterWriter({ file, mapping, refcounts, compressed, commits, shown: this })
    const { sizeBytes } = this
    const backingBytes = this.#backingBytes
    const { version } = header
    const zeroer = new ZeroWriter({ version, sizeBytes, backingBytes, mapping, refcounts, commits, writer })
    return { commits, writer, zeroer }
  }

  #writable(): Writing {
    if (this.#writing === undefined) throw readOnlyError(this.#file.path)
    this.#writing.commits.assertSound()
    return this.#writing
  }

  #read(offset: number, target: Uint8Array): Pending {
    const mapping = this.#mapping
    let pending: Pending
    try {
      for (let done = 0; done < target.byteLength; ) {
        if (!mapping.find(offset + done, target.byteLength - done)) {
          const rest = done === 0 ? target : target.subarray(done)
          const at = offset + done
          const loading = mapping.load(at)
          if (loading === undefined) continue
          return both(
            pending,
            loading.then(() => this.#read(at, rest)),
          )
        }
        const bytes = mapping.runBytes
        const part = bytes === target.byteLength ? target : target.subarray(done, done + bytes)
        pending = both(pending, this.#readRun(offset + done, part))
        done += bytes
      }
    } catch (error) {
      return failed(pending, error)
    }
    return pending
  }

  /** `part` is as long as the run that `find` just found. */
  #readRun(offset: number, part: Uint8Array): Pending {
    const mapping = this.#mapping
    switch (mapping.kind) {
      case runKind.backing:
        return this.#readBacking(offset, part)
      case runKind.zero:
        part.fill(0)
        return undefined
      case runKind.data:
        return this.#track(this.#file.read(mapping.host, part))
      case runKind.compressed: {
        const packed = mapping.compressedAt(mapping.entryHigh, mapping.entryLow)
        return this.#track(this.#compressed.read(packed, offset % this.#clusterBytes, part))
      }
    }
  }

  #readBacking(offset: number, part: Uint8Array): Pending {
    const below = Math.max(0, Math.min(part.byteLength, this.#backingBytes - offset))
    if (this.#backing === undefined || below === 0) {
      part.fill(0)
      return undefined
    }
    if (below === part.byteLength) return this.#backing.read(offset, part)
    part.fill(0, below)
    return this.#backing.read(offset, part.subarray(0, below))
  }

  #track(pending: Pending): Pending {
    return pending === undefined || this.#writing === undefined ? pending : this.#writing.commits.track(pending)
  }
}
