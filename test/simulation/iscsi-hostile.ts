/** What hostile tests share: a connection without a network, conversations that are right, and ways to spoil them. */

import { createMemoryDevice } from '../../src/block/memory.ts'
import { systemHash } from '../../src/host/hash.ts'
import { ChapFailures } from '../../src/iscsi/chap-failures.ts'
import type { Connection, ConnectionHost } from '../../src/iscsi/connection.ts'
import { DataOutMemory } from '../../src/iscsi/data-out-memory.ts'
import { noTag } from '../../src/iscsi/header.ts'
import { encodeInitiatorPdu, type InitiatorPdu } from '../../src/iscsi/initiator-pdu.ts'
import { sendQueueBytesToPause } from '../../src/iscsi/limits.ts'
import type { Authentication, IscsiEvent } from '../../src/iscsi/policy.ts'
import { SessionRegistry } from '../../src/iscsi/registry.ts'
import { SendMemory } from '../../src/iscsi/send-memory.ts'
import { encodeText, type KeyValue } from '../../src/iscsi/text.ts'
import type { TcpConnection } from '../../src/ports/tcp.ts'
import { createDeviceServer } from '../../src/scsi/device-server.ts'
import { VirtualClock } from './clock.ts'
import { read10, targetName, write10 } from './iscsi.ts'

export type Dice = () => number
export const below = (dice: Dice, count: number): number => Math.floor(dice() * count)
export const pick = <Value>(dice: Dice, values: readonly Value[]): Value => values[below(dice, values.length)] as Value

export class FakeWire implements TcpConnection {
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

export type HostilePlace = {
  readonly host: ConnectionHost
  readonly events: IscsiEvent[]
  readonly clock: VirtualClock
}

export function createHost(
  authentication: Authentication = { kind: 'none' },
  diskBytes: number = 1024 * 1024,
): HostilePlace {
  const clock = new VirtualClock()
  const events: IscsiEvent[] = []
  const disk = () =>
    createDeviceServer({
      targetName,
      disks: [{ device: createMemoryDevice(diskBytes), serialNumber: 'TEST1' }],
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
        authentication: initiatorName === bystanderName ? { kind: 'none' } : authentication,
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

export const lun: Uint8Array = new Uint8Array(8)
export const login = (isid: string, from: 0 | 1, to: 1 | 3, pairs: readonly KeyValue[]): Uint8Array =>
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

export const bystanderName = 'iqn.2026-01.lab.client:bystander'

/** Login requests up to CHAP's proof, or without; some in pieces. */
export function loginConversation(dice: Dice): Uint8Array[] {
  const isid = '400027230001'
  const names: KeyValue[] = [
    ['InitiatorName', 'iqn.2026-01.lab.client:golden'],
    ['TargetName', targetName],
    ['SessionType', pick(dice, ['Normal', 'Discovery'])],
    ['AuthMethod', pick(dice, ['CHAP', 'None', 'CHAP,None'])],
  ]
  const proof = `0x${'5a'.repeat(pick(dice, [16, 20, 32]))}`
  return [
    login(isid, 0, 1, names),
    login(isid, 0, 1, [['CHAP_A', pick(dice, ['5', '8,7,6,5', '7'])]]),
    login(isid, 0, 1, [
      ['CHAP_N', 'labuser'],
      ['CHAP_R', proof],
      ['CHAP_I', '7'],
      ['CHAP_C', '0bQUJDREVGR0hJSktMTU5PUA=='],
    ]),
    login(isid, 1, 3, pick(dice, operationalWays)),
  ]
}

export function logins(
  isid: string,
  operational: readonly KeyValue[],
  name = 'iqn.2026-01.lab.client:golden',
): Uint8Array[] {
  const names: KeyValue[] = [
    ['InitiatorName', name],
    ['TargetName', targetName],
    ['AuthMethod', 'None'],
  ]
  return [login(isid, 0, 1, names), login(isid, 1, 3, operational)]
}

export const operationalWays: readonly (readonly KeyValue[])[] = [
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
export function conversation(dice: Dice, blocksMax = 40, strayData = true): Uint8Array[] {
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
        const blocks = 1 + below(dice, blocksMax)
        const cdb = read10(below(dice, 2_048), blocks)
        add({ ...command, final: true, read: true, write: false, expectedTransferBytes: blocks * 512, cdb: whole(cdb) })
        break
      }
      case 2:
      case 3: {
        const blocks = 1 + below(dice, blocksMax)
        const cdb = whole(write10(below(dice, 2_000), blocks))
        const immediate = new Uint8Array(strayData ? below(dice, 2) * 512 : blocks * 512)
        const write = { ...command, read: false, write: true, expectedTransferBytes: blocks * 512, cdb }
        add({ ...write, final: !strayData || dice() < 0.5 }, immediate)
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

export function whole(cdb: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(16)
  bytes.set(cdb)
  return bytes
}

const extremes: readonly number[] = [0, 1, 0xffffffff, 0x7fffffff, 0x80000000]

/** A copy of one PDU with one thing wrong: a byte, a bit, a field at an extreme, an opcode, a length. */
export function mutated(dice: Dice, original: Uint8Array): Uint8Array {
  const pdu = original.slice()
  switch (below(dice, 12)) {
    case 0:
      pdu[below(dice, 48)] = below(dice, 256)
      break
    case 1:
    case 8:
    case 9:
    case 10:
    case 11:
      // Behind the lengths, so that the stream goes on.
      pdu[8 + below(dice, 40)] = below(dice, 256)
      break
    case 2: {
      const at = below(dice, pdu.byteLength)
      pdu[at] = (pdu[at] as number) ^ (1 << below(dice, 8))
      break
    }
    case 3:
      new DataView(pdu.buffer).setUint32(4 * below(dice, 12), pick(dice, extremes))
      break
    case 4:
      pdu[below(dice, pdu.byteLength)] = below(dice, 256)
      break
    case 5:
      pdu[0] = below(dice, 256)
      break
    case 6:
      pdu[7] = below(dice, 256)
      break
    default:
      // Numbers and tags that are a little off hit what is there.
      pdu[pick(dice, [19, 23, 27, 31, 35, 39, 43, 47])] = below(dice, 12)
  }
  return pdu
}

/** Bits flipped, fields set to extremes, PDUs repeated, swapped, left out, cut off. */
export function damage(dice: Dice, pdus: Uint8Array[]): void {
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
        new DataView(pdu.buffer).setUint32(4 * below(dice, 12), pick(dice, extremes))
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

export function joined(pieces: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.byteLength, 0))
  let at = 0
  for (const piece of pieces) {
    all.set(piece, at)
    at += piece.byteLength
  }
  return all
}

export function feed(dice: Dice, connection: Connection, wire: FakeWire, pdus: readonly Uint8Array[]): void {
  const stream = joined(pdus)
  const chunkMax = pick(dice, [1, 7, 48, 100, 1_460, 65_536])
  for (let at = 0; at < stream.byteLength && !wire.isClosed; ) {
    const bytes = Math.min(stream.byteLength - at, 1 + below(dice, chunkMax))
    connection.onData(stream.slice(at, at + bytes))
    at += bytes
    if (connection.outbox.queuedBytes >= 2 * sendQueueBytesToPause) throw new Error('more is queued than may be')
  }
}

/** Lets what goes on without a clock come to its end. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 8; i++) await undefined
}
