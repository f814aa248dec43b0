/** Time, as the outside tells it. A simulation passes a virtual one. */
export interface Clock {
  /** Milliseconds since some fixed moment; never goes back. */
  nowMs(): number
  /** Milliseconds since 1970-01-01 UTC; may jump. */
  wallMs(): number
  /** Calls `fire` once, `afterMs` from now, unless cancelled first. */
  after(afterMs: number, fire: () => void): Timer
}

export interface Timer {
  cancel(): void
}
