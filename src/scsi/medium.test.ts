/** Commands that verify, compare, fill, discard and copy: what they do to the blocks, and what they refuse. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { OperationError } from '../base/errors.ts'
import type { BlockDevice } from '../block/device.ts'
import { createMemoryDevice } from '../block/memory.ts'
import { createDeviceServer, type TargetDevice } from './device-server.ts'
import { unmapDescriptorsMax } from './limits.ts'
import { type Ending, hex, Initiator, outcomeOf, toHex } from './testing/recorded-task.ts'
import { lateDevice, thinDevice } from './testing/test-device.ts'

const targetName = 'iqn.2026-01.lab:m1'

function serverOf(...devices: BlockDevice[]): TargetDevice {
  return createDeviceServer({
    targetName,
    disks: devices.map((device, i) => ({ device, serialNumber: `disk-${i}` })),
    pause: () => new Promise((resolve) => setImmediate(resolve)),
  })
}

const filled = (blocks: number, value: number): Uint8Array => new Uint8Array(512 * blocks).fill(value)

const hex8 = (value: number): string => value.toString(16).padStart(8, '0')

const write = (initiator: Initiator, lba: number, dataOut: Uint8Array): Promise<Ending> =>
  initiator.run(`aa 00 ${hex8(lba)} ${hex8(dataOut.byteLength / 512)} 00 00`, { dataOut })

async function read(initiator: Initiator, lba: number, blocks: number): Promise<Uint8Array> {
  const ending = await initiator.run(`a8 00 ${hex8(lba)} ${hex8(blocks)} 00 00`)
  expect(outcomeOf(ending)).toBe('good')
  return ending.data
}

const both = (bytes: number): [string, BlockDevice][] => [
  ['at once', createMemoryDevice(bytes)],
  ['late', lateDevice(bytes)],
]

test.each(both(512 * 256))('VERIFY compares byte by byte where BYTCHK says so (%s)', async (_, device) => {
  const initiator = new Initiator(serverOf(device))
  await write(initiator, 4, filled(3, 5))
  const different = filled(3, 5)
  different[1000] = 6
  for (const [cdb, dataOut, outcome] of [
    ['2f 00 00000004 00 0003 00', [], 'good'],
    ['2f 02 00000004 00 0003 00', filled(3, 5), 'good'],
    ['af 02 00000004 00000003 00 00', different, 'e/1d00'],
    ['8f 02 0000000000000004 00000003 00 00', [different.subarray(0, 900), different.subarray(900)], 'e/1d00'],
    ['2f 06 00000004 00 0003 00', filled(1, 5), 'good'],
    ['2f 06 00000004 00 0004 00', filled(1, 5), 'e/1d00'],
    ['2f 04 00000004 00 0003 00', filled(1, 5), '5/2400@cdb 1.2'],
    ['2f 22 00000004 00 0003 00', filled(3, 5), '5/2400@cdb 1.7'],
    ['2f 02 000000ff 00 0002 00', filled(2, 5), '5/2100+256'],
    ['2f 02 00000004 00 0003 00', filled(3, 5).subarray(0, 700), '5/0e03'],
  ] as const) {
    expect(outcomeOf(await initiator.run(cdb, { dataOut })), cdb).toBe(outcome)
  }
})

test('WRITE AND VERIFY has written, flushed and read back', async () => {
  const device = lateDevice(512 * 64)
  const initiator = new Initiator(serverOf(device))
  for (const cdb of [
    '2e 00 00000001 00 0002 00',
    '2e 02 00000001 00 0002 00',
    'ae 02 00000001 00000002 00 00',
    '8e 02 0000000000000001 00000002 00 00',
  ]) {
    const before = device.flushes
    expect(await initiator.run(cdb, { dataOut: filled(2, before + 1) })).toMatchObject({ status: 0, wanted: 1024 })
    expect(device.flushes).toBe(before + 1)
    expect(await read(initiator, 1, 2)).toEqual(filled(2, before + 1))
  }
  expect(outcomeOf(await initiator.run('2e 04 00000001 00 0002 00', { dataOut: filled(2, 1) }))).toBe('5/2400@cdb 1.2')
})

test.each(both(512 * 64))('COMPARE AND WRITE writes only what was as expected (%s)', async (_, device) => {
  const initiator = new Initiator(serverOf(device))
  const swap = (from: Uint8Array, to: Uint8Array): Promise<Ending> =>
    initiator.run('89 00 0000000000000003 000000 02 00 00', { dataOut: [from, to] })
  expect(await swap(filled(2, 0), filled(2, 1))).toMatchObject({ status: 0, wanted: 2048 })
  const wrong = filled(2, 1)
  wrong[777] = 9
  expect(outcomeOf(await swap(wrong, filled(2, 2)))).toBe('e/1d00+777')
  expect(await read(initiator, 3, 2)).toEqual(filled(2, 1))
  for (const size of [1, 3, 5]) {
    const ending = await initiator.run('89 00 0000000000000003 000000 02 00 00', { dataOut: filled(size, 1) })
    expect(outcomeOf(ending)).toBe('5/2400@cdb 13')
  }
})

test('of many COMPARE AND WRITEs of one block exactly one wins, whatever is written beside them', async () => {
  const device = lateDevice(512 * 64)
  const server = serverOf(device)
  const initiators = Array.from({ length: 8 }, (_, i) => new Initiator(server, `iqn.lab:${i}`))
  for (let round = 0; round < 5; round++) {
    const expected = await read(initiators[0] as Initiator, 7, 1)
    const endings = await Promise.all(
      initiators.flatMap((initiator, i) => [
        initiator.run('89 00 0000000000000007 000000 01 00 00', { dataOut: [expected, filled(1, 8 * round + i + 1)] }),
        write(initiator, 8 + i, filled(1, i)),
        initiator.run('28 00 00000000 00 0020 00'),
      ]),
    )
    const outcomes = endings.filter((_, i) => i % 3 === 0).map(outcomeOf)
    expect(outcomes.filter((outcome) => outcome === 'good')).toHaveLength(1)
    expect(outcomes.filter((outcome) => outcome.startsWith('e/1d00'))).toHaveLength(7)
    expect((await read(initiators[0] as Initiator, 7, 1))[0]).toBe(8 * round + outcomes.indexOf('good') + 1)
  }
})

test('a block that counts its ORWRITEs loses none of them', async () => {
  const initiator = new Initiator(serverOf(lateDevice(512 * 8)))
  await Promise.all(
    Array.from({ length: 8 }, (_, bit) =>
      initiator.run('8b 00 0000000000000001 00000001 00 00', { dataOut: filled(1, 1 << bit) }),
    ),
  )
  expect(await read(initiator, 1, 1)).toEqual(filled(1, 0xff))
})

test('nobody reads half of a WRITE ATOMIC', async () => {
  const initiator = new Initiator(serverOf(lateDevice(512 * 64)))
  const seen = await Promise.all(
    Array.from({ length: 20 }, async (_, i) => {
      if (i % 2 === 1) return read(initiator, 0, 16)
      const cdb = '9c 00 0000000000000000 0000 0010 00 00'
      expect(outcomeOf(await initiator.run(cdb, { dataOut: [filled(7, i + 1), filled(9, i + 1)] }))).toBe('good')
      return filled(16, 0)
    }),
  )
  for (const data of seen) expect(new Set(data).size).toBe(1)
  for (const [cdb, dataOut, outcome] of [
    ['9c 00 0000000000000000 0001 0002 00 00', filled(2, 1), '5/2400@cdb 10'],
    ['9c 00 0000000000000000 0000 0002 00 00', filled(1, 1), '5/0e03'],
    ['9c 00 0000000000000000 0000 0801 00 00', [], '5/2100+64'],
  ] as const) {
    expect(outcomeOf(await initiator.run(cdb, { dataOut })), cdb).toBe(outcome)
  }
})

const unmapList = (ranges: readonly (readonly [number, number])[]): Uint8Array => {
  const size = (16 * ranges.length).toString(16).padStart(4, '0')
  const length = (16 * ranges.length + 6).toString(16).padStart(4, '0')
  return hex(`${length}${size}00000000${ranges.map(([lba, n]) => `${hex8(0)}${hex8(lba)}${hex8(n)}00000000`).join('')}`)
}

const unmap = (initiator: Initiator, ranges: readonly (readonly [number, number])[]): Promise<Ending> => {
  const dataOut = unmapList(ranges)
  return initiator.run(`42 00 00000000 00 ${dataOut.byteLength.toString(16).padStart(4, '0')} 00`, { dataOut })
}

test('UNMAP: what it names reads as zeroes and is not allocated, and a bad list changes nothing', async () => {
  const initiator = new Initiator(serverOf(thinDevice(512 * 2048)))
  await write(initiator, 0, filled(128, 7))
  const status = async (lba: number): Promise<string> =>
    toHex((await initiator.run(`9e 12 ${hex8(0)}${hex8(lba)} 00000048 00 00`)).data)
  expect(await status(0)).toBe(
    `00000024${'00'.repeat(4)}${'00'.repeat(8)}0000008000000000${'00'.repeat(4)}000000800000078001000000`,
  )
  expect(
    outcomeOf(
      await unmap(initiator, [
        [8, 16],
        [2000, 49],
      ]),
    ),
  ).toBe('5/2100+2048')
  expect(await read(initiator, 8, 16)).toEqual(filled(16, 7))
  expect(
    outcomeOf(
      await unmap(initiator, [
        [8, 16],
        [40, 0],
        [48, 8],
      ]),
    ),
  ).toBe('good')
  expect(await read(initiator, 8, 16)).toEqual(filled(16, 0))
  expect(await read(initiator, 24, 24)).toEqual(filled(24, 7))
  expect((await status(12)).slice(16, 48)).toBe('000000000000000c0000000c01000000')
  expect((await status(24)).slice(16, 48)).toBe('00000000000000180000001800000000')
  const many = Array.from({ length: unmapDescriptorsMax + 1 }, (_, i) => [i, 1] as const)
  expect(outcomeOf(await unmap(initiator, many))).toBe('5/2600@parameters 2')
  expect(outcomeOf(await initiator.run('42 01 00000000 00 0008 00', { dataOut: unmapList([]) }))).toBe('5/2400@cdb 1.0')
  expect(outcomeOf(await initiator.run('42 00 00000000 00 0007 00', { dataOut: new Uint8Array(7) }))).toBe('5/1a00')
  expect(outcomeOf(await initiator.run('9e 12 0000000000000800 00000048 00 00'))).toBe('5/2100+2048')
})

test('WRITE SAME fills with its block, discards zeroes where it may, and knows its limits', async () => {
  const initiator = new Initiator(serverOf(thinDevice(512 * 2048)))
  const pattern = Uint8Array.from({ length: 512 }, (_, i) => i)
  for (const [cdb, dataOut, outcome] of [
    ['41 00 00000002 00 0005 00', pattern, 'good'],
    ['93 00 0000000000000002 00000005 00 00', pattern, 'good'],
    ['93 09 0000000000000003 00000001 00 00', [], 'good'],
    ['93 08 0000000000000004 00000001 00 00', filled(1, 3), 'good'],
    ['41 00 00000002 00 0000 00', pattern, '5/2400@cdb 7'],
    ['93 00 0000000000000000 00010000 00 00', pattern, '5/2100+2048'],
    ['41 10 00000002 00 0005 00', pattern, '5/2400@cdb 1.4'],
    ['41 18 00000002 00 0005 00', pattern, '5/2400@cdb 1.4'],
    ['41 02 00000002 00 0005 00', pattern, '5/2400@cdb 1.2'],
    ['41 00 00000002 00 0005 00', filled(2, 1), '5/2400@cdb 7'],
    ['41 00 00000002 00 0005 00', filled(1, 1).subarray(0, 256), '5/2400@cdb 7'],
    ['93 01 0000000000000003 00000001 00 00', filled(1, 1), '5/2400@cdb 10'],
  ] as const) {
    expect(outcomeOf(await initiator.run(cdb, { dataOut })), cdb).toBe(outcome)
  }
  const data = await read(initiator, 2, 5)
  const expected = [pattern, filled(1, 0), filled(1, 3), pattern, pattern]
  for (const [i, block] of expected.entries()) expect(data.subarray(512 * i, 512 * i + 512), `${i}`).toEqual(block)
  const thick = new Initiator(serverOf(createMemoryDevice(512 * 64)))
  expect(outcomeOf(await thick.run('41 08 00000002 00 0005 00', { dataOut: pattern }))).toBe('5/2400@cdb 1.3')
})

test('PRE-FETCH reads ahead and promises nothing', async () => {
  const initiator = new Initiator(serverOf(createMemoryDevice(512 * 64)))
  for (const cdb of [
    '34 00 00000000 00 0000 00',
    '34 02 00000000 00 0001 00',
    '90 00 0000000000000000 00000040 00 00',
  ]) {
    expect(outcomeOf(await initiator.run(cdb)), cdb).toBe('good')
  }
  expect(outcomeOf(await initiator.run('34 00 00000001 00 0040 00'))).toBe('5/2100+64')
})

/** One target descriptor for each name, then block to block segments. */
function copyList(
  names: readonly string[],
  segments: readonly { from: number; to: number; blocks: number; source?: number; target?: number }[],
  header: { identifier?: string; usage?: string } = {},
): Uint8Array {
  const two = (value: number): string => value.toString(16).padStart(4, '0')
  const targets = names.map((name) => `e4000000${name.padEnd(48, '0')}00000200`).join('')
  const parts = segments.map(
    ({ from, to, blocks, source = 0, target = 0 }) =>
      `02000018${two(source)}${two(target)}0000${two(blocks)}${hex8(0)}${hex8(from)}${hex8(0)}${hex8(to)}`,
  )
  const start = `${header.identifier ?? '01'}${header.usage ?? '00'}${two(32 * names.length)}00000000`
  return hex(`${start}${hex8(28 * segments.length)}00000000${targets}${parts.join('')}`)
}

const copy = (initiator: Initiator, dataOut: Uint8Array): Promise<Ending> =>
  initiator.run(`83 00 0000000000000000 ${hex8(dataOut.byteLength)} 00 00`, { dataOut })

/** Code set, type, reserved, length, designator: the NAA name from page 83h. */
async function nameOf(initiator: Initiator, lun = '0000000000000000'): Promise<string> {
  const page = (await initiator.run('12 01 83 0400 00', { lun: hex(lun) })).data
  const at = 4 + 4 + (page[7] as number)
  return `01030008${toHex(page.subarray(at + 4, at + 12))}`
}

test('EXTENDED COPY moves blocks within a disk and to another disk of the target', async () => {
  const server = serverOf(lateDevice(512 * 8192), createMemoryDevice(512 * 8192))
  const initiator = new Initiator(server)
  const second = hex('0001000000000000')
  await initiator.run('00 00 00 00 00 00', { lun: second })
  const here = await nameOf(initiator)
  const there = await nameOf(initiator, '0001000000000000')
  expect(here).not.toBe(there)
  const data = Uint8Array.from({ length: 512 * 3000 }, (_, i) => (i * 7) ^ (i >> 9))
  await write(initiator, 0, data)
  const list = copyList(
    [here, there],
    [
      { from: 0, to: 4000, blocks: 3000 },
      { from: 10, to: 0, blocks: 5, target: 1 },
    ],
  )
  expect(await copy(initiator, list)).toMatchObject({ status: 0, wanted: list.byteLength })
  expect(Buffer.compare(await read(initiator, 4000, 3000), data)).toBe(0)
  const { data: other } = await initiator.run('28 00 00000000 00 0005 00', { lun: second })
  expect(other).toEqual(data.subarray(5120, 7680))
  // The result is told once: done, 2 segments, 1502 KiB.
  const status = '84 00 01 00000000000000 00000100 00 00'
  expect(toHex((await initiator.run(status)).data)).toBe('0000000801000201000005de')
  expect(outcomeOf(await initiator.run(status))).toBe('5/2400@cdb 2.7')
  expect(outcomeOf(await copy(initiator, copyList([here], [], { identifier: '02', usage: '10' })))).toBe('good')
  expect(outcomeOf(await initiator.run('84 00 02 00000000000000 00000100 00 00'))).toBe('5/2400@cdb 2.7')
})

test('EXTENDED COPY refuses what it cannot do before it has done anything, and keeps why', async () => {
  const initiator = new Initiator(serverOf(createMemoryDevice(512 * 64)))
  const here = await nameOf(initiator)
  const good = { from: 0, to: 8, blocks: 4 }
  const missing = here.replace('0103', '0101')
  for (const [list, outcome] of [
    [copyList([here], [good, { ...good, to: 61 }]), 'a/0000'],
    [copyList([here], [{ ...good, target: 1 }]), 'a/0d02'],
    [copyList([missing], [good]), 'a/0d02'],
    [copyList(Array(9).fill(here), [good]), '5/2606'],
    [copyList([here], Array(17).fill(good)), '5/2608'],
    [copyList(Array(9).fill(here), Array(17).fill(good)), '5/1a00'],
    [copyList([here], [good], { usage: '08' }), '5/2600@parameters 1.4'],
    [copyList([here], [good], { usage: '18' }), '5/2600@parameters 0.7'],
    [copyList([here], [good]).subarray(0, 60), '5/1a00'],
    [new Uint8Array(0), 'good'],
  ] as const) {
    expect(outcomeOf(await copy(initiator, list)), toHex(list)).toBe(outcome)
  }
  const withBytes = (at: number, value: number): Uint8Array => {
    const list = copyList([here], [good])
    list[at] = value
    return list
  }
  expect(outcomeOf(await copy(initiator, withBytes(16, 0xe0)))).toBe('5/2607@parameters 16')
  expect(outcomeOf(await copy(initiator, withBytes(48, 0x03)))).toBe('5/2609@parameters 48')
  expect(outcomeOf(await copy(initiator, withBytes(15, 0x01)))).toBe('5/260b')
  expect(toHex((await initiator.run('84 03 00 00000000000000 00000100 00 00')).data)).toBe(
    `0000002a0100000000080010000002c001fffe00${'00'.repeat(14)}0008080900000000000202e4`,
  )
})

test('a copy that the device fails ends with COPY ABORTED, and its details are kept', async () => {
  const device = lateDevice(512 * 64)
  const initiator = new Initiator(serverOf(device))
  const here = await nameOf(initiator)
  device.failure = new OperationError('ioError', 'no', 'look')
  expect(outcomeOf(await copy(initiator, copyList([here], [{ from: 0, to: 8, blocks: 4 }])))).toBe('a/0d01')
  device.failure = undefined
  expect(toHex((await initiator.run('84 00 01 00000000000000 00000100 00 00')).data).slice(8, 10)).toBe('02')
  const details = (await initiator.run('84 04 01 00000000000000 00000100 00 00')).data
  expect(toHex(details.subarray(60, 63))).toBe('f00003')
  expect(outcomeOf(await initiator.run('84 04 01 00000000000000 00000100 00 00'))).toBe('5/2400@cdb 2.7')
})

const overwrite = (initiator: Initiator, flags: string, list: string): Promise<Ending> => {
  const dataOut = hex(list)
  return initiator.run(`48 ${flags} 0000000000 ${dataOut.byteLength.toString(16).padStart(4, '0')} 00`, { dataOut })
}

test('SANITIZE OVERWRITE fills the disk; until then only what needs no medium is answered', async () => {
  const device = lateDevice(512 * 8192)
  const server = serverOf(device)
  const initiator = new Initiator(server)
  await write(initiator, 8000, filled(1, 9))
  expect(outcomeOf(await overwrite(initiator, '81', '01000003aabbcc'))).toBe('good')
  expect(outcomeOf(await initiator.run('00 00 00 00 00 00'))).toBe('2/041b')
  expect(outcomeOf(await initiator.run('28 00 00000000 00 0001 00'))).toBe('2/041b')
  expect(outcomeOf(await overwrite(initiator, '81', '01000003aabbcc'))).toBe('2/041b')
  expect(outcomeOf(await initiator.run('12 00 00 00 60 00'))).toBe('good')
  // A reset does not stop it, and REQUEST SENSE tells how far it is.
  server.manage(initiator.nexus, new Uint8Array(8), 'targetReset')
  await initiator.run('03 00 00 00 fc 00')
  const { data } = await initiator.run('03 00 00 00 fc 00')
  expect([data[2], toHex(data.subarray(12, 14)), (data[15] as number) & 0x80]).toEqual([2, '041b', 0x80])
  while (outcomeOf(await initiator.run('00 00 00 00 00 00')) !== 'good')
    await new Promise((resolve) => setImmediate(resolve))
  const block = await read(initiator, 8000, 1)
  expect(toHex(block.subarray(0, 6))).toBe('aabbccaabbcc')
  expect(toHex(block.subarray(510))).toBe('aabb')
})

test('aborting a SANITIZE ends the command at once, and the work goes on', async () => {
  const initiator = new Initiator(serverOf(lateDevice(512 * 65536)))
  const dataOut = hex('01000001aa')
  const task = initiator.start('48 01 0000000000 0005 00', { dataOut })
  task.aborted = true
  await task.done
  expect(outcomeOf(await initiator.run('00 00 00 00 00 00'))).toBe('2/041b')
  while (outcomeOf(await initiator.run('00 00 00 00 00 00')) !== 'good')
    await new Promise((resolve) => setImmediate(resolve))
  expect(await read(initiator, 65535, 1)).toEqual(filled(1, 0xaa))
})

test('SANITIZE: inverted passes end with the pattern, and bad lists are refused before anything is lost', async () => {
  const initiator = new Initiator(serverOf(createMemoryDevice(512 * 64)))
  await write(initiator, 0, filled(1, 9))
  for (const [flags, list, outcome] of [
    ['01', '00000001aa', '5/2600@parameters 0.4'],
    ['01', '01000000aa', '5/2600@parameters 2'],
    ['01', '01000002aa', '5/2600@parameters 2'],
    ['01', '01000000', '5/2400@cdb 7'],
    ['01', `01000201${'aa'.repeat(513)}`, '5/2400@cdb 7'],
    ['41', '01000001aa', '5/2400@cdb 1.6'],
    ['02', '', '5/2400@cdb 1.4'],
    ['03', '', '5/2400@cdb 1.4'],
  ] as const) {
    expect(outcomeOf(await overwrite(initiator, flags, list)), `${flags} ${list}`).toBe(outcome)
  }
  expect(outcomeOf(await initiator.run('48 01 0000010000 0005 00', { dataOut: hex('01000001aa') }))).toBe(
    '5/2400@cdb 4',
  )
  expect(await read(initiator, 0, 1)).toEqual(filled(1, 9))
  expect(outcomeOf(await overwrite(initiator, '01', '82000001aa'))).toBe('good')
  expect(await read(initiator, 0, 64)).toEqual(filled(64, 0xaa))
})

test('SANITIZE BLOCK ERASE leaves nothing allocated', async () => {
  const initiator = new Initiator(serverOf(thinDevice(512 * 2048)))
  await write(initiator, 0, filled(1024, 9))
  expect(outcomeOf(await overwrite(initiator, '02', ''))).toBe('good')
  expect((await read(initiator, 0, 1024)).every((byte) => byte === 0)).toBe(true)
  const status = (await initiator.run('9e 12 0000000000000000 00000100 00 00')).data
  expect(toHex(status)).toBe('000000140000000000000000000000000000080001000000')
})

test('a SANITIZE that failed shuts the disk until another, or until it is left if that was allowed', async () => {
  const device = lateDevice(512 * 64)
  const initiator = new Initiator(serverOf(device))
  const fail = async (flags: string): Promise<void> => {
    device.failure = new OperationError('ioError', 'no', 'look')
    expect(outcomeOf(await overwrite(initiator, flags, '01000001aa'))).toBe('3/0c00')
    device.failure = undefined
    expect(outcomeOf(await initiator.run('28 00 00000000 00 0001 00'))).toBe('3/3103')
  }
  await fail('01')
  expect(outcomeOf(await overwrite(initiator, '1f', ''))).toBe('5/2400@cdb 1.4')
  expect(outcomeOf(await overwrite(initiator, '01', '01000001aa'))).toBe('good')
  expect(await read(initiator, 0, 1)).toEqual(filled(1, 0xaa))
  await fail('21')
  expect(outcomeOf(await overwrite(initiator, '1f', ''))).toBe('good')
  await read(initiator, 0, 1)
})

const step = fc.record({
  what: fc.constantFrom('write', 'writeAndVerify', 'same', 'unmap', 'compareAndWrite', 'orWrite', 'copy', 'read'),
  lba: fc.nat({ max: 60 }),
  blocks: fc.integer({ min: 1, max: 4 }),
  value: fc.nat({ max: 255 }),
  split: fc.nat({ max: 2048 }),
})

test('after any commands the disk is what an array would be', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 25 }), fc.boolean(), async (steps, isLate) => {
      const initiator = new Initiator(serverOf(isLate ? lateDevice(512 * 64) : thinDevice(512 * 64)))
      const here = await nameOf(initiator)
      const model = new Uint8Array(512 * 64)
      for (const { what, lba, blocks, value, split } of steps) {
        const at = 512 * lba
        const size = 512 * blocks
        const data = Uint8Array.from({ length: size }, (_, i) => (value + (i >> 9)) & 0xff)
        const dataOut = [data.subarray(0, split), data.subarray(split)].filter((piece) => piece.byteLength > 0)
        let ending: Ending
        switch (what) {
          case 'write':
            ending = await initiator.run(`aa 00 ${hex8(lba)} ${hex8(blocks)} 00 00`, { dataOut })
            model.set(data, at)
            break
          case 'writeAndVerify':
            ending = await initiator.run(`ae 02 ${hex8(lba)} ${hex8(blocks)} 00 00`, { dataOut })
            model.set(data, at)
            break
          case 'same':
            ending = await initiator.run(`93 00 ${hex8(0)}${hex8(lba)} ${hex8(blocks)} 00 00`, {
              dataOut: filled(1, value),
            })
            model.fill(value, at, at + size)
            break
          case 'unmap':
            ending = await unmap(initiator, [[lba, blocks]])
            if (isLate) expect(outcomeOf(ending)).toBe('5/2000@cdb 0')
            else model.fill(0, at, at + size)
            continue
          case 'compareAndWrite':
            ending = await initiator.run(`89 00 ${hex8(0)}${hex8(lba)} 000000 0${blocks} 00 00`, {
              dataOut: [model.slice(at, at + size), ...dataOut],
            })
            model.set(data, at)
            break
          case 'orWrite':
            ending = await initiator.run(`8b 00 ${hex8(0)}${hex8(lba)} ${hex8(blocks)} 00 00`, { dataOut })
            for (let i = 0; i < size; i++) model[at + i] = (model[at + i] as number) | (data[i] as number)
            break
          case 'copy':
            ending = await copy(initiator, copyList([here], [{ from: 0, to: lba, blocks }], { usage: '10' }))
            model.copyWithin(at, 0, size)
            break
          default:
            ending = await initiator.run(`a8 00 ${hex8(lba)} ${hex8(blocks)} 00 00`, { pieceBytes: split + 1 })
            expect(toHex(ending.data)).toBe(toHex(model.subarray(at, at + size)))
        }
        expect(outcomeOf(ending), what).toBe('good')
      }
      expect(toHex(await read(initiator, 0, 64))).toBe(toHex(model))
    }),
    { numRuns: Math.ceil(Number(process.env['SLIPWAY_FUZZ_RUNS'] ?? 3000) / 30) },
  )
})
