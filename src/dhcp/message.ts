/**
 * DHCP messages: RFC 2131 §2, with the options of RFC 2132.
 *
 *   0                   1                   2                   3
 *   +-------------+-------------+-------------+-------------+
 *   | op (1)      | htype (1)   | hlen (1)    | hops (1)    |
 *   | xid (4)                                               |
 *   | secs (2)                  | flags (2), bit 15 broadcast |
 *   | ciaddr (4)  the client's own, when it may use it      |
 *   | yiaddr (4)  yours                                     |
 *   | siaddr (4)  next server                               |
 *   | giaddr (4)  relay agent                               |
 *   | chaddr (16)                                           |
 *   | sname (64)                                            |
 *   | file (128)                                            |
 *   | 63 82 53 63 | options (variable)                      |
 *
 * All integers are big-endian. A message is one UDP payload of 240 bytes or more; we send 300 to 1472.
 */
import { assert } from '../base/assert.ts'
import { readerOf, WireError } from '../wire/reader.ts'
import { fixedBytes, messageBytesMin, requestBytesMax } from './limits.ts'
import { messageType, Options, optionBytes, overload, readOptions, writeOption } from './option.ts'

export const opcode = { request: 1, reply: 2 } as const

/** RFC 2132 §9.6. */
const typeNumbers = {
  discover: 1,
  offer: 2,
  request: 3,
  decline: 4,
  ack: 5,
  nak: 6,
  release: 7,
  inform: 8,
} as const

export type MessageType = keyof typeof typeNumbers

const typeNames = new Map<number, MessageType>(
  Object.entries(typeNumbers).map(([name, number]) => [number, name as MessageType]),
)

export type Message = {
  readonly op: 'request' | 'reply'
  readonly type: MessageType
  /** 1 is Ethernet. */
  readonly hardwareType: number
  /** chaddr, `hlen` bytes of it: 0 to 16. */
  readonly hardwareAddress: Uint8Array
  readonly hops: number
  /** xid */
  readonly transaction: number
  /** secs: how long the client has been trying, by its own account. */
  readonly elapsedSeconds: number
  readonly broadcast: boolean
  /** ciaddr. IPv4 addresses are unsigned numbers; 0 is none. */
  readonly clientAddress: number
  /** yiaddr */
  readonly yourAddress: number
  /** siaddr: from whom to load `bootFile`. */
  readonly nextServer: number
  /** giaddr */
  readonly relayAddress: number
  /** sname, up to 64 characters. Empty when it carries options. */
  readonly serverName: string
  /** file, up to 128 characters. Empty when it carries options. */
  readonly bootFile: string
  /** All but the message type (53), which is `type`, and the overload option (52), which belongs to the layout. */
  readonly options: Options
}

const magicCookie = 0x63825363
const chaddrBytes = 16
const snameOffset = 44
const snameBytes = 64
const fileOffset = 108
const fileBytes = 128
const optionsOffset = fixedBytes

/**
 * Reads one message; it borrows `packet`.
 * @throws {WireError} if it is not DHCP; plain BOOTP, without a message type, is not.
 */
export function decode(packet: Uint8Array): Message {
  if (packet.byteLength > requestBytesMax) throw new WireError('badLength', requestBytesMax)
  const reader = readerOf(packet)
  const op = reader.u8()
  if (op !== opcode.request && op !== opcode.reply) throw new WireError('unknownOpcode', 0)
  const hardwareType = reader.u8()
  const hardwareBytes = reader.u8()
  if (hardwareBytes > chaddrBytes) throw new WireError('badLength', 2)
  const hops = reader.u8()
  const transaction = reader.u32()
  const elapsedSeconds = reader.u16()
  const flags = reader.u16()
  const clientAddress = reader.u32()
  const yourAddress = reader.u32()
  const nextServer = reader.u32()
  const relayAddress = reader.u32()
  const hardwareAddress = reader.bytes(chaddrBytes).subarray(0, hardwareBytes)
  const sname = reader.bytes(snameBytes)
  const file = reader.bytes(fileBytes)
  if (reader.u32() !== magicCookie) throw new WireError('badValue', optionsOffset - 4)

  const options = new Options()
  readOptions(reader.rest(), optionsOffset, options)
  const overloaded = options.get(overload) ?? 0
  if (overloaded > 3) throw new WireError('badValue', optionsOffset)
  // RFC 3396 §5: the options field first, then file, then sname.
  if ((overloaded & 1) !== 0) readOptions(file, fileOffset, options)
  if ((overloaded & 2) !== 0) readOptions(sname, snameOffset, options)
  const type = typeNames.get(options.get(messageType) ?? 0)
  if (type === undefined) throw new WireError('badValue', optionsOffset)
  options.delete(messageType)
  options.delete(overload)

  return {
    op: op === opcode.request ? 'request' : 'reply',
    type,
    hardwareType,
    hardwareAddress,
    hops,
    transaction,
    elapsedSeconds,
    broadcast: (flags & 0x8000) !== 0,
    clientAddress,
    yourAddress,
    nextServer,
    relayAddress,
    serverName: (overloaded & 2) === 0 ? textOf(sname) : '',
    bootFile: (overloaded & 1) === 0 ? textOf(file) : '',
    options,
  }
}

/** Where a message is written, made once and used for all. */
export class MessageBuffer {
  readonly bytes: Uint8Array
  readonly #view: DataView

  constructor(bytesMax: number) {
    assert(bytesMax >= messageBytesMin, 'a message has at least 300 bytes')
    this.bytes = new Uint8Array(bytesMax)
    this.#view = new DataView(this.bytes.buffer)
  }

  /**
   * Writes `message` with at most `bytesMax` bytes and returns how many it took. Options that do not fit go into `file`
   * and `sname` where these are free (RFC 2131 §4.1); those that fit nowhere are left out and their codes added to
   * `omitted`, so the important ones go first.
   */
  encode(message: Message, bytesMax: number, omitted?: number[]): number {
    const view = this.#view
    const target = this.bytes
    const limit = Math.min(bytesMax, target.byteLength)
    assert(limit >= messageBytesMin, 'a message has at least 300 bytes')
    assert(message.serverName.length <= snameBytes && message.bootFile.length <= fileBytes, 'sname and file fit')
    assert(message.hardwareAddress.byteLength <= chaddrBytes, 'a hardware address has at most 16 bytes')

    view.setUint8(0, opcode[message.op])
    view.setUint8(1, message.hardwareType)
    view.setUint8(2, message.hardwareAddress.byteLength)
    view.setUint8(3, message.hops)
    view.setUint32(4, message.transaction)
    view.setUint16(8, message.elapsedSeconds)
    view.setUint16(10, message.broadcast ? 0x8000 : 0)
    view.setUint32(12, message.clientAddress)
    view.setUint32(16, message.yourAddress)
    view.setUint32(20, message.nextServer)
    view.setUint32(24, message.relayAddress)
    target.fill(0, 28, optionsOffset - 4)
    target.set(message.hardwareAddress, 28)
    writeText(message.serverName, target, snameOffset)
    writeText(message.bootFile, target, fileOffset)
    view.setUint32(optionsOffset - 4, magicCookie)
    return this.#encodeOptions(message, limit, omitted)
  }

  #encodeOptions(message: Message, limit: number, omitted: number[] | undefined): number {
    const target = this.bytes
    let at = optionsOffset
    target[at] = messageType.code
    target[at + 1] = 1
    target[at + 2] = typeNumbers[message.type]
    at += 3

    let needed = at + 1
    for (const [, value] of message.options.entries()) needed += optionBytes(value)
    if (needed <= limit) {
      for (const [code, value] of message.options.entries()) at = writeOption(code, value, target, at)
      return finish(target, at)
    }

    // Some go elsewhere. The overload option is written first, so that its three bytes are there for certain.
    const overloadAt = at
    at += 3
    const file = { at: fileOffset, end: fileOffset + fileBytes - 1, free: message.bootFile === '' }
    const sname = { at: snameOffset, end: snameOffset + snameBytes - 1, free: message.serverName === '' }
    for (const [code, value] of message.options.entries()) {
      const bytes = optionBytes(value)
      if (at + bytes < limit) {
        at = writeOption(code, value, target, at)
      } else if (file.free && file.at + bytes <= file.end) {
        file.at = writeOption(code, value, target, file.at)
      } else if (sname.free && sname.at + bytes <= sname.end) {
        sname.at = writeOption(code, value, target, sname.at)
      } else {
        omitted?.push(code)
      }
    }
    const overloaded = (file.at > fileOffset ? 1 : 0) | (sname.at > snameOffset ? 2 : 0)
    if ((overloaded & 1) !== 0) target[file.at] = 255
    if ((overloaded & 2) !== 0) target[sname.at] = 255
    // Overload 0 is not a value that RFC 2132 §9.3 has; pads say the same.
    target.set(overloaded === 0 ? [0, 0, 0] : [overload.code, 1, overloaded], overloadAt)
    return finish(target, at)
  }
}

/** The end option, and pads up to the least size. */
function finish(target: Uint8Array, at: number): number {
  target[at] = 255
  const bytes = Math.max(at + 1, messageBytesMin)
  target.fill(0, at + 1, bytes)
  return bytes
}

/** Up to the first NUL; a field may also be full to its last byte. */
function textOf(field: Uint8Array): string {
  if (field[0] === 0) return ''
  const nul = field.indexOf(0)
  return String.fromCharCode(...(nul === -1 ? field : field.subarray(0, nul)))
}

function writeText(value: string, target: Uint8Array, offset: number): void {
  for (let i = 0; i < value.length; i++) target[offset + i] = value.charCodeAt(i)
}
