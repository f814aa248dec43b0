/** One line on a terminal that tells how far something has come; nothing where nobody looks. */
import { formatBytes } from '../base/units.ts'

const redrawMs = 100

export class ProgressLine {
  readonly #startedMs: number = performance.now()
  #drawnMs = 0

  show(doneBytes: number, totalBytes: number | undefined): void {
    const nowMs = performance.now()
    if (process.stderr.isTTY !== true || nowMs - this.#drawnMs < redrawMs) return
    this.#drawnMs = nowMs
    const rate = `${formatBytes(Math.round((doneBytes * 1000) / Math.max(1, nowMs - this.#startedMs)))}/s`
    const share = totalBytes === undefined || totalBytes === 0 ? undefined : Math.min(1, doneBytes / totalBytes)
    const bar =
      share === undefined ? '' : `[${'#'.repeat(Math.round(share * 30)).padEnd(30)}] ${Math.floor(share * 100)}%  `
    process.stderr.write(`\r\x1b[K${bar}${formatBytes(doneBytes)}  ${rate}`)
  }

  clear(): void {
    if (this.#drawnMs > 0) process.stderr.write('\r\x1b[K')
  }
}
