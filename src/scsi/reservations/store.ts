/** What this room asks of the house: a place for reservations that must outlive a restart (APTPL). SPC-4 §5.9.5. */
import { nothingReserved, type ReservationState, type ReservationType } from './state.ts'

/** Plain JSON. */
export interface SavedReservations {
  /** Keys are 16 hexadecimal digits. */
  readonly registrations: readonly {
    readonly initiatorPort: string
    readonly targetPort: number
    readonly key: string
  }[]
  readonly reservation?: { readonly type: number; readonly initiatorPort: string; readonly targetPort: number }
}

export interface ReservationStore {
  /** What was saved last, read before the disk is served. */
  readonly saved: SavedReservations | undefined
  /** Resolves when it is on stable storage; undefined forgets. Calls never overlap. @throws {OperationError} */
  save(reservations: SavedReservations | undefined): Promise<void>
}

export function toSaved(state: ReservationState): SavedReservations | undefined {
  if (!state.persists) return undefined
  const registrations = state.registrations.map(({ port, key }) => ({
    ...port,
    key: key.toString(16).padStart(16, '0'),
  }))
  const { reservation } = state
  return reservation === undefined
    ? { registrations }
    : { registrations, reservation: { type: reservation.type, ...reservation.holder } }
}

export function fromSaved(saved: SavedReservations | undefined): ReservationState {
  if (saved === undefined) return nothingReserved
  const registrations = saved.registrations.map(({ initiatorPort, targetPort, key }) => ({
    port: { initiatorPort, targetPort },
    key: BigInt(`0x${key}`),
  }))
  const reservation =
    saved.reservation === undefined
      ? undefined
      : {
          type: saved.reservation.type as ReservationType,
          holder: { initiatorPort: saved.reservation.initiatorPort, targetPort: saved.reservation.targetPort },
        }
  return { generation: 0, registrations, reservation, persists: true }
}
