/** PERSISTENT RESERVE OUT. SPC-4 §6.16. */
import { unreachable } from '../../base/assert.ts'
import { u16, u32, u64Exact } from '../../wire/big-endian.ts'
import { type Command, ReservationConflict } from '../command.ts'
import { parameterList } from '../data-out.ts'
import type { LogicalUnit, NexusRecord } from '../logical-unit.ts'
import { CheckCondition, condition, invalidCdbField, invalidParameter } from '../sense.ts'
import type { Task } from '../task.ts'
import { keyOf, type Outcome, type PortName, type Request, type ReservationType, reservationType } from './state.ts'
import { decodeTransportId } from './transport-id.ts'

const usage = '5f 1f ff 0000 ffffffff 04'

/** Bits of byte 20. */
const specifyInitiatorPorts = 0x08
const allTargetPorts = 0x04
const persistThroughPowerLoss = 0x01

/** What the parameter list says, with the ports it names. */
interface Parameters {
  readonly list: Uint8Array
  readonly key: bigint
  readonly serviceActionKey: bigint
  readonly type: ReservationType
}

type Make = (parameters: Parameters, unit: LogicalUnit, from: NexusRecord) => Request

function reserveOut(serviceAction: number, name: string, make: Make, aborts = false): Command {
  return {
    opcode: 0x5f,
    serviceAction,
    name: `PERSISTENT RESERVE OUT, ${name}`,
    usage,
    access: 'own',
    duringSanitize: true,
    run: async (unit: LogicalUnit, task: Task, from: NexusRecord) => {
      // SPC-2 §5.5.1: the two kinds of reservation exclude each other.
      if (unit.reservations.legacyHolder !== undefined) throw new ReservationConflict()
      const bytes = u32(task.cdb, 5)
      const list = readParameters(task, bytes, serviceAction)
      const request = make(
        {
          list,
          key: u64Exact(list, 0),
          serviceActionKey: u64Exact(list, 8),
          type: ((task.cdb[2] as number) & 0x0f) as ReservationType,
        },
        unit,
        from,
      )
      if (request.kind === 'reserve' || request.kind === 'release' || request.kind === 'preempt') checkType(task.cdb)
      const outcome = await unit.reservations.change(from.port, request)
      if (outcome.kind !== 'done') throw refusal(outcome)
      if (aborts) await unit.abortTasksOf(outcome.preempted)
      return bytes
    },
  }
}

export const reserveOutCommands: readonly Command[] = [
  reserveOut(0x00, 'REGISTER', (parameters, unit, from) => registerRequest(parameters, unit, from, false)),
  reserveOut(0x01, 'RESERVE', ({ key, type }) => ({ kind: 'reserve', key, type })),
  reserveOut(0x02, 'RELEASE', ({ key, type }) => ({ kind: 'release', key, type })),
  reserveOut(0x03, 'CLEAR', ({ key }) => ({ kind: 'clear', key })),
  reserveOut(0x04, 'PREEMPT', preemptRequest),
  reserveOut(0x05, 'PREEMPT AND ABORT', preemptRequest, true),
  reserveOut(0x06, 'REGISTER AND IGNORE EXISTING KEY', (parameters, unit, from) =>
    registerRequest(parameters, unit, from, true),
  ),
  reserveOut(0x07, 'REGISTER AND MOVE', moveRequest),
]

const listBytesMin = 24
/** TransportIDs of as many ports as may be registered would be longer; one command names fewer. */
const listBytesMax = 64 * 1024

/** §6.16.3: 24 bytes, more only where TransportIDs follow. */
function readParameters(task: Task, bytes: number, serviceAction: number): Uint8Array {
  if (bytes < listBytesMin || bytes > listBytesMax) throw new CheckCondition(condition.parameterListLength)
  const list = parameterList(task, bytes)
  const mayBeLonger =
    serviceAction === 0x07 || (serviceAction === 0x00 && ((list[20] as number) & specifyInitiatorPorts) !== 0)
  if (bytes !== listBytesMin && !mayBeLonger) throw new CheckCondition(condition.parameterListLength)
  return list
}

/** Scope: the logical unit is all there is. SPC-4 table 208 for types. */
function checkType(cdb: Uint8Array): void {
  const scopeAndType = cdb[2] as number
  if (scopeAndType >> 4 !== 0) throw invalidCdbField(2, 7)
  if (!Object.values(reservationType).some((type) => type === scopeAndType)) throw invalidCdbField(2, 3)
}

function registerRequest(
  { list, key, serviceActionKey }: Parameters,
  unit: LogicalUnit,
  from: NexusRecord,
  ignoresKey: boolean,
): Request {
  const flags = list[20] as number
  const persists = (flags & persistThroughPowerLoss) !== 0
  if (persists && !unit.reservations.canPersist) throw invalidParameter(20, 0)
  const specifies = (flags & specifyInitiatorPorts) !== 0
  // §6.16.3: only a port that is not registered yet registers others beside itself.
  const isRegistered = keyOf(unit.reservations.state, from.port) !== undefined
  if (specifies && (ignoresKey || isRegistered || serviceActionKey === 0n)) throw invalidParameter(20, 3)
  const initiatorPorts = [from.port.initiatorPort, ...(specifies ? namedPorts(list, unit) : [])]
  const targetPorts =
    (flags & allTargetPorts) === 0
      ? [from.port.targetPort]
      : Array.from({ length: unit.portCount }, (_, index) => index + 1)
  const also = initiatorPorts.flatMap((initiatorPort) =>
    targetPorts.map((targetPort): PortName => ({ initiatorPort, targetPort })),
  )
  return { kind: 'register', ignoresKey, key, newKey: serviceActionKey, also, persists }
}

/** Table 215: 24..27 length, then TransportIDs one after the other. */
function namedPorts(list: Uint8Array, unit: LogicalUnit): string[] {
  if (list.byteLength < 28 || u32(list, 24) !== list.byteLength - 28) throw invalidParameter(24)
  const ports: string[] = []
  let at = 28
  while (at < list.byteLength) {
    const id = decodeTransportId(list, at)
    if (id === undefined) throw invalidParameter(at)
    if (id.kind === 'initiatorPort') {
      ports.push(id.name)
    } else {
      // A name alone is every port of it that we know.
      const known = unit.portsOfInitiator(id.name)
      if (known.length === 0) throw invalidParameter(at)
      ports.push(...known)
    }
    at += id.bytes
  }
  return ports
}

function preemptRequest({ key, serviceActionKey, type }: Parameters): Request {
  return { kind: 'preempt', key, victimKey: serviceActionKey, type }
}

/** Table 222:  0..7 key | 8..15 new key | 17 UNREG APTPL | 18..19 target port | 20..23 length | 24.. TransportID */
function moveRequest({ list, key, serviceActionKey }: Parameters, unit: LogicalUnit, from: NexusRecord): Request {
  const flags = list[17] as number
  const persists = (flags & persistThroughPowerLoss) !== 0
  if (persists && !unit.reservations.canPersist) throw invalidParameter(17, 0)
  const targetPort = u16(list, 18)
  if (targetPort < 1 || targetPort > unit.portCount) throw invalidParameter(18)
  if (u32(list, 20) !== list.byteLength - 24) throw invalidParameter(20)
  const id = decodeTransportId(list, 24)
  if (id === undefined || id.kind !== 'initiatorPort' || 24 + id.bytes !== list.byteLength) throw invalidParameter(24)
  const to = { initiatorPort: id.name, targetPort }
  // §5.9.8: to itself is an error.
  if (to.initiatorPort === from.port.initiatorPort && targetPort === from.port.targetPort) throw invalidParameter(24)
  return { kind: 'move', key, newKey: serviceActionKey, to, unregister: (flags & 0x02) !== 0, persists }
}

function refusal(outcome: Exclude<Outcome, { kind: 'done' }>): Error {
  switch (outcome.kind) {
    case 'conflict':
      return new ReservationConflict()
    case 'invalidKey':
      return invalidParameter(8)
    case 'invalidRelease':
      return new CheckCondition(condition.invalidRelease)
    case 'exhausted':
      return new CheckCondition(condition.registrationsExhausted)
    default:
      return unreachable(outcome)
  }
}
