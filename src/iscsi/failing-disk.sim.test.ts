/**
 * Goal: when the disk below fails, or the target stops, initiators hear the truth: sense data for what failed, no GOOD for what was
 * not done, and the session goes on. Method: a device that fails, or holds its writes, when the test says so.
 */
import { expect, test } from 'vitest'
import { createWorld, read10, testUnitReady, type World, write10 } from '../../test/simulation/iscsi.ts'
import { OperationError } from '../base/errors.ts'
import type { BlockDevice } from '../block/device.ts'
import { createMemoryDevice } from '../block/memory.ts'
import type { InitiatorSession } from './initiator.ts'

type Operation = 'read' | 'write' | 'flush'

class WilfulDevice {
  readonly memory: BlockDevice = createMemoryDevice(1 << 20)
  /** What fails, and how. */
  readonly failures = new Map<Operation, OperationError>()
  /** While set, writes and flushes wait for `release`. */
  isHolding = false
  readonly #held: (() => void)[] = []
  readonly device: BlockDevice

  constructor() {
    const { memory } = this
    this.device = {
      sizeBytes: memory.sizeBytes,
      blockBytes: 512,
      readOnly: false,
      thin: false,
      read: (offset, target) => this.#do('read', () => memory.read(offset, target)),
      write: (offset, source) => this.#do('write', () => memory.write(offset, source)),
      flush: () => this.#do('flush', () => undefined),
      writeZeroes: (offset, bytes) => this.#do('write', () => memory.writeZeroes(offset, bytes, false)),
      discard: () => undefined,
      extent: (_, bytes) => ({ allocated: true, bytes }),
      close: () => Promise.resolve(),
    }
  }

  release(): void {
    this.isHolding = false
    for (const resolve of this.#held.splice(0)) resolve()
  }

  get heldCount(): number {
    return this.#held.length
  }

  async #do(operation: Operation, work: () => Promise<void> | undefined): Promise<void> {
    if (this.isHolding && operation !== 'read') await new Promise<void>((resolve) => this.#held.push(resolve))
    const failure = this.failures.get(operation)
    if (failure !== undefined) throw failure
    await work()
  }
}

const ioError = new OperationError('ioError', 'the disk is broken', 'Replace it.')
const noSpace = new OperationError('noSpace', 'the disk is full', 'Make room.')

async function serve(): Promise<{ disk: WilfulDevice; world: World; session: InitiatorSession }> {
  const disk = new WilfulDevice()
  const world = await createWorld({ device: disk.device })
  const session = await world.login()
  await world.wait(session.command({ cdb: testUnitReady }))
  return { disk, world, session }
}

const block = (value: number): Uint8Array => new Uint8Array(512).fill(value)
const fua = (cdb: Uint8Array): Uint8Array => cdb.with(1, 0x08)
const synchronize = Uint8Array.of(0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0)

/** Sense key, code and qualifier; or 'good'. */
async function outcome(world: World, command: ReturnType<InitiatorSession['command']>): Promise<string> {
  const { status, sense } = await world.wait(command)
  if (status === 0) return 'good'
  const two = (at: number): string => (sense[at] ?? 0).toString(16).padStart(2, '0')
  return `${status}: ${two(2)}/${two(12)}${two(13)}`
}

const failing = [
  [
    'a read of a bad block',
    'read',
    ioError,
    (s: InitiatorSession) => s.command({ cdb: read10(8, 1), readBytes: 512 }),
    '03/1100',
  ],
  [
    'a write to a bad block',
    'write',
    ioError,
    (s: InitiatorSession) => s.command({ cdb: write10(8, 1), write: block(1) }),
    '03/0c00',
  ],
  [
    'a write to a full disk',
    'write',
    noSpace,
    (s: InitiatorSession) => s.command({ cdb: write10(8, 1), write: block(1) }),
    '07/2707',
  ],
  ['a flush that fails', 'flush', ioError, (s: InitiatorSession) => s.command({ cdb: synchronize }), '03/0c00'],
  [
    'a write with FUA whose flush fails',
    'flush',
    ioError,
    (s: InitiatorSession) => s.command({ cdb: fua(write10(8, 1)), write: block(1) }),
    '03/0c00',
  ],
] as const

test.each(
  failing,
)('%s has sense data, not silence, and what works still works', async (_, operation, failure, ask, sense) => {
  const { disk, world, session } = await serve()
  disk.failures.set(operation, failure)
  expect(await outcome(world, ask(session))).toBe(`2: ${sense}`)
  expect(await outcome(world, session.command({ cdb: testUnitReady }))).toBe('good')
  disk.failures.clear()
  expect(await outcome(world, ask(session)), 'when the disk is well again').toBe('good')
  expect(world.target.sessions()).toHaveLength(1)
})

test('of many writes while the disk begins to fail, GOOD was said of those that are there and of no other', async () => {
  const { disk, world, session } = await serve()
  const results: { readonly lba: number; readonly promise: Promise<string> }[] = []
  for (let lba = 0; lba < 200; lba++) {
    if (lba === 100) disk.failures.set('write', ioError)
    results.push({ lba, promise: outcome(world, session.command({ cdb: write10(lba, 1), write: block(7) })) })
    if (lba % 20 === 19) await world.pass(5)
  }
  let goodCount = 0
  for (const { lba, promise } of results) {
    const there = block(0)
    const said = await promise
    await disk.memory.read(lba * 512, there)
    expect(there[0], `LBA ${lba}: ${said}`).toBe(said === 'good' ? 7 : 0)
    if (said === 'good') goodCount++
  }
  expect(goodCount).toBeGreaterThan(50)
  expect(goodCount).toBeLessThan(150)
})

test('a stop waits for writes that are under way, acknowledges those that end in time, and asks for a logout', async () => {
  const { disk, world, session } = await serve()
  disk.isHolding = true
  const write = session.command({ cdb: write10(3, 1), write: block(9) })
  await world.pass(50)
  let isStopped = false
  const stopping = world.target.close(5_000).then(() => {
    isStopped = true
  })
  await world.pass(1_000)
  expect(isStopped).toBe(false)
  disk.release()
  expect(await outcome(world, write)).toBe('good')
  expect(session.unasked).toMatchObject([{ kind: 'asyncMessage', event: 1 }])
  await world.wait(session.logout())
  await world.wait(stopping)
})

test('what is not done when the time is over is never acknowledged, and the stop waits for it all the same', async () => {
  const { disk, world, session } = await serve()
  disk.isHolding = true
  const writes = Array.from({ length: 20 }, (_, lba) => session.command({ cdb: write10(lba, 1), write: block(5) }))
  const ends = Promise.allSettled(writes)
  await world.pass(50)
  expect(disk.heldCount).toBe(20)
  let isStopped = false
  const stopping = world.target.close(2_000).then(() => {
    isStopped = true
  })
  await world.pass(10_000)
  // The session is gone; the disk is not let go of while something may still be written to it.
  expect((await ends).every(({ status }) => status === 'rejected')).toBe(true)
  expect(isStopped).toBe(false)
  disk.release()
  await world.wait(stopping)
})

test('a stop waits also for the writes of a connection that was lost before it', async () => {
  const { disk, world, session } = await serve()
  disk.isHolding = true
  session.command({ cdb: write10(3, 1), write: block(9) }).catch(() => {})
  await world.pass(50)
  session.destroy()
  await world.pass(50)
  expect(world.target.sessions()).toEqual([])
  const resolved: string[] = []
  const drained = world.target.drained(() => true).then(() => resolved.push('drained'))
  await world.target.drained(({ targetName }) => targetName === 'another')
  const stopping = world.target.close(1_000).then(() => resolved.push('closed'))
  await world.pass(10_000)
  expect(resolved).toEqual([])
  disk.release()
  await world.wait(Promise.all([drained, stopping]))
})

test('a logout is answered when writes under way have ended: none lands on what the next system writes', async () => {
  const { disk, world, session } = await serve()
  disk.isHolding = true
  const lost = session.command({ cdb: write10(1, 1), write: block(1) })
  const ends = Promise.allSettled([lost])
  await world.pass(50)
  let isOut = false
  const leaving = session.logout().then(() => {
    isOut = true
  })
  await world.pass(1_000)
  expect(isOut).toBe(false)
  expect(world.target.sessions()).toHaveLength(1)
  disk.release()
  await world.wait(leaving)
  await world.wait(session.closed)
  // They are not acknowledged behind it.
  expect((await ends)[0]?.status).toBe('rejected')
  const next = await world.login({ isid: '400027239999' })
  expect(await outcome(world, next.command({ cdb: testUnitReady }))).toBe('2: 06/2900')
  expect(await outcome(world, next.command({ cdb: write10(1, 1), write: block(2) }))).toBe('good')
  await world.pass(1_000)
  expect((await world.wait(next.command({ cdb: read10(1, 1), readBytes: 512 }))).data).toEqual(block(2))
})

test('a machine that breaks off before its logout is answered gives up its place when its writes have ended', async () => {
  const { disk, world, session } = await serve()
  disk.isHolding = true
  const isid = world.target.sessions()[0]?.isid ?? ''
  session.command({ cdb: write10(1, 1), write: block(1) }).catch(() => {})
  session.logout().catch(() => {})
  await world.pass(50)
  session.destroy()
  await world.pass(50)
  const again = world.login({ isid })
  await world.pass(1_000)
  expect(world.target.sessions()).toEqual([])
  disk.release()
  await again
  expect(world.target.sessions()).toHaveLength(1)
})

test('RESERVE(6) of a lost session holds until its writes have ended', async () => {
  const { disk, world, session } = await serve()
  const reserve = Uint8Array.of(0x16, 0, 0, 0, 0, 0)
  expect(await outcome(world, session.command({ cdb: reserve }))).toBe('good')
  disk.isHolding = true
  session.command({ cdb: write10(1, 1), write: block(1) }).catch(() => {})
  await world.pass(50)
  session.destroy()
  await world.pass(50)
  const other = await world.login({ isid: '400027239999' })
  const write = (): Promise<string> => outcome(world, other.command({ cdb: write10(1, 1), write: block(2) }))
  await outcome(world, other.command({ cdb: testUnitReady }))
  expect(await write()).toContain('24')
  disk.release()
  await world.pass(10)
  expect(await write()).toBe('good')
})
