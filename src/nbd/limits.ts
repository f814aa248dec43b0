/** What one server may make this client hold or wait for. Reaching a limit ends the connection, with a reason. */
import type { NbdTerms } from './negotiation.ts'

/** An export's name and a server's error text: the specification's bound on any string. */
export const stringBytesMax: number = 4_096

/** One reply while options are agreed on: a string of the longest kind, with room for what stands around it. */
export const optionReplyBytesMax: number = 8_192

/** Replies to one option: a server that describes itself for ever is not listened to. */
export const repliesPerOptionMax: number = 64

/** From connecting to the first request. */
export const handshakeMsMax: number = 10_000

/** No byte for this long while requests wait: the server, or the network, is gone without having said so. */
export const silenceMsMax: number = 30_000

/** What is not data, in one chunk: an error with its text, or the state of one extent. */
export const chunkBytesMax: number = 8_192

/** Pieces in which one read may be answered. */
export const piecesPerReadMax: number = 4_096

/** What a server takes that says nothing of sizes ("Size constraints": 2^25); more is not asked of any. */
export const payloadBytesMax: number = 32 * 1024 * 1024

/** Zeroes and questions about extents carry no data, so they may be larger; their length has 32 bits. */
export const effectBytesMax: number = 1024 * 1024 * 1024

/** "Size constraints": a smallest block larger than this is not allowed. */
export const minimumBlockBytesMax: number = 65_536

export const sizesUnlessTold: Pick<NbdTerms, 'minimumBlockBytes' | 'preferredBlockBytes' | 'transferBytesMax'> = {
  minimumBlockBytes: 1,
  preferredBlockBytes: 4_096,
  transferBytesMax: payloadBytesMax,
}
