/**
 * Work that may have ended already. `undefined` is done; a promise goes on. Everything here keeps one promise to callers:
 * lent buffers are in nobody's hands any more when an operation ends, even if it ends badly.
 */
import type { Pending } from './device.ts'

/** `next` once `pending` has ended well: at once if it already has. */
export function after(pending: Pending, next: () => Pending): Pending {
  return pending === undefined ? next() : (pending.then(next) as Promise<void>)
}

/** Ends when both have; a failure is told only when the other has ended too, because buffers are lent until then. */
export function both(a: Pending, b: Pending): Pending {
  if (a === undefined) return b
  if (b === undefined) return a
  return waitBoth(a, b)
}

/** The part that failed at once, told after the parts that are still under way. */
export function failed(pending: Pending, error: unknown): Pending {
  if (pending === undefined) throw error
  const tell = (): never => {
    throw error
  }
  return pending.then(tell, tell)
}

/** `undo` whether it ends well or badly, then the same end. */
export function lastly(pending: Promise<void>, undo: () => void): Promise<void> {
  return pending.then(undo, (error: unknown) => {
    undo()
    throw error
  })
}

async function waitBoth(a: Promise<void>, b: Promise<void>): Promise<void> {
  const [first, second] = await Promise.allSettled([a, b])
  if (first.status === 'rejected') throw first.reason
  if (second.status === 'rejected') throw second.reason
}
