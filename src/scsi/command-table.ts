/** All commands of a disk, and how a CDB finds its own. To add one: write its `Command`, list it here. */
import { atomicCommands } from './atomic.ts'
import { cacheCommands } from './cache.ts'
import { capacityCommands } from './capacity.ts'
import type { Command } from './command.ts'
import { defectCommands } from './defects.ts'
import { copyCommands } from './extended-copy.ts'
import { inquiryCommand } from './inquiry.ts'
import type { LogicalUnit } from './logical-unit.ts'
import { modeSelectCommands } from './mode-select.ts'
import { modeSenseCommands } from './mode-sense.ts'
import { provisioningCommands } from './provisioning.ts'
import { readCommands } from './read.ts'
import { reportCapabilityCommands } from './report-capabilities.ts'
import { reportLunsCommand } from './report-luns.ts'
import { reserveInCommands } from './reservations/reserve-in.ts'
import { reserveOutCommands } from './reservations/reserve-out.ts'
import { reserve6Commands } from './reservations/reserve6.ts'
import { sanitizeCommands } from './sanitize.ts'
import { targetPortCommands } from './target-ports.ts'
import { unitStateCommands } from './unit-state.ts'
import { verifyCommands } from './verify.ts'
import { writeCommands } from './write.ts'

/** In the order in which REPORT SUPPORTED OPERATION CODES lists them. */
const commands: readonly Command[] = [
  ...unitStateCommands,
  inquiryCommand,
  reportLunsCommand,
  ...reportCapabilityCommands(commandsOf),
  ...targetPortCommands,
  ...modeSenseCommands,
  ...modeSelectCommands,
  ...capacityCommands,
  ...readCommands,
  ...writeCommands,
  ...cacheCommands,
  ...verifyCommands,
  ...atomicCommands,
  ...provisioningCommands,
  ...sanitizeCommands,
  ...copyCommands,
  ...defectCommands,
  ...reserve6Commands,
  ...reserveInCommands,
  ...reserveOutCommands,
]

/** Indexed by opcode; those with service actions by opcode and service action. */
const plain: (Command | undefined)[] = new Array(256).fill(undefined)
const withServiceAction: (Command | undefined)[] = new Array(256 * 32).fill(undefined)
for (const command of commands) {
  if (command.serviceAction === undefined) plain[command.opcode] = command
  else withServiceAction[command.opcode * 32 + command.serviceAction] = command
}

/** The command of a CDB; undefined if this unit has none such. */
export function commandOf(unit: LogicalUnit, cdb: Uint8Array): Command | undefined {
  const opcode = cdb[0] as number
  const command = plain[opcode] ?? withServiceAction[opcode * 32 + ((cdb[1] as number) & 0x1f)]
  return command === undefined || isSupported(unit, command) ? command : undefined
}

export function commandsOf(unit: LogicalUnit): readonly Command[] {
  return commands.filter((command) => isSupported(unit, command))
}

function isSupported(unit: LogicalUnit, command: Command): boolean {
  return command.supported === undefined || command.supported(unit)
}
