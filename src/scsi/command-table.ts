/** All commands of a disk, and how a CDB finds its own. To add one: write its `Command`, list it here. */
import { cacheCommands } from './cache.ts'
import { capacityCommands } from './capacity.ts'
import type { Command } from './command.ts'
import { inquiryCommand } from './inquiry.ts'
import type { LogicalUnit } from './logical-unit.ts'
import { modeSenseCommands } from './mode-sense.ts'
import { readCommands } from './read.ts'
import { reportLunsCommand } from './report-luns.ts'
import { unitStateCommands } from './unit-state.ts'
import { writeCommands } from './write.ts'

const commands: readonly Command[] = [
  ...unitStateCommands,
  inquiryCommand,
  reportLunsCommand,
  ...modeSenseCommands,
  ...capacityCommands,
  ...readCommands,
  ...writeCommands,
  ...cacheCommands,
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
