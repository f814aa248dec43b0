/** Meeting a machine: who it is, whether it may boot, and what to remember. Pure; `Fleet` keeps what comes out. */
import { OperationError } from '../base/errors.ts'
import { lastSeenStaleMs } from './limits.ts'
import {
  type AdmissionPolicy,
  type Claim,
  type Identity,
  type Machine,
  type Notice,
  noUuid,
  type Standing,
  sameUuid,
  serialOf,
  uuidOf,
} from './machine.ts'

export type Encounter = {
  readonly machine: Machine
  readonly standing: Standing
  /** The UUID that came instead of the machine's; `noUuid` where it was left out. Undefined: nothing speaks against it. */
  readonly rival: string | undefined
  readonly notices: readonly Notice[]
  /** `machine` says something that what is remembered does not. */
  readonly changed: boolean
}

export function meet(policy: AdmissionPolicy, known: Machine | undefined, claimed: Claim, nowMs: number): Encounter {
  const seen: Claim = { ...claimed, uuid: uuidOf(claimed.uuid), serial: serialOf(claimed.serial) }
  if (known === undefined) {
    const machine = stranger(seen, nowMs)
    const standing = standingOf(policy, machine, seen)
    return { machine, standing, rival: undefined, notices: [{ kind: 'firstSeen' }], changed: true }
  }
  const rival = rivalOf(known, seen)
  const machine: Machine = {
    ...known,
    // A machine known only by its MAC (from the configuration, or seen under U-Boot) is completed by what it says first.
    uuid: known.uuid ?? seen.uuid,
    serial: known.serial ?? seen.serial,
    rivalUuid: rival ?? known.rivalUuid,
    lastSeenMs: nowMs - known.lastSeenMs > lastSeenStaleMs ? nowMs : known.lastSeenMs,
  }
  const isNewRival = rival !== undefined && rival !== known.rivalUuid
  return {
    machine,
    standing: standingOf(policy, machine, seen),
    rival,
    notices: isNewRival ? [{ kind: 'uuidChanged', known: known.uuid ?? '', seen: rival }] : [],
    changed:
      machine.uuid !== known.uuid ||
      machine.serial !== known.serial ||
      machine.rivalUuid !== known.rivalUuid ||
      machine.lastSeenMs !== known.lastSeenMs,
  }
}

/**
 * A person's word goes before the policy. An admitted machine whose MAC comes with another UUID is not the one that was
 * admitted: it waits like a stranger, unless strangers are let in anyway. Nor is one that asks for secrets and leaves the UUID out.
 */
export function standingOf(policy: AdmissionPolicy, machine: Machine, seen: Claim): Standing {
  if (machine.decision === 'refused') return 'refused'
  if (policy === 'all') return 'admitted'
  if (machine.decision === 'admitted') return rivalOf(machine, seen) === undefined ? 'admitted' : 'held'
  return policy === 'ask' ? 'held' : 'refused'
}

/**
 * The person at the keyboard said yes, to the board with `uuid` (or to one that tells none: `noUuid`). Whoever came last is
 * not who is meant: where two boards came with one MAC it must be said which. @throws {OperationError} uuidUnclear
 */
export function admitted(machine: Machine, uuid: string | undefined): Machine {
  const { mac, uuid: known, rivalUuid } = machine
  if (uuid !== undefined) return { ...machine, decision: 'admitted', uuid, rivalUuid: undefined }
  if (rivalUuid === undefined) return { ...machine, decision: 'admitted' }
  throw new OperationError(
    'uuidUnclear',
    `two boards came with ${mac}: UUID ${known ?? noUuid}, then UUID ${rivalUuid}`,
    `Look at the machine, then say which: slipway admit ${mac} --uuid UUID. If the other was an impostor: slipway dismiss ${mac}.`,
  )
}

/** Whoever else came with the MAC was nobody. The next one is an alarm again. */
export function dismissed(machine: Machine): Machine {
  return { ...machine, rivalUuid: undefined }
}

export function refused(machine: Machine): Machine {
  return { ...machine, decision: 'refused' }
}

export function stranger(identity: Identity, nowMs: number): Machine {
  return {
    mac: identity.mac,
    name: undefined,
    uuid: identity.uuid,
    serial: identity.serial,
    decision: 'undecided',
    rivalUuid: undefined,
    assignment: undefined,
    transport: undefined,
    loaderHasHttps: undefined,
    firstSeenMs: nowMs,
    lastSeenMs: nowMs,
  }
}

function rivalOf(machine: Machine, seen: Claim): string | undefined {
  if (machine.uuid === undefined || machine.uuid === noUuid) return undefined
  if (seen.uuid === undefined) return seen.forSecrets === true ? noUuid : undefined
  return sameUuid(machine.uuid, seen.uuid) ? undefined : seen.uuid
}
