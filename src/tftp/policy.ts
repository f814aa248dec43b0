/** What the TFTP server asks of whoever knows which files there are, and what it tells whoever follows a boot. */
import type { Endpoint } from '../ports/udp.ts'

/** One file, open for one transfer. */
export interface TftpFile {
  readonly sizeBytes: number
  /**
   * Fills all of `target` from `offset`; never asked for a byte at or past `sizeBytes`.
   * Undefined when the bytes are already there; a promise when the disk is slow.
   * @throws {OperationError} in the promise or at once: the client gets ERROR 0 and the transfer ends
   */
  read(offset: number, target: Uint8Array): Promise<void> | undefined
  /** Called once, when the transfer is over, whatever its outcome. */
  close?(): void
  /** Never offer more than this many bytes a block: the client sits behind a small MTU. */
  readonly blockBytesMax?: number
  /** Keep below this rate: U-Boot 2023.01's virtio-net stops receiving for good after a burst. */
  readonly paceBytesPerSecond?: number
}

export interface TftpCatalogue {
  /**
   * `name` is normal already: slashes forward and single, none in front, no `.` or `..` (names that have one are not
   * asked for). It is to be looked up, never joined to a directory. Undefined: there is no such file for this client.
   */
  find(name: string, from: Endpoint): TftpFile | undefined | Promise<TftpFile | undefined>
}

/** `complete`: every block was acknowledged. */
export type TftpOutcome =
  | 'complete'
  /** All was sent and the client fell silent before the last acknowledgement: many boot ROMs just jump. */
  | 'unconfirmed'
  /** The client took the option acknowledgement and ended with ERROR 8 or 0: it wanted to know the size (EDK2, PXE ROMs). */
  | 'probed'
  | 'timedOut'
  | 'aborted'
  /** Our side could not read the file. */
  | 'unreadable'
  /** It had not moved for a while, and its place was needed. */
  | 'evicted'
  /** The server was closed. */
  | 'stopped'

export type TftpEvent =
  | {
      readonly kind: 'transferStarted'
      readonly from: Endpoint
      readonly name: string
      readonly fileBytes: number
      readonly blockBytes: number
      readonly windowBlocks: number
    }
  | {
      readonly kind: 'transferEnded'
      readonly from: Endpoint
      readonly name: string
      readonly outcome: TftpOutcome
      readonly ackedBytes: number
      readonly durationMs: number
      /** The client's or our own words, where there are some. */
      readonly detail?: string
    }
  | { readonly kind: 'notFound'; readonly from: Endpoint; readonly name: string }
  | {
      readonly kind: 'refused'
      readonly from: Endpoint
      readonly name: string
      readonly reason: 'writeRequest' | 'badMode' | 'badName' | 'netasciiTooLarge' | 'busy'
    }
  /** Our side: the catalogue could not be asked, or there was no socket to be had. The client got ERROR 0. */
  | { readonly kind: 'failed'; readonly from: Endpoint; readonly name: string; readonly detail: string }
  /** Bytes that are no TFTP request; `detail` says where and why. */
  | { readonly kind: 'malformed'; readonly from: Endpoint; readonly detail: string }

export type TftpListener = (event: TftpEvent) => void
