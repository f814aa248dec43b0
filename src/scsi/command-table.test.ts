/** The table of commands agrees with itself, with what it reports, and with what it does to any bytes at all. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { createMemoryDevice } from '../block/memory.ts'
import { commandsOf } from './command-table.ts'
import { createDeviceServer } from './device-server.ts'
import { LogicalUnit } from './logical-unit.ts'
import { usageOf } from './report-capabilities.ts'
import { Initiator, outcomeOf, RecordedTask, toHex } from './testing/recorded-task.ts'
import { thinDevice } from './testing/test-device.ts'

const runs = Number(process.env['SLIPWAY_FUZZ_RUNS'] ?? 3000)
const targetName = 'iqn.2026-01.lab:disk'

function thinServer(bytes = 512 * 4096): ReturnType<typeof createDeviceServer> {
  return createDeviceServer({ targetName, disks: [{ device: thinDevice(bytes), serialNumber: 'table' }] })
}

function unitOf(device: ReturnType<typeof thinDevice>): LogicalUnit {
  const context = {
    targetName,
    portCount: 1,
    luns: [0],
    unitNamed: () => undefined,
    report: () => undefined,
    pause: () => Promise.resolve(),
  }
  return new LogicalUnit(0, { device, serialNumber: 'table' }, context)
}

const all = commandsOf(unitOf(thinDevice(512 * 64)))

test('every CDB has the length of its group, and its usage begins with its opcode', () => {
  const lengths: Readonly<Record<number, number>> = { 0: 6, 1: 10, 2: 10, 4: 16, 5: 12 }
  for (const command of all) {
    const usage = usageOf(command)
    expect(usage[0], command.name).toBe(command.opcode)
    expect(usage.byteLength, command.name).toBe(lengths[command.opcode >> 5])
    expect((usage.at(-1) ?? 0) & 0x04, `${command.name} looks at NACA`).toBe(0x04)
    if (command.serviceAction !== undefined) expect((usage[1] ?? 0) & 0x1f, command.name).toBe(command.serviceAction)
  }
})

test('no opcode is there twice, nor with and without service actions', () => {
  const seen = new Set<string>()
  for (const { opcode, serviceAction } of all) {
    const key = `${opcode}/${serviceAction}`
    expect(seen.has(key), key).toBe(false)
    seen.add(key)
    if (serviceAction !== undefined) expect(seen.has(`${opcode}/undefined`)).toBe(false)
  }
})

test('everything that a disk of SBC-3 needs is there', () => {
  const names = all.map((command) => command.name)
  for (const name of [
    'TEST UNIT READY, REQUEST SENSE, INQUIRY, REPORT LUNS, START STOP UNIT, PREVENT ALLOW MEDIUM REMOVAL',
    'MODE SENSE (6), MODE SENSE (10), MODE SELECT (6), MODE SELECT (10), READ CAPACITY (10), READ CAPACITY (16)',
    'READ (6), READ (10), READ (12), READ (16), WRITE (6), WRITE (10), WRITE (12), WRITE (16)',
    'VERIFY (10), VERIFY (12), VERIFY (16), WRITE AND VERIFY (10), WRITE AND VERIFY (12), WRITE AND VERIFY (16)',
    'SYNCHRONIZE CACHE (10), SYNCHRONIZE CACHE (16), PRE-FETCH (10), PRE-FETCH (16), GET LBA STATUS, UNMAP',
    'WRITE SAME (10), WRITE SAME (16), COMPARE AND WRITE, ORWRITE (16), WRITE ATOMIC (16)',
    'RESERVE (6), RELEASE (6), REPORT TARGET PORT GROUPS, EXTENDED COPY (LID1), RECEIVE COPY OPERATING PARAMETERS',
    'REPORT SUPPORTED OPERATION CODES, REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS',
  ].flatMap((line) => line.split(', '))) {
    expect(names).toContain(name)
  }
  expect(names.filter((name) => name.startsWith('PERSISTENT RESERVE'))).toHaveLength(4 + 8)
  expect(names.filter((name) => name.startsWith('SANITIZE'))).toHaveLength(3)
})

test('a disk that is not thin, or not to be written, has fewer commands and says so', async () => {
  const names = (device: Parameters<typeof unitOf>[0]): string[] => commandsOf(unitOf(device)).map(({ name }) => name)
  const thick = names(createMemoryDevice(512 * 64))
  for (const name of ['UNMAP', 'GET LBA STATUS', 'SANITIZE, BLOCK ERASE']) expect(thick).not.toContain(name)
  expect(thick).toContain('SANITIZE, OVERWRITE')
  const readOnly = names(createMemoryDevice(512 * 64, { readOnly: true }))
  expect(readOnly.filter((name) => name.startsWith('SANITIZE'))).toEqual([])
  const device = createMemoryDevice(512 * 64)
  const initiator = new Initiator(createDeviceServer({ targetName, disks: [{ device, serialNumber: 'thick' }] }))
  expect(outcomeOf(await initiator.run('42 00 00000000 00 0000 00'))).toBe('5/2000@cdb 0')
})

test('REPORT SUPPORTED OPERATION CODES lists each command, and tells the same of each alone', async () => {
  const initiator = new Initiator(thinServer())
  const list = (await initiator.run('a3 0c 80 00 0000 00010000 00 00')).data
  expect(list.byteLength).toBe(4 + 20 * all.length)
  for (const [i, command] of all.entries()) {
    const descriptor = list.subarray(4 + 20 * i, 24 + 20 * i)
    const hasServiceAction = command.serviceAction !== undefined
    expect(descriptor[0]).toBe(command.opcode)
    expect(((descriptor[2] ?? 0) << 8) | (descriptor[3] ?? 0)).toBe(command.serviceAction ?? 0)
    expect(descriptor[5]).toBe(hasServiceAction ? 0x03 : 0x02)
    const two = (value: number): string => value.toString(16).padStart(2, '0')
    const ask = (option: number): string =>
      `a3 0c ${two(option)} ${two(command.opcode)} 00${two(command.serviceAction ?? 0)} 00001000 00 00`
    const usage = usageOf(command)
    const expected = `0003${usage.byteLength.toString(16).padStart(4, '0')}${toHex(usage)}`
    expect(toHex((await initiator.run(ask(hasServiceAction ? 2 : 1))).data), command.name).toBe(expected)
    expect(toHex((await initiator.run(ask(3))).data), command.name).toBe(expected)
    expect(outcomeOf(await initiator.run(ask(hasServiceAction ? 1 : 2))), command.name).toBe('5/2400@cdb 2.2')
  }
  expect(toHex((await initiator.run('a3 0c 01 c0 0000 00001000 00 00')).data)).toBe('00010000')
  expect(outcomeOf(await initiator.run('a3 0c 04 00 0000 00001000 00 00'))).toBe('5/2400@cdb 2.2')
})

test('an opcode that is not listed is refused, whatever it is', async () => {
  const initiator = new Initiator(thinServer())
  const known = new Set(all.map((command) => command.opcode))
  for (let opcode = 0; opcode < 256; opcode++) {
    if (known.has(opcode)) continue
    expect(outcomeOf(await initiator.run(Uint8Array.of(opcode)))).toBe('5/2000@cdb 0')
  }
})

/** A CDB that is likely to get past the first checks: a known opcode, small numbers. */
const likelyCdb = fc
  .tuple(
    fc.constantFrom(...all),
    fc.uint8Array({ minLength: 16, maxLength: 16 }),
    fc.double({ min: 0, max: 1, noNaN: true }),
  )
  .map(([command, noise, density]) => {
    const cdb = noise.map((byte, i) => (((byte * 7 + i * 13) % 256) / 256 < density ? byte : 0))
    const usage = usageOf(command)
    for (let i = 0; i < usage.byteLength; i++) cdb[i] = (cdb[i] as number) & (usage[i] as number)
    cdb[0] = command.opcode
    if (command.serviceAction !== undefined) cdb[1] = ((cdb[1] as number) & 0xe0) | command.serviceAction
    cdb[usage.byteLength - 1] = 0
    return cdb
  })

const anyCdb = fc.oneof(likelyCdb, fc.uint8Array({ minLength: 16, maxLength: 16 }))

test('any CDB with any data ends exactly once, with well-formed sense, and never with more data than there is room', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.record({
          cdb: anyCdb,
          dataOut: fc.uint8Array({ maxLength: 2048 }),
          dataInBytesMax: fc.nat({ max: 5000 }),
          pieceBytes: fc.constantFrom(1 << 20, 512, 700),
          lun: fc.constantFrom('0000000000000000', '0000000000000000', '0001000000000000', 'c101000000000000'),
          initiator: fc.nat({ max: 1 }),
        }),
        { maxLength: 8 },
      ),
      async (inputs) => {
        const reported: unknown[] = []
        const device = thinDevice(512 * 512)
        const server = createDeviceServer({
          targetName,
          disks: [{ device, serialNumber: 'fuzz' }],
          report: (error) => reported.push(error),
        })
        const initiators = [new Initiator(server), new Initiator(server, 'iqn.2026-01.lab:m2')]
        for (const { cdb, lun, initiator, ...rest } of inputs) {
          const bytes = Uint8Array.from({ length: 8 }, (_, i) => Number.parseInt(lun.slice(2 * i, 2 * i + 2), 16))
          const nexus = (initiators[initiator] as Initiator).nexus
          const task = new RecordedTask(nexus, { cdb, lun: bytes, ...rest })
          server.execute(task)
          const ending = await task.done
          if (ending.status === 2) expect(['70', 'f0', '72']).toContain(toHex(ending.sense.subarray(0, 1)))
          if (ending.status === 2) expect(ending.sense.byteLength).toBeLessThanOrEqual(252)
          if (ending.status !== 2) expect(ending.sense.byteLength).toBe(0)
        }
        expect(reported).toEqual([])
      },
    ),
    { numRuns: Math.ceil(runs / 8) },
  )
})
