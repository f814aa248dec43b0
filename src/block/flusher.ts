import type { Pending } from './device.ts'

/**
 * Group commit: however many ask while one flush runs, one more runs for all of them. A flush that failed stays failed:
 * the kernel drops pages that it could not write and says so once, so a later success would be a lie.
 */
export class Flusher {
  readonly #run: () => Pending
  #running: Promise<void> | undefined
  #next: Promise<void> | undefined

  /** `run` puts everything that ended before it was called on stable storage. */
  constructor(run: () => Pending) {
    this.#run = run
  }

  flush(): Pending {
    // Whoever asks while one runs may have written after it began, and cannot share it.
    if (this.#running !== undefined) {
      this.#next ??= this.#running.then(
        () => this.#start(),
        () => this.#start(),
      ) as Promise<void>
      return this.#next
    }
    return this.#start()
  }

  /**
   * Too much waits for a flush that nobody has asked for: begins one, if none runs. Pending only for who must wait, because no more may
   * be taken before it has ended.
   */
  relieve(mustWait: boolean): Pending {
    if (!mustWait && this.#running !== undefined) return undefined
    const flushing = this.flush()
    if (flushing === undefined || mustWait) return flushing
    // Nothing is lost when it fails: what it did not cover stays to be flushed, and the guest's next flush says why.
    flushing.catch(() => undefined)
    return undefined
  }

  #start(): Pending {
    this.#next = undefined
    this.#running = undefined
    const pending = this.#run()
    if (pending === undefined) return undefined
    // While somebody waits for the next one, nobody may slip in before it: two never run at once.
    const ended = (): void => {
      if (this.#running === pending && this.#next === undefined) this.#running = undefined
    }
    this.#running = pending
    pending.then(ended, ended)
    return pending
  }
}
