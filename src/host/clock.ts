import { performance } from 'node:perf_hooks'
import type { Clock } from '../ports/clock.ts'

export const systemClock: Clock = {
  nowMs: () => performance.now(),
  wallMs: () => Date.now(),
  after: (afterMs, fire) => {
    const timer = setTimeout(fire, afterMs)
    return { cancel: () => clearTimeout(timer) }
  },
}
