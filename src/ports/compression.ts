/** Decompression of one bounded piece, for the clusters of a disk image. */
export interface Compression {
  /**
   * Fills `target` from a raw deflate stream (RFC 1951, no zlib header). What follows the stream's end in `source` is
   * ignored, and so is output past `target`. Undefined when it was done at once. `source` and `target` are lent until done.
   * @throws {OperationError} imageCorrupt, if the stream is bad or gives too little
   */
  inflateRaw(source: Uint8Array, target: Uint8Array): Promise<void> | undefined
  /** The same for exactly one zstd frame (RFC 8878). */
  unzstd(source: Uint8Array, target: Uint8Array): Promise<void> | undefined
}
