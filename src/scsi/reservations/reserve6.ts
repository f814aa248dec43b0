/** RESERVE (6) and RELEASE (6). SPC-2 §7.21, §7.16: the whole unit, for as long as the nexus lasts. */
import { type Command, ReservationConflict } from '../command.ts'
import type { LogicalUnit } from '../logical-unit.ts'
import { invalidCdbField } from '../sense.ts'
import type { Task } from '../task.ts'

export const reserve6Commands: readonly Command[] = [
  {
    opcode: 0x16,
    name: 'RESERVE (6)',
    usage: '16 1f ff ffff 04',
    access: 'own',
    run: (unit, task) => {
      checkWhole(unit, task)
      const { reservations } = unit
      if (reservations.legacyHolder !== undefined && reservations.legacyHolder !== task.nexus) {
        throw new ReservationConflict()
      }
      reservations.legacyHolder = task.nexus
      return 0
    },
  },
  {
    opcode: 0x17,
    name: 'RELEASE (6)',
    usage: '17 1f ff ffff 04',
    access: 'own',
    run: (unit, task) => {
      checkWhole(unit, task)
      // From anybody but the holder it does nothing, and is no error.
      if (unit.reservations.legacyHolder === task.nexus) unit.reservations.legacyHolder = undefined
      return 0
    },
  },
]

/** No third parties, no extents; and not beside persistent reservations (SPC-3 §5.6.3: a conflict). */
function checkWhole(unit: LogicalUnit, task: Task): void {
  if (((task.cdb[1] as number) & 0x1f) !== 0) throw invalidCdbField(1, 4)
  if (unit.reservations.state.registrations.length > 0) throw new ReservationConflict()
}
