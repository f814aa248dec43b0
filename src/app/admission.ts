/** Admitting machines from another process: the store is the truth, a running server looks there. */
import { parseMac } from '../base/address.ts'
import { OperationError } from '../base/errors.ts'
import { Fleet } from '../fleet/fleet.ts'
import type { Machine } from '../fleet/machine.ts'
import { namingAuthorityDefault } from '../fleet/names.ts'
import { systemClock } from '../host/clock.ts'
import { openFleetStore } from '../host/fleet-store.ts'
import { systemRandom } from '../host/random.ts'
import { makeStateDirectory } from '../host/state-directory.ts'
import { goldenImageName } from './golden.ts'

export type Verdict = 'admit' | 'refuse' | 'forget'

/** @throws {OperationError} usage: not a MAC address; what the store throws */
export function decideAbout(stateDirectory: string, macText: string, verdict: Verdict): Machine | undefined {
  const mac = parseMac(macText)
  if (mac === undefined) {
    throw new OperationError('usage', `${macText} is not a MAC address`, 'Write it like 52:54:00:12:34:56.')
  }
  return withFleet(stateDirectory, (fleet) => {
    if (verdict === 'admit') return fleet.admit(mac, systemClock.wallMs())
    if (verdict === 'refuse') return fleet.refuse(mac, systemClock.wallMs())
    const known = fleet.machine(mac)
    fleet.forget(mac)
    return known
  })
}

export function listMachines(stateDirectory: string): readonly Machine[] {
  return withFleet(stateDirectory, (fleet) => fleet.machines())
}

function withFleet<T>(stateDirectory: string, action: (fleet: Fleet) => T): T {
  const store = openFleetStore(`${makeStateDirectory(stateDirectory)}/fleet.db`)
  try {
    const assignment = { image: goldenImageName, version: undefined, clonePolicy: 'persistent' } as const
    const terms = { policy: 'ask', namingAuthority: namingAuthorityDefault, assignment, transport: 'auto' } as const
    return action(new Fleet(terms, store, (bytes) => systemRandom.bytes(bytes)))
  } finally {
    store.close()
  }
}
