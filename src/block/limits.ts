/** What the block layers take at most. Reaching one is a normal outcome with its own error. */

/** Zeroes are written from one shared buffer of this size where a file cannot punch holes. */
export const zeroChunkBytes: number = 256 * 1024

/** Granularity of the ephemeral layer: the page size of every guest's file system, so that most writes copy nothing. */
export const overlayBlockBytes: number = 4096

/** Blocks whose state one leaf of the ephemeral layer's map holds: 16 MiB of disk in 1 KiB of memory, made when touched. */
export const overlayLeafBlocks: number = 4096

/** A memory file takes memory in steps of this. */
export const memorySlabBytes: number = 64 * 1024

/** Above this an in-memory device is refused: it is one allocation. */
export const memoryDeviceBytesMax: number = 4 * 1024 * 1024 * 1024
