/** Meets whoever asks, and tells the journal what there was to notice: strangers, alarms, who waits, who was let in. */
import type { Mac } from '../base/address.ts'
import { putLast } from '../base/bounded-map.ts'
import type { Encounter } from '../fleet/admission.ts'
import type { Fleet } from '../fleet/fleet.ts'
import type { Claim, Machine } from '../fleet/machine.ts'
import type { Clock } from '../ports/clock.ts'
import type { EventStream } from './event-stream.ts'

/** As the roster: whoever invents MAC addresses makes the one that waits longest be told of once more, and no more. */
export const waitingMachinesMax = 8_192

export class Encounters {
  readonly #fleet: Fleet
  readonly #events: EventStream
  readonly #clock: Clock
  /** What was decided about machines when they were told to wait. The one that waits longest is first. */
  readonly #waiting = new Map<Mac, string>()
  /** Alarms that were left out of the journal: raised again until they are in it. Bounded like the above. */
  readonly #unheard = new Map<Mac, { readonly known: string; readonly seen: string }>()

  constructor({ fleet, events, clock }: { fleet: Fleet; events: EventStream; clock: Clock }) {
    this.#fleet = fleet
    this.#events = events
    this.#clock = clock
  }

  /** Of how many machines it is known that they wait. At most `waitingMachinesMax`. */
  get waitingCount(): number {
    return this.#waiting.size
  }

  meet(claim: Claim, address?: string): Encounter {
    const encounter = this.#fleet.meet(claim, this.#clock.wallMs())
    const { machine, standing } = encounter
    const { mac } = claim
    const whose = { mac, address }
    for (const notice of encounter.notices) {
      if (notice.kind === 'firstSeen') {
        this.#events.emit(whose, { kind: 'machineSeen', uuid: machine.uuid, serial: machine.serial })
      } else this.#unheard.set(mac, notice)
    }
    this.#raiseAlarm(mac, address)
    const before = this.#waiting.get(mac)
    // While another board waits with its MAC address the machine itself comes and goes: that is nobody's decision.
    if (standing === 'admitted' && before !== undefined && before !== decisionAbout(machine)) {
      this.#waiting.delete(mac)
      this.#events.emit(whose, { kind: 'admitted', by: 'person' })
    }
    return encounter
  }

  #raiseAlarm(mac: Mac, address: string | undefined): void {
    const alarm = this.#unheard.get(mac)
    if (alarm === undefined) return
    const isHeard = this.#events.emit(
      { mac, address },
      { kind: 'identityAlarm', knownUuid: alarm.known, seenUuid: alarm.seen },
    )
    const [oldest] = this.#unheard.keys()
    if (isHeard) this.#unheard.delete(mac)
    else if (this.#unheard.size > waitingMachinesMax && oldest !== undefined) this.#unheard.delete(oldest)
  }

  /** It was told to wait. True: for the first time, so that there is something to tell. */
  waits({ machine, rival }: Encounter, address: string): boolean {
    const { mac } = machine
    if (this.#waiting.has(mac)) return false
    putLast(this.#waiting, mac, decisionAbout(machine), waitingMachinesMax)
    const reason =
      rival === undefined
        ? `slipway admit ${mac} lets it in`
        : `slipway admit ${mac} --uuid ${rival} admits the board that came now, instead; slipway dismiss ${mac} if it is an impostor`
    this.#events.emit({ mac, address }, { kind: 'held', reason })
    return true
  }
}

/** Another text when a person has decided anew. */
function decisionAbout({ decision, uuid }: Machine): string {
  return decision === 'undecided' ? decision : `${decision} ${uuid}`
}
