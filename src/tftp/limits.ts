/** What one client, or all of them together, may make this server hold. Reaching a limit is a normal outcome. */
export type TftpLimits = {
  /** Transfers at once, each with a socket and a 64 KiB buffer (twice that for the largest blocks): a boot storm of a rack. */
  readonly transfersMax: number
  /** Transfers at once from one address: a machine has one or two; machines behind one NAT share it. */
  readonly transfersPerAddressMax: number
  /** A transfer that has not moved for this long gives its place to a newcomer when there is none left. */
  readonly evictAfterMs: number
  /** RFC 2348 allows 65464, the most a UDP packet carries; a `TftpFile` may say less. */
  readonly blockBytesMax: number
  /** RFC 7440 allows 65535. 64 blocks of 1468 bytes fill 1 Gbit/s at 0.7 ms; more would only overrun small receivers. */
  readonly windowBlocksMax: number
  /** The first silence that makes us send again; doubles each time, unless the client asked for its own (RFC 2349). */
  readonly retryAfterMs: number
  readonly retryAfterMsMax: number
  /** Silences in a row before giving up: 1 + 2 + 4 + 8 + 8 + 8 + 8 s. Firmware does not answer while it draws a logo. */
  readonly retriesMax: number
  /** Netascii changes the size of a file, so it has to be converted whole before the first byte leaves. */
  readonly netasciiBytesMax: number
}

export const defaultLimits: TftpLimits = {
  transfersMax: 256,
  transfersPerAddressMax: 32,
  evictAfterMs: 3_000,
  blockBytesMax: 65_464,
  windowBlocksMax: 64,
  retryAfterMs: 1_000,
  retryAfterMsMax: 8_000,
  retriesMax: 6,
  netasciiBytesMax: 1_048_576,
}

/** Of a transfer: one packet, and what one read of the file puts behind it. Larger blocks get a larger one, for two. */
export const transferBufferBytes: number = 65_536
/** Kept for the next transfers. */
export const idleBuffersMax: number = 32
