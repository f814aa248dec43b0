/**
 * Who guesses secrets is slowed down, by address: nobody else waits for it. After `chapFailuresMax` wrong proofs each
 * further answer (right or wrong) to that address comes later, and only so many may wait at once.
 */
import { putLast } from '../base/bounded-map.ts'
import {
  chapAddressesMax,
  chapDelayedLoginsMax,
  chapDelayMsMax,
  chapDelayMsMin,
  chapFailureForgottenMs,
  chapFailuresMax,
} from './limits.ts'

type Record = { failureCount: number; lastFailureMs: number; waiting: number }

export class ChapFailures {
  /** In the order in which they were last seen. */
  readonly #byAddress = new Map<string, Record>()

  /** How many failures are held against the address now; the tenth is the one to report. */
  failed(address: string, nowMs: number): number {
    const record = this.#current(address, nowMs) ?? { failureCount: 0, lastFailureMs: nowMs, waiting: 0 }
    record.failureCount++
    record.lastFailureMs = nowMs
    putLast(this.#byAddress, address, record, chapAddressesMax)
    return record.failureCount
  }

  /** How long the next answer to this address waits; 0 for almost everybody. */
  delayMs(address: string, nowMs: number): number {
    const failureCount = this.#current(address, nowMs)?.failureCount ?? 0
    if (failureCount < chapFailuresMax) return 0
    return Math.min(chapDelayMsMin * 2 ** Math.min(failureCount - chapFailuresMax, 16), chapDelayMsMax)
  }

  /** False when too many of this address wait already: turn it away. */
  beginWait(address: string): boolean {
    const record = this.#byAddress.get(address)
    if (record === undefined) return true
    if (record.waiting >= chapDelayedLoginsMax) return false
    record.waiting++
    return true
  }

  endWait(address: string): void {
    const record = this.#byAddress.get(address)
    if (record !== undefined && record.waiting > 0) record.waiting--
  }

  /** One failure is forgotten for each `chapFailureForgottenMs` without another. */
  #current(address: string, nowMs: number): Record | undefined {
    const record = this.#byAddress.get(address)
    if (record === undefined) return undefined
    const forgotten = Math.floor((nowMs - record.lastFailureMs) / chapFailureForgottenMs)
    if (forgotten > 0) {
      record.failureCount = Math.max(0, record.failureCount - forgotten)
      record.lastFailureMs += forgotten * chapFailureForgottenMs
    }
    if (record.failureCount === 0 && record.waiting === 0) {
      this.#byAddress.delete(address)
      return undefined
    }
    return record
  }
}
