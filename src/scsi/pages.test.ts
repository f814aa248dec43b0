/** What initiators read about the disk before they use it, byte for byte; and what they may change. */
import { expect, test } from 'vitest'
import { createMemoryDevice } from '../block/memory.ts'
import { createDeviceServer, type TargetDevice } from './device-server.ts'
import { hex, Initiator, outcomeOf, toHex } from './testing/recorded-task.ts'
import { lateDevice, thinDevice } from './testing/test-device.ts'

const targetName = 'iqn.2026-01.lab:m1'
const serialNumber = 'SLW0001'

function initiatorOf(device = thinDevice(512 * 2048)): Initiator {
  return new Initiator(createDeviceServer({ targetName, portCount: 2, disks: [{ device, serialNumber }] }))
}

const inquire = async (initiator: Initiator, page: string): Promise<string> =>
  toHex((await initiator.run(`12 01 ${page} 0400 00`)).data)

test('INQUIRY: a disk of SPC-4, SBC-3 and iSCSI, with command queuing, third-party copy and target port groups', async () => {
  const data = (await initiatorOf().run('12 00 00 0060 00')).data
  expect(toHex(data)).toBe(
    '000006125b181002' +
      toHex(new TextEncoder().encode('SLIPWAY NETWORK DISK    1   ')) +
      '00'.repeat(22) +
      '00a0046004c00960' +
      '00'.repeat(30),
  )
  expect((await initiatorOf().run('12 00 00 0005 00')).data.byteLength).toBe(5)
})

test('vital product data', async () => {
  const initiator = initiatorOf()
  expect(await inquire(initiator, '00')).toBe('0000000700808386b0b1b2')
  expect(await inquire(initiator, '80')).toBe('00800007534c5730303031')
  expect(await inquire(initiator, '86')).toBe(`0086003c00070101${'00'.repeat(56)}`)
  expect(await inquire(initiator, 'b0')).toBe(
    '00b0003c' +
      '01ff0008' +
      '00008000' +
      '00000800' +
      '00000000' +
      '00100000' +
      '00000100' +
      '00000008' +
      '80000000' +
      '000000000000ffff' +
      '00000800' +
      '00000001' +
      '00000001' +
      '00'.repeat(8),
  )
  expect(await inquire(initiator, 'b1')).toBe(`00b1003c0001004002${'00'.repeat(55)}`)
  expect(await inquire(initiator, 'b2')).toBe('00b2000400e40200')
})

test('the device identification page names the disk the same on every port, and the port', async () => {
  const server = createDeviceServer({
    targetName,
    portCount: 2,
    disks: [{ device: createMemoryDevice(512 * 8), serialNumber }],
  })
  const designators = async (port: number): Promise<string[]> => {
    const page = hex(await inquire(new Initiator(server, 'iqn.lab:a', port), '83'))
    const found: string[] = []
    for (let at = 4; at < page.byteLength; at += 4 + (page[at + 3] as number)) {
      const value = page.subarray(at + 4, at + 4 + (page[at + 3] as number))
      const kind = toHex(page.subarray(at, at + 2))
      found.push(
        `${kind} ${toHex(page.subarray(at, at + 1)).endsWith('1') ? toHex(value) : new TextDecoder().decode(value)}`,
      )
    }
    return found
  }
  const first = await designators(1)
  const second = await designators(2)
  expect(first.slice(0, 3)).toEqual(second.slice(0, 3))
  expect(first[0]).toBe('0201 SLIPWAY SLW0001')
  expect(first[1]).toMatch(/^0103 3[0-9a-f]{15}$/)
  expect(first[2]).toMatch(/^0308 iqn\.2026-01\.lab:m1,L,0x3[0-9a-f]{15}\0+$/)
  expect(second.slice(3)).toEqual([
    '5194 00000002',
    '5195 00000001',
    '5398 iqn.2026-01.lab:m1,t,0x0002\0',
    '53a8 iqn.2026-01.lab:m1\0\0',
  ])
})

test('a disk that is not thin claims no provisioning, and 4Kn counts in its own blocks', async () => {
  const plain = initiatorOf(createMemoryDevice(512 * 2048))
  expect(await inquire(plain, 'b2')).toBe('00b2000400000000')
  expect((await inquire(plain, 'b0')).slice(40, 72)).toBe('0'.repeat(32))
  const disk = { device: thinDevice(4096 * 64), serialNumber, logicalBlockBytes: 4096 as const }
  const large = new Initiator(createDeviceServer({ targetName, disks: [disk] }))
  expect((await inquire(large, 'b0')).slice(12, 24)).toBe('000100001000')
})

test('512-byte physical blocks or 4 KiB ones: space is given back, and moved best, in pieces of 4 KiB', async () => {
  for (const [physicalBlockBytes, exponent] of [
    [512, '00'],
    [4096, '03'],
  ] as const) {
    const disk = { device: thinDevice(4096 * 64), serialNumber, physicalBlockBytes }
    const initiator = new Initiator(createDeviceServer({ targetName, disks: [disk] }))
    const capacity = toHex((await initiator.run('9e 10 0000000000000000 00000020 00 00')).data)
    expect(capacity.slice(24, 32)).toBe(`00${exponent}c000`)
    const limits = await inquire(initiator, 'b0')
    expect([limits.slice(12, 16), limits.slice(56, 72)]).toEqual(['0008', '0000000880000000'])
  }
})

test('mode pages: caching and control, current, changeable and default, with and without descriptors', async () => {
  const initiator = initiatorOf()
  const caching = `081204${'00'.repeat(17)}`
  const control = '0a0a021000000000ffff0000'
  const descriptor = '0000080000000200'
  const sense = async (cdb: string): Promise<string> => toHex((await initiator.run(cdb)).data)
  expect(await sense('1a 00 3f 00 ff 00')).toBe(`2b001008${descriptor}${caching}${control}`)
  expect(await sense('1a 08 08 00 ff 00')).toBe(`17001000${caching}`)
  expect(await sense('1a 08 8a ff ff 00')).toBe(`0f001000${control}`)
  expect(await sense('1a 08 48 00 ff 00')).toBe(`17001000081204${'00'.repeat(17)}`)
  expect(await sense('1a 08 4a 00 ff 00')).toBe('0f0010000a0a04000800000000000000')
  expect(await sense('5a 10 0a 00 000000 00ff 00')).toBe(
    `0022001001000010${'0000000000000800'}${'0000000000000200'}${control}`,
  )
  expect(await sense('1a 08 00 00 ff 00')).toBe('03001000')
  for (const [cdb, outcome] of [
    ['1a 00 c8 00 ff 00', '5/3900'],
    ['1a 00 05 00 ff 00', '5/2400@cdb 2.5'],
    ['1a 00 08 01 ff 00', '5/2400@cdb 3.5'],
  ] as const) {
    expect(outcomeOf(await initiator.run(cdb)), cdb).toBe(outcome)
  }
})

test('MODE SELECT: write protection, descriptor sense and the cache; the others are told', async () => {
  const device = lateDevice(512 * 64)
  const server = createDeviceServer({ targetName, disks: [{ device, serialNumber }] })
  const initiator = new Initiator(server)
  const other = new Initiator(server, 'iqn.lab:other')
  const select = (pages: string): Promise<string> => {
    const list = hex(`00000000${pages}`)
    return initiator.run(`15 10 0000 ${list.byteLength.toString(16)} 00`, { dataOut: list }).then(outcomeOf)
  }
  const write = (): Promise<string> =>
    initiator.run('2a 00 00000000 00 0001 00', { dataOut: new Uint8Array(512) }).then(outcomeOf)
  expect(await select('0a0a021008000000ffff0000')).toBe('good')
  expect(await write()).toBe('7/2702')
  expect((await initiator.run('1a 08 3f 00 ff 00')).data[2]).toBe(0x90)
  expect(outcomeOf(await other.run('00 00 00 00 00 00'))).toBe('6/2a01')
  expect(await select('0a0a021000000000ffff0000')).toBe('good')
  expect(await write()).toBe('good')
  expect(device.flushes).toBe(0)
  expect(await select(`081200${'00'.repeat(17)}`)).toBe('good')
  expect(device.flushes).toBe(1)
  await write()
  expect(device.flushes).toBe(2)
  await select('0a0a061000000000ffff0000')
  const { sense } = await initiator.run('28 00 00000100 00 0001 00')
  expect(toHex(sense)).toBe('720521000000000c000a80000000000000000100')
  expect(toHex((await initiator.run('12 00 01 00 ff 00')).sense)).toBe('720524000000000802060000cf000200')
})

test('MODE SELECT takes all or nothing, and names the byte that is wrong', async () => {
  const initiator = initiatorOf()
  for (const [cdb, list, outcome] of [
    ['15 11 0000 04 00', '00000000', '5/2400@cdb 1.0'],
    ['15 00 0000 04 00', '00000000', '5/2400@cdb 1.4'],
    ['15 10 0000 03 00', '000000', '5/1a00'],
    ['15 10 0000 10 00', '000000000a0a021008000000ffff0001', '5/2600@parameters 15'],
    ['15 10 0000 10 00', '000000000a0a031008000000ffff0000', '5/2600@parameters 6'],
    ['15 10 0000 10 00', '000000000a0b021008000000ffff0000', '5/2600@parameters 5'],
    ['15 10 0000 0f 00', '000000000a0a021008000000ffff00', '5/1a00'],
    ['15 10 0000 06 00', '000000000101', '5/2600@parameters 4.5'],
    ['15 10 0000 0c 00', '000000080000080000000400', '5/2600@parameters 9'],
    ['15 10 0000 0c 00', '000000080000080100000200', '5/2600@parameters 4'],
    ['15 10 0000 0c 00', '000000080000080000000200', 'good'],
    ['55 10 0000000000 0008 00', '0000000000000000', 'good'],
    ['15 10 0000 00 00', '', 'good'],
  ] as const) {
    expect(outcomeOf(await initiator.run(cdb, { dataOut: hex(list) })), `${cdb} ${list}`).toBe(outcome)
  }
  expect((await initiator.run('1a 08 3f 00 ff 00')).data[2]).toBe(0x10)
})

test('ports, task management functions and defects', async () => {
  const initiator = initiatorOf()
  expect(toHex((await initiator.run('a3 0a 00000000 00000100 00 00')).data)).toBe(
    '00000010' + '0001000100000002' + '0000000100000002',
  )
  expect(toHex((await initiator.run('a3 2a 00000000 00000100 00 00')).data).slice(0, 16)).toBe('0000001410000000')
  expect(toHex((await initiator.run('a3 0d 00 000000 00000100 00 00')).data)).toBe('da000000')
  expect(toHex((await initiator.run('37 00 1d 00000000 0100 00')).data)).toBe('001d0000')
})

test('REQUEST SENSE delivers a pending attention, then there is none', async () => {
  const server: TargetDevice = createDeviceServer({
    targetName,
    disks: [{ device: createMemoryDevice(512 * 8), serialNumber }],
  })
  const initiator = new Initiator(server)
  server.capacityChanged(0)
  expect(toHex((await initiator.run('03 00 00 00 fc 00')).data)).toBe('700006000000000a000000002a0900000000')
  expect(toHex((await initiator.run('03 01 00 00 fc 00')).data)).toBe('7200000000000000')
})

test('a reset tells everybody, and what was set is as it was', async () => {
  const server = createDeviceServer({ targetName, disks: [{ device: createMemoryDevice(512 * 8), serialNumber }] })
  const a = new Initiator(server)
  const b = new Initiator(server, 'iqn.lab:b')
  await a.run('15 10 0000 10 00', { dataOut: hex('000000000a0a021008000000ffff0000') })
  expect(server.manage(a.nexus, new Uint8Array(8), 'logicalUnitReset')).toBe('done')
  expect(server.manage(a.nexus, hex('0007000000000000'), 'logicalUnitReset')).toBe('lunMissing')
  for (const each of [a, b]) {
    expect(outcomeOf(await each.run('00 00 00 00 00 00'))).toBe('6/2903')
    expect(outcomeOf(await each.run('00 00 00 00 00 00'))).toBe('good')
  }
  expect((await a.run('1a 08 3f 00 ff 00')).data[2]).toBe(0x10)
})
