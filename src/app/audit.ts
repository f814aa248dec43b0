/** Audits of boots that are in the journal, a running server's too. */
import { OperationError } from '../base/errors.ts'
import { openJournalStore } from '../host/journal-store.ts'
import { makeStateDirectory } from '../host/state-directory.ts'
import { type Audit, type AuditTerms, auditBoot } from '../journal/audit.ts'
import type { JournalStore } from '../journal/store.ts'
import { listMachines, macOf } from './admission.ts'

/** A boot has some thirty events; a machine that is held asks every few seconds. */
const eventsMax = 5_000

/** The last boot of one machine, by MAC address or name; of every machine without one. @throws {OperationError} machineUnknown */
export function auditMachines(
  stateDirectory: string,
  machine: string | undefined,
  terms: AuditTerms,
): readonly (Audit & { readonly name: string | undefined })[] {
  const store = openJournalStore(`${makeStateDirectory(stateDirectory)}/journal.db`)
  try {
    const machines = listMachines(stateDirectory)
    const nameOf = (mac: string): string | undefined => machines.find((each) => each.mac === mac)?.name
    const wanted = machine === undefined ? undefined : macOf(machine, machines)
    if (machine !== undefined && wanted === undefined) {
      throw unknown(machine, 'it is no MAC address, and no machine has that name')
    }
    const attempts = wanted === undefined ? store.currentAttempts() : [...store.attempts({ mac: wanted, countMax: 1 })]
    if (wanted !== undefined && attempts.length === 0) {
      throw unknown(machine ?? '', 'it has not been switched on since the journal began')
    }
    return attempts.map((attempt) => ({
      ...auditBoot(attempt, eventsOf(store, attempt.mac, attempt.id), terms),
      name: nameOf(attempt.mac),
    }))
  } finally {
    store.close()
  }
}

function eventsOf(store: JournalStore, mac: string, firstId: number): ReturnType<JournalStore['events']> {
  return store.events({ mac, afterId: firstId - 1, countMax: eventsMax })
}

function unknown(machine: string, why: string): OperationError {
  return new OperationError(
    'machineUnknown',
    `no boot of ${machine} is known: ${why}`,
    '`slipway machines` lists them.',
  )
}
