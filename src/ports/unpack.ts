/** How a file may be compressed that is not ours: initramfs archives come in all of these. */
export type Packing = 'gzip' | 'zstd' | 'xz' | 'lzma' | 'bzip2' | 'lz4' | 'lzop'

export interface Unpacker {
  /**
   * What `packed` holds; bytes after its end are ignored. Undefined when this machine has no program for that packing.
   * @throws {OperationError} unpackFailed: damaged, or more than `bytesMax`
   */
  unpack(packing: Packing, packed: Uint8Array, bytesMax: number): Promise<Uint8Array | undefined>
}
