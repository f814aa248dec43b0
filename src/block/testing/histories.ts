/** What each sector of a disk may hold after a crash, when every write carries a number of its own. */
import { assert } from '../../base/assert.ts'

export const sectorBytes: number = 512

type Version = { readonly tag: number; state: 'underway' | 'done' | 'failed' }

/** What each sector may hold: its last flushed content, and all that was written since. */
export class Histories {
  readonly #sectors: Version[][]

  constructor(tags: readonly number[]) {
    this.#sectors = tags.map((tag) => [{ tag, state: 'done' }])
  }

  at(sector: number): Version[] {
    const history = this.#sectors[sector]
    assert(history !== undefined, 'a sector lies on the disk')
    return history
  }

  isBusy(first: number, count: number): boolean {
    for (let i = first; i < first + count; i++) if (this.at(i).some(({ state }) => state === 'underway')) return true
    return false
  }

  begin(first: number, count: number, tag: number): (state: 'done' | 'failed') => void {
    const versions: Version[] = []
    for (let i = first; i < first + count; i++) {
      const version: Version = { tag, state: 'underway' }
      this.at(i).push(version)
      versions.push(version)
    }
    return (state) => {
      for (const version of versions) version.state = state
    }
  }

  /** Called when a flush begins; what it returns when the flush has ended well. */
  flushing(): () => void {
    const ended = this.#sectors.map((history) => history.findLast(({ state }) => state === 'done'))
    return () => {
      for (const [i, history] of this.#sectors.entries()) {
        const last = ended[i]
        const index = last === undefined ? -1 : history.indexOf(last)
        if (index > 0) history.splice(0, index)
      }
    }
  }

  /**
   * Holds what a disk shows against what it may show, and takes that for what the next life begins with.
   * @throws {Error} naming the sector that is wrong
   */
  verify(content: Uint8Array, what: string): void {
    for (const [i, history] of this.#sectors.entries()) {
      const tag = this.#expect(history, content, i, i, what)
      history.splice(0, history.length, { tag, state: 'done' })
    }
  }

  /**
   * What a read of so many sectors from `first` may show: taken when it begins, held against what it gave when it ends.
   * Sectors that something was done to meanwhile may show anything.
   */
  reading(first: number, count: number): (content: Uint8Array, what: string) => void {
    const before = Array.from({ length: count }, (_, i) => {
      const last = this.at(first + i).at(-1)
      return last?.state === 'underway' ? undefined : last
    })
    return (content, what) => {
      for (let i = 0; i < count; i++) {
        const history = this.at(first + i)
        if (before[i] === undefined || history.at(-1) !== before[i]) continue
        const since = history.findLastIndex(({ state }) => state === 'done')
        this.#expect(history.slice(Math.max(0, since)), content, i, first + i, what)
      }
    }
  }

  #expect(history: readonly Version[], content: Uint8Array, at: number, sector: number, what: string): number {
    const tag = tagOf(content, at * sectorBytes)
    if (tag === undefined || !history.some((version) => version.tag === tag)) {
      const allowed = history.map((version) => version.tag).join(', ')
      throw new Error(`${what}: sector ${sector} holds ${tag ?? 'a mixture'}, not one of ${allowed}`)
    }
    return tag
  }
}

/** A sector that is full of its number. */
export function sectorOf(tag: number): Uint8Array {
  return new Uint8Array(new Uint16Array(sectorBytes / 2).fill(tag).buffer)
}

function tagOf(content: Uint8Array, offset: number): number | undefined {
  const words = new Uint32Array(content.buffer, content.byteOffset + offset, sectorBytes / 4)
  const first = words[0] ?? 0
  if (first >>> 16 !== (first & 0xffff)) return undefined
  for (let i = 1; i < words.length; i++) if (words[i] !== first) return undefined
  return first & 0xffff
}
