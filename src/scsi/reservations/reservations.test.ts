/** Reservations as initiators see them: PERSISTENT RESERVE IN and OUT, RESERVE and RELEASE, and what conflicts. */
import { expect, test } from 'vitest'
import { OperationError } from '../../base/errors.ts'
import type { BlockDevice } from '../../block/device.ts'
import { createMemoryDevice } from '../../block/memory.ts'
import { createDeviceServer, type TargetDevice } from '../device-server.ts'
import { type Ending, hex, Initiator, outcomeOf, toHex } from '../testing/recorded-task.ts'
import { lateDevice } from '../testing/test-device.ts'
import type { ReservationStore, SavedReservations } from './store.ts'
import { decodeTransportId, encodeTransportId } from './transport-id.ts'

const block = new Uint8Array(512)

function serverOf(
  device: BlockDevice = createMemoryDevice(512 * 64),
  reservationStore?: ReservationStore,
): TargetDevice {
  const disk = { device, serialNumber: 'reserved' }
  return createDeviceServer({
    targetName: 'iqn.2026-01.lab:disk',
    portCount: 2,
    disks: [reservationStore === undefined ? disk : { ...disk, reservationStore }],
  })
}

const key = (value: number): string => value.toString(16).padStart(16, '0')

interface Out {
  readonly own?: number
  readonly service?: number
  /** Scope and type, byte 2. */
  readonly type?: number
  readonly flags?: number
  /** TransportIDs with their length field. */
  readonly more?: string
}

function out(
  initiator: Initiator,
  serviceAction: number,
  { own = 0, service = 0, type = 0, flags = 0, more = '' }: Out,
) {
  const two = (value: number): string => value.toString(16).padStart(2, '0')
  const list = hex(`${key(own)}${key(service)}00000000${two(flags)}000000${more}`)
  const cdb = `5f ${two(serviceAction)} ${two(type)} 0000 ${list.byteLength.toString(16).padStart(8, '0')} 00`
  return initiator.run(cdb, { dataOut: list })
}

const register = (initiator: Initiator, service: number, rest: Out = {}): Promise<Ending> =>
  out(initiator, 0x06, { service, ...rest })
const read = (initiator: Initiator): Promise<Ending> => initiator.run('28 00 00000000 00 0001 00')
const write = (initiator: Initiator): Promise<Ending> => initiator.run('2a 00 00000000 00 0001 00', { dataOut: block })
const ask = async (initiator: Initiator, serviceAction: number): Promise<string> =>
  toHex((await initiator.run(`5e 0${serviceAction} 00 00 00 00 00 1000 00`)).data)

test('keys and the reservation are read as SPC-4 prints them', async () => {
  const server = serverOf()
  const a = new Initiator(server, 'iqn.lab:a')
  const b = new Initiator(server, 'iqn.lab:b', 2)
  expect(await ask(a, 0)).toBe('0000000000000000')
  expect(await register(a, 0xaa)).toMatchObject({ status: 0, wanted: 24 })
  await register(b, 0xbb)
  expect(await ask(a, 0)).toBe(`0000000200000010${key(0xaa)}${key(0xbb)}`)
  expect(await ask(a, 1)).toBe('0000000200000000')
  await out(a, 0x01, { own: 0xaa, type: 0x03 })
  expect(await ask(b, 1)).toBe(`0000000200000010${key(0xaa)}0000000000030000`)
  expect(await ask(a, 2)).toBe('00080c80ea010000')
  const name = toHex(encodeTransportId('iqn.lab:a,i,0x400000000001'))
  expect((await ask(a, 3)).slice(16, 16 + 48 + name.length)).toBe(`${key(0xaa)}00000000010300000000000100000020${name}`)
  expect(outcomeOf(await a.run('5e 04 00 00 00 00 00 1000 00'))).toBe('5/2400@cdb 1.4')
})

/** SPC-4 table 66, SBC-3 table 4: what others may still do, by type: read when registered, write when registered, ... */
const access = [
  { type: 1, registered: 'read', stranger: 'read' },
  { type: 3, registered: '', stranger: '' },
  { type: 5, registered: 'read write', stranger: 'read' },
  { type: 6, registered: 'read write', stranger: '' },
  { type: 7, registered: 'read write', stranger: 'read' },
  { type: 8, registered: 'read write', stranger: '' },
] as const

test.each(access)('type $type lets registered ports "$registered" and strangers "$stranger"', async (row) => {
  const server = serverOf()
  const [holder, registered, stranger] = ['a', 'b', 'c'].map((name) => new Initiator(server, `iqn.lab:${name}`)) as [
    Initiator,
    Initiator,
    Initiator,
  ]
  await register(holder, 1)
  await register(registered, 2)
  expect(outcomeOf(await out(holder, 0x01, { own: 1, type: row.type }))).toBe('good')
  for (const [initiator, may] of [
    [holder, 'read write'],
    [registered, row.registered],
    [stranger, row.stranger],
  ] as const) {
    expect(outcomeOf(await read(initiator))).toBe(may.includes('read') ? 'good' : 'conflict')
    for (const cdb of ['35 00 00000000 00 0000 00', '41 00 00000000 00 0001 00', '1b 00 00 00 01 00']) {
      const ending = await initiator.run(cdb, cdb.startsWith('41') ? { dataOut: block } : {})
      expect(outcomeOf(ending), cdb).toBe(may.includes('write') ? 'good' : 'conflict')
    }
    expect(outcomeOf(await write(initiator))).toBe(may.includes('write') ? 'good' : 'conflict')
    for (const cdb of [
      '00 00 00 00 00 00',
      '12 00 00 00 60 00',
      'a0 00 00 000000 00000100 00 00',
      '25 00 00000000 0000 00 00',
    ]) {
      expect(outcomeOf(await initiator.run(cdb)), cdb).toBe('good')
    }
  }
})

test('whoever is preempted or released is told once, and conflicts from then on', async () => {
  const server = serverOf()
  const a = new Initiator(server, 'iqn.lab:a')
  const b = new Initiator(server, 'iqn.lab:b')
  await register(a, 1)
  await register(b, 2)
  await out(a, 0x01, { own: 1, type: 3 })
  expect(outcomeOf(await write(b))).toBe('conflict')
  expect(outcomeOf(await out(b, 0x04, { own: 2, service: 1, type: 3 }))).toBe('good')
  expect(outcomeOf(await write(a))).toBe('6/2a05')
  expect(outcomeOf(await write(a))).toBe('conflict')
  expect(outcomeOf(await out(a, 0x02, { own: 1, type: 3 }))).toBe('conflict')
  await register(a, 1)
  expect(outcomeOf(await out(a, 0x03, { own: 1 }))).toBe('good')
  expect(outcomeOf(await b.run('00 00 00 00 00 00'))).toBe('6/2a03')
  expect(outcomeOf(await write(b))).toBe('good')
})

test('bad requests say which field is wrong', async () => {
  const server = serverOf()
  const a = new Initiator(server, 'iqn.lab:a')
  await register(a, 1)
  for (const [serviceAction, fields, outcome] of [
    [0x01, { own: 1, type: 0x02 }, '5/2400@cdb 2.3'],
    [0x01, { own: 1, type: 0x13 }, '5/2400@cdb 2.7'],
    [0x04, { own: 1, service: 0, type: 0x01 }, '5/2600@parameters 8'],
    [0x06, { service: 1, flags: 0x01 }, '5/2600@parameters 20.0'],
    [0x06, { service: 1, flags: 0x08 }, '5/2600@parameters 20.3'],
    [0x01, { own: 1, type: 0x01, more: '00000000' }, '5/1a00'],
    [0x08, { own: 1 }, '5/2400@cdb 1.4'],
  ] as const) {
    expect(outcomeOf(await out(a, serviceAction, fields)), `${serviceAction} ${JSON.stringify(fields)}`).toBe(outcome)
  }
  expect(outcomeOf(await a.run('5f 00 00 0000 00000008 00', { dataOut: new Uint8Array(8) }))).toBe('5/1a00')
  expect(outcomeOf(await a.run('5f 00 00 0000 00000018 00', { dataOut: new Uint8Array(8) }))).toBe('5/1a00')
  await out(a, 0x01, { own: 1, type: 1 })
  expect(outcomeOf(await out(a, 0x02, { own: 1, type: 3 }))).toBe('5/2604')
})

test('a registration can name other ports, and all target ports', async () => {
  const server = serverOf()
  const a = new Initiator(server, 'iqn.lab:a')
  const b = new Initiator(server, 'iqn.lab:b')
  const ids = toHex(encodeTransportId('iqn.lab:z,i,0x4000000000ff'))
  const more = (ids.length / 2).toString(16).padStart(8, '0') + ids
  expect(outcomeOf(await out(a, 0x00, { service: 5, flags: 0x08 | 0x04, more }))).toBe('good')
  expect(await ask(a, 0)).toBe(`0000000100000020${key(5).repeat(4)}`)
  // A name alone is every port of it that is logged in.
  const named = new Uint8Array(24)
  named.set([0x05, 0, 0, 20])
  named.set(new TextEncoder().encode('iqn.lab:a'), 4)
  expect(outcomeOf(await out(b, 0x00, { service: 6, flags: 0x08, more: `00000018${toHex(named)}` }))).toBe('good')
  named.set(new TextEncoder().encode('iqn.lab:q'), 4)
  const c = new Initiator(server, 'iqn.lab:c')
  expect(outcomeOf(await out(c, 0x00, { service: 6, flags: 0x08, more: `00000018${toHex(named)}` }))).toBe(
    '5/2600@parameters 28',
  )
})

test('REGISTER AND MOVE hands the reservation to another port', async () => {
  const server = serverOf()
  const a = new Initiator(server, 'iqn.lab:a')
  const b = new Initiator(server, 'iqn.lab:b')
  await register(a, 1)
  await out(a, 0x01, { own: 1, type: 3 })
  const id = toHex(encodeTransportId('iqn.lab:b,i,0x400000000001'))
  const list = hex(`${key(1)}${key(9)}00 02 0001 ${(id.length / 2).toString(16).padStart(8, '0')}${id}`)
  const cdb = `5f 07 00 0000 ${list.byteLength.toString(16).padStart(8, '0')} 00`
  expect(outcomeOf(await a.run(cdb, { dataOut: list }))).toBe('good')
  expect(outcomeOf(await write(b))).toBe('good')
  expect(outcomeOf(await write(a))).toBe('conflict')
  expect(await ask(b, 0)).toBe(`0000000200000008${key(9)}`)
})

test('PREEMPT AND ABORT waits for what the victim has in flight, and its tasks end with TASK ABORTED', async () => {
  const device = lateDevice(512 * 64)
  const server = serverOf(device)
  const a = new Initiator(server, 'iqn.lab:a')
  const b = new Initiator(server, 'iqn.lab:b')
  await register(a, 1)
  await register(b, 2)
  const { promise, resolve } = Promise.withResolvers<void>()
  device.hold = promise
  const victim = a.start('2a 00 00000000 00 0001 00', { dataOut: block })
  const waiting = a.start('2a 00 00000001 00 0001 00', { dataOut: block, attribute: 'ordered' })
  const list = hex(`${key(2)}${key(1)}0000000000000000`)
  const preempting = b.start('5f 05 03 0000 00000018 00', { dataOut: list, attribute: 'headOfQueue' })
  await new Promise((each) => setTimeout(each, 5))
  expect([victim.ending, preempting.ending, waiting.ending?.status]).toEqual([undefined, undefined, 0x40])
  resolve()
  expect(outcomeOf(await preempting.done)).toBe('good')
  expect((await victim.done).status).toBe(0x40)
  expect(outcomeOf(await write(a))).toBe('6/2a05')
})

/** Keeps what was saved, and can refuse. */
function storeOf(
  saved?: SavedReservations,
): ReservationStore & { kept: SavedReservations | undefined; failure?: Error } {
  const store: ReservationStore & { kept: SavedReservations | undefined; failure?: Error } = {
    saved,
    kept: saved,
    save(reservations) {
      if (store.failure !== undefined) return Promise.reject(store.failure)
      store.kept = reservations === undefined ? undefined : JSON.parse(JSON.stringify(reservations))
      return Promise.resolve()
    },
  }
  return store
}

test('with APTPL registrations and reservation outlive a restart; without, nothing does', async () => {
  const first = storeOf()
  const server = serverOf(undefined, first)
  const a = new Initiator(server, 'iqn.lab:a')
  await register(a, 0xaa, { flags: 0x01 })
  await out(a, 0x01, { own: 0xaa, type: 1 })
  expect(first.kept).toBeDefined()
  const second = storeOf(first.kept)
  const restarted = serverOf(undefined, second)
  const again = new Initiator(restarted, 'iqn.lab:a')
  const other = new Initiator(restarted, 'iqn.lab:b')
  expect(await ask(again, 0)).toBe(`0000000000000008${key(0xaa)}`)
  expect(outcomeOf(await write(other))).toBe('conflict')
  expect(outcomeOf(await write(again))).toBe('good')
  expect(await ask(again, 2)).toBe('00080d81ea010000')
  await register(again, 0xaa)
  expect(second.kept).toBeUndefined()
})

test('what cannot be saved is not done', async () => {
  const store = storeOf()
  const a = new Initiator(serverOf(undefined, store), 'iqn.lab:a')
  store.failure = new OperationError('noSpace', 'the disk is full', 'make room')
  expect(outcomeOf(await register(a, 1, { flags: 0x01 }))).toBe('7/2707')
  expect(await ask(a, 0)).toBe('0000000000000000')
})

test('RESERVE (6) keeps everybody else out until it is released, reset or the nexus ends', async () => {
  const server = serverOf()
  const a = new Initiator(server, 'iqn.lab:a')
  const b = new Initiator(server, 'iqn.lab:b')
  const reserve = '16 00 00 00 00 00'
  const endings = [
    () => a.run('17 00 00 00 00 00'),
    () => server.manage(a.nexus, new Uint8Array(8), 'logicalUnitReset'),
    () => server.manage(a.nexus, new Uint8Array(8), 'targetReset'),
    () => server.detach(a.nexus),
  ]
  for (const end of endings) {
    expect(outcomeOf(await a.run(reserve))).toBe('good')
    expect(outcomeOf(await a.run(reserve))).toBe('good')
    expect(outcomeOf(await b.run(reserve))).toBe('conflict')
    expect(outcomeOf(await b.run('17 00 00 00 00 00'))).toBe('good')
    for (const cdb of ['00 00 00 00 00 00', '1a 00 3f 00 ff 00', '28 00 00000000 00 0001 00']) {
      expect(outcomeOf(await b.run(cdb)), cdb).toBe('conflict')
    }
    expect(outcomeOf(await b.run('12 00 00 00 24 00'))).toBe('good')
    expect(outcomeOf(await register(b, 1))).toBe('conflict')
    await end()
    for (const initiator of [a, b]) await initiator.run('03 00 00 00 fc 00')
    expect(outcomeOf(await b.run(reserve))).toBe('good')
    await b.run('17 00 00 00 00 00')
  }
  expect(outcomeOf(await b.run('16 10 00 00 00 00'))).toBe('5/2400@cdb 1.4')
  await register(b, 1)
  expect(outcomeOf(await b.run(reserve))).toBe('conflict')
})

test('TransportIDs are read as they are written, and anything else is refused', () => {
  const id = encodeTransportId('iqn.2026-01.lab:m1,i,0x400000000001')
  expect(decodeTransportId(id, 0)).toEqual({
    kind: 'initiatorPort',
    name: 'iqn.2026-01.lab:m1,i,0x400000000001',
    bytes: id.byteLength,
  })
  for (let size = 0; size < id.byteLength; size++) expect(decodeTransportId(id.subarray(0, size), 0)).toBeUndefined()
  for (const [at, value] of [
    [0, 0x46],
    [0, 0x85],
    [3, 0x13],
    [4, 0x00],
  ] as const) {
    const bad = id.slice()
    bad[at] = value
    expect(decodeTransportId(bad, 0)).toBeUndefined()
  }
})
