/** Part of a file, on its way to a client. */
import type { TcpConnection } from '../ports/tcp.ts'
import { chunksUnderWayMax, fileChunkBytes } from './limits.ts'
import type { HttpFile } from './policy.ts'

export type FileSenderTerms = {
  readonly file: HttpFile
  readonly from: number
  readonly to: number
  readonly tcp: TcpConnection
  readonly chunks: { takeChunk(): Uint8Array; giveChunk(chunk: Uint8Array): void }
  readonly taken: (chunkBytes: number, isAll: boolean) => void
  readonly failed: (error: unknown) => void
}

/** Sends part of a file, reading only as fast as the client takes it: at most `chunksUnderWayMax` chunks are filled. */
export class FileSender {
  readonly #terms: FileSenderTerms
  #offset: number
  #underWay = 0
  #reading = false
  #over = false
  #closed = false

  constructor(terms: FileSenderTerms) {
    this.#terms = terms
    this.#offset = terms.from
  }

  send(): void {
    const { file, to, chunks } = this.#terms
    while (!this.#over && !this.#reading && this.#underWay < chunksUnderWayMax && this.#offset < to) {
      const chunk = chunks.takeChunk()
      const bytes = Math.min(fileChunkBytes, to - this.#offset)
      const part = bytes === chunk.byteLength ? chunk : chunk.subarray(0, bytes)
      this.#underWay++
      let pending: Promise<void> | undefined
      try {
        pending = file.read(this.#offset, part)
      } catch (error) {
        this.#fail(chunk, error)
        return
      }
      this.#offset += bytes
      if (pending === undefined) this.#write(chunk, part)
      else {
        this.#reading = true
        pending.then(
          () => {
            this.#reading = false
            this.#write(chunk, part)
            this.send()
          },
          (error: unknown) => {
            this.#reading = false
            this.#fail(chunk, error)
          },
        )
      }
    }
  }

  /** The client left. The file is closed when no read is under way any more. */
  abandon(): void {
    this.#over = true
    this.#closeWhenQuiet()
  }

  #write(chunk: Uint8Array, part: Uint8Array): void {
    if (this.#over) {
      this.#giveBack(chunk)
      return
    }
    let isInWrite = true
    this.#terms.tcp.write(part, () => {
      // Inside the call: the connection is closed and takes nothing any more.
      if (isInWrite) this.#over = true
      this.#giveBack(chunk)
      if (this.#over) return
      const isAll = this.#underWay === 0 && this.#offset === this.#terms.to
      if (isAll) this.abandon()
      this.#terms.taken(part.byteLength, isAll)
      this.send()
    })
    isInWrite = false
  }

  #fail(chunk: Uint8Array, error: unknown): void {
    const wasOver = this.#over
    this.#over = true
    this.#giveBack(chunk)
    if (!wasOver) this.#terms.failed(error)
  }

  #giveBack(chunk: Uint8Array): void {
    this.#terms.chunks.giveChunk(chunk)
    this.#underWay--
    if (this.#over) this.#closeWhenQuiet()
  }

  #closeWhenQuiet(): void {
    if (this.#closed || this.#reading) return
    this.#closed = true
    this.#terms.file.close?.()
  }
}
