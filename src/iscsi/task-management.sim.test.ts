/**
 * Goal: each task management function has its response, ends the tasks it names and no others, and those who did not ask hear of it
 * once. RFC 7143 §11.5, §11.6; SAM-5 §7. Method: raw PDUs from several initiators to one disk whose commands end when told.
 */
import { expect, test } from 'vitest'
import { createWorld, initiatorName, targetName, type World } from '../../test/simulation/iscsi.ts'
import { type Heard, pduOf, RawSession, readOf, writeOf } from '../../test/simulation/iscsi-raw.ts'
import { createMemoryDevice } from '../block/memory.ts'
import { createDeviceServer } from '../scsi/device-server.ts'
import { taskManagementFunction as code, taskManagementResponse as said } from './codes.ts'

const otherLun = Uint8Array.of(0, 1, 0, 0, 0, 0, 0, 0)
const noLun = Uint8Array.of(0, 7, 0, 0, 0, 0, 0, 0)
const otherName = `${initiatorName}.other`

/** Two disks of one target; reads of LBA 1 end when `release` is called. */
async function disks() {
  const held: (() => void)[] = []
  const disk = (serialNumber: string) => {
    const inner = createMemoryDevice(1 << 20)
    const device = Object.assign(Object.create(inner) as typeof inner, {
      lend: undefined,
      readNow: undefined,
      read: (offset: number, target: Uint8Array) =>
        offset === 512 ? new Promise<void>((resolve) => held.push(resolve)) : inner.read(offset, target),
    })
    return { device, serialNumber }
  }
  const deviceServer = createDeviceServer({ targetName, disks: [disk('ONE'), disk('TWO')] })
  const world = await createWorld({ deviceServer })
  const release = (): void => {
    for (const resolve of held.splice(0)) resolve()
  }
  return { world, release }
}

/** Past the unit attentions of both disks; the next CmdSN is 3. */
async function open(world: World, name = initiatorName, isid = '400027230001'): Promise<RawSession> {
  const raw = await RawSession.open(world, { initiatorName: name, isid })
  for (const [commandNumber, lun] of [
    [1, new Uint8Array(8)],
    [2, otherLun],
  ] as const) {
    expect(await attention(raw, commandNumber, lun)).toBe('2900')
  }
  return raw
}

/** TEST UNIT READY: the attention it hears of, or 'good'. */
async function attention(raw: RawSession, commandNumber: number, lun = new Uint8Array(8)): Promise<string> {
  const heard = await raw.say(pduOf('scsiCommand', { commandNumber, initiatorTaskTag: 0x900 + commandNumber, lun }))
  const [answer] = heard
  if (answer?.pdu.kind !== 'scsiResponse') throw new Error(`${answer?.pdu.kind}`)
  if (answer.pdu.status === 0) return 'good'
  expect(answer.data[4]).toBe(0x06)
  return [answer.data[14], answer.data[15]].map((byte) => (byte ?? 0).toString(16).padStart(2, '0')).join('')
}

const slow = (commandNumber: number, lun = new Uint8Array(8)) =>
  readOf(1, 1, { commandNumber, initiatorTaskTag: commandNumber, lun })

const manage = (code: number, change: Parameters<typeof pduOf<'taskManagement'>>[1] = {}) =>
  pduOf('taskManagement', { function: code, initiatorTaskTag: 0x800, ...change })

const responses = (heard: readonly Heard[]): number[] =>
  heard.flatMap(({ pdu }) => (pdu.kind === 'taskManagementResponse' ? [pdu.response] : []))
const answered = (heard: readonly Heard[]): number[] =>
  heard.flatMap(({ pdu }) => (pdu.kind === 'dataIn' || pdu.kind === 'scsiResponse' ? [pdu.initiatorTaskTag] : []))

test('ABORT TASK ends one command, and answers when nothing of it can still happen; asked twice, both wait', async () => {
  const { world, release } = await disks()
  const raw = await open(world)
  raw.send(slow(3))
  raw.send(slow(4))
  const abort = manage(code.abortTask, { referencedTaskTag: 3, referencedCommandNumber: 3, commandNumber: 5 })
  expect(await raw.say(abort)).toEqual([])
  expect(await raw.say({ ...abort, initiatorTaskTag: 0x801 })).toEqual([])
  release()
  const heard = await raw.hear()
  expect(responses(heard)).toEqual([said.complete, said.complete])
  expect(answered(heard)).toEqual([4])
})

test('ABORT TASK of what is not there, of another disk, and of what has not come yet', async () => {
  const { world } = await disks()
  const raw = await open(world)
  const abort = (change: object) => raw.say(manage(code.abortTask, { commandNumber: 6, ...change }))
  expect(responses(await abort({ referencedTaskTag: 99, referencedCommandNumber: 1 }))).toEqual([said.taskMissing])
  expect(responses(await abort({ referencedTaskTag: 99, referencedCommandNumber: 6 }))).toEqual([said.taskMissing])
  raw.send(slow(3))
  const wrongLun = { referencedTaskTag: 3, referencedCommandNumber: 3, lun: otherLun }
  expect(responses(await abort(wrongLun))).toEqual([said.taskMissing])
  // Number 4 is on its way: it counts as come and aborted, and number 5 does not wait for it.
  expect(responses(await abort({ referencedTaskTag: 4, referencedCommandNumber: 4 }))).toEqual([said.complete])
  expect(await attention(raw, 5)).toBe('good')
  expect(await raw.say(slow(4))).toEqual([])
})

test('a unit by its other name (flat addressing) is the same unit: its commands end', async () => {
  const { world, release } = await disks()
  const raw = await open(world)
  raw.send(slow(3))
  raw.send(slow(4, otherLun))
  const flat = Uint8Array.of(0x40, 0, 0, 0, 0, 0, 0, 0)
  expect(await raw.say(manage(code.logicalUnitReset, { lun: flat, commandNumber: 5 }))).toEqual([])
  release()
  const heard = await raw.hear()
  expect(responses(heard)).toEqual([said.complete])
  expect(answered(heard)).toEqual([4])
})

test('ABORT TASK SET ends the own commands at that disk, whatever they wait for, and nobody hears of it', async () => {
  const { world, release } = await disks()
  const raw = await open(world)
  const other = await open(world, otherName)
  raw.send(slow(3))
  raw.send(writeOf(8, 8, { commandNumber: 4, initiatorTaskTag: 4 }))
  raw.send(writeOf(8, 8, { commandNumber: 6, initiatorTaskTag: 6 }))
  raw.send(slow(7, otherLun))
  other.send(slow(3))
  await raw.hear()
  raw.send(manage(code.abortTaskSet, { commandNumber: 5 }))
  expect(responses(await raw.hear())).toEqual([])
  release()
  const heard = await raw.hear()
  expect(responses(heard)).toEqual([said.complete])
  expect(answered(await other.hear())).toEqual([3])
  // Number 5 lets 6 (aborted) and 7 (of the other disk) have their turn.
  expect(await attention(raw, 5)).toBe('good')
  release()
  expect(answered(await raw.hear())).toEqual([7])
  expect(await attention(other, 4)).toBe('good')
})

test('CLEAR TASK SET ends the commands of all at that disk; who lost some hears of it, once', async () => {
  const { world, release } = await disks()
  const raw = await open(world)
  const executing = await open(world, otherName)
  const collecting = await open(world, `${initiatorName}.third`)
  const idle = await open(world, `${initiatorName}.fourth`)
  executing.send(slow(3))
  await collecting.say(writeOf(8, 8, { commandNumber: 3, initiatorTaskTag: 3 }))
  await executing.hear()
  expect(await raw.say(manage(code.clearTaskSet, { commandNumber: 3 }))).toEqual([])
  release()
  expect(responses(await raw.hear())).toEqual([said.complete])
  expect(answered(await executing.hear())).toEqual([])
  for (const loser of [executing, collecting]) {
    expect(await attention(loser, 4)).toBe('2f00')
    expect(await attention(loser, 5)).toBe('good')
  }
  expect(await attention(idle, 3)).toBe('good')
  expect(await attention(raw, 3)).toBe('good')
})

test('LOGICAL UNIT RESET ends the commands of all at that disk and tells all; the other disk knows nothing', async () => {
  const { world, release } = await disks()
  const raw = await open(world)
  const other = await open(world, otherName)
  other.send(slow(3))
  other.send(slow(4, otherLun))
  await other.hear()
  expect(await raw.say(manage(code.logicalUnitReset, { commandNumber: 3 }))).toEqual([])
  release()
  expect(responses(await raw.hear())).toEqual([said.complete])
  expect(answered(await other.hear())).toEqual([4])
  for (const [session, number] of [
    [raw, 3],
    [other, 5],
  ] as const) {
    expect(await attention(session, number)).toBe('2903')
    expect(await attention(session, number + 1)).toBe('good')
    expect(await attention(session, number + 2, otherLun)).toBe('good')
  }
})

test('TARGET WARM RESET ends all commands and tells all; sessions stay', async () => {
  const { world, release } = await disks()
  const raw = await open(world)
  const other = await open(world, otherName)
  other.send(slow(3))
  other.send(slow(4, otherLun))
  await other.hear()
  expect(await raw.say(manage(code.targetWarmReset, { commandNumber: 3 }))).toEqual([])
  release()
  expect(responses(await raw.hear())).toEqual([said.complete])
  expect(answered(await other.hear())).toEqual([])
  for (const lun of [new Uint8Array(8), otherLun])
    expect(await attention(other, lun === otherLun ? 6 : 5, lun)).toBe('2903')
  expect(world.target.sessions()).toHaveLength(2)
})

test('TARGET COLD RESET answers, and then all connections end; who comes back hears of a power-on', async () => {
  const { world } = await disks()
  const raw = await open(world)
  const other = await open(world, otherName)
  expect(responses(await raw.say(manage(code.targetColdReset, { commandNumber: 3 })))).toEqual([said.complete])
  // §11.9.1, event 3: the target drops the connections of this session.
  expect((await other.hear(3_000)).map(({ pdu }) => pdu)).toMatchObject([{ kind: 'asyncMessage', event: 3 }])
  expect([raw.isClosed, other.isClosed]).toEqual([true, true])
  expect(world.events.filter((event) => event.kind === 'sessionClosed').map(({ end }) => end)).toEqual([
    'targetReset',
    'targetReset',
  ])
  await open(world)
})

test('what we cannot do is refused with the reason, and a disk that is not there is told', async () => {
  const { world } = await disks()
  const raw = await open(world)
  const ask = async (code: number, lun = new Uint8Array(8)) =>
    responses(await raw.say(manage(code, { lun, commandNumber: 3 })))
  expect(await ask(code.taskReassign)).toEqual([said.reassignNotSupported])
  expect(await ask(code.clearAca)).toEqual([said.notSupported])
  expect(await ask(77)).toEqual([said.notSupported])
  for (const each of [code.abortTaskSet, code.clearTaskSet, code.logicalUnitReset]) {
    expect(await ask(each, noLun)).toEqual([said.lunMissing])
  }
  const discovery = await RawSession.open(world, { targetName: undefined })
  const heard = await discovery.say(manage(code.targetColdReset))
  expect(responses(heard)).toEqual([said.rejected])
  expect(raw.isClosed).toBe(false)
})

test('a request that is not immediate waits for its turn', async () => {
  const { world, release } = await disks()
  const raw = await open(world)
  expect(await raw.say(manage(code.abortTaskSet, { immediate: false, commandNumber: 4 }))).toEqual([])
  raw.send(slow(3))
  release()
  await raw.hear()
  release()
  expect(responses(await raw.hear())).toEqual([said.complete])
})
