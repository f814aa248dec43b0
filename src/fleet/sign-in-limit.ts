/**
 * How often somebody may try a password. Each wrong one makes the next wait, for that account and for that address by
 * themselves; who is neither is never slowed.
 *
 *   free tries ──▶ pause, doubled by each wrong try, up to a limit ──▶ forgotten after a quiet time
 *
 * An account has more free tries than an address: otherwise whoever sits at one machine could lock a person out at all others.
 */
import { putLast } from '../base/bounded-map.ts'
import { signInLimits } from './limits.ts'

export type SlowedBy = 'address' | 'account'
/** A name that can be one of an account, whether there is such an account or not. */
export type TriedName = { readonly name: string; readonly exists: boolean }
export type Slowed = { readonly by: SlowedBy; readonly failureCount: number; readonly untilMs: number }

type Failures = { count: number; lastMs: number; untilMs: number }

export class SignInLimit {
  readonly #addresses = new Map<string, Failures>()
  readonly #accounts = new Map<string, Failures>()
  /** Names without an account are slowed like those with one, or the pause would tell. By themselves: there is no end of them. */
  readonly #strangers = new Map<string, Failures>()

  /** Whether this try must wait; undefined: it may be looked at now. `tried` is undefined for what can be no name. */
  slowed(address: string, tried: TriedName | undefined, nowMs: number): Slowed | undefined {
    const both = [
      slowedBy('address', this.#addresses.get(address), nowMs),
      slowedBy('account', tried && this.#named(tried).get(tried.name), nowMs),
    ]
    return both.filter((each) => each !== undefined).toSorted((a, b) => b.untilMs - a.untilMs)[0]
  }

  /** Returns the pauses that begin by this. */
  failed(address: string, tried: TriedName | undefined, nowMs: number): readonly Slowed[] {
    return [
      fail('address', this.#addresses, address, nowMs),
      tried && fail('account', this.#named(tried), tried.name, nowMs),
    ].filter((each) => each !== undefined)
  }

  /** The address has shown that it knows better. Not the account: others may be trying it at the same time. */
  succeeded(address: string): void {
    this.#addresses.delete(address)
  }

  #named({ exists }: TriedName): Map<string, Failures> {
    return exists ? this.#accounts : this.#strangers
  }
}

function slowedBy(by: SlowedBy, known: Failures | undefined, nowMs: number): Slowed | undefined {
  if (known === undefined || known.untilMs <= nowMs) return undefined
  return { by, failureCount: known.count, untilMs: known.untilMs }
}

function fail(by: SlowedBy, all: Map<string, Failures>, key: string, nowMs: number): Slowed | undefined {
  const known = all.get(key)
  const isStale = known === undefined || nowMs - known.lastMs > signInLimits.forgottenMs
  const count = isStale ? 1 : known.count + 1
  const beyond = count - signInLimits.freeTries[by]
  const pauseMs = beyond < 0 ? 0 : Math.min(signInLimits.firstPauseMs * 2 ** beyond, signInLimits.pauseMsMax[by])
  // Last in the map is failed last: who is forgotten for want of room has been quiet longest.
  putLast(all, key, { count, lastMs: nowMs, untilMs: nowMs + pauseMs }, signInLimits.remembered)
  return pauseMs === 0 ? undefined : { by, failureCount: count, untilMs: nowMs + pauseMs }
}
