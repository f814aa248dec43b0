/** What is under way beside other commands: it is seen whole, ends when it is told to, and leaves nothing behind a SANITIZE. */
import { expect, test } from 'vitest'
import { OperationError } from '../base/errors.ts'
import type { BlockDevice } from '../block/device.ts'
import { createDeviceServer, type TargetDevice } from './device-server.ts'
import { statusExtentsMax } from './limits.ts'
import type { SanitizeStore, SavedSanitize } from './sanitize-store.ts'
import { type Ending, hex, Initiator, outcomeOf, type RecordedTask } from './testing/recorded-task.ts'
import { lateDevice, thinDevice } from './testing/test-device.ts'

function serverOf(...devices: BlockDevice[]): TargetDevice {
  return createDeviceServer({
    targetName: 'iqn.2026-01.lab:m1',
    disks: devices.map((device, i) => ({ device, serialNumber: `disk-${i}` })),
    pause: turn,
  })
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

const filled = (blocks: number, value: number): Uint8Array => new Uint8Array(512 * blocks).fill(value)

const hex8 = (value: number): string => value.toString(16).padStart(8, '0')

const hex4 = (value: number): string => value.toString(16).padStart(4, '0')

const write = (initiator: Initiator, lba: number, dataOut: Uint8Array): Promise<Ending> =>
  initiator.run(`aa 00 ${hex8(lba)} ${hex8(dataOut.byteLength / 512)} 00 00`, { dataOut })

async function firstByteAt(initiator: Initiator, lba: number): Promise<number | undefined> {
  return (await initiator.run(`28 00 ${hex8(lba)} 00 0001 00`)).data[0]
}

/** Code set, type, reserved, length, designator: the NAA name from page 83h. */
async function nameOf(initiator: Initiator, lun: Uint8Array): Promise<string> {
  const page = (await initiator.run('12 01 83 0400 00', { lun })).data
  const at = 8 + (page[7] as number)
  return `01030008${Buffer.from(page.subarray(at + 4, at + 12)).toString('hex')}`
}

/** An EXTENDED COPY to the disk at LUN 0, from the same or another. */
async function startCopy(
  initiator: Initiator,
  segments: readonly { from: number; to: number; blocks: number }[],
  sourceLun: Uint8Array = new Uint8Array(8),
): Promise<RecordedTask> {
  const names = [await nameOf(initiator, sourceLun), await nameOf(initiator, new Uint8Array(8))]
  const targets = names.map((name) => `e4000000 ${name.padEnd(48, '0')} 00000200`)
  const parts = segments.map(
    ({ from, to, blocks }) => `0200001800000001 0000${hex4(blocks)} ${hex8(0)}${hex8(from)} ${hex8(0)}${hex8(to)}`,
  )
  const list = `0110 0040 00000000 ${hex8(28 * segments.length)} 00000000 ${targets.join('')} ${parts.join('')}`
  const dataOut = hex(list)
  return initiator.start(`83 00 0000000000000000 ${hex8(dataOut.byteLength)} 00 00`, { dataOut })
}

test.each([512, 1000])('a READ in pieces of %d bytes sees a WRITE ATOMIC whole or not at all', async (pieceBytes) => {
  const late = lateDevice(512 * 64)
  const device: BlockDevice = {
    ...late,
    async read(offset, target) {
      for (let at = 0; at < target.byteLength; at += 512) {
        const end = Math.min(at + 512, target.byteLength)
        await late.read(offset + at, target.subarray(at, end))
        await turn()
      }
    },
  }
  const initiator = new Initiator(serverOf(device))
  const reading = initiator.run('28 00 00000000 00 0008 00', { pieceBytes })
  const writing = initiator.run('9c 00 0000000000000000 0000 0008 00 00', { dataOut: filled(8, 7) })
  expect(outcomeOf(await writing)).toBe('good')
  expect(new Set((await reading).data).size).toBe(1)
})

test('what an EXTENDED COPY or a WRITE SAME has not yet written is not written after a SANITIZE', async () => {
  const device = lateDevice(512 * 16384)
  for (const start of [
    (initiator: Initiator) => startCopy(initiator, [{ from: 0, to: 8192, blocks: 4096 }]),
    async (initiator: Initiator) =>
      initiator.start('41 00 00002000 00 1000 00', { dataOut: filled(1, 0x55) }) as RecordedTask,
  ]) {
    const initiator = new Initiator(serverOf(device))
    await write(initiator, 0, filled(4096, 0x55))
    const before = await start(initiator)
    // It has begun, and the device is at its first piece.
    const gate = Promise.withResolvers<void>()
    device.hold = gate.promise
    await turn()
    const sanitizing = initiator.run('48 01 0000000000 0005 00', { dataOut: hex('01000001aa') })
    device.hold = undefined
    gate.resolve()
    await before.done
    expect(outcomeOf(await sanitizing)).toBe('good')
    for (const lba of [0, 4095, 8192, 8192 + 4095]) expect(await firstByteAt(initiator, lba), `${lba}`).toBe(0xaa)
  }
})

test('a write that was under way when the write cache was switched off is flushed before that is GOOD', async () => {
  const late = lateDevice(512 * 64)
  const happened: string[] = []
  const device: BlockDevice = {
    ...late,
    async write(offset, source) {
      await late.write(offset, source)
      happened.push('write')
    },
    flush() {
      happened.push('flush')
      return undefined
    },
  }
  const gate = Promise.withResolvers<void>()
  late.hold = gate.promise
  const initiator = new Initiator(serverOf(device))
  const writing = write(initiator, 0, filled(1, 1))
  const sensed = await initiator.run('1a 08 08 00 ff 00')
  const page = sensed.data.slice(4)
  page[0] = 0x08
  page[2] = (page[2] as number) & ~0x04
  const length = (4 + page.byteLength).toString(16).padStart(2, '0')
  const selecting = initiator.run(`15 10 0000 ${length} 00`, { dataOut: [new Uint8Array(4), page] })
  for (let i = 0; i < 5; i++) await turn()
  gate.resolve()
  expect([outcomeOf(await writing), outcomeOf(await selecting)]).toEqual(['good', 'good'])
  expect(happened).toEqual(['write', 'flush'])
})

test('a copy that is aborted writes no more than the piece that it was at', async () => {
  const late = lateDevice(512 * 65536)
  let written = 0
  const device: BlockDevice = {
    ...late,
    write(offset, source) {
      written += source.byteLength
      return late.write(offset, source)
    },
  }
  const initiator = new Initiator(serverOf(device))
  const task = await startCopy(
    initiator,
    Array.from({ length: 4 }, () => ({ from: 0, to: 32768, blocks: 32767 })),
  )
  while (written === 0) await turn()
  task.aborted = true
  const atAbort = written
  await task.done
  expect(written - atAbort).toBeLessThanOrEqual(1024 * 1024)
})

test('a copy onto itself, further on, copies what was there', async () => {
  const initiator = new Initiator(serverOf(lateDevice(512 * 16384)))
  for (let i = 0; i < 6; i++) await write(initiator, 1024 * i, filled(1024, i))
  await (await startCopy(initiator, [{ from: 0, to: 1024, blocks: 6 * 1024 }])).done
  for (let i = 0; i < 6; i++) expect(await firstByteAt(initiator, 1024 * (i + 1))).toBe(i)
})

test('a copy reads nothing that its initiator may not read', async () => {
  const server = serverOf(lateDevice(512 * 64), lateDevice(512 * 64))
  const [holder, other] = [new Initiator(server), new Initiator(server, 'iqn.lab:other')]
  const lun = hex('0001000000000000')
  for (const initiator of [holder, other]) await initiator.run('00 00 00 00 00 00', { lun })
  const copied = async (): Promise<string> =>
    outcomeOf(await (await startCopy(other, [{ from: 0, to: 8, blocks: 1 }], lun)).done)
  expect(await copied()).toBe('good')
  const key = '00000000000000aa'
  await holder.run('5f 00 00 0000 00000018 00 00', { lun, dataOut: hex(`${'00'.repeat(8)}${key}${'00'.repeat(8)}`) })
  await holder.run('5f 01 03 0000 00000018 00 00', { lun, dataOut: hex(`${key}${'00'.repeat(16)}`) })
  expect(await copied()).toBe('a/0d02')
})

test('GET LBA STATUS of a scattered disk of a terabyte holds up nobody, and its answers join up', async () => {
  let extents = 0
  const cluster = 65536
  const device: BlockDevice = {
    ...thinDevice(4096),
    sizeBytes: 1024 ** 4,
    extent(_offset, bytes) {
      extents++
      return { allocated: true, bytes: Math.min(bytes, cluster) }
    },
  }
  const initiator = new Initiator(serverOf(device))
  let turns = 0
  let ended = false
  const asking = initiator.run('9e 12 0000000000000000 00000418 00 00').finally(() => {
    ended = true
  })
  while (!ended) {
    await turn()
    turns++
  }
  const { data } = await asking
  expect(extents).toBe(statusExtentsMax)
  expect(turns).toBeGreaterThan(statusExtentsMax / 1024)
  const blocks = new DataView(data.buffer).getUint32(16)
  expect(blocks).toBe((statusExtentsMax * cluster) / 512)
  const next = await initiator.run(`9e 12 00000000${hex8(blocks)} 00000418 00 00`)
  expect(new DataView(next.data.buffer).getUint32(12)).toBe(blocks)
})

/** What outlives the server; `failure` is what it fails with. */
class MemorySanitizeStore implements SanitizeStore {
  saved: SavedSanitize | undefined
  failure: OperationError | undefined
  save(sanitize: SavedSanitize | undefined): Promise<void> {
    if (this.failure !== undefined) return Promise.reject(this.failure)
    this.saved = sanitize
    return Promise.resolve()
  }
}

test('a SANITIZE that a stop cuts off has failed until another has succeeded, and the device is not busy after it', async () => {
  const device = lateDevice(512 * 65536)
  const sanitizeStore = new MemorySanitizeStore()
  const serve = (): TargetDevice =>
    createDeviceServer({
      targetName: 'iqn.2026-01.lab:m1',
      disks: [{ device, serialNumber: 'disk', sanitizeStore }],
      // A long time each, which a stop does not wait for.
      pause: () => (isSlow ? new Promise(() => undefined) : Promise.resolve()),
    })
  let isSlow = true
  const server = serve()
  const initiator = new Initiator(server)
  await write(initiator, 65535, filled(1, 9))
  const sanitize = (of: Initiator, flags: string): Promise<Ending> =>
    of.run(`48 ${flags} 0000000000 0005 00`, { dataOut: hex('01000001aa') })
  sanitizeStore.failure = new OperationError('noSpace', 'no', 'look')
  expect(outcomeOf(await sanitize(initiator, '81'))).toBe('7/2707')
  expect(await firstByteAt(initiator, 65535), 'nothing has begun').toBe(9)
  sanitizeStore.failure = undefined
  expect(server.isBusy).toBe(false)
  expect(outcomeOf(await sanitize(initiator, '81'))).toBe('good')
  server.detach(initiator.nexus)
  expect([server.isBusy, sanitizeStore.saved]).toEqual([true, { mayBeLeft: false }])
  await server.stop()
  expect([server.isBusy, sanitizeStore.saved]).toEqual([false, { mayBeLeft: false }])

  const again = new Initiator(serve())
  expect(outcomeOf(await again.run('28 00 0000ffff 00 0001 00'))).toBe('3/3103')
  expect(outcomeOf(await again.run('48 1f 0000000000 0000 00'))).toBe('5/2400@cdb 1.4')
  isSlow = false
  expect(outcomeOf(await sanitize(again, '01'))).toBe('good')
  expect(sanitizeStore.saved).toBeUndefined()
  expect(await firstByteAt(again, 65535)).toBe(0xaa)
})

test('a device is busy for as long as a task of a session that has gone is at it, and a stop waits for that', async () => {
  const device = lateDevice(512 * 64)
  const server = serverOf(device)
  const initiator = new Initiator(server)
  const gate = Promise.withResolvers<void>()
  device.hold = gate.promise
  const writing = write(initiator, 0, filled(1, 1))
  server.detach(initiator.nexus)
  let hasStopped = false
  const stopping = server.stop().then(() => {
    hasStopped = true
  })
  for (let i = 0; i < 5; i++) await turn()
  expect([server.isBusy, hasStopped]).toEqual([true, false])
  gate.resolve()
  await Promise.all([writing, stopping])
  expect(server.isBusy).toBe(false)
})
