import { lastly } from './pending.ts'

/**
 * Ranges of units (blocks, clusters) that somebody is changing and must finish first. Two writes of 512 bytes into one
 * untouched block of 4 KiB both fill the rest of it from below: without an order between them one would undo the other.
 */
export class RangeLocks {
  readonly #held: Held[] = []

  get heldCount(): number {
    return this.#held.length
  }

  /** Resolves (never rejects) when the first holder of a unit in first..last is done; undefined if nobody holds one. */
  conflict(first: number, last: number): Promise<void> | undefined {
    for (const held of this.#held) if (held.first <= last && held.last >= first) return held.released
    return undefined
  }

  /** Holds first..last until `work` ends. Returns `work`, ending after the release. */
  hold(first: number, last: number, work: Promise<void>): Promise<void> {
    let held: Held
    const ended = lastly(work, () => {
      this.#held.splice(this.#held.indexOf(held), 1)
    })
    held = { first, last, released: ended.catch(() => undefined) }
    this.#held.push(held)
    return ended
  }
}

type Held = { readonly first: number; readonly last: number; readonly released: Promise<void> }
