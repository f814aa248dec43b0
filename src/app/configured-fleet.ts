/** The fleet as the configuration wants it: who is known beforehand, which disk is whose, what each must prove. */
import type { Mac } from '../base/address.ts'
import { Fleet } from '../fleet/fleet.ts'
import type { Assignment } from '../fleet/machine.ts'
import { namingAuthorityDefault } from '../fleet/names.ts'
import type { FleetStore } from '../fleet/store.ts'
import { systemClock } from '../host/clock.ts'
import { systemRandom } from '../host/random.ts'
import type { ImageReference } from '../images/catalogue.ts'
import type { BootDeskParts } from './boot-desk.ts'
import type { UpConfig } from './config.ts'

/** What the configuration assigns, to all and to some. */
export function assignmentsOf({ terms }: Fleet): Assignment[] {
  return [terms.assignment, ...(terms.assignments?.values() ?? [])]
}

/** What the configuration says of machines counts anew at each start: it is written into the store. */
export function createFleet(config: UpConfig, image: ImageReference, store: FleetStore): Fleet {
  const assignment: Assignment = { image: image.name, version: image.version, clonePolicy: undefined }
  const assignments = new Map<Mac, Assignment>()
  for (const { mac, image: own, clonePolicy } of config.machines) {
    if (own === undefined && clonePolicy === undefined) continue
    assignments.set(mac, {
      ...assignment,
      ...(own === undefined ? {} : { image: own.name, version: own.version }),
      ...(clonePolicy === undefined ? {} : { clonePolicy }),
    })
  }
  const fleet = new Fleet(
    {
      policy: config.admit,
      namingAuthority: namingAuthorityDefault,
      assignment,
      assignments,
      transport: config.transport,
      require: config.require,
      demands: new Map(config.machines.map((machine) => [machine.mac, machine])),
    },
    store,
    (byteCount) => systemRandom.bytes(byteCount),
  )
  for (const machine of config.machines) fleet.configure(machine, systemClock.wallMs())
  return fleet
}

/** Where nothing is said of a machine: who set strict wants no loader by plain HTTP either. */
export function firmwareTrust(config: UpConfig, fleet: Fleet): BootDeskParts['firmwareTrustsUs'] {
  const own = new Map(config.machines.map(({ mac, uefiHttps }) => [mac, uefiHttps]))
  return (machine) => {
    const transport = machine === undefined ? fleet.terms.transport : fleet.transportOf(machine)
    return own.get(machine?.mac ?? '') ?? config.uefiHttps ?? transport === 'strict'
  }
}
