/**
 * Goal: no client makes the target hold more than its bounds, and none takes what others need: memory for what is read, sent and
 * written, and sessions. Method: raw PDUs from clients that ask for much and take or send nothing.
 */
import { expect, test } from 'vitest'
import { createWorld, type World } from '../../test/simulation/iscsi.ts'
import { createHost, FakeWire, logins } from '../../test/simulation/iscsi-hostile.ts'
import { openRaw, pduOf, RawSession, readOf, writeOf } from '../../test/simulation/iscsi-raw.ts'
import { createMemoryDevice } from '../block/memory.ts'
import type { DeviceServer, Task } from '../scsi/task.ts'
import { Connection } from './connection.ts'
import { encodeInitiatorPdu } from './initiator-pdu.ts'
import {
  discoverySilenceMs,
  lentPiecesMax,
  readingBytesMax,
  sessionsMax,
  sessionsOfAddressMax,
  totalReadingBytesMax,
} from './limits.ts'
import type { TargetDirectory } from './policy.ts'
import { Outbox, Region, SendMemory } from './send-memory.ts'
import { encodeText } from './text.ts'

const mebibyte = 1_048_576

const endings = (world: World): string[] =>
  world.events.flatMap((event) => (event.kind === 'sessionClosed' ? [event.end] : []))

class LateServer implements DeviceServer {
  readonly dataOutBytesMax: number = 16 * mebibyte
  readonly tasks: Task[] = []
  attach(): void {}
  detach(): void {}
  execute(task: Task): void {
    this.tasks.push(task)
  }
  manage(): 'done' {
    return 'done'
  }
}

const openLate = async () => {
  const server = new LateServer()
  const world = await createWorld({ deviceServer: server })
  return { server, world, raw: await RawSession.open(world) }
}

test('reads that a device answers later are bounded, wait in order, and go on when one has ended', async () => {
  const { server, raw } = await openLate()
  for (let i = 1; i <= 100; i++) raw.send(readOf(0, 512, { commandNumber: i, initiatorTaskTag: i }))
  await raw.hear()
  const atOnce = readingBytesMax / (512 * 512)
  expect(server.tasks).toHaveLength(atOnce)
  let answers = 0
  for (let i = 0; i < 100; i++) {
    server.tasks[i]?.good(0)
    answers += (await raw.hear(3)).length
    expect(server.tasks.length).toBeLessThanOrEqual(i + 1 + atOnce)
  }
  answers += (await raw.hear(50)).length
  expect(answers).toBe(100)
})

test('reads of all sessions together are bounded; each session has one all the same, and a write does not wait', async () => {
  const { server, world, raw } = await openLate()
  const sessionCount = totalReadingBytesMax / readingBytesMax + 3
  for (let i = 0; i < sessionCount; i++) {
    const each = await RawSession.open(world, { isid: `4000272310${i.toString(16).padStart(2, '0')}` })
    for (let k = 1; k <= 10; k++) each.send(readOf(0, 2_048, { commandNumber: k, initiatorTaskTag: k }))
    await each.hear(5)
  }
  expect(server.tasks).toHaveLength(totalReadingBytesMax / mebibyte + 3)
  raw.send(readOf(0, 32_768, { commandNumber: 1, initiatorTaskTag: 1 }))
  raw.send(writeOf(0, 1, { commandNumber: 2, initiatorTaskTag: 2 }), new Uint8Array(512))
  await raw.hear()
  expect(server.tasks).toHaveLength(totalReadingBytesMax / mebibyte + 5)
})

test('a read of more than the bound runs alone; those behind it run when it was aborted, too', async () => {
  const { server, raw } = await openLate()
  raw.send(readOf(0, 32_768, { commandNumber: 1, initiatorTaskTag: 1 }))
  raw.send(readOf(0, 1, { commandNumber: 2, initiatorTaskTag: 2 }))
  await raw.hear()
  expect(server.tasks).toHaveLength(1)
  await raw.say(pduOf('taskManagement', { commandNumber: 3, initiatorTaskTag: 9, referencedTaskTag: 1 }))
  server.tasks[0]?.good(0)
  await raw.hear()
  expect(server.tasks).toHaveLength(2)
  server.tasks[1]?.good(0)
  expect((await raw.hear()).map(({ pdu }) => pdu.kind)).toEqual(['scsiResponse'])
})

test('pings that come before their turn are held up to a bound; more breaks off', async () => {
  const world = await createWorld({ link: { segmentBytesMax: 65_536, windowBytes: mebibyte } })
  const raw = await RawSession.open(world, {
    targetName: undefined,
    offers: [['MaxRecvDataSegmentLength', '262144']],
  })
  const data = new Uint8Array(262_144)
  for (let i = 2; i <= 5; i++) raw.send(pduOf('nopOut', { commandNumber: i, initiatorTaskTag: i }), data)
  await raw.hear(100)
  expect(raw.isClosed).toBe(false)
  const heard = await raw.say(pduOf('nopOut', { commandNumber: 1, initiatorTaskTag: 1 }))
  await raw.hear(100)
  expect(heard[0]?.pdu).toMatchObject({ kind: 'nopIn', initiatorTaskTag: 1 })
  // What had its turn counts no more.
  for (let i = 7; i <= 10; i++) raw.send(pduOf('nopOut', { commandNumber: i, initiatorTaskTag: i }), data)
  await raw.hear(100)
  expect(raw.isClosed).toBe(false)
  raw.send(pduOf('nopOut', { commandNumber: 11, initiatorTaskTag: 11 }), data)
  await raw.hear(3_000)
  expect(raw.isClosed).toBe(true)
  expect(endings(world)).toEqual(['protocolError'])
})

/** Keeps what it was given. */
class KeepingWire extends FakeWire {
  readonly kept: Uint8Array[] = []

  override write(chunk: Uint8Array, release?: () => void): void {
    if (this.isStuck) this.kept.push(chunk)
    super.write(chunk, release)
  }
}

test('who reads nothing keeps few lent pieces; what it asks for beyond is copied', () => {
  const content = Uint8Array.from({ length: mebibyte }, (_, i) => (i * 7 + (i >> 9)) % 251)
  const { host } = createHost()
  const deviceServer: DeviceServer = {
    ...{ dataOutBytesMax: 0, attach: () => {}, detach: () => {}, manage: () => 'done' },
    execute: (task) => {
      const lba = new DataView(task.cdb.buffer, task.cdb.byteOffset).getUint32(2)
      task.lend(content.subarray(lba * 512, lba * 512 + 16_384))
      task.good(16_384)
    },
  }
  const directory: TargetDirectory = {
    ...host.directory,
    resolve: () => ({ kind: 'accept', authentication: { kind: 'none' }, deviceServer }),
  }
  const wire = new KeepingWire()
  const connection = new Connection({ ...host, directory }, wire)
  for (const pdu of logins('400027230001', [['MaxRecvDataSegmentLength', '262144']])) connection.onData(pdu)
  wire.isStuck = true
  const reads = Array.from({ length: 40 }, (_, i) =>
    encodeInitiatorPdu(readOf(i * 32, 32, { commandNumber: 1 + i, initiatorTaskTag: i })),
  )
  for (const read of reads) connection.onData(read)
  expect(wire.kept.filter(({ buffer }) => buffer === content.buffer)).toHaveLength(lentPiecesMax)
  const sent = Buffer.concat(wire.kept)
  for (let i = 0; i < 40; i++) {
    const at = i * (48 + 16_384) + 48
    expect(sent.subarray(at, at + 16_384).equals(content.subarray(i * 16_384, (i + 1) * 16_384))).toBe(true)
  }
  wire.drain()
  wire.isStuck = true
  connection.onData(encodeInitiatorPdu(readOf(0, 32, { commandNumber: 41, initiatorTaskTag: 41 })))
  expect(wire.kept.at(-1)?.buffer, 'who reads is lent to again').toBe(content.buffer)
  wire.drain()
  connection.onClose('gone')
  expect(host.memory.regionCount).toBe(0)
})

test('what is small is copied out of a slab that a client behind would keep only for it', () => {
  const memory = new SendMemory()
  const written: { readonly bytes: Uint8Array; readonly release: () => void }[] = []
  const wire = {
    write: (bytes: Uint8Array, release?: () => void): void => {
      written.push({ bytes, release: release ?? (() => {}) })
    },
  }
  const behind = new Outbox(memory, wire, () => {})
  const slabs = new Set<ArrayBufferLike>()
  for (let i = 0; i < 20; i++) {
    const small = memory.take(48)
    small.bytes.fill(i, small.start, small.end)
    behind.push(small)
    behind.flush()
    // Others use the rest of the slab.
    const rest = memory.take(1_000_000)
    memory.release(rest)
  }
  for (const { bytes } of written) if (bytes.buffer.byteLength > 48) slabs.add(bytes.buffer)
  expect(slabs.size).toBe(1)
  expect(memory.regionCount).toBeLessThanOrEqual(2)
  expect(behind.queuedBytes).toBe(20 * 48)
  expect(written.map(({ bytes }) => bytes[0])).toEqual(Array.from({ length: 20 }, (_, i) => i))
  for (const { release } of written.splice(0)) release()
  expect([behind.queuedBytes, memory.regionCount]).toEqual([0, 0])
  // Who has taken all is given the slab itself again.
  behind.push(memory.take(48))
  behind.flush()
  expect(written[0]?.bytes.buffer.byteLength).toBeGreaterThan(48)
})

test('lent pieces are counted while they have not left', () => {
  const releases: (() => void)[] = []
  const wire = { write: (_: Uint8Array, release?: () => void): void => void releases.push(release ?? (() => {})) }
  const outbox = new Outbox(new SendMemory(), wire, () => {})
  for (let i = 0; i < 3; i++) outbox.push(new Region(undefined, new Uint8Array(16), 0, 16))
  outbox.flush()
  outbox.push(new Region(undefined, new Uint8Array(16), 0, 16))
  expect(outbox.lentPieces).toBe(4)
  for (const release of releases) release()
  expect(outbox.lentPieces).toBe(1)
  outbox.drop()
  expect(outbox.lentPieces).toBe(0)
})

test('sixteen clients that let R2Ts stand: small writes of others go on, large ones when those have been dropped', async () => {
  const world = await createWorld({ device: createMemoryDevice(32 * mebibyte) })
  for (let i = 0; i < 16; i++) {
    const greedy = await openRaw(world, { isid: `4000272310${i.toString(16).padStart(2, '0')}` })
    const [asked] = await greedy.say(writeOf(0, 32_768, { commandNumber: 2 }))
    expect(asked?.pdu.kind).toBe('readyToTransfer')
  }
  const raw = await openRaw(world)
  const [written] = await raw.say(writeOf(0, 1, { commandNumber: 2, initiatorTaskTag: 2 }), new Uint8Array(512))
  expect(written?.pdu).toMatchObject({ kind: 'scsiResponse', status: 0 })
  const [small] = await raw.say(writeOf(0, 1, { commandNumber: 3, initiatorTaskTag: 3 }))
  expect(small?.pdu).toMatchObject({ kind: 'readyToTransfer', initiatorTaskTag: 3 })
  expect(await raw.say(writeOf(0, 4_096, { commandNumber: 4, initiatorTaskTag: 4 }))).toEqual([])
  const later = (await raw.hear(20_000)).filter(({ pdu }) => pdu.kind !== 'nopIn')
  expect([later, endings(world)]).toEqual([[], []])
  const tag = small?.pdu.kind === 'readyToTransfer' ? small.pdu.targetTransferTag : 0
  raw.send(pduOf('dataOut', { initiatorTaskTag: 3, targetTransferTag: tag, final: true }), new Uint8Array(512))
  const heard = await raw.hear(20_000)
  expect(heard).toContainEqual(
    expect.objectContaining({ pdu: expect.objectContaining({ kind: 'readyToTransfer', initiatorTaskTag: 4 }) }),
  )
  expect(new Set(endings(world))).toEqual(new Set(['stalled']))
  expect(raw.isClosed).toBe(false)
})

test('a client that lets R2Ts stand while nobody waits for memory stays', async () => {
  const world = await createWorld({ device: createMemoryDevice(32 * mebibyte) })
  const slow = await openRaw(world)
  await slow.say(writeOf(0, 32_768, { commandNumber: 2 }))
  await slow.hear(600_000)
  expect(endings(world)).toEqual([])
})

const discovery = encodeInitiatorPdu(
  pduOf('login'),
  encodeText([
    ['InitiatorName', 'iqn.2026-01.lab.client:flood'],
    ['SessionType', 'Discovery'],
  ]),
)

async function flood(world: World, address: string, count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    const client = await world.raw(address)
    client.write(discovery)
    if (i % 256 === 255) await world.pass(20)
  }
  await world.pass(20)
}

test('one address cannot take all sessions, and those that say nothing end in a minute', async () => {
  const world = await createWorld()
  await flood(world, '10.0.2.1', sessionsOfAddressMax + 10)
  expect(world.target.sessions()).toHaveLength(sessionsOfAddressMax)
  await flood(world, '10.0.2.2', sessionsOfAddressMax)
  expect(world.target.sessions()).toHaveLength(sessionsMax)
  // Full: a discovery session makes room.
  const session = await openRaw(world)
  expect(world.target.sessions()).toHaveLength(sessionsMax)
  await session.hear(discoverySilenceMs + 2_000)
  expect(world.target.sessions()).toHaveLength(1)
  expect(session.isClosed).toBe(false)
}, 60_000)
