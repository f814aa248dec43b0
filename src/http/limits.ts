/** What one client, or all of them together, may make this server hold. Reaching a limit is a normal outcome. */
export type HttpLimits = {
  /** Request line and header fields. Firmware sends 200 bytes, a browser with cookies a few thousand. Beyond: 431. */
  readonly headBytesMax: number
  readonly headerFieldsMax: number
  /** Of a request: reports that a machine posts, not files. Beyond: 413. */
  readonly bodyBytesMax: number
  /** Then the connection is closed, politely: what leaks in a long-lived one ends with it. */
  readonly requestsPerConnectionMax: number
  readonly connectionsMax: number
  /** A machine has two or three; machines behind one NAT share them. */
  readonly connectionsPerAddressMax: number
  /** Between requests. iPXE keeps its connection while a person looks at a menu, and opens another when it was closed. */
  readonly idleMs: number
  /** From the first byte of a request to its last, however slowly they drip. Beyond: 408. */
  readonly requestMs: number
  /** For which the client takes nothing of an answer. */
  readonly stallMs: number
  /**
   * After the last answer: for the client's FIN. The kernel may still hold megabytes of the answer for a slow client, and
   * to end the connection from our side would throw them away. Where connectionsMax is reached these make room first.
   */
  readonly lingerMs: number
  /** When the server is closed: for answers under way. */
  readonly graceMs: number
}

export const defaultLimits: HttpLimits = {
  headBytesMax: 16_384,
  headerFieldsMax: 100,
  bodyBytesMax: 65_536,
  requestsPerConnectionMax: 10_000,
  connectionsMax: 1_024,
  connectionsPerAddressMax: 128,
  idleMs: 75_000,
  requestMs: 15_000,
  stallMs: 60_000,
  lingerMs: 120_000,
  graceMs: 2_000,
}

/** One read of a big file, one write to the socket. Two of them are under way for a client: one being filled. */
export const fileChunkBytes: number = 262_144
export const chunksUnderWayMax: number = 2
/** Answers that a pipelining client has not taken yet; above this its next request waits. */
export const queuedBytesMax: number = 1_048_576
/** Buffers kept, of either kind, for the next answers. */
export const idleChunksMax: number = 16
/** A body up to this size is joined with its head, and leaves with it in one piece. */
export const joinedBodyBytesMax: number = 32_768
export const answerBufferBytes: number = joinedBodyBytesMax + 4_096
