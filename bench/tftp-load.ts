/**
 * A TFTP client that is cheaper than any server it measures: one epoll loop over N sockets, straight on system calls.
 * Blocks its thread while it reads. Not a client for anything else: it does not write what it receives.
 */
import koffi from 'koffi'

const libc = koffi.load('libc.so.6')
const socket = libc.func('int socket(int, int, int)')
const connect = libc.func('int connect(int, uint8_t *, int)')
const send = libc.func('long send(int, uint8_t *, size_t, int)')
const sendTo = libc.func('long sendto(int, uint8_t *, size_t, int, uint8_t *, int)')
const receive = libc.func('long recv(int, uint8_t *, size_t, int)')
const receiveFrom = libc.func('long recvfrom(int, uint8_t *, size_t, int, uint8_t *, uint32_t *)')
const close = libc.func('int close(int)')
const epollCreate = libc.func('int epoll_create1(int)')
const epollControl = libc.func('int epoll_ctl(int, int, int, uint8_t *)')
const epollWait = libc.func('int epoll_wait(int, uint8_t *, int, int)')

const inet = 2
const datagram = 2
const nonBlocking = 0o4000
const doNotWait = 0x40
const addToEpoll = 1
const readable = 1
/** struct epoll_event is packed on x86-64 and not elsewhere. */
const eventBytes = process.arch === 'x64' ? 12 : 16
const eventDataAt = process.arch === 'x64' ? 4 : 8
const silenceMs = 1_000

export type Load = {
  readonly address: string
  readonly port: number
  readonly name: string
  readonly clients: number
  readonly blockBytes: number
  readonly windowBlocks: number
}

export type LoadResult = { readonly bytes: number; readonly seconds: number; readonly resends: number }

type Client = {
  readonly fd: number
  connected: boolean
  nextBlock: number
  unacked: number
  bytes: number
  done: boolean
}

/** Every client reads the whole file once. @throws {Error} if the server sends an ERROR or stays silent. */
export function readWithAll(load: Load): LoadResult {
  const epoll = epollCreate(0)
  const server = socketAddress(load.address, load.port)
  const request = readRequest(load)
  const packet = new Uint8Array(65_536)
  const ack = Uint8Array.of(0, 4, 0, 0)
  const source = new Uint8Array(16)
  const sourceBytes = Uint32Array.of(16)
  const clients: Client[] = []
  const event = new Uint8Array(eventBytes)
  const eventView = new DataView(event.buffer)
  for (let i = 0; i < load.clients; i++) {
    const fd: number = socket(inet, datagram | nonBlocking, 0)
    clients.push({ fd, connected: false, nextBlock: 1, unacked: 0, bytes: 0, done: false })
    eventView.setUint32(0, readable, true)
    eventView.setUint32(eventDataAt, i, true)
    epollControl(epoll, addToEpoll, fd, event)
  }
  const acknowledge = (client: Client): void => {
    const block = (client.nextBlock - 1) & 0xffff
    ack[2] = block >> 8
    ack[3] = block & 0xff
    client.unacked = 0
    send(client.fd, ack, 4, 0)
  }
  let remaining = clients.length
  let resends = 0
  const take = (client: Client, size: number): void => {
    const opcode = packet[1]
    if (opcode === 5) throw new Error(`the server refused: ${Buffer.from(packet.subarray(4, size - 1)).toString()}`)
    if (opcode === 6) {
      acknowledge(client)
      return
    }
    if (opcode !== 3 || ((packet[2] ?? 0) << 8) + (packet[3] ?? 0) !== (client.nextBlock & 0xffff)) return
    client.nextBlock++
    client.unacked++
    client.bytes += size - 4
    if (size - 4 < load.blockBytes && !client.done) {
      client.done = true
      remaining--
    }
    if (client.unacked === load.windowBlocks || client.done) acknowledge(client)
  }

  const events = new Uint8Array(eventBytes * load.clients)
  const eventsView = new DataView(events.buffer)
  const startedMs = performance.now()
  try {
    for (const { fd } of clients) sendTo(fd, request, request.byteLength, 0, server, 16)
    for (let silences = 0; remaining > 0; ) {
      const count: number = epollWait(epoll, events, load.clients, silenceMs)
      if (count === 0) {
        if (++silences > 5) {
          const stuck = clients.filter(({ done }) => !done).map(({ nextBlock }) => nextBlock)
          throw new Error(`port ${load.port} fell silent; waiting for blocks ${stuck.join(', ')}`)
        }
        for (const client of clients) {
          if (client.done) continue
          resends++
          if (client.connected) acknowledge(client)
          else sendTo(client.fd, request, request.byteLength, 0, server, 16)
        }
      }
      for (let i = 0; i < count; i++) {
        const client = clients[eventsView.getUint32(i * eventBytes + eventDataAt, true)]
        if (client === undefined) throw new Error('epoll named a client that is none')
        if (!client.connected) {
          const size: number = receiveFrom(client.fd, packet, packet.byteLength, doNotWait, source, sourceBytes)
          if (size < 4) continue
          connect(client.fd, source, 16)
          client.connected = true
          take(client, size)
          continue
        }
        // In lock step there is one packet to take; in a window, as many as there are.
        do {
          const size: number = receive(client.fd, packet, packet.byteLength, doNotWait)
          if (size < 4) break
          silences = 0
          take(client, size)
        } while (load.windowBlocks > 1)
      }
    }
  } finally {
    for (const { fd } of clients) close(fd)
    close(epoll)
  }
  const seconds = (performance.now() - startedMs) / 1_000
  return { bytes: clients.reduce((sum, { bytes }) => sum + bytes, 0), seconds, resends }
}

function readRequest({ name, blockBytes, windowBlocks }: Load): Uint8Array {
  const window = windowBlocks > 1 ? ['windowsize', String(windowBlocks)] : []
  const strings = [name, 'octet', 'blksize', String(blockBytes), 'tsize', '0', ...window]
  return Buffer.concat([Buffer.of(0, 1), Buffer.from(`${strings.join('\0')}\0`)])
}

/** struct sockaddr_in. */
function socketAddress(address: string, port: number): Uint8Array {
  return Uint8Array.of(inet, 0, port >> 8, port & 0xff, ...address.split('.').map(Number), 0, 0, 0, 0, 0, 0, 0, 0)
}
