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

/** QEMU's own bounds on an image (block/qcow2.h): what it refuses no tool makes. */
export const clusterBitsMax: number = 21
export const l1BytesMax: number = 32 * 1024 * 1024
export const refcountTableBytesMax: number = 8 * 1024 * 1024
export const snapshotsMax: number = 65_536
export const snapshotTableBytesMax: number = 16 * 1024 * 1024
export const backingNameBytesMax: number = 1023

/** 4 EiB would be QEMU's; past 2^52 a byte offset is no exact number here. */
export const qcow2SizeBytesMax: number = 2 ** 52

/** How many images may stand on each other. A chain of versions is a handful. */
export const backingChainMax: number = 32

/** L2 tables are read and kept in pieces of this: 4 KiB of extended entries of 128 KiB clusters map 32 MiB of disk. */
export const tableSliceBytes: number = 4096

/** Clean pieces of L2 tables kept for each open image. 16 map 512 MiB of a clone; a boot touches less. */
export const tableSlicesKept: number = 16

/** Changed pieces of L2 tables above which a clone starts to write them by itself, and above which writes wait for it. */
export const dirtyTableBytesSoft: number = 4 * 1024 * 1024
export const dirtyTableBytesHard: number = 8 * 1024 * 1024

/** Unpacked clusters kept for each image with compressed ones (at least two): readers come in steps smaller than a cluster. */
export const unpackedBytesKept: number = 1024 * 1024

/** Free stretches between used clusters that are remembered for reuse; what is beyond is found at the next open. */
export const freeRangesMax: number = 65_536

/** Clusters that a check counts: 64 TiB of 64 KiB clusters, in pages made when needed. */
export const checkedClustersMax: number = 2 ** 30

/** Faults that a check describes in words; the rest are only counted. */
export const describedFaultsMax: number = 100

/** The cache keeps and drops memory in steps of this, or of a quarter of itself if that is less. */
export const cacheSegmentBytesMax: number = 8 * 1024 * 1024

/** What the cache counts for knowing where 1 MiB of an image is. */
export const cacheLeafBytes: number = 1280

/** How far the cache reads ahead of somebody who reads in order: this at first, doubled each time, up to the second. */
export const readAheadBytesFirst: number = 128 * 1024
export const readAheadBytesMax: number = 1024 * 1024

/** Acknowledged writes that a remote disk may still lose, kept for writing them again: a flush is begun at half of it. */
export const unflushedBytesMax: number = 32 * 1024 * 1024
export const unflushedWritesMax: number = 8_192

/** Kept writes that are written again at once when a remote disk is back. */
export const replaysInFlight: number = 16

/** How long whoever asks a remote disk that is away waits before it is told so: less than an initiator's own patience. */
export const awayPatienceMs: number = 20_000

/** Between two attempts to reach a remote disk: at first, doubled each time, up to the second. */
export const reconnectAfterMsMin: number = 100
export const reconnectAfterMsMax: number = 5_000

/** Sequential readers of one image that are told apart. */
export const readAheadStreamsMax: number = 64

/** What the cache counts for knowing which of 16 MiB of an image were read once and not kept. */
export const cacheTouchedBytes: number = 640

/** The cache reads from below in steps of at most this: who waits for the disk waits for one such step of another at most. */
export const fetchBytesMax: number = 256 * 1024

/**
 * Reads of one image that may wait for its disk at once, and how many of them may be for what nobody has asked for yet. Node
 * has 4 threads for that by default; `bin/slipway` asks for 16, so that one dead disk leaves threads for the others.
 */
export const fetchesInFlightMax: number = 8
export const fetchesAheadMax: number = 4

/** A boot's trace: stretches of the disk, and bytes of the disk. A Debian reads some 100 MB in some 3,000 stretches. */
export const traceRangesMax: number = 65_536
export const traceBytesMax: number = 1024 * 1024 * 1024
/** Ten bytes a stretch would be much. */
export const traceFileBytesMax: number = 1024 * 1024

/** A trace is fetched in steps of at most this, with a turn for everybody else in between, and so many steps at once. */
export const traceStepBytes: number = 1024 * 1024
export const traceFetchesMax: number = 8

/** A lazy file is fetched and remembered in chunks of this: a boot reads in pieces of 4 to 256 KiB, near each other. */
export const lazyChunkBytes: number = 128 * 1024

/** Chunks that one request fetches, and requests at once to one server. */
export const lazyChunksPerFetchMax: number = 8
export const lazyFetchesMax: number = 8

/** What was fetched is put on record after so many chunks, or this long after the first of them. */
export const lazyRecordChunks: number = 256
export const lazyRecordMs: number = 2_000

/** What the map of a lazy file says of where it comes from. */
export const lazyDescriptorBytesMax: number = 16 * 1024
