import { mkdir, readFile, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { OperationError } from '../base/errors.ts'
import type { ReservationStore, SavedReservations } from '../scsi/reservations/store.ts'
import { codeOf, describeOpen } from './file.ts'
import { writeWholeFile } from './whole-file.ts'

/**
 * Persistent reservations of one disk (APTPL) in a small JSON file; no file means that there are none.
 * @throws {OperationError} reservationsUnreadable, fileForbidden
 */
export async function openReservationFile(path: string): Promise<ReservationStore> {
  return {
    saved: await read(path),
    save: async (reservations) => {
      if (reservations === undefined) await rm(path, { force: true })
      else {
        await mkdir(dirname(path), { recursive: true, mode: 0o700 })
        await writeWholeFile(path, `${JSON.stringify(reservations)}\n`, 0o600)
      }
    },
  }
}

async function read(path: string): Promise<SavedReservations | undefined> {
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined
    throw describeOpen(path, error)
  }
  const hint = `Move ${path} away: initiators that had registered must do so again.`
  const unreadable = (cause?: unknown): OperationError =>
    new OperationError('reservationsUnreadable', `${path} does not hold reservations`, hint, { cause })
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw unreadable(cause)
  }
  if (!isSaved(value)) throw unreadable()
  return value
}

function isSaved(value: unknown): value is SavedReservations {
  if (typeof value !== 'object' || value === null || !('registrations' in value)) return false
  const { registrations } = value
  const isPort = (entry: unknown): boolean =>
    typeof entry === 'object' &&
    entry !== null &&
    'initiatorPort' in entry &&
    typeof entry.initiatorPort === 'string' &&
    'targetPort' in entry &&
    typeof entry.targetPort === 'number'
  const isRegistration = (entry: unknown): boolean =>
    isPort(entry) && /^[0-9a-f]{16}$/.test(String((entry as { key?: unknown }).key))
  const reservation = 'reservation' in value ? value.reservation : undefined
  return (
    Array.isArray(registrations) &&
    registrations.every(isRegistration) &&
    (reservation === undefined || isPort(reservation))
  )
}
