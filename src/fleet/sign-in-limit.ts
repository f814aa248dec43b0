/**
 * How often somebody may try a password. Each wrong one makes the next wait, for that account and for that address by
 * themselves; who is neither is never slowed.
 *
 *   free tries ──▶ pause, doubled by each wrong try, up to a limit ──▶ forgotten after a quiet time
 *
 * An account has more free tries than an address: otherwise whoever sits at one machine could lock a person out at all others.
 */
import { signInLimits } from './limits.ts'

export type SlowedBy = 'address' | 'account'
export type Slowed = { readonly by: SlowedBy; readonly failureCount: number; readonly untilMs: number }

type Failures = { count: number; lastMs: number; untilMs: number }

export class SignInLimit {
  readonly #failures: Readonly<Record<SlowedBy, Map<string, Failures>>> = { address: new Map(), account: new Map() }

  /** `account` is undefined where there is none of that name. Whether this try must wait; undefined: it may be looked at now. */
  slowed(address: string, account: string | undefined, nowMs: number): Slowed | undefined {
    const both = [this.#slowedBy('address', address, nowMs), this.#slowedBy('account', account, nowMs)]
    return both.filter((each) => each !== undefined).toSorted((a, b) => b.untilMs - a.untilMs)[0]
  }

  /** Returns the pauses that begin by this. */
  failed(address: string, account: string | undefined, nowMs: number): readonly Slowed[] {
    return [this.#fail('address', address, nowMs), this.#fail('account', account, nowMs)].filter(
      (each) => each !== undefined,
    )
  }

  /** The address has shown that it knows better. Not the account: others may be trying it at the same time. */
  succeeded(address: string): void {
    this.#failures.address.delete(address)
  }

  #slowedBy(by: SlowedBy, key: string | undefined, nowMs: number): Slowed | undefined {
    const known = key === undefined ? undefined : this.#failures[by].get(key)
    if (known === undefined || known.untilMs <= nowMs) return undefined
    return { by, failureCount: known.count, untilMs: known.untilMs }
  }

  #fail(by: SlowedBy, key: string | undefined, nowMs: number): Slowed | undefined {
    if (key === undefined) return undefined
    const all = this.#failures[by]
    const known = all.get(key)
    const isStale = known === undefined || nowMs - known.lastMs > signInLimits.forgottenMs
    const count = isStale ? 1 : known.count + 1
    const beyond = count - signInLimits.freeTries[by]
    const pauseMs = beyond < 0 ? 0 : Math.min(signInLimits.firstPauseMs * 2 ** beyond, signInLimits.pauseMsMax[by])
    // Last in the map is failed last: who is forgotten for want of room has been quiet longest.
    all.delete(key)
    all.set(key, { count, lastMs: nowMs, untilMs: nowMs + pauseMs })
    if (all.size > signInLimits.remembered) all.delete(all.keys().next().value ?? '')
    return pauseMs === 0 ? undefined : { by, failureCount: count, untilMs: nowMs + pauseMs }
  }
}
