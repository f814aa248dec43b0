import type { Compression } from '../../ports/compression.ts'
import type { RandomAccessFile } from '../../ports/file.ts'
import type { Pending } from '../device.ts'
import { unpackedBytesKept } from '../limits.ts'
import { after } from '../pending.ts'
import { corrupt } from './header.ts'
import { zstdFrameBytes } from './zstd-frame.ts'

/** Unpacked clusters, the last few kept; everybody who wants one that is being unpacked waits for the same work. */
export class CompressedClusters {
  readonly #file: RandomAccessFile
  readonly #compression: Compression
  readonly #method: 'deflate' | 'zstd'
  readonly #clusterBytes: number
  readonly #kept: number
  /** By offset in the file; least recently used first. */
  readonly #unpacked = new Map<number, Uint8Array>()
  readonly #unpacking = new Map<number, Promise<void>>()

  constructor(file: RandomAccessFile, compression: Compression, method: 'deflate' | 'zstd', clusterBytes: number) {
    this.#file = file
    this.#compression = compression
    this.#method = method
    this.#clusterBytes = clusterBytes
    this.#kept = Math.max(2, Math.floor(unpackedBytesKept / clusterBytes))
  }

  /** Copies what is at `within` the cluster that `packed` unpacks to. */
  read(packed: { readonly offset: number; readonly bytes: number }, within: number, target: Uint8Array): Pending {
    const cluster = this.#unpacked.get(packed.offset)
    if (cluster !== undefined) {
      this.#unpacked.delete(packed.offset)
      this.#unpacked.set(packed.offset, cluster)
      target.set(cluster.subarray(within, within + target.byteLength))
      return undefined
    }
    return after(this.#unpack(packed.offset, packed.bytes), () => this.read(packed, within, target))
  }

  /** The bytes at `offset` of the file are compressed data no more. */
  forget(offset: number): void {
    this.#unpacked.delete(offset)
  }

  #unpack(offset: number, bytes: number): Pending {
    const unpacking = this.#unpacking.get(offset)
    if (unpacking !== undefined) return unpacking
    const source = new Uint8Array(bytes)
    const cluster = new Uint8Array(this.#clusterBytes)
    const reading = this.#file.read(offset, source)
    const pending = after(reading, () => this.#decompress(source, cluster))
    const keep = (): undefined => {
      this.#unpacking.delete(offset)
      this.#unpacked.set(offset, cluster)
      for (const old of this.#unpacked.keys()) {
        if (this.#unpacked.size <= this.#kept) break
        this.#unpacked.delete(old)
      }
    }
    if (pending === undefined) return keep()
    const unpacked = pending.then(keep, (error: unknown) => {
      this.#unpacking.delete(offset)
      throw error
    })
    this.#unpacking.set(offset, unpacked)
    return unpacked
  }

  #decompress(source: Uint8Array, cluster: Uint8Array): Pending {
    if (this.#method === 'deflate') return this.#compression.inflateRaw(source, cluster)
    // The last sector's rest belongs to somebody else's cluster, and a zstd decoder would take it for a second frame.
    const frameBytes = zstdFrameBytes(source)
    if (frameBytes === undefined) throw corrupt(this.#file.path, 'a compressed cluster is no zstd frame')
    return this.#compression.unzstd(source.subarray(0, frameBytes), cluster)
  }
}
