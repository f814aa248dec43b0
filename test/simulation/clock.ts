import type { Clock, Timer } from '../../src/ports/clock.ts'

type Event = { readonly atMs: number; readonly order: number; readonly fire: () => void; cancelled: boolean }

/** Time that passes only when `run` says so, and then at once: the soonest event first, equal times in order of asking. */
export class VirtualClock implements Clock {
  #nowMs = 0
  #order = 0
  /** A binary heap, soonest first. */
  readonly #events: Event[] = []

  nowMs(): number {
    return this.#nowMs
  }

  wallMs(): number {
    return 1_767_225_600_000 + this.#nowMs
  }

  after(afterMs: number, fire: () => void): Timer {
    const event: Event = { atMs: this.#nowMs + Math.max(0, afterMs), order: this.#order++, fire, cancelled: false }
    this.#push(event)
    return {
      cancel: () => {
        event.cancelled = true
      },
    }
  }

  /**
   * Fires events until none is left, `until` is true or `limitMs` of virtual time have passed. Promises made on the way
   * are let settle between events. Returns true when it was `until` that ended it.
   */
  async run(until: () => boolean, limitMs: number): Promise<boolean> {
    const endMs = this.#nowMs + limitMs
    for (;;) {
      await settle()
      if (until()) return true
      const event = this.#pop()
      if (event === undefined) return false
      if (event.atMs > endMs) {
        this.#push(event)
        this.#nowMs = endMs
        return false
      }
      this.#nowMs = event.atMs
      event.fire()
    }
  }

  #push(event: Event): void {
    const heap = this.#events
    heap.push(event)
    for (let i = heap.length - 1; i > 0; ) {
      const parent = (i - 1) >> 1
      if (!sooner(heap[i], heap[parent])) return
      swap(heap, i, parent)
      i = parent
    }
  }

  #pop(): Event | undefined {
    const heap = this.#events
    for (;;) {
      const first = heap[0]
      const last = heap.pop()
      if (first === undefined || last === undefined) return undefined
      if (heap.length > 0) {
        heap[0] = last
        for (let i = 0; ; ) {
          const left = 2 * i + 1
          const child = sooner(heap[left + 1], heap[left]) ? left + 1 : left
          if (!sooner(heap[child], heap[i])) break
          swap(heap, i, child)
          i = child
        }
      }
      if (!first.cancelled) return first
    }
  }
}

function sooner(a: Event | undefined, b: Event | undefined): boolean {
  if (a === undefined || b === undefined) return a !== undefined
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order)
}

function swap(heap: Event[], i: number, j: number): void {
  const [a, b] = [heap[i], heap[j]]
  if (a === undefined || b === undefined) return
  heap[i] = b
  heap[j] = a
}

/** Lets promise chains of up to this many steps run; no room's shell awaits deeper in one go. */
const promiseStepsMax = 12
async function settle(): Promise<void> {
  for (let i = 0; i < promiseStepsMax; i++) await undefined
}
