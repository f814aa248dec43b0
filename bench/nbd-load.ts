/**
 * An NBD client that keeps so many requests in flight, for benches: QEMU's own (7.2) all but stops with more than one.
 * https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md, fixed newstyle, simple replies.
 */
import { connect, type Socket } from 'node:net'

export type NbdLoad = {
  readonly address: string
  readonly port: number
  readonly write: boolean
  readonly bytes: number
  readonly count: number
  readonly strideBytes: number
  readonly inFlight: number
}

const requestBytes = 28
const replyBytes = 16

/** Operations a second. */
export async function runNbd(load: NbdLoad): Promise<number> {
  const socket = connect({ host: load.address, port: load.port, noDelay: true })
  try {
    const { sizeBytes, rest } = await shakeHands(socket)
    const beganMs = performance.now()
    await transfer(socket, load, sizeBytes, rest)
    return (load.count / (performance.now() - beganMs)) * 1000
  } finally {
    socket.destroy()
  }
}

async function shakeHands(socket: Socket): Promise<{ readonly sizeBytes: number; readonly rest: Buffer }> {
  let received = Buffer.alloc(0)
  const take = async (bytes: number): Promise<Buffer> => {
    while (received.byteLength < bytes) {
      const chunk = await new Promise<Buffer>((resolve, reject) => {
        socket.once('data', resolve)
        socket.once('error', reject)
      })
      received = Buffer.concat([received, chunk])
    }
    const taken = received.subarray(0, bytes)
    received = received.subarray(bytes)
    return taken
  }
  // NBDMAGIC, IHAVEOPT, handshake flags; answered with client flags: fixed newstyle, no zeroes.
  await take(18)
  const option = Buffer.alloc(4 + 16)
  option.writeUInt32BE(3, 0)
  option.write('IHAVEOPT', 4, 'latin1')
  // NBD_OPT_EXPORT_NAME of the export with the empty name.
  option.writeUInt32BE(1, 12)
  socket.write(option)
  const answer = await take(10)
  socket.removeAllListeners('data')
  return { sizeBytes: Number(answer.readBigUInt64BE(0)), rest: received }
}

function transfer(socket: Socket, load: NbdLoad, sizeBytes: number, rest: Buffer): Promise<void> {
  const payload = load.write ? Buffer.alloc(load.bytes, 0x5a) : Buffer.alloc(0)
  const answerBytes = replyBytes + (load.write ? 0 : load.bytes)
  let sent = 0
  let offset = 0
  let ended = 0
  let have = rest.byteLength
  const send = (count: number): void => {
    const some = Math.min(count, load.count - sent)
    const frame = requestBytes + payload.byteLength
    const out = Buffer.allocUnsafe(some * frame)
    for (let i = 0; i < some; i++) {
      const at = i * frame
      out.writeUInt32BE(0x25609513, at)
      out.writeUInt32BE(load.write ? 1 : 0, at + 4)
      out.writeBigUInt64BE(0n, at + 8)
      out.writeBigUInt64BE(BigInt(offset), at + 16)
      out.writeUInt32BE(load.bytes, at + 24)
      payload.copy(out, at + requestBytes)
      offset = (offset + load.strideBytes) % sizeBytes
    }
    sent += some
    if (some > 0) socket.write(out)
  }
  return new Promise((resolve, reject) => {
    socket.on('error', reject)
    socket.on('close', () => reject(new Error('the NBD server closed the connection')))
    // Replies have one length, so how many have ended is a matter of counting bytes.
    socket.on('data', (chunk: Buffer) => {
      have += chunk.byteLength
      const more = Math.floor(have / answerBytes)
      have -= more * answerBytes
      ended += more
      if (ended === load.count) resolve()
      else if (more > 0) send(more)
    })
    send(load.inFlight)
  })
}
