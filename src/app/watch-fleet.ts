/**
 * `slipway release` and its like are other processes: they change the store, and a running server has to notice. It asks the
 * store's change counter a few times a second. That needs no socket to protect, misses nothing that was committed, and is as
 * good after a restart; SQLite answers from shared memory, without reading the file.
 */
import type { FleetStore } from '../fleet/store.ts'
import type { Clock } from '../ports/clock.ts'

/** What a person at the keyboard takes for "at once". */
const everyMs = 200

/** Returns what stops it. */
export function watchFleet(store: FleetStore, clock: Clock, changed: () => void): () => void {
  let known = store.foreignChanges()
  let timer = clock.after(everyMs, look)
  function look(): void {
    timer = clock.after(everyMs, look)
    const now = store.foreignChanges()
    if (now === known) return
    known = now
    changed()
  }
  return () => timer.cancel()
}
