/** What every initiator does first, and reads and writes by every road: whole, short, in odd pieces, lent, late, failing. */
import { expect, test } from 'vitest'
import { OperationError } from '../base/errors.ts'
import type { BlockDevice } from '../block/device.ts'
import { createMemoryDevice } from '../block/memory.ts'
import { createDeviceServer } from './device-server.ts'
import { hex, Initiator, outcomeOf, toHex } from './testing/recorded-task.ts'
import { lateDevice } from './testing/test-device.ts'

const serialNumber = 'slipway-test-1'
const targetName = 'iqn.2026-01.lab:disk'

function serverOf(device: BlockDevice, logicalBlockBytes?: 512 | 4096): ReturnType<typeof createDeviceServer> {
  const disk = logicalBlockBytes === undefined ? { device, serialNumber } : { device, serialNumber, logicalBlockBytes }
  return createDeviceServer({ targetName, disks: [disk] })
}

function numbered(blocks: number): Uint8Array {
  return Uint8Array.from({ length: blocks * 512 }, (_, i) => (i % 512) ^ Math.floor(i / 512))
}

test('a new initiator hears of the power-on once, and INQUIRY does not wait for it', async () => {
  const server = serverOf(createMemoryDevice(512 * 100))
  const initiator = new Initiator(server)
  server.attach(initiator.nexus)
  expect(outcomeOf(await initiator.run('12 00 00 00 24 00'))).toBe('good')
  expect(outcomeOf(await initiator.run('00 00 00 00 00 00'))).toBe('6/2900')
  expect(outcomeOf(await initiator.run('00 00 00 00 00 00'))).toBe('good')
})

test('READ CAPACITY tells 512-byte blocks on 4 KiB, and 4Kn on request', async () => {
  const device = createMemoryDevice(4096 * 100)
  const initiator = new Initiator(serverOf(device))
  expect(toHex((await initiator.run('25 00 00000000 0000 00 00')).data)).toBe('0000031f00000200')
  expect(toHex((await initiator.run('9e 10 0000000000000000 00000020 00 00')).data.subarray(0, 16))).toBe(
    '000000000000031f0000020000030000',
  )
  const large = new Initiator(serverOf(device, 4096))
  expect(toHex((await large.run('9e 10 0000000000000000 00000020 00 00')).data.subarray(0, 16))).toBe(
    '00000000000000630000100000000000',
  )
})

test('what is written is read back, by every length of CDB', async () => {
  const initiator = new Initiator(serverOf(createMemoryDevice(512 * 1000)))
  const written = numbered(3)
  for (const [write, read] of [
    ['0a 00 00 05 03 00', '08 00 00 05 03 00'],
    ['2a 00 00000005 00 0003 00', '28 00 00000005 00 0003 00'],
    ['aa 00 00000005 00000003 00 00', 'a8 00 00000005 00000003 00 00'],
    ['8a 00 0000000000000005 00000003 00 00', '88 00 0000000000000005 00000003 00 00'],
  ] as const) {
    const pieces = [written.subarray(0, 700), written.subarray(700, 1024), written.subarray(1024)]
    for (const dataOut of [written, pieces]) {
      expect(outcomeOf(await initiator.run('2a 00 00000000 00 00c8 00', { dataOut: new Uint8Array(512 * 200) }))).toBe(
        'good',
      )
      expect(await initiator.run(write, { dataOut })).toMatchObject({ status: 0, wanted: 1536 })
      for (const pieceBytes of [1 << 20, 512, 700]) {
        const ending = await initiator.run(read, { pieceBytes })
        expect(ending.wanted).toBe(1536)
        expect(toHex(ending.data)).toBe(toHex(written))
      }
    }
  }
})

test('an initiator with less room gets as much as it has room for, and the whole in the residual', async () => {
  const initiator = new Initiator(serverOf(createMemoryDevice(numbered(10))))
  const ending = await initiator.run('28 00 00000001 00 0002 00', { dataInBytesMax: 700 })
  expect(ending.wanted).toBe(1024)
  expect(toHex(ending.data)).toBe(toHex(numbered(10).subarray(512, 1212)))
  expect(await initiator.run('28 00 00000001 00 0002 00', { dataInBytesMax: 0 })).toMatchObject({
    status: 0,
    wanted: 1024,
  })
})

test('fewer bytes than the CDB names: whole blocks are written, half a block is refused', async () => {
  const device = createMemoryDevice(512 * 10)
  const initiator = new Initiator(serverOf(device))
  const one = new Uint8Array(512).fill(7)
  expect(await initiator.run('2a 00 00000000 00 0002 00', { dataOut: one })).toMatchObject({ status: 0, wanted: 1024 })
  const half = await initiator.run('2a 00 00000004 00 0001 00', { dataOut: one.subarray(0, 200) })
  expect([outcomeOf(half), half.wanted]).toEqual(['5/0e03', 512])
  expect(await initiator.run('2a 00 00000004 00 0001 00')).toMatchObject({ status: 0, wanted: 512 })
  const { data } = await initiator.run('28 00 00000000 00 000a 00')
  expect(data.subarray(0, 512)).toEqual(one)
  expect(data.subarray(512).every((byte) => byte === 0)).toBe(true)
})

test('addresses past the end, protection and lengths past the limit are refused, and the field is named', async () => {
  const initiator = new Initiator(serverOf(createMemoryDevice(512 * 100)))
  for (const [cdb, outcome] of [
    ['28 00 00000064 00 0000 00', 'good'],
    ['28 00 00000065 00 0000 00', '5/2100+101'],
    ['28 00 00000063 00 0002 00', '5/2100+100'],
    ['88 00 ffffffffffffffff 00000001 00 00', '5/2100'],
    ['28 20 00000000 00 0001 00', '5/2400@cdb 1.7'],
    ['28 00 00000000 00 0001 04', '5/2400@cdb 9.2'],
    ['9e 01 0000000000000000 00000020 00 00', '5/2400@cdb 1.4'],
    ['ff 00 00 00 00 00', '5/2000@cdb 0'],
    ['12 00 01 00 ff 00', '5/2400@cdb 2.7'],
  ]) {
    expect(outcomeOf(await initiator.run(cdb ?? '')), cdb).toBe(outcome)
  }
  const big = new Initiator(serverOf(createMemoryDevice(512 * 40000)))
  expect(outcomeOf(await big.run('a8 00 00000000 00008001 00 00'))).toBe('5/2400@cdb 6')
})

test('a disk in memory that never changes is lent, not copied', async () => {
  const content = numbered(64)
  const initiator = new Initiator(serverOf(createMemoryDevice(content, { readOnly: true })))
  const task = initiator.start('28 00 00000008 00 0008 00')
  expect(task.lentBytes).toBe(4096)
  expect(toHex((await task.done).data)).toBe(toHex(content.subarray(4096, 8192)))
})

test('a device that answers at once has ended the task before execute returns', () => {
  const initiator = new Initiator(serverOf(createMemoryDevice(512 * 100)))
  expect(initiator.start('28 00 00000008 00 0008 00').ending?.status).toBe(0)
  expect(initiator.start('2a 00 00000008 00 0001 00', { dataOut: new Uint8Array(512) }).ending?.status).toBe(0)
  expect(initiator.start('35 00 00000000 00 0000 00').ending?.status).toBe(0)
})

test('a write-protected disk says so in MODE SENSE and in sense data', async () => {
  const initiator = new Initiator(serverOf(createMemoryDevice(512 * 8, { readOnly: true })))
  expect((await initiator.run('1a 00 3f 00 ff 00')).data[2]).toBe(0x90)
  expect(outcomeOf(await initiator.run('2a 00 00000000 00 0001 00', { dataOut: new Uint8Array(512) }))).toBe('7/2700')
})

test('other LUNs are told that nothing is there; the REPORT LUNS unit lists what is', async () => {
  const initiator = new Initiator(serverOf(createMemoryDevice(512 * 8)))
  const lun = hex('0001000000000000')
  expect((await initiator.run('12 00 00 00 24 00', { lun })).data[0]).toBe(0x7f)
  expect(outcomeOf(await initiator.run('00 00 00 00 00 00', { lun }))).toBe('5/2500')
  const wellKnown = hex('c101000000000000')
  expect((await initiator.run('12 00 00 00 24 00', { lun: wellKnown })).data[0]).toBe(0x1e)
  for (const addressed of [wellKnown, hex('0000000000000000')]) {
    expect(toHex((await initiator.run('a0 00 00 000000 00000100 00 00', { lun: addressed })).data)).toBe(
      '00000008000000000000000000000000',
    )
  }
})

test('a device that answers later gives the same bytes', async () => {
  const initiator = new Initiator(serverOf(lateDevice(512 * 100)))
  const written = numbered(4)
  const dataOut = [written.subarray(0, 512), written.subarray(512, 1536), written.subarray(1536)]
  expect(outcomeOf(await initiator.run('2a 00 00000010 00 0004 00', { dataOut }))).toBe('good')
  expect(toHex((await initiator.run('28 00 00000010 00 0004 00', { pieceBytes: 1024 })).data)).toBe(toHex(written))
})

test('FUA is not acknowledged before the device has flushed, nor is any write without the cache', async () => {
  const device = lateDevice(512 * 100)
  const initiator = new Initiator(serverOf(device))
  await initiator.run('2a 00 00000000 00 0001 00', { dataOut: new Uint8Array(512) })
  expect(device.flushes).toBe(0)
  await initiator.run('2a 08 00000000 00 0001 00', { dataOut: new Uint8Array(512) })
  expect(device.flushes).toBe(1)
  await initiator.run('35 00 00000000 00 0000 00')
  expect(device.flushes).toBe(2)
})

test("the device's errors are sense data of that task alone", async () => {
  for (const [code, reading, writing] of [
    ['ioError', '3/1100', '3/0c00'],
    ['noSpace', '7/2707', '7/2707'],
    ['somethingElse', '4/4400', '4/4400'],
  ] as const) {
    const reported: unknown[] = []
    const error = new OperationError(code, 'the device says no', 'look at the disk')
    const server = createDeviceServer({
      targetName,
      disks: [{ device: lateDevice(512 * 100, error), serialNumber }],
      report: (what) => reported.push(what),
    })
    const initiator = new Initiator(server)
    expect(outcomeOf(await initiator.run('28 00 00000000 00 0001 00'))).toBe(reading)
    expect(outcomeOf(await initiator.run('2a 00 00000000 00 0001 00', { dataOut: new Uint8Array(512) }))).toBe(writing)
    expect(outcomeOf(await initiator.run('00 00 00 00 00 00'))).toBe('good')
    expect(reported).toEqual([error, error])
  }
})

test('an ordered task waits for those before it, and those after wait for it', async () => {
  const initiator = new Initiator(serverOf(lateDevice(512 * 100)))
  const ended: string[] = []
  const run = (name: string, attribute: 'simple' | 'ordered' | 'headOfQueue', cdb: string): Promise<unknown> =>
    initiator.run(cdb, { attribute }).then(() => ended.push(name))
  await Promise.all([
    run('read', 'simple', '28 00 00000000 00 0001 00'),
    run('ordered', 'ordered', '00 00 00 00 00 00'),
    run('after', 'simple', '00 00 00 00 00 00'),
    run('head', 'headOfQueue', '00 00 00 00 00 00'),
  ])
  expect(ended).toEqual(['head', 'read', 'ordered', 'after'])
})

test('nothing but the head of the queue passes an ordered task that the device is at', async () => {
  const device = lateDevice(512 * 100)
  const initiator = new Initiator(serverOf(device))
  const ended: string[] = []
  const start = (name: string, attribute: 'simple' | 'ordered' | 'headOfQueue', value: number): Promise<unknown> => {
    const dataOut = new Uint8Array(512).fill(value)
    return initiator.run('2a 00 00000000 00 0001 00', { attribute, dataOut }).then(() => ended.push(name))
  }
  const gate = Promise.withResolvers<void>()
  device.hold = gate.promise
  const ordered = start('ordered', 'ordered', 1)
  await new Promise((resolve) => setImmediate(resolve))
  device.hold = undefined
  const simple = start('simple', 'simple', 2)
  await start('head', 'headOfQueue', 3)
  for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve))
  expect(ended).toEqual(['head'])
  gate.resolve()
  await Promise.all([ordered, simple])
  expect(ended).toEqual(['head', 'ordered', 'simple'])
  expect((await initiator.run('28 00 00000000 00 0001 00')).data[0]).toBe(2)
})

test('a task that is aborted while it waits ends, and touches nothing', async () => {
  const server = serverOf(lateDevice(512 * 100))
  const initiator = new Initiator(server)
  const other = new Initiator(server, 'iqn.lab:other')
  const running = initiator.start('28 00 00000000 00 0001 00')
  const waiting = other.start('2a 00 00000000 00 0001 00', {
    attribute: 'ordered',
    dataOut: new Uint8Array(512).fill(7),
  })
  server.manage(initiator.nexus, new Uint8Array(8), 'clearTaskSet')
  for (const task of [running, waiting]) task.aborted = true
  await Promise.all([running.done, waiting.done])
  expect(outcomeOf(await other.run('28 00 00000000 00 0001 00'))).toBe('6/2f00')
  expect((await initiator.run('28 00 00000000 00 0001 00')).data.every((byte) => byte === 0)).toBe(true)
})
