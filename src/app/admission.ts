/** Admitting machines from another process: the store is the truth, a running server looks there. */
import { type Mac, parseMac } from '../base/address.ts'
import { OperationError } from '../base/errors.ts'
import { Fleet } from '../fleet/fleet.ts'
import { type Machine, noUuid, uuidOf } from '../fleet/machine.ts'
import { namingAuthorityDefault } from '../fleet/names.ts'
import { systemClock } from '../host/clock.ts'
import { type OpenFleetStore, openFleetStore } from '../host/fleet-store.ts'
import { systemRandom } from '../host/random.ts'
import { makeStateDirectory } from '../host/state-directory.ts'
import { goldenImageName } from './golden.ts'

export type Verdict = 'admit' | 'dismiss' | 'release' | 'refuse' | 'forget'

/**
 * `machine` is a MAC address or a name. A running server ends the sessions of a machine that was released, refused or
 * forgotten: watch-fleet.ts. `uuid` says which board is admitted. @throws {OperationError} usage, machineUnknown,
 * uuidUnclear; what the store throws
 */
export function decideAbout(
  stateDirectory: string,
  machine: string,
  verdict: Verdict,
  uuid?: string,
): Machine | undefined {
  const meant = uuid === undefined ? undefined : parseMeantUuid(uuid)
  return withFleet(stateDirectory, (fleet) => {
    const mac = macOf(machine, fleet.machines())
    if (mac === undefined) {
      const hint = 'Write it like 52:54:00:12:34:56. `slipway machines` lists those that are known, with their names.'
      throw new OperationError('usage', `${machine} is not a MAC address, and no machine has that name`, hint)
    }
    const known = fleet.machine(mac)
    switch (verdict) {
      case 'admit':
        return fleet.admit(mac, systemClock.wallMs(), meant)
      case 'refuse':
        return fleet.refuse(mac, systemClock.wallMs())
      case 'dismiss':
      case 'release':
        if (known === undefined) {
          const hint = '`slipway machines` lists those that are.'
          throw new OperationError('machineUnknown', `no machine ${mac} is known`, hint)
        }
        if (verdict === 'dismiss') fleet.dismiss(mac)
        else fleet.release(mac)
        return known
      case 'forget':
        fleet.forget(mac)
        return known
    }
  })
}

function parseMeantUuid(text: string): string {
  const uuid = text === noUuid ? noUuid : uuidOf(text)
  if (uuid !== undefined) return uuid
  const hint = `Write it as the machine's screen shows it, or ${noUuid} for a board that tells none.`
  throw new OperationError('usage', `${text} is not a UUID that tells one board from another`, hint)
}

/** What a person calls a machine: its MAC address, however it is written, or its name. */
export function macOf(text: string, machines: readonly Machine[]): Mac | undefined {
  return parseMac(text) ?? machines.find(({ name }) => name === text)?.mac
}

export function listMachines(stateDirectory: string): readonly Machine[] {
  return withFleet(stateDirectory, (fleet) => fleet.machines())
}

/** The fleet of a state directory, whether a server is running over it or not. */
export function withFleet<T>(stateDirectory: string, action: (fleet: Fleet, proofs: OpenFleetStore['proofs']) => T): T {
  const store = openFleetStore(`${makeStateDirectory(stateDirectory)}/fleet.db`)
  try {
    const assignment = { image: goldenImageName, version: undefined, clonePolicy: 'persistent' } as const
    const terms = { policy: 'ask', namingAuthority: namingAuthorityDefault, assignment, transport: 'auto' } as const
    return action(new Fleet(terms, store, (bytes) => systemRandom.bytes(bytes)), store.proofs)
  } finally {
    store.close()
  }
}
