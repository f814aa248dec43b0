/**
 * Goal: no sequence of bytes breaks a bound, leaks memory, or touches another session. Method: conversations that are right,
 * then damaged in many ways and cut anywhere, straight into connections; SLIPWAY_FUZZ_RUNS says how many (default 1,500).
 */
import { expect, test } from 'vitest'
import { VirtualClock } from '../../test/simulation/clock.ts'
import { read10, targetName, write10 } from '../../test/simulation/iscsi.ts'
import { seededRandom } from '../base/random.ts'
import { createMemoryDevice } from '../block/memory.ts'
import { systemHash } from '../host/hash.ts'
import type { TcpConnection } from '../ports/tcp.ts'
import { createDeviceServer } from '../scsi/device-server.ts'
import { ChapFailures } from './chap-failures.ts'
import { Connection, type ConnectionHost } from './connection.ts'
import { DataOutMemory } from './data-out-memory.ts'
import { noTag } from './header.ts'
import { encodeInitiatorPdu, type InitiatorPdu } from './initiator-pdu.ts'
import { sendQueueBytesToPause } from './limits.ts'
import type { IscsiEvent } from './policy.ts'
import { SessionRegistry } from './registry.ts'
import { SendMemory } from './send-memory.ts'
import { encodeText, type KeyValue } from './text.ts'

const fuzzRuns = Number(process.env['SLIPWAY_FUZZ_RUNS'] ?? 1_500)
type Dice = () => number
const below = (dice: Dice, count: number): number => Math.floor(dice() * count)
const pick = <Value>(dice: Dice, values: readonly Value[]): Value => values[below(dice, values.length)] as Value

class FakeWire implements TcpConnection {
  readonly remote = { address: '10.0.1.9', port: 40_000 }
  readonly local = { address: '10.0.0.1', port: 3260 }
  queuedBytes = 0
  sentBytes = 0
  isPaused = false
  isClosed = false
  /** Releases wait until `drain`: a client that does not read. */
  isStuck = false
  readonly #held: (() => void)[] = []

  write(chunk: Uint8Array, release?: () => void): void {
    this.sentBytes += chunk.byteLength
    if (this.isStuck) {
      this.queuedBytes += chunk.byteLength
      if (release !== undefined) this.#held.push(release)
    } else release?.()
  }

  drain(): void {
    this.isStuck = false
    this.queuedBytes = 0
    for (const release of this.#held.splice(0)) release()
  }

  pause(): void {
    this.isPaused = true
  }

  resume(): void {
    this.isPaused = false
  }

  end(): void {
    this.isClosed = true
  }

  destroy(): void {
    this.isClosed = true
  }
}

function createHost() {
  const clock = new VirtualClock()
  const events: IscsiEvent[] = []
  const disk = () =>
    createDeviceServer({
      targetName,
      disks: [{ device: createMemoryDevice(1024 * 1024), serialNumber: 'TEST1' }],
      report: (error) => {
        throw error
      },
    })
  // A target cold reset ends every session of a disk, and may: the bystander has a disk of its own.
  const [attacked, apart] = [disk(), disk()]
  const host: ConnectionHost = {
    clock,
    random: { bytes: (count) => new Uint8Array(count).fill(7) },
    hash: systemHash,
    directory: {
      resolve: ({ initiatorName }) => ({
        kind: 'accept',
        authentication: { kind: 'none' },
        deviceServer: initiatorName === bystanderName ? apart : attacked,
      }),
      discover: () => ({ kind: 'accept', authentication: { kind: 'none' } }),
      list: () => [{ targetName, portals: [] }],
    },
    events: (event) => events.push(event),
    registry: new SessionRegistry(),
    memory: new SendMemory(),
    dataOut: new DataOutMemory(),
    chapFailures: new ChapFailures(),
    openChallenges: new Set(),
    loggedIn: () => {},
    closed: () => {},
  }
  return { host, events, clock }
}

const lun = new Uint8Array(8)
const login = (isid: string, from: 0 | 1, to: 1 | 3, pairs: readonly KeyValue[]): Uint8Array =>
  encodeInitiatorPdu(
    {
      kind: 'login',
      transit: true,
      more: false,
      currentStage: from,
      nextStage: to,
      versionMax: 0,
      versionMin: 0,
      isid,
      tsih: 0,
      initiatorTaskTag: 1,
      connectionId: 0,
      commandNumber: 1,
      expectedStatusNumber: 0,
    },
    encodeText(pairs),
  )

const bystanderName = 'iqn.2026-01.lab.client:bystander'

function logins(isid: string, operational: readonly KeyValue[], name = 'iqn.2026-01.lab.client:golden'): Uint8Array[] {
  const names: KeyValue[] = [
    ['InitiatorName', name],
    ['TargetName', targetName],
    ['AuthMethod', 'None'],
  ]
  return [login(isid, 0, 1, names), login(isid, 1, 3, operational)]
}

const operationalWays: readonly (readonly KeyValue[])[] = [
  [
    ['InitialR2T', 'No'],
    ['ImmediateData', 'Yes'],
    ['MaxBurstLength', '8192'],
    ['FirstBurstLength', '4096'],
    ['MaxOutstandingR2T', '4'],
  ],
  [
    ['InitialR2T', 'Yes'],
    ['ImmediateData', 'No'],
    ['MaxRecvDataSegmentLength', '512'],
  ],
  [],
]

/** Full-feature PDUs that mean something: numbers go on as they should, data follows where it was announced. */
function conversation(dice: Dice): Uint8Array[] {
  const pdus: Uint8Array[] = []
  let commandNumber = 1
  for (let tag = 2; tag < 10; tag++) {
    const common = { initiatorTaskTag: tag, commandNumber, expectedStatusNumber: 1, lun, immediate: false } as const
    const add = (pdu: InitiatorPdu, data?: Uint8Array): void => {
      pdus.push(encodeInitiatorPdu(pdu, data))
    }
    const command = { kind: 'scsiCommand', attribute: 'simple', ...common } as const
    commandNumber++
    switch (below(dice, 8)) {
      case 0:
      case 1: {
        const blocks = 1 + below(dice, 40)
        const cdb = read10(below(dice, 2_048), blocks)
        add({ ...command, final: true, read: true, write: false, expectedTransferBytes: blocks * 512, cdb: whole(cdb) })
        break
      }
      case 2:
      case 3: {
        const blocks = 1 + below(dice, 40)
        const cdb = whole(write10(below(dice, 2_000), blocks))
        const immediate = new Uint8Array(below(dice, 2) * 512)
        const write = { ...command, read: false, write: true, expectedTransferBytes: blocks * 512, cdb }
        add({ ...write, final: dice() < 0.5 }, immediate)
        const position = { lun, initiatorTaskTag: tag, expectedStatusNumber: 1 } as const
        // Perhaps asked for by an R2T whose tag is a small number, perhaps unsolicited, perhaps neither.
        for (let at = immediate.byteLength, number = 0; at < blocks * 512 && number < 6; number++) {
          const bytes = Math.min(blocks * 512 - at, 512 * (1 + below(dice, 8)))
          const targetTransferTag = dice() < 0.5 ? noTag : 1 + below(dice, 3)
          const final = at + bytes === blocks * 512 || dice() < 0.2
          const dataOut = { kind: 'dataOut', ...position, final, targetTransferTag } as const
          add({ ...dataOut, dataNumber: number, bufferOffset: at }, new Uint8Array(bytes))
          at += bytes
        }
        break
      }
      case 4:
        add({ kind: 'nopOut', ...common, targetTransferTag: noTag }, new Uint8Array(below(dice, 100)))
        break
      case 5:
        add(
          { kind: 'text', ...common, final: true, more: dice() < 0.2, targetTransferTag: noTag },
          encodeText([['SendTargets', pick(dice, ['All', '', targetName])]]),
        )
        break
      case 6:
        add({
          kind: 'taskManagement',
          ...common,
          immediate: dice() < 0.5,
          function: 1 + below(dice, 10),
          referencedTaskTag: below(dice, 12),
          referencedCommandNumber: below(dice, 12),
        })
        break
      default:
        if (dice() < 0.3) add({ kind: 'logout', ...common, reason: below(dice, 4), connectionId: 0 })
        else
          add({
            kind: 'snack',
            type: 0,
            lun,
            initiatorTaskTag: tag,
            targetTransferTag: noTag,
            expectedStatusNumber: 1,
            begin: 0,
            runLength: 0,
          })
    }
  }
  return pdus
}

function whole(cdb: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(16)
  bytes.set(cdb)
  return bytes
}

/** Bits flipped, fields set to extremes, PDUs repeated, swapped, left out, cut off. */
function damage(dice: Dice, pdus: Uint8Array[]): void {
  for (let times = below(dice, 5); times > 0 && pdus.length > 0; times--) {
    const index = below(dice, pdus.length)
    const pdu = pdus[index] as Uint8Array
    if (pdu.byteLength === 0) continue
    switch (below(dice, 7)) {
      case 0:
        pdu[below(dice, pdu.byteLength)] = below(dice, 256)
        break
      case 1:
        pdu[below(dice, Math.min(48, pdu.byteLength))] = (pdu[0] as number) ^ (1 << below(dice, 8))
        break
      case 2:
        if (pdu.byteLength < 48) break
        new DataView(pdu.buffer).setUint32(4 * below(dice, 12), pick(dice, [0, 1, 0xffffffff, 0x7fffffff, 0x80000000]))
        break
      case 3:
        pdus.splice(index, 0, pdu.slice())
        break
      case 4:
        pdus.splice(index, 1)
        break
      case 5:
        pdus[index] = pdu.slice(0, below(dice, pdu.byteLength))
        break
      default:
        pdus.push(...pdus.splice(index, 1))
    }
  }
}

function feed(dice: Dice, connection: Connection, wire: FakeWire, pdus: readonly Uint8Array[]): void {
  const stream = new Uint8Array(Buffer.concat(pdus))
  const chunkMax = pick(dice, [1, 7, 48, 100, 1_460, 65_536])
  for (let at = 0; at < stream.byteLength && !wire.isClosed; ) {
    const bytes = Math.min(stream.byteLength - at, 1 + below(dice, chunkMax))
    connection.onData(stream.slice(at, at + bytes))
    at += bytes
    if (connection.outbox.queuedBytes >= 2 * sendQueueBytesToPause) throw new Error('more is queued than may be')
  }
}

async function settle(): Promise<void> {
  for (let i = 0; i < 8; i++) await undefined
}

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
