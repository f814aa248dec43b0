/**
 * Goal: no sequence of bytes breaks a bound, leaks memory, or touches another session. Method: conversations that are right,
 * then damaged in many ways and cut anywhere, straight into connections; SLIPWAY_FUZZ_RUNS says how many (default 1,500).
 */
import { expect, test } from 'vitest'
import { read10, write10 } from '../../test/simulation/iscsi.ts'
import {
  bystanderName,
  conversation,
  createHost,
  damage,
  FakeWire,
  feed,
  joined,
  logins,
  lun,
  operationalWays,
  pick,
  settle,
  whole,
} from '../../test/simulation/iscsi-hostile.ts'
import { seededRandom } from '../base/random.ts'
import { Connection } from './connection.ts'
import { noTag } from './header.ts'
import { encodeInitiatorPdu, type InitiatorPdu } from './initiator-pdu.ts'
import { sendQueueBytesToPause } from './limits.ts'
import { encodeText, formatHexadecimal } from './text.ts'

const fuzzRuns = Number(process.env['SLIPWAY_FUZZ_RUNS'] ?? 1_500)

test('damaged logins and damaged sessions break nothing, leave no memory behind, and disturb nobody', async () => {
  const { host, events, clock } = createHost()
  const good = new FakeWire()
  const bystander = new Connection(host, good)
  for (const pdu of logins('400027230099', [], bystanderName)) bystander.onData(pdu)
  await settle()
  let bystanderNumber = 1
  for (let run = 0; run < fuzzRuns; run++) {
    const dice = seededRandom(run)
    const wire = new FakeWire()
    const connection = new Connection(host, wire)
    const login = logins('400027230001', pick(dice, operationalWays))
    const session = conversation(dice)
    if (dice() < 0.3) damage(dice, login)
    else damage(dice, session)
    wire.isStuck = dice() < 0.1
    try {
      feed(dice, connection, wire, login)
      await settle()
      feed(dice, connection, wire, session)
      await settle()
      if (wire.isStuck) wire.drain()
      connection.onClose('gone')
      await settle()
      expect(host.dataOut.usedBytes).toBe(0)
      expect(host.registry.all().length).toBe(1)
    } catch (error) {
      throw new Error(`run ${run}: ${error instanceof Error ? error.stack : String(error)}`, { cause: error })
    }
    if (run % 100 === 0) {
      const before = good.sentBytes
      bystander.onData(
        encodeInitiatorPdu({
          kind: 'nopOut',
          immediate: false,
          lun,
          initiatorTaskTag: 5,
          targetTransferTag: noTag,
          commandNumber: bystanderNumber++,
          expectedStatusNumber: 1,
        }),
      )
      expect(good.sentBytes - before).toBe(48)
      events.length = 0
      await clock.run(() => false, 10_000)
    }
  }
  expect(host.memory.regionCount).toBe(0)
}, 3_600_000)

/** What the target says to a login and a session that does a bit of everything, cut at `cuts`. */
function answersTo(stream: Uint8Array, cuts: readonly number[]): string {
  const { host } = createHost({ kind: 'none' }, 4_096)
  const wire = new FakeWire()
  const said: Uint8Array[] = []
  const write = wire.write.bind(wire)
  wire.write = (chunk, release) => {
    said.push(chunk.slice())
    write(chunk, release)
  }
  const connection = new Connection(host, wire)
  let from = 0
  for (const to of [...cuts, stream.byteLength]) {
    connection.onData(stream.slice(from, to))
    from = to
  }
  connection.onClose('gone')
  return formatHexadecimal(joined(said))
}

test('wherever a stream is cut, at every byte of it and at all of them, the answers are the same', () => {
  const command = { kind: 'scsiCommand', immediate: false, attribute: 'simple', lun, expectedStatusNumber: 1 } as const
  const write = { ...command, read: false, write: true, cdb: whole(write10(3, 1)), expectedTransferBytes: 512 }
  const read = { ...command, read: true, write: false, cdb: whole(read10(3, 1)), expectedTransferBytes: 512 }
  const numbered = (number: number) => ({ initiatorTaskTag: number, commandNumber: number })
  const data = Uint8Array.from({ length: 512 }, (_, i) => i * 3)
  const dataOut = { kind: 'dataOut', final: true, lun, expectedStatusNumber: 1, dataNumber: 0 } as const
  const ping = { kind: 'nopOut', immediate: false, lun, targetTransferTag: noTag, expectedStatusNumber: 1 } as const
  const text = { ...ping, kind: 'text', final: true, more: false } as const
  const stream = joined([
    ...logins('400027230001', operationalWays[0] ?? []),
    encodeInitiatorPdu({
      ...command,
      ...numbered(1),
      final: true,
      read: false,
      write: false,
      expectedTransferBytes: 0,
      cdb: whole(new Uint8Array(6)),
    }),
    encodeInitiatorPdu({ ...write, ...numbered(2), final: false }, data.subarray(0, 300)),
    encodeInitiatorPdu(
      { ...dataOut, initiatorTaskTag: 2, targetTransferTag: noTag, bufferOffset: 300 },
      data.subarray(300),
    ),
    encodeInitiatorPdu({ ...read, ...numbered(3), final: true }),
    encodeInitiatorPdu({ ...write, ...numbered(4), final: true }),
    // The first R2T of a session has the tag 1.
    encodeInitiatorPdu({ ...dataOut, initiatorTaskTag: 4, targetTransferTag: 1, bufferOffset: 0 }, data),
    encodeInitiatorPdu({ ...ping, ...numbered(5) }, data.subarray(0, 5)),
    encodeInitiatorPdu({ ...text, ...numbered(6) }, encodeText([['SendTargets', '']])),
    encodeInitiatorPdu({
      kind: 'logout',
      immediate: false,
      reason: 0,
      connectionId: 0,
      expectedStatusNumber: 1,
      ...numbered(7),
    }),
  ])
  const atOnce = answersTo(stream, [])
  expect(atOnce.length, 'everything was answered').toBeGreaterThan(2 * (512 + 8 * 48))
  for (let at = 1; at < stream.byteLength; at++) expect(answersTo(stream, [at]), `cut at ${at}`).toBe(atOnce)
  const everywhere = Array.from({ length: stream.byteLength - 1 }, (_, i) => i + 1)
  expect(answersTo(stream, everywhere)).toBe(atOnce)
})

test('an announced length is refused before a byte of it is taken', async () => {
  for (const loggedIn of [false, true]) {
    const { host } = createHost()
    const wire = new FakeWire()
    const connection = new Connection(host, wire)
    if (loggedIn) for (const pdu of logins('400027230001', [])) connection.onData(pdu)
    const header = encodeInitiatorPdu({
      kind: loggedIn ? 'text' : 'login',
      ...{ immediate: false, final: true, more: false, lun, targetTransferTag: noTag },
      ...{ transit: false, currentStage: 0, nextStage: 0, versionMax: 0, versionMin: 0, isid: '000000000000' },
      ...{ tsih: 0, connectionId: 0, initiatorTaskTag: 9, commandNumber: 1, expectedStatusNumber: 0 },
    } as InitiatorPdu)
    new DataView(header.buffer).setUint32(4, 0xffffff)
    const before = process.memoryUsage().arrayBuffers
    connection.onData(header)
    expect(wire.isClosed).toBe(true)
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(1024 * 1024)
  }
})

test('a chunk of a thousand commands from a client that reads nothing is held at the window', async () => {
  const { host } = createHost()
  const wire = new FakeWire()
  const connection = new Connection(host, wire)
  for (const pdu of logins('400027230001', [])) connection.onData(pdu)
  wire.isStuck = true
  const commands = Array.from({ length: 1_000 }, (_, i) =>
    encodeInitiatorPdu({
      kind: 'scsiCommand',
      immediate: false,
      final: true,
      read: true,
      write: false,
      attribute: 'simple',
      lun,
      initiatorTaskTag: 100 + i,
      expectedTransferBytes: 1024 * 1024,
      commandNumber: 1 + i,
      expectedStatusNumber: 1,
      cdb: whole(read10(0, 2_048)),
    }),
  )
  connection.onData(Uint8Array.from(commands.flatMap((pdu) => [...pdu])))
  await settle()
  expect(connection.outbox.queuedBytes).toBeLessThan(2 * sendQueueBytesToPause)
  for (let i = 0; i < 2_000; i++) {
    wire.drain()
    wire.isStuck = true
    expect(connection.outbox.queuedBytes).toBeLessThan(2 * sendQueueBytesToPause)
  }
  wire.drain()
  connection.onClose('gone')
  expect(host.memory.regionCount).toBe(0)
})
