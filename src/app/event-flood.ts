/**
 * Whoever makes noise pushes nobody else's events out of the journal, and fills no disk: of each source so many events
 * are kept in a window of time, of all sources together so many more; what is left out is counted and told.
 */
import type { EventSource } from '../journal/events.ts'

/** Windows follow one another without overlap; counting begins anew with each. */
export const floodWindowMs = 10_000
/** A boot is some thirty events; PXELINUX's search for its configuration another fifteen. */
export const eventsPerSourceMax = 200
/** A rack of 256 that is switched on at once makes 8,000. Above it are only sources that invent others. */
export const eventsPerWindowMax = 20_000
/** What a machine's script says of itself: a boot says it once or twice. By address, for a MAC in a URL is anybody's word. */
export const reportLimits: FloodLimits = { perSource: 20, perWindow: 2_000 }
/**
 * What tells who was let in, and who tried: nobody's noise may push it out. Of each kind, under each MAC, from each address
 * so many; and from one address, whatever MACs it invents, so many.
 */
export const trustLimits: FloodLimits = { perSource: 50, perWindow: 20_000 }
export const trustOfAddressLimits: FloodLimits = { perSource: 500, perWindow: 20_000 }
/** Of how many sources it is told how much was left out; the rest are told as one. */
export const sourcesToldMax = 8

export type FloodLimits = { readonly perSource: number; readonly perWindow: number }

/** `source` is undefined for those that are told together. */
export type LeftOut = { readonly source: EventSource | undefined; readonly eventCount: number }

export class EventFlood {
  readonly #limits: FloodLimits
  /** By key. Not more than `perWindow`: who comes later is only counted. */
  #sources = new Map<string, { readonly source: EventSource; eventCount: number }>()
  #keptCount = 0
  #leftOutCount = 0

  constructor(limits: FloodLimits = { perSource: eventsPerSourceMax, perWindow: eventsPerWindowMax }) {
    this.#limits = limits
  }

  /** False: leave it out. `key`: what is counted together. */
  admits(source: EventSource, key: string = source.mac ?? source.address ?? ''): boolean {
    const { perSource, perWindow } = this.#limits
    let counted = this.#sources.get(key)
    if (counted === undefined && this.#keptCount < perWindow) {
      counted = { source, eventCount: 0 }
      this.#sources.set(key, counted)
    }
    if (counted !== undefined) counted.eventCount++
    const kept = counted !== undefined && counted.eventCount <= perSource && this.#keptCount < perWindow
    if (kept) this.#keptCount++
    else this.#leftOutCount++
    return kept
  }

  /** Ends the window. Who made the most noise comes first. */
  nextWindow(): LeftOut[] {
    const told: LeftOut[] = [...this.#sources.values()]
      .map(({ source, eventCount }) => ({ source, eventCount: eventCount - this.#limits.perSource }))
      .filter(({ eventCount }) => eventCount > 0)
      .sort((a, b) => b.eventCount - a.eventCount)
      .slice(0, sourcesToldMax)
    const rest = this.#leftOutCount - told.reduce((total, { eventCount }) => total + eventCount, 0)
    this.#sources = new Map()
    this.#keptCount = 0
    this.#leftOutCount = 0
    return rest > 0 ? [...told, { source: undefined, eventCount: rest }] : told
  }
}
