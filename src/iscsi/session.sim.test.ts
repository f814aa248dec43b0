/** Goal: full-feature phase does what RFC 7143 says. Method: our initiator and our target on a network that cuts every chunk. */
import { expect, test } from 'vitest'
import { createWorld, read10, targetName, testUnitReady, type World, write10 } from '../../test/simulation/iscsi.ts'
import { createMemoryDevice } from '../block/memory.ts'
import type { DeviceServer, Nexus, Task } from '../scsi/task.ts'
import { taskManagementFunction } from './codes.ts'
import type { InitiatorSession } from './initiator.ts'

const pattern = (bytes: number, seed: number): Uint8Array =>
  Uint8Array.from({ length: bytes }, (_, i) => (i * 7 + seed) % 251)

/** The first command is told that the unit was powered on. */
async function ready(world: World, session: InitiatorSession): Promise<InitiatorSession> {
  await world.wait(session.command({ cdb: testUnitReady }))
  return session
}

const ways: readonly (readonly [string, readonly (readonly [string, string])[]])[] = [
  ['with immediate data', []],
  ['without immediate data', [['ImmediateData', 'No']]],
  [
    'asked for in small bursts, eight at once',
    [
      ['MaxBurstLength', '1024'],
      ['FirstBurstLength', '512'],
      ['MaxOutstandingR2T', '8'],
    ],
  ],
  [
    'in segments that are no blocks',
    [
      ['MaxRecvDataSegmentLength', '1000'],
      ['MaxBurstLength', '3000'],
      ['FirstBurstLength', '600'],
    ],
  ],
]
const digests: readonly (readonly [boolean, boolean])[] = [
  [false, false],
  [true, false],
  [false, true],
  [true, true],
]

test.each(ways)('what was written %s is read back, with and without digests', async (_, offers) => {
  for (const [headerDigest, dataDigest] of digests) {
    const world = await createWorld({ seed: 7 })
    const session = await ready(world, await world.login({ offers, headerDigest, dataDigest }))
    expect(session.parameters).toMatchObject({ headerDigest, dataDigest })
    for (const blocks of [1, 3, 64, 300]) {
      const bytes = pattern(blocks * 512, blocks)
      const written = await world.wait(session.command({ cdb: write10(5, blocks), write: bytes }))
      expect(written).toMatchObject({ status: 0, residual: { kind: 'none' } })
      const read = await world.wait(session.command({ cdb: read10(5, blocks), readBytes: bytes.byteLength }))
      expect(read).toMatchObject({ status: 0, residual: { kind: 'none' } })
      expect(Buffer.compare(read.data, bytes)).toBe(0)
    }
    await world.wait(session.logout())
    await world.wait(session.closed)
    const movedBytes = (1 + 3 + 64 + 300) * 512
    expect(world.events.at(-1)).toMatchObject({ readBytes: movedBytes, writtenBytes: movedBytes })
  }
})

test('many commands at once, each cut to single bytes, all end', async () => {
  const world = await createWorld({ seed: 3, link: { segmentBytesMax: 3 } })
  const session = await ready(world, await world.login({ headerDigest: true }))
  const commands = Array.from({ length: 60 }, (_, i) => session.command({ cdb: write10(i, 1), write: pattern(512, i) }))
  for (const result of await world.wait(Promise.all(commands))) expect(result.status).toBe(0)
  const reads = Array.from({ length: 60 }, (_, i) => session.command({ cdb: read10(i, 1), readBytes: 512 }))
  for (const [i, result] of (await world.wait(Promise.all(reads))).entries()) {
    expect(Buffer.compare(result.data, pattern(512, i))).toBe(0)
  }
})

test('residuals are told both ways', async () => {
  const world = await createWorld()
  const session = await ready(world, await world.login())
  const ask = (readBytes: number) => world.wait(session.command({ cdb: read10(0, 2), readBytes }))
  expect((await ask(2_000)).residual).toEqual({ kind: 'underflow', bytes: 976 })
  expect((await ask(512)).residual).toEqual({ kind: 'overflow', bytes: 512 })
  expect((await ask(512)).data.byteLength).toBe(512)
  const write = (bytes: number) => world.wait(session.command({ cdb: write10(0, 2), write: new Uint8Array(bytes) }))
  expect((await write(1_536)).residual).toEqual({ kind: 'underflow', bytes: 512 })
  expect((await write(512)).residual).toEqual({ kind: 'overflow', bytes: 512 })
})

test('a failed command has sense data', async () => {
  const world = await createWorld()
  const session = await ready(world, await world.login())
  const result = await world.wait(session.command({ cdb: read10(0xfffffff0, 1), readBytes: 512 }))
  expect(result.status).toBe(2)
  expect(result.sense[2]).toBe(0x05)
  expect(result.sense[12]).toBe(0x21)
})

test('pings, texts and SendTargets are answered, and a logout ends the session', async () => {
  const world = await createWorld()
  const session = await world.login()
  expect(await world.wait(session.ping(pattern(100, 1)))).toEqual(pattern(100, 1))
  expect(await world.wait(session.text([['SendTargets', '']]))).toEqual([
    ['TargetName', targetName],
    ['TargetAddress', '10.0.0.1:3260,1'],
  ])
  expect(await world.wait(session.text([['SendTargets', 'All']]))).toEqual([['SendTargets', 'Reject']])
  expect(await world.wait(session.text([['MaxBurstLength', '512']]))).toEqual([['MaxBurstLength', 'Reject']])
  expect(await world.wait(session.text([['X-com.example', 'a']]))).toEqual([['X-com.example', 'NotUnderstood']])
  expect(await world.wait(session.logout())).toBe(0)
  await world.wait(session.closed)
  expect(world.target.sessions()).toEqual([])
  expect(world.events.at(-1)).toMatchObject({ kind: 'sessionClosed', end: 'logout' })
})

test('a discovery session lists targets over several PDUs, and runs no commands', async () => {
  const listings = Array.from({ length: 300 }, (_, i) => ({
    targetName: `iqn.2026-01.lab.boot:machine-${i}`,
    portals: [{ address: '10.0.0.1', port: 3260, group: 1 }],
  }))
  const world = await createWorld({ directory: { list: () => listings } })
  const session = await world.discover({ offers: [['MaxRecvDataSegmentLength', '512']] })
  const answer = await world.wait(session.text([['SendTargets', 'All']]))
  expect(answer.filter(([key]) => key === 'TargetName').map(([, name]) => name)).toEqual(
    listings.map((listing) => listing.targetName),
  )
  const command = session.command({ cdb: testUnitReady })
  await world.pass(100)
  expect(session.unasked).toMatchObject([{ kind: 'reject', reason: 5 }])
  session.destroy()
  await expect(command).rejects.toThrow('connection lost')
})

test('who comes again under the same name and ISID takes the place of the old session', async () => {
  const world = await createWorld()
  const first = await world.login({ isid: '400027230001' })
  const second = await world.login({ isid: '400027230001' })
  await world.wait(first.closed)
  expect(world.target.sessions().length).toBe(1)
  expect(second.tsih).not.toBe(0)
  expect(world.events.map(({ kind }) => kind)).toEqual([
    'sessionOpened',
    'sessionClosed',
    'sessionOpened',
    'sessionReinstated',
  ])
  const other = await world.login({ isid: '400027230002' })
  expect(world.target.sessions().length).toBe(2)
  expect(other.tsih).not.toBe(second.tsih)
})

test('a client that never answers pings stays', async () => {
  const world = await createWorld()
  const raw = await world.login()
  await world.pass(300_000)
  expect(world.target.sessions().length).toBe(1)
  await world.wait(raw.ping(new Uint8Array(4)))
})

test('shutting down asks for a logout, waits, and closes', async () => {
  const world = await createWorld()
  const session = await world.login()
  const closing = world.target.close(3_000)
  await world.pass(1_000)
  expect(session.unasked).toMatchObject([{ kind: 'asyncMessage', event: 1, parameters: [0, 0, 3] }])
  expect(world.target.sessions().length).toBe(1)
  await world.wait(closing)
  expect(await session.closed).toBeDefined()
  expect(world.events.at(-1)).toMatchObject({ kind: 'sessionClosed', end: 'shutdown' })
})

/** A device server whose commands end when the test says so. */
class SlowServer implements DeviceServer {
  readonly dataOutBytesMax: number = 1_048_576
  readonly tasks: Task[] = []
  readonly managed: string[] = []
  attach(_nexus: Nexus): void {}
  detach(_nexus: Nexus): void {}
  execute(task: Task): void {
    this.tasks.push(task)
  }
  manage(_nexus: Nexus, _lun: Uint8Array, request: string): 'done' {
    this.managed.push(request)
    return 'done'
  }
}

test('an aborted command is not answered, and the abort only when nothing of it can still happen', async () => {
  const deviceServer = new SlowServer()
  const world = await createWorld({ deviceServer })
  const session = await world.login()
  const command = session.command({ cdb: testUnitReady })
  let answered = false
  command.then(
    () => {
      answered = true
    },
    () => {},
  )
  await world.pass(100)
  let response: number | undefined
  void session.manage({ function: taskManagementFunction.logicalUnitReset }).then((code) => {
    response = code
  })
  await world.pass(100)
  expect(deviceServer.managed).toEqual(['logicalUnitReset'])
  expect(deviceServer.tasks[0]?.aborted).toBe(true)
  expect(response).toBeUndefined()
  deviceServer.tasks[0]?.good(0)
  await world.pass(100)
  expect(response).toBe(0)
  expect(answered).toBe(false)
})

test('aborting what is not there, reassigning, and the unknown are told apart', async () => {
  const world = await createWorld()
  const session = await ready(world, await world.login())
  const ask = (code: number) => world.wait(session.manage({ function: code, referencedTaskTag: 99 }))
  expect(await ask(taskManagementFunction.abortTask)).toBe(1)
  expect(await ask(taskManagementFunction.taskReassign)).toBe(4)
  expect(await ask(taskManagementFunction.clearAca)).toBe(5)
  expect(await ask(taskManagementFunction.targetWarmReset)).toBe(0)
  const missing = { function: taskManagementFunction.logicalUnitReset, lun: Uint8Array.of(0, 9, 0, 0, 0, 0, 0, 0) }
  expect(await world.wait(session.manage(missing))).toBe(2)
})

test('a cold reset ends every session of the target', async () => {
  const world = await createWorld()
  const other = await world.login()
  const session = await world.login()
  expect(await world.wait(session.manage({ function: taskManagementFunction.targetColdReset }))).toBe(0)
  await world.wait(Promise.all([session.closed, other.closed]))
  expect(world.target.sessions()).toEqual([])
})

test('a session that comes again waits for what the old one still writes', async () => {
  const deviceServer = new SlowServer()
  const world = await createWorld({ deviceServer })
  const first = await world.login({ isid: '400027230001' })
  const lost = first.command({ cdb: write10(0, 1), write: new Uint8Array(512) })
  lost.catch(() => {})
  await world.pass(100)
  expect(deviceServer.tasks.length).toBe(1)
  first.destroy()
  await world.pass(100)
  const again = world.login({ isid: '400027230001' })
  await world.pass(1_000)
  expect(world.target.sessions().length).toBe(0)
  deviceServer.tasks[0]?.good(512)
  const second = await again
  expect(second.tsih).not.toBe(0)
})

test('of two logins that wait for the same old session one takes the place of the other: there is one session', async () => {
  const deviceServer = new SlowServer()
  const world = await createWorld({ deviceServer })
  const first = await world.login({ isid: '400027230001' })
  first.command({ cdb: write10(0, 1), write: new Uint8Array(512) }).catch(() => {})
  await world.pass(100)
  const second = world.login({ isid: '400027230001' })
  await world.pass(100)
  const third = world.login({ isid: '400027230001' })
  await world.pass(100)
  expect(world.target.sessions()).toEqual([])
  deviceServer.tasks[0]?.good(512)
  const loser = await second
  await world.wait(loser.closed)
  const winner = await third
  expect(world.target.sessions()).toHaveLength(1)
  const alive = winner.command({ cdb: testUnitReady })
  await world.pass(100)
  deviceServer.tasks.at(-1)?.good(0)
  expect((await world.wait(alive)).status).toBe(0)
  const former = world.events.flatMap((event) => (event.kind === 'sessionReinstated' ? [event.formerSessionId] : []))
  expect(former).toEqual([1, 2])
})

test('a client that does not read is held at a bounded queue, and goes on when it reads', async () => {
  const device = createMemoryDevice(4 * 1024 * 1024)
  const world = await createWorld({ device, link: { segmentBytesMax: 65_536 } })
  const session = await ready(world, await world.login())
  const before = process.memoryUsage().arrayBuffers
  // 128 x 1 MiB, while nothing but the window's 64 KiB is ever on its way.
  const reads = Array.from({ length: 128 }, () => session.command({ cdb: read10(0, 2048), readBytes: 1_048_576 }))
  await world.pass(3)
  const held = process.memoryUsage().arrayBuffers - before - 128 * 1_048_576
  expect(held).toBeLessThan(32 * 1_048_576)
  for (const result of await world.wait(Promise.all(reads))) expect(result.status).toBe(0)
})
