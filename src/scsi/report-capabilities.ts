/** REPORT SUPPORTED OPERATION CODES and REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS. SPC-4 §6.34, §6.35. */
import { putU16, putU32, u16, u32 } from '../wire/big-endian.ts'
import { type Command, respond } from './command.ts'
import type { LogicalUnit } from './logical-unit.ts'
import { invalidCdbField } from './sense.ts'
import type { Task } from './task.ts'

/** The table of all commands is given, not imported: this command is in it. */
export function reportCapabilityCommands(commandsOf: (unit: LogicalUnit) => readonly Command[]): readonly Command[] {
  return [
    {
      opcode: 0xa3,
      serviceAction: 0x0c,
      name: 'REPORT SUPPORTED OPERATION CODES',
      usage: 'a3 1f 87 ff ffff ffffffff 00 04',
      access: 'information',
      duringSanitize: true,
      run: (unit, task) => reportOpcodes(commandsOf(unit), task),
    },
    {
      opcode: 0xa3,
      serviceAction: 0x0d,
      name: 'REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS',
      usage: 'a3 1f 80 000000 ffffffff 00 04',
      access: 'information',
      duringSanitize: true,
      run: (_unit, task) => {
        const allocation = u32(task.cdb, 6)
        if (allocation < 4) throw invalidCdbField(6)
        // Table 291: ATS ATSS CTSS LURS TRS. REPD asks for 16 bytes of which all but the length are ours to leave zero.
        const data = new Uint8Array(((task.cdb[2] as number) & 0x80) === 0 ? 4 : 16)
        data[0] = 0x80 | 0x40 | 0x10 | 0x08 | 0x02
        data[3] = data.byteLength - 4
        return respond(task, data, allocation)
      },
    },
  ]
}

function reportOpcodes(commands: readonly Command[], task: Task): number {
  const { cdb } = task
  const options = (cdb[2] as number) & 0x07
  const withTimeouts = ((cdb[2] as number) & 0x80) !== 0
  const allocation = u32(cdb, 6)
  if (options === 0) return respond(task, allCommands(commands, withTimeouts), allocation)
  if (options > 3) throw invalidCdbField(2, 2)
  const opcode = cdb[3] as number
  const serviceAction = u16(cdb, 4)
  const ofOpcode = commands.filter((each) => each.opcode === opcode)
  const hasServiceActions = ofOpcode.some((each) => each.serviceAction !== undefined)
  // Table 276: 001b is for opcodes without service actions, 010b for those with; 011b asks whatever there is.
  if (options === 1 && hasServiceActions) throw invalidCdbField(2, 2)
  if (options === 2 && ofOpcode.length > 0 && !hasServiceActions) throw invalidCdbField(2, 2)
  const found = ofOpcode.find(
    (each) => (each.serviceAction ?? 0) === (hasServiceActions || options === 3 ? serviceAction : 0),
  )
  return respond(task, oneCommand(found, withTimeouts), allocation)
}

/** Table 278: 0 opcode | 2..3 service action | 5 CTDP SERVACTV | 6..7 CDB length. */
function allCommands(commands: readonly Command[], withTimeouts: boolean): Uint8Array {
  const descriptorBytes = withTimeouts ? 8 + timeoutBytes : 8
  const data = new Uint8Array(4 + descriptorBytes * commands.length)
  putU32(data, 0, data.byteLength - 4)
  commands.forEach((command, i) => {
    const at = 4 + descriptorBytes * i
    data[at] = command.opcode
    putU16(data, at + 2, command.serviceAction ?? 0)
    data[at + 5] = (withTimeouts ? 0x02 : 0) | (command.serviceAction === undefined ? 0 : 0x01)
    putU16(data, at + 6, usageOf(command).byteLength)
    if (withTimeouts) putTimeouts(data, at + 8)
  })
  return data
}

/** Table 280: 1 CTDP, SUPPORT | 2..3 CDB size | 4.. usage. SUPPORT 001b: not there; 011b: as the standard says. */
function oneCommand(command: Command | undefined, withTimeouts: boolean): Uint8Array {
  if (command === undefined) return Uint8Array.of(0, 0x01, 0, 0)
  const usage = usageOf(command)
  const data = new Uint8Array(4 + usage.byteLength + (withTimeouts ? timeoutBytes : 0))
  data[1] = (withTimeouts ? 0x80 : 0) | 0x03
  putU16(data, 2, usage.byteLength)
  data.set(usage, 4)
  if (withTimeouts) putTimeouts(data, 4 + usage.byteLength)
  return data
}

const timeoutBytes = 12

/** Table 281: 0..1 length 000Ah, then zeroes: no timeout is told. */
function putTimeouts(data: Uint8Array, at: number): void {
  putU16(data, at, timeoutBytes - 2)
}

/** CDB USAGE DATA: the opcode and the service action as they are, elsewhere a one for each bit that counts. */
export function usageOf(command: Command): Uint8Array {
  const digits = command.usage.replaceAll(' ', '')
  const usage = new Uint8Array(digits.length / 2)
  for (let i = 0; i < usage.byteLength; i++) usage[i] = Number.parseInt(digits.slice(2 * i, 2 * i + 2), 16)
  if (command.serviceAction !== undefined) usage[1] = ((usage[1] as number) & 0xe0) | command.serviceAction
  return usage
}
