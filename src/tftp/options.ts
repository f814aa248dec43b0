/** What client and server agree on: RFC 2347 (the frame), 2348 (blksize), 2349 (timeout, tsize), 7440 (windowsize). */
import type { TftpLimits } from './limits.ts'
import type { Options } from './packet.ts'
import type { Terms } from './transfer.ts'

export type Agreement = {
  readonly terms: Terms
  /** What the OACK says: only what was asked for and understood. Empty: no OACK, DATA 1 answers the request. */
  readonly acknowledged: Options
}

type Wish = {
  readonly options: Options
  readonly fileBytes: number
  /** The file's own bound, for a client behind a small MTU. */
  readonly blockBytesMax: number
  readonly limits: TftpLimits
}

/** RFC 1350 §2: without a blksize. A file for a small MTU gets an OACK only if blksize was asked for; 512 fits any. */
const blockBytesDefault = 512
const blockBytesMin = 8

/** An option with a value that its RFC does not allow is left out of the OACK, as if it were unknown (RFC 2347). */
export function agree({ options, fileBytes, blockBytesMax, limits }: Wish): Agreement {
  const acknowledged = new Map<string, string>()
  let blockBytes = blockBytesDefault
  let windowBlocks = 1
  let retryAfterMs = limits.retryAfterMs
  let retryAfterMsMax = limits.retryAfterMsMax
  for (const [name, text] of options) {
    const value = decimal(text)
    if (value === undefined) continue
    switch (name) {
      case 'blksize':
        if (value < blockBytesMin) continue
        blockBytes = Math.min(value, Math.max(blockBytesMin, Math.min(blockBytesMax, limits.blockBytesMax)))
        acknowledged.set(name, String(blockBytes))
        break
      case 'tsize':
        acknowledged.set(name, String(fileBytes))
        break
      case 'timeout':
        // RFC 2349: the value is taken as it is, or the option is left out.
        if (value < 1 || value > 255) continue
        retryAfterMs = value * 1_000
        retryAfterMsMax = retryAfterMs
        acknowledged.set(name, String(value))
        break
      case 'windowsize':
        if (value < 1 || value > 0xffff) continue
        windowBlocks = Math.min(value, limits.windowBlocksMax)
        acknowledged.set(name, String(windowBlocks))
        break
      default:
    }
  }
  const { retriesMax } = limits
  return { terms: { fileBytes, blockBytes, windowBlocks, retryAfterMs, retryAfterMsMax, retriesMax }, acknowledged }
}

function decimal(text: string): number | undefined {
  return /^\d{1,10}$/.test(text) ? Number(text) : undefined
}
