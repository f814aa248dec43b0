/**
 * Keeps COMPARE AND WRITE, ORWRITE and WRITE ATOMIC whole: while one of them works on a range, nobody else reads or
 * writes there, and it begins only when what was in flight there has ended. SBC-3 §5.2, §4.29.
 *
 * Everybody waits only for those who came before, so nobody waits for ever. A device that answers at once leaves no one
 * in flight: `isOpen` is then all that a read or write looks at.
 */
interface Passage {
  readonly start: number
  readonly end: number
  readonly exclusive: boolean
  readonly done: Promise<void>
}

export interface Held {
  release(): void
}

export class RangeGate {
  readonly #passages = new Set<Passage>()
  #exclusiveCount = 0

  /** Nothing exclusive is held or wanted: go ahead, and `follow` what does not end at once. */
  get isOpen(): boolean {
    return this.#exclusiveCount === 0
  }

  /** An operation that went ahead and is still in flight. Its failure is the caller's to see. */
  follow(start: number, bytes: number, pending: Promise<unknown>): void {
    const done = pending.then(nothing, nothing)
    const passage: Passage = { start, end: start + bytes, exclusive: false, done }
    this.#passages.add(passage)
    void done.then(() => this.#passages.delete(passage))
  }

  /** Resolves when the range is the caller's: its alone if `exclusive`, else together with others that share. */
  async enter(start: number, bytes: number, exclusive: boolean): Promise<Held> {
    const before: Promise<void>[] = []
    for (const other of this.#passages) {
      if (other.start < start + bytes && start < other.end && (exclusive || other.exclusive)) before.push(other.done)
    }
    const { promise, resolve } = Promise.withResolvers<void>()
    const passage: Passage = { start, end: start + bytes, exclusive, done: promise }
    this.#passages.add(passage)
    if (exclusive) this.#exclusiveCount++
    await Promise.all(before)
    return {
      release: () => {
        if (!this.#passages.delete(passage)) return
        if (exclusive) this.#exclusiveCount--
        resolve()
      },
    }
  }
}

function nothing(): void {}
