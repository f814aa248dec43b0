/**
 * Machines that boot: each logs in to its own iSCSI target and does what the recorded boot did, in its order, a few requests in
 * flight. The client is lean, because it must not be what is measured: no object for a PDU, data is counted and not looked at.
 * RFC 7143 §11.
 */
import { connect, type Socket } from 'node:net'
import type { BootRecording, RecordedRequest } from './boot-recording.ts'

export type StormTarget = {
  readonly address: string
  readonly port: number
  readonly targetName: string
  readonly lun: number
}

/** What a kernel that boots keeps in flight, about. Firmware and loaders have one. */
export const usualInFlight = 4
const headerBytes = 48
const opcode = {
  nopOut: 0x00,
  command: 0x01,
  login: 0x03,
  dataOut: 0x05,
  nopIn: 0x20,
  response: 0x21,
  loginAnswer: 0x23,
  dataIn: 0x25,
  readyToTransfer: 0x31,
} as const
const immediate = 0x40
const final = 0x80
const noTag = 0xffff_ffff
/** RFC 7143 §13.12: until the target declares another. */
const segmentBytesDefault = 8192
const testUnitReady = new Uint8Array(16)
/** Unit attentions that a new session may meet before it is ready. */
const unitAttentionsMax = 8
const stormLimitMs = 300_000

/** Boots them all at once; returns the seconds until the last has done what the recorded machine did. */
export async function replayStorm(
  targets: readonly StormTarget[],
  recording: BootRecording,
  inFlight: number,
): Promise<number> {
  const scratch = Buffer.allocUnsafeSlow(512 * 1024)
  const zeroes = new Uint8Array(Math.max(...recording.requests.map(({ write, bytes }) => (write ? bytes : 0)), 0))
  const beganMs = performance.now()
  const machines = targets.map(
    (target, index) => new Machine(target, index, recording.requests, inFlight, scratch, zeroes),
  )
  try {
    await Promise.all(machines.map(({ booted }) => booted))
    return (performance.now() - beganMs) / 1000
  } finally {
    for (const machine of machines) machine.powerOff()
  }
}

class Machine {
  readonly booted: Promise<void>
  readonly #target: StormTarget
  readonly #requests: readonly RecordedRequest[]
  readonly #inFlightMax: number
  readonly #zeroes: Uint8Array
  readonly #socket: Socket
  readonly #header = Buffer.alloc(headerBytes)
  #headerBytes = 0
  #dataBytes = 0
  #text = ''
  #segmentBytes = segmentBytesDefault
  #state: 'login' | 'attentions' | 'boot' | 'done' = 'login'
  #attentions = 0
  #sent = 0
  #done = 0
  #commandNumber = 1
  #statusNumber = 0
  #resolve: () => void = () => undefined
  #reject: (error: Error) => void = () => undefined

  constructor(
    target: StormTarget,
    index: number,
    requests: readonly RecordedRequest[],
    inFlight: number,
    scratch: Buffer,
    zeroes: Uint8Array,
  ) {
    this.#target = target
    this.#requests = requests
    this.#inFlightMax = inFlight
    this.#zeroes = zeroes
    this.booted = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    const onread = {
      buffer: scratch,
      callback: (bytes: number, buffer: Uint8Array): boolean => {
        this.#receive(buffer as Buffer, bytes)
        return true
      },
    }
    this.#socket = connect({ host: target.address, port: target.port, noDelay: true, onread })
    this.#socket.on('error', (error) => this.#reject(error))
    this.#socket.on('close', () => this.#reject(new Error(`machine ${index}: the target closed the connection`)))
    this.#socket.setTimeout(stormLimitMs, () => this.#reject(new Error(`machine ${index} hangs`)))
    this.#socket.once('connect', () => this.#logIn(index))
  }

  powerOff(): void {
    this.#state = 'done'
    this.#socket.destroy()
  }

  #logIn(index: number): void {
    const pairs = [
      ['InitiatorName', `iqn.2026-01.slipway.bench:machine-${index}`],
      ['TargetName', this.#target.targetName],
      ['SessionType', 'Normal'],
      ['HeaderDigest', 'None'],
      ['DataDigest', 'None'],
      ['MaxRecvDataSegmentLength', '262144'],
      ['MaxBurstLength', '1048576'],
      ['FirstBurstLength', '65536'],
      ['InitialR2T', 'Yes'],
      ['ImmediateData', 'No'],
      ['ErrorRecoveryLevel', '0'],
      ['MaxConnections', '1'],
    ]
    const text = Buffer.from(pairs.map(([key, value]) => `${key}=${value}\0`).join(''))
    const pdu = this.#pdu(opcode.login | immediate, 0x87, text.byteLength) // operational, then full-feature phase
    pdu.writeUInt8(0x80, 8) // ISID: type "random"
    pdu.writeUInt32BE(index, 10)
    pdu.writeUInt32BE(this.#commandNumber, 24)
    text.copy(pdu, headerBytes)
    this.#socket.write(pdu)
  }

  #pdu(first: number, flags: number, dataBytes: number): Buffer {
    const pdu = Buffer.alloc(headerBytes + Math.ceil(dataBytes / 4) * 4)
    pdu.writeUInt8(first, 0)
    pdu.writeUInt8(flags, 1)
    pdu.writeUIntBE(dataBytes, 5, 3)
    return pdu
  }

  #receive(chunk: Buffer, bytes: number): void {
    for (let at = 0; at < bytes; ) {
      if (this.#headerBytes < headerBytes) {
        const some = Math.min(headerBytes - this.#headerBytes, bytes - at)
        chunk.copy(this.#header, this.#headerBytes, at, at + some)
        this.#headerBytes += some
        at += some
        if (this.#headerBytes < headerBytes) return
        this.#dataBytes = Math.ceil(this.#header.readUIntBE(5, 3) / 4) * 4
      }
      const some = Math.min(this.#dataBytes, bytes - at)
      if (this.#state === 'login') this.#text += chunk.toString('latin1', at, at + some)
      this.#dataBytes -= some
      at += some
      if (this.#dataBytes > 0) return
      this.#headerBytes = 0
      this.#take()
    }
  }

  /** One PDU is here; its data is gone already. */
  #take(): void {
    const header = this.#header
    switch (header.readUInt8(0) & 0x3f) {
      case opcode.loginAnswer:
        this.#isIn(header.readUInt16BE(36))
        break
      case opcode.dataIn:
        // §11.7.3: the status rides on the last one, or a response follows.
        if ((header.readUInt8(1) & 1) !== 0) this.#ended(header.readUInt8(3))
        break
      case opcode.response:
        this.#ended(header.readUInt8(3))
        break
      case opcode.readyToTransfer:
        this.#sendData()
        break
      case opcode.nopIn:
        if (header.readUInt32BE(20) !== noTag) this.#answerPing()
        break
      default:
        this.#reject(new Error(`an unexpected PDU: ${header.readUInt8(0)}`))
    }
  }

  #isIn(loginStatus: number): void {
    if (loginStatus !== 0) {
      this.#reject(new Error(`login refused: ${loginStatus.toString(16)}`))
      return
    }
    this.#statusNumber = this.#header.readUInt32BE(24) + 1
    this.#segmentBytes = Number(/MaxRecvDataSegmentLength=(\d+)/.exec(this.#text)?.[1] ?? segmentBytesDefault)
    this.#state = 'attentions'
    this.#command(testUnitReady, 0, 0, 0)
  }

  #ended(status: number): void {
    this.#statusNumber = this.#header.readUInt32BE(24) + 1
    if (this.#state === 'attentions') {
      if (status !== 0 && this.#attentions++ < unitAttentionsMax) {
        this.#command(testUnitReady, 0, 0, 0)
        return
      }
      this.#state = 'boot'
    } else this.#done++
    if (status !== 0) this.#reject(new Error(`a command ended with status ${status}`))
    else if (this.#done === this.#requests.length) this.#resolve()
    while (this.#sent < this.#requests.length && this.#sent - this.#done < this.#inFlightMax) this.#sendNext()
  }

  #sendNext(): void {
    const request = this.#requests[this.#sent++]
    if (request === undefined) return
    const cdb = Buffer.alloc(16)
    cdb.writeUInt8(request.write ? 0x8a : 0x88, 0)
    cdb.writeBigUInt64BE(BigInt(request.offset / 512), 2)
    cdb.writeUInt32BE(request.bytes / 512, 10)
    // ATTR simple, F, R or W.
    this.#command(cdb, request.write ? 0x20 : 0x40, request.bytes, this.#sent)
  }

  #command(cdb: Uint8Array, direction: number, bytes: number, tag: number): void {
    const pdu = this.#pdu(opcode.command, final | direction | 1, 0)
    pdu.writeUInt8(this.#target.lun, 9)
    pdu.writeUInt32BE(tag, 16)
    pdu.writeUInt32BE(bytes, 20)
    pdu.writeUInt32BE(this.#commandNumber++, 24)
    pdu.writeUInt32BE(this.#statusNumber, 28)
    pdu.set(cdb, 32)
    this.#socket.write(pdu)
  }

  /** §11.8: all that it asks for. */
  #sendData(): void {
    const header = this.#header
    const offset = header.readUInt32BE(40)
    const end = offset + header.readUInt32BE(44)
    let number = 0
    for (let at = offset; at < end; ) {
      const bytes = Math.min(this.#segmentBytes, end - at)
      const pdu = this.#pdu(opcode.dataOut, at + bytes === end ? final : 0, bytes).subarray(0, headerBytes)
      header.copy(pdu, 8, 8, 16)
      header.copy(pdu, 16, 16, 24) // task tag, transfer tag
      pdu.writeUInt32BE(this.#statusNumber, 28)
      pdu.writeUInt32BE(number++, 36)
      pdu.writeUInt32BE(at, 40)
      this.#socket.write(pdu)
      this.#socket.write(this.#zeroes.subarray(0, bytes))
      at += bytes
    }
  }

  #answerPing(): void {
    const pdu = this.#pdu(opcode.nopOut | immediate, final, 0)
    this.#header.copy(pdu, 8, 8, 16)
    pdu.writeUInt32BE(noTag, 16)
    this.#header.copy(pdu, 20, 20, 24)
    pdu.writeUInt32BE(this.#commandNumber, 24)
    pdu.writeUInt32BE(this.#statusNumber, 28)
    this.#socket.write(pdu)
  }
}
