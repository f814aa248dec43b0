/** An initiator that says exactly what a test wants said, right or wrong, and keeps what it hears. */
import { FrameReader } from '../../src/iscsi/frame.ts'
import { digestBytes, type Header, headerBytes, noTag } from '../../src/iscsi/header.ts'
import { encodeInitiatorPdu, type InitiatorPdu, type ScsiCommand } from '../../src/iscsi/initiator-pdu.ts'
import { receiveSegmentBytesMax } from '../../src/iscsi/limits.ts'
import { decodeTargetPdu, type LoginResponse, type TargetPdu } from '../../src/iscsi/target-pdu.ts'
import { encodeText, type KeyValue } from '../../src/iscsi/text.ts'
import { crc32c } from '../../src/wire/crc32c.ts'
import { initiatorName, targetName, type World } from './iscsi.ts'

export type Heard = { readonly pdu: TargetPdu; readonly data: Uint8Array }

export type RawOptions = {
  readonly offers?: readonly KeyValue[]
  readonly initiatorName?: string
  /** Undefined: a discovery session. */
  readonly targetName?: string | undefined
  readonly isid?: string
  readonly tsih?: number
  readonly connectionId?: number
  /** CmdSN of the login, and of the first command. */
  readonly commandNumber?: number
}

type Kind = InitiatorPdu['kind']
type OfKind<K extends Kind> = Extract<InitiatorPdu, { kind: K }>

const usual = {
  immediate: false,
  final: true,
  more: false,
  lun: new Uint8Array(8),
  initiatorTaskTag: 1,
  targetTransferTag: noTag,
  commandNumber: 1,
  expectedStatusNumber: 1,
} as const

const usualOf: { readonly [K in Kind]: OfKind<K> } = {
  scsiCommand: {
    ...usual,
    kind: 'scsiCommand',
    read: false,
    write: false,
    attribute: 'simple',
    expectedTransferBytes: 0,
    cdb: new Uint8Array(16),
  },
  dataOut: {
    kind: 'dataOut',
    final: true,
    lun: usual.lun,
    initiatorTaskTag: 1,
    targetTransferTag: noTag,
    expectedStatusNumber: 1,
    dataNumber: 0,
    bufferOffset: 0,
  },
  nopOut: { ...usual, kind: 'nopOut' },
  text: { ...usual, kind: 'text' },
  logout: { ...usual, kind: 'logout', reason: 0, connectionId: 0 },
  taskManagement: {
    ...usual,
    kind: 'taskManagement',
    immediate: true,
    function: 1,
    referencedTaskTag: noTag,
    referencedCommandNumber: 0,
  },
  snack: { ...usual, kind: 'snack', type: 0, begin: 0, runLength: 0 },
  login: {
    ...usual,
    kind: 'login',
    transit: true,
    currentStage: 1,
    nextStage: 3,
    versionMax: 0,
    versionMin: 0,
    isid: '400027230001',
    tsih: 0,
    connectionId: 0,
  },
}

/** A PDU with this changed of what such a PDU usually is. */
export function pduOf<K extends Kind>(kind: K, change: Partial<OfKind<K>> = {}): OfKind<K> {
  return { ...usualOf[kind], ...change }
}

/** A write of `blocks` blocks from LBA `lba`. */
export function writeOf(lba: number, blocks: number, change: Partial<ScsiCommand> = {}): ScsiCommand {
  return transferOf(0x2a, lba, blocks, { write: true, ...change })
}

export function readOf(lba: number, blocks: number, change: Partial<ScsiCommand> = {}): ScsiCommand {
  return transferOf(0x28, lba, blocks, { read: true, ...change })
}

function transferOf(opcode: number, lba: number, blocks: number, change: Partial<ScsiCommand>): ScsiCommand {
  const cdb = new Uint8Array(16)
  const view = new DataView(cdb.buffer)
  view.setUint8(0, opcode)
  view.setUint32(2, lba)
  view.setUint16(7, blocks)
  return pduOf('scsiCommand', { cdb, expectedTransferBytes: blocks * 512, ...change })
}

export class RawSession {
  readonly login: LoginResponse
  readonly #world: World
  readonly #client: Awaited<ReturnType<World['raw']>>
  readonly #reader: FrameReader
  readonly #heard: Heard[]

  private constructor(
    world: World,
    client: Awaited<ReturnType<World['raw']>>,
    reader: FrameReader,
    heard: Heard[],
    login: LoginResponse,
  ) {
    this.#world = world
    this.#client = client
    this.#reader = reader
    this.#heard = heard
    this.login = login
  }

  /** Logs in with one request; `login.status` says how that went. */
  static async open(world: World, options: RawOptions = {}): Promise<RawSession> {
    const client = await world.raw()
    const heard: Heard[] = []
    let pdu: TargetPdu | undefined
    let data = new Uint8Array(0)
    let filledBytes = 0
    const reader = new FrameReader({
      header: (header: Header) => {
        pdu = decodeTargetPdu(header)
        data = new Uint8Array(header.dataBytes)
        filledBytes = 0
      },
      data: (bytes) => {
        data.set(bytes, filledBytes)
        filledBytes += bytes.byteLength
      },
      end: (intact) => {
        if (!intact) throw new Error('the target sent a wrong data digest')
        if (pdu !== undefined) heard.push({ pdu, data })
      },
    })
    reader.segmentBytesMax = receiveSegmentBytesMax
    const wanted = 'targetName' in options ? options.targetName : targetName
    const pairs: KeyValue[] = [
      ['InitiatorName', options.initiatorName ?? initiatorName],
      ...(wanted === undefined
        ? [['SessionType', 'Discovery'] as const]
        : [['SessionType', 'Normal'] as const, ['TargetName', wanted] as const]),
      ...(options.offers ?? []),
    ]
    const { isid = usualOf.login.isid, tsih = 0, connectionId = 0, commandNumber = 1 } = options
    const request = pduOf('login', { isid, tsih, connectionId, commandNumber })
    client.write(encodeInitiatorPdu(request, encodeText(pairs)))
    await world.pass(20)
    for (const chunk of client.received.splice(0)) reader.receive(chunk)
    const answer = heard.shift()?.pdu
    if (answer?.kind !== 'loginResponse') throw new Error(`a login was answered with ${answer?.kind}`)
    reader.headerDigest = pairs.some(([key, value]) => key === 'HeaderDigest' && value === 'CRC32C')
    reader.dataDigest = pairs.some(([key, value]) => key === 'DataDigest' && value === 'CRC32C')
    return new RawSession(world, client, reader, heard, answer)
  }

  get isClosed(): boolean {
    return this.#client.isClosed()
  }

  destroy(): void {
    this.#client.destroy()
  }

  /** `damage` spoils the digest of the header or of the data. */
  send(pdu: InitiatorPdu, data: Uint8Array = new Uint8Array(0), damage?: 'header' | 'data'): void {
    this.sendBytes(encodeInitiatorPdu(pdu, data), damage)
  }

  /** A PDU as it stands, without digests: those are added. */
  sendBytes(plain: Uint8Array, damage?: 'header' | 'data'): void {
    const headerEnd = headerBytes + (plain[4] ?? 0) * 4
    const [header, data] = [plain.subarray(0, headerEnd), plain.subarray(headerEnd)]
    const pieces = [header]
    if (this.#reader.headerDigest) pieces.push(digestOf(header, damage === 'header'))
    if (data.byteLength > 0) pieces.push(data)
    if (data.byteLength > 0 && this.#reader.dataDigest) pieces.push(digestOf(data, damage === 'data'))
    for (const piece of pieces) this.#client.write(piece)
  }

  /** What the target says within `milliseconds`. */
  async hear(milliseconds = 20): Promise<Heard[]> {
    await this.#world.pass(milliseconds)
    for (const chunk of this.#client.received.splice(0)) this.#reader.receive(chunk)
    return this.#heard.splice(0)
  }

  /** Sends, and says what the target says to it. */
  async say(pdu: InitiatorPdu, data?: Uint8Array, damage?: 'header' | 'data'): Promise<Heard[]> {
    this.send(pdu, data, damage)
    return this.hear()
  }

  /** Takes the unit attention of a new session, with CmdSN 1. The next command is number 2. */
  async ready(): Promise<this> {
    const [heard] = await this.say(pduOf('scsiCommand', { initiatorTaskTag: 0x1000 }))
    if (heard?.pdu.kind !== 'scsiResponse' || heard.data[4] !== 0x06) throw new Error('no unit attention')
    return this
  }
}

/** Logged in, and past the unit attention of a new session. */
export async function openRaw(world: World, options: RawOptions = {}): Promise<RawSession> {
  return (await RawSession.open(world, options)).ready()
}

function digestOf(bytes: Uint8Array, damaged: boolean): Uint8Array {
  const digest = new Uint8Array(digestBytes)
  new DataView(digest.buffer).setUint32(0, damaged ? ~crc32c(bytes) : crc32c(bytes), true)
  return digest
}
