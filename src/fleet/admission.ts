/** Meeting a machine: who it is, whether it may boot, and what to remember. Pure; `Fleet` keeps what comes out. */
import { lastSeenStaleMs } from './limits.ts'
import {
  type AdmissionPolicy,
  type Identity,
  type Machine,
  type Notice,
  type Standing,
  sameUuid,
  serialOf,
  uuidOf,
} from './machine.ts'

export type Encounter = {
  readonly machine: Machine
  readonly standing: Standing
  readonly notices: readonly Notice[]
  /** `machine` says something that what is remembered does not. */
  readonly changed: boolean
}

export function meet(policy: AdmissionPolicy, known: Machine | undefined, claimed: Identity, nowMs: number): Encounter {
  const seen = { mac: claimed.mac, uuid: uuidOf(claimed.uuid), serial: serialOf(claimed.serial) }
  if (known === undefined) {
    const machine = stranger(seen, nowMs)
    return { machine, standing: standingOf(policy, machine, seen), notices: [{ kind: 'firstSeen' }], changed: true }
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
 * admitted: it waits like a stranger, unless strangers are let in anyway.
 */
export function standingOf(policy: AdmissionPolicy, machine: Machine, seen: Identity): Standing {
  if (machine.decision === 'refused') return 'refused'
  if (policy === 'all') return 'admitted'
  if (machine.decision === 'admitted') return rivalOf(machine, seen) === undefined ? 'admitted' : 'held'
  return policy === 'ask' ? 'held' : 'refused'
}

/** The person at the keyboard said yes: to this board too, if another one had come with the MAC. */
export function admitted(machine: Machine): Machine {
  return { ...machine, decision: 'admitted', uuid: machine.rivalUuid ?? machine.uuid, rivalUuid: undefined }
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

function rivalOf(machine: Machine, seen: Identity): string | undefined {
  if (machine.uuid === undefined || seen.uuid === undefined) return undefined
  return sameUuid(machine.uuid, seen.uuid) ? undefined : seen.uuid
}
