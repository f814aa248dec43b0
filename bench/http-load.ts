/**
 * An HTTP client that is cheaper than any server it measures: one epoll loop over N kept connections, straight on system
 * calls; bodies are thrown away inside the kernel. Blocks its thread while it reads.
 */
import koffi from 'koffi'

const libc = koffi.load('libc.so.6')
const socket = libc.func('int socket(int, int, int)')
const connect = libc.func('int connect(int, void *, int)')
const send = libc.func('int64_t send(int, void *, uint64_t, int)')
const receive = libc.func('int64_t recv(int, void *, uint64_t, int)')
const close = libc.func('int close(int)')
const epollCreate = libc.func('int epoll_create1(int)')
const epollControl = libc.func('int epoll_ctl(int, int, int, void *)')
const epollWait = libc.func('int epoll_wait(int, void *, int, int)')

const inet = 2
const stream = 1
const doNotWait = 0x40
/** MSG_TRUNC: TCP throws the bytes away instead of copying them. */
const discard = 0x20
const addToEpoll = 1
const readable = 1
/** struct epoll_event is packed on x86-64 and not elsewhere. */
const eventWords = process.arch === 'x64' ? 3 : 4
const dataWord = process.arch === 'x64' ? 1 : 2
const silenceMs = 5_000
const headBytesMax = 4_096

export type HttpLoad = {
  readonly address: string
  readonly port: number
  readonly path: string
  readonly connections: number
  /** On each connection, one after the other. */
  readonly requests: number
}

export type HttpLoadResult = { readonly bytes: number; readonly answers: number; readonly seconds: number }

type Connection = { readonly fd: number; requestsLeft: number; bodyLeft: number }

/** @throws {Error} if an answer is not 200 with a Content-Length, or nothing comes for five seconds. */
export function fetchWithAll(load: HttpLoad): HttpLoadResult {
  const request = Buffer.from(`GET ${load.path} HTTP/1.1\r\nHost: ${load.address}\r\n\r\n`)
  const server = Uint8Array.of(
    inet,
    0,
    load.port >> 8,
    load.port & 0xff,
    ...load.address.split('.').map(Number),
    ...new Uint8Array(8),
  )
  const head = Buffer.alloc(headBytesMax)
  const epoll: number = epollCreate(0)
  const connections: Connection[] = []
  const event = new Int32Array(eventWords)
  for (let i = 0; i < load.connections; i++) {
    const fd: number = socket(inet, stream, 0)
    if (connect(fd, server, 16) !== 0) throw new Error(`port ${load.port} does not answer`)
    event[0] = readable
    event[dataWord] = i
    epollControl(epoll, addToEpoll, fd, event)
    connections.push({ fd, requestsLeft: load.requests, bodyLeft: 0 })
  }
  let running = connections.length
  let bytes = 0
  let answers = 0
  const ask = (connection: Connection): void => {
    if (connection.requestsLeft === 0) {
      running--
      return
    }
    connection.requestsLeft--
    send(connection.fd, request, request.byteLength, 0)
  }
  const answered = (connection: Connection): void => {
    answers++
    ask(connection)
  }
  const takeHead = (connection: Connection): void => {
    const size: number = receive(connection.fd, head, headBytesMax, doNotWait)
    if (size <= 0) throw new Error(`port ${load.port} closed a connection`)
    const end = head.indexOf('\r\n\r\n')
    const text = head.toString('latin1', 0, end)
    const length = /\r\ncontent-length: (\d+)/i.exec(text)?.[1]
    if (end === -1 || end > size || !text.startsWith('HTTP/1.1 200') || length === undefined) {
      throw new Error(`port ${load.port} answered ${text.split('\r\n')[0]}`)
    }
    const bodyHere = size - end - 4
    bytes += bodyHere
    connection.bodyLeft = Number(length) - bodyHere
    if (connection.bodyLeft === 0) answered(connection)
  }
  const events = new Int32Array(eventWords * load.connections)
  const startedMs = performance.now()
  try {
    for (const connection of connections) ask(connection)
    while (running > 0) {
      const count: number = epollWait(epoll, events, load.connections, silenceMs)
      if (count <= 0) throw new Error(`port ${load.port} fell silent`)
      for (let i = 0; i < count; i++) {
        const connection = connections[events[i * eventWords + dataWord] ?? -1]
        if (connection === undefined) throw new Error('epoll named a connection that is none')
        if (connection.bodyLeft === 0) {
          takeHead(connection)
          continue
        }
        const size: number = receive(connection.fd, null, connection.bodyLeft, doNotWait | discard)
        if (size <= 0) throw new Error(`port ${load.port} closed a connection in the middle of an answer`)
        bytes += size
        connection.bodyLeft -= size
        if (connection.bodyLeft === 0) answered(connection)
      }
    }
  } finally {
    for (const { fd } of connections) close(fd)
    close(epoll)
  }
  return { bytes, answers, seconds: (performance.now() - startedMs) / 1_000 }
}
