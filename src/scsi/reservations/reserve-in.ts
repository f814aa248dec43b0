/** PERSISTENT RESERVE IN. SPC-4 §6.15. */
import { putU16, putU32, putU64Exact, u16 } from '../../wire/big-endian.ts'
import { type Command, respond } from '../command.ts'
import type { LogicalUnit } from '../logical-unit.ts'
import type { Task } from '../task.ts'
import { isAllRegistrants, isHolder, keyOf, type ReservationState } from './state.ts'
import { encodeTransportId } from './transport-id.ts'

const usage = '5e 1f 0000000000 ffff 04'

function reserveIn(
  serviceAction: number,
  name: string,
  render: (state: ReservationState, unit: LogicalUnit) => Uint8Array,
): Command {
  return {
    opcode: 0x5e,
    serviceAction,
    name: `PERSISTENT RESERVE IN, ${name}`,
    usage,
    access: 'information',
    duringSanitize: true,
    run: (unit: LogicalUnit, task: Task) => respond(task, render(unit.reservations.state, unit), u16(task.cdb, 7)),
  }
}

export const reserveInCommands: readonly Command[] = [
  reserveIn(0x00, 'READ KEYS', (state) => {
    const data = withHeader(state, 8 * state.registrations.length)
    state.registrations.forEach(({ key }, i) => {
      putU64Exact(data, 8 + 8 * i, key)
    })
    return data
  }),
  reserveIn(0x01, 'READ RESERVATION', (state) => {
    const { reservation } = state
    if (reservation === undefined) return withHeader(state, 0)
    const data = withHeader(state, 16)
    // Table 198: of an all-registrants type there is no one holder, and no key.
    if (!isAllRegistrants(reservation.type)) putU64Exact(data, 8, keyOf(state, reservation.holder) ?? 0n)
    data[21] = reservation.type
    return data
  }),
  reserveIn(0x02, 'REPORT CAPABILITIES', (state, unit) => {
    // Table 202:  2 SIP_C ATP_C PTPL_C | 3 TMV, PTPL_A | 4..5 type mask
    const data = new Uint8Array(8)
    putU16(data, 0, 8)
    data[2] = 0x08 | 0x04 | (unit.reservations.canPersist ? 0x01 : 0)
    data[3] = 0x80 | (state.persists ? 0x01 : 0)
    putU16(data, 4, 0xea01)
    return data
  }),
  reserveIn(0x03, 'READ FULL STATUS', (state) => {
    const descriptors = state.registrations.map(({ port, key }) => {
      // Table 207:  0..7 key | 12 ALL_TG_PT R_HOLDER | 13 scope, type | 18..19 target port | 20..23 length | 24.. TransportID
      const id = encodeTransportId(port.initiatorPort)
      const bytes = new Uint8Array(24 + id.byteLength)
      putU64Exact(bytes, 0, key)
      if (isHolder(state, port)) {
        bytes[12] = 0x01
        bytes[13] = state.reservation?.type ?? 0
      }
      putU16(bytes, 18, port.targetPort)
      putU32(bytes, 20, id.byteLength)
      bytes.set(id, 24)
      return bytes
    })
    const data = withHeader(
      state,
      descriptors.reduce((sum, each) => sum + each.byteLength, 0),
    )
    let at = 8
    for (const each of descriptors) {
      data.set(each, at)
      at += each.byteLength
    }
    return data
  }),
]

/** 0..3 PRGENERATION | 4..7 ADDITIONAL LENGTH */
function withHeader(state: ReservationState, bytes: number): Uint8Array {
  const data = new Uint8Array(8 + bytes)
  putU32(data, 0, state.generation)
  putU32(data, 4, bytes)
  return data
}
