/** Goal: commands are carried out in order of CmdSN, whatever order they come in. RFC 7143 §4.2.2.1. Method: raw PDUs. */
import { expect, test } from 'vitest'
import { createWorld, type World } from '../../test/simulation/iscsi.ts'
import { type Heard, openRaw, pduOf, RawSession, readOf, writeOf } from '../../test/simulation/iscsi-raw.ts'
import type { DeviceServer, Task } from '../scsi/task.ts'
import { rejectReason } from './codes.ts'
import { commandWindow } from './limits.ts'

/** Keeps the tags of what it executes, in order, and ends each when the test says so, or at once. */
class RecordingServer implements DeviceServer {
  readonly dataOutBytesMax: number = 1_048_576
  readonly tasks: Task[] = []
  readonly lbas: number[] = []
  readonly #endsAtOnce: boolean
  constructor(endsAtOnce = true) {
    this.#endsAtOnce = endsAtOnce
  }
  attach(): void {}
  detach(): void {}
  execute(task: Task): void {
    this.tasks.push(task)
    this.lbas.push(new DataView(task.cdb.buffer, task.cdb.byteOffset).getUint32(2))
    if (this.#endsAtOnce) task.good(task.dataOutBytes)
  }
  manage(): 'done' {
    return 'done'
  }
}

async function session(deviceServer: DeviceServer): Promise<{ readonly raw: RawSession; readonly world: World }> {
  const world = await createWorld({ deviceServer })
  return { raw: await RawSession.open(world), world }
}

/** A command that only has an LBA and a number. */
const numbered = (commandNumber: number, change: Parameters<typeof readOf>[2] = {}) =>
  readOf(commandNumber, 1, {
    commandNumber,
    initiatorTaskTag: commandNumber,
    read: false,
    expectedTransferBytes: 0,
    ...change,
  })

const tags = (heard: readonly Heard[]): number[] =>
  heard.map(({ pdu }) => ('initiatorTaskTag' in pdu ? pdu.initiatorTaskTag : -1))

test('commands that come early wait for those before them, and then all are carried out in order', async () => {
  const server = new RecordingServer()
  const { raw } = await session(server)
  expect(await raw.say(numbered(3))).toEqual([])
  expect(await raw.say(numbered(2))).toEqual([])
  expect(await raw.say(numbered(5))).toEqual([])
  expect(tags(await raw.say(numbered(1)))).toEqual([1, 2, 3])
  expect(tags(await raw.say(numbered(4)))).toEqual([4, 5])
  expect(server.lbas).toEqual([1, 2, 3, 4, 5])
})

test('each response says which command is expected next, and how many more may come', async () => {
  const { raw } = await session(new RecordingServer(false))
  expect(raw.login).toMatchObject({ expectedCommandNumber: 1 })
  raw.send(numbered(1))
  raw.send(numbered(2))
  const [ping] = await raw.say(pduOf('nopOut', { immediate: true, initiatorTaskTag: 9, commandNumber: 3 }))
  // Two of the window are under way; ExpCmdSN has passed them.
  expect(ping?.pdu).toMatchObject({ kind: 'nopIn', expectedCommandNumber: 3, maxCommandNumber: commandWindow })
})

test('what is outside the window is ignored, and the window moves on only when a command ends', async () => {
  const server = new RecordingServer(false)
  const { raw } = await session(server)
  for (let number = 1; number <= commandWindow; number++) raw.send(numbered(number))
  raw.send(numbered(commandWindow + 1))
  expect(await raw.hear()).toEqual([])
  expect(server.tasks).toHaveLength(commandWindow)
  server.tasks[0]?.good(0)
  const [first] = await raw.hear()
  expect(first?.pdu).toMatchObject({ expectedCommandNumber: commandWindow + 1, maxCommandNumber: commandWindow + 1 })
  await raw.say(numbered(commandWindow + 1))
  expect(server.tasks).toHaveLength(commandWindow + 1)
  expect(raw.isClosed).toBe(false)
})

test('a number that has been, or that waits already, is ignored without a word', async () => {
  const server = new RecordingServer()
  const { raw } = await session(server)
  await raw.say(numbered(1))
  expect(await raw.say(numbered(1))).toEqual([])
  expect(await raw.say(numbered(0))).toEqual([])
  await raw.say(numbered(3))
  expect(await raw.say(numbered(3)), 'the same again, tag and all').toEqual([])
  expect(await raw.say(numbered(3, { initiatorTaskTag: 77 })), 'another command with its number').toEqual([])
  expect(tags(await raw.say(numbered(2)))).toEqual([2, 3])
  expect(server.lbas).toEqual([1, 2, 3])
})

test('numbers go on behind 2^32 - 1 with 0', async () => {
  const server = new RecordingServer()
  const world = await createWorld({ deviceServer: server })
  const last = 0xffff_ffff
  const raw = await RawSession.open(world, { commandNumber: last })
  await raw.say(numbered(0, { initiatorTaskTag: 8 }))
  expect(tags(await raw.say(numbered(last, { initiatorTaskTag: 7 })))).toEqual([7, 8])
})

test('an immediate command is carried out at once, and takes no number', async () => {
  const server = new RecordingServer()
  const { raw } = await session(server)
  await raw.say(numbered(2))
  expect(tags(await raw.say(numbered(1, { initiatorTaskTag: 50, immediate: true })))).toEqual([50])
  expect(tags(await raw.say(numbered(1)))).toEqual([1, 2])
})

test('more immediate commands than may be are rejected, and nothing else is', async () => {
  const server = new RecordingServer(false)
  const { raw } = await session(server)
  for (let i = 0; i < 16; i++) raw.send(numbered(1, { initiatorTaskTag: 100 + i, immediate: true }))
  const [rejected] = await raw.say(numbered(1, { initiatorTaskTag: 200, immediate: true }))
  expect(rejected?.pdu).toMatchObject({ kind: 'reject', reason: rejectReason.tooManyImmediateCommands })
  server.tasks[0]?.good(0)
  expect(tags(await raw.hear())).toEqual([100])
  await raw.say(numbered(1))
  expect(server.tasks).toHaveLength(17)
})

test('a tag in use is rejected with the header that was refused, and those behind it do not wait for ever', async () => {
  const server = new RecordingServer(false)
  const { raw } = await session(server)
  raw.send(numbered(1))
  const [rejected] = await raw.say(numbered(2, { initiatorTaskTag: 1 }))
  expect(rejected?.pdu).toMatchObject({ kind: 'reject', reason: rejectReason.taskInProgress })
  expect(rejected?.data.byteLength).toBe(48)
  expect(new DataView(rejected?.data.buffer ?? new ArrayBuffer(48)).getUint32(24)).toBe(2)
  await raw.say(numbered(3))
  expect(server.lbas).toEqual([1, 3])
})

test('writes that come early keep their data', async () => {
  const world = await createWorld()
  const raw = await openRaw(world)
  const late = writeOf(1, 1, { commandNumber: 3, initiatorTaskTag: 3 })
  expect(await raw.say(late, new Uint8Array(512).fill(3))).toEqual([])
  const early = writeOf(1, 1, { commandNumber: 2, initiatorTaskTag: 2 })
  expect(tags(await raw.say(early, new Uint8Array(512).fill(2)))).toEqual([2, 3])
  const [read] = await raw.say(readOf(1, 1, { commandNumber: 4, initiatorTaskTag: 4 }))
  expect(read?.data).toEqual(new Uint8Array(512).fill(3))
})
