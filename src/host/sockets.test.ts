import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createConnection, createServer } from 'node:net'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import type { TcpConnection } from '../ports/tcp.ts'
import { native } from './native.ts'
import { createSystemTcp, systemTcp } from './tcp.ts'
import { systemUdp } from './udp.ts'

const until = async (condition: () => boolean): Promise<void> => {
  for (let i = 0; !condition(); i++) {
    if (i > 2_000) throw new Error('nothing came')
    await new Promise((resolve) => setTimeout(resolve, 1))
  }
}

test('a datagram arrives with its sender, and its answer comes back', async () => {
  const heard: string[] = []
  const server = await systemUdp.bind({ address: '127.0.0.1', port: 0 }, (bytes, from) => server.send(bytes, from))
  const client = await systemUdp.bind({ address: '127.0.0.1', port: 0 }, (bytes, from) =>
    heard.push(`${new TextDecoder().decode(bytes)} from ${from.port === server.local.port}`),
  )
  client.send(new TextEncoder().encode('ahoy'), server.local)
  await until(() => heard.length > 0)
  expect(heard).toEqual(['ahoy from true'])
  server.close()
  client.close()
})

test('a connected socket hears its peer only, and is told when the peer is gone', async () => {
  const heard: string[] = []
  let gone = 0
  const peer = await systemUdp.bind({ address: '127.0.0.1', port: 0 }, (_, from) => {
    peer.send(new TextEncoder().encode('peer'), from)
    stranger.send(new TextEncoder().encode('stranger'), from)
  })
  const stranger = await systemUdp.bind({ address: '127.0.0.1', port: 0 }, () => {})
  const binding = { address: '127.0.0.1', port: 0, peer: peer.local, peerGone: () => gone++ }
  const socket = await systemUdp.bind(binding, (bytes) => heard.push(new TextDecoder().decode(bytes)))
  socket.send(new TextEncoder().encode('ahoy'), peer.local)
  await until(() => heard.length > 0)
  peer.close()
  while (gone === 0) {
    socket.send(new TextEncoder().encode('anybody?'), peer.local)
    await new Promise((resolve) => setTimeout(resolve, 1))
  }
  expect(heard).toEqual(['peer'])
  socket.close()
  stranger.close()
})

test('a socket bound to an interface hears that one only', async () => {
  const socket = await systemUdp.bind({ address: '0.0.0.0', port: 0, interfaceName: 'lo' }, () => {})
  expect(socket.local.port).toBeGreaterThan(0)
  socket.close()
  const binding = { address: '0.0.0.0', port: 0, interfaceName: 'none0' }
  await expect(systemUdp.bind(binding, () => {})).rejects.toMatchObject({ code: 'interfaceUnknown' })
})

test('a taken port is said to be taken', async () => {
  const udp = await systemUdp.bind({ address: '127.0.0.1', port: 0 }, () => {})
  await expect(systemUdp.bind(udp.local, () => {})).rejects.toMatchObject({ code: 'portTaken' })
  udp.close()
  const accept = (connection: TcpConnection) => ({ onData: () => {}, onClose: () => connection.destroy() })
  const tcp = await systemTcp.listen({ address: '127.0.0.1', port: 0 }, accept)
  await expect(systemTcp.listen(tcp.local, accept)).rejects.toMatchObject({ code: 'portTaken' })
  await tcp.close()
})

test('a listener that closes waits for no connection, and its port is free', async () => {
  const echo = (connection: TcpConnection) => ({
    onData: (chunk: Uint8Array) => connection.write(chunk),
    onClose: () => {},
  })
  const listener = await systemTcp.listen({ address: '127.0.0.1', port: 0 }, echo)
  const heard: string[] = []
  const client = await systemTcp.connect(listener.local, () => ({
    onData: (chunk) => heard.push(new TextDecoder().decode(chunk)),
    onClose: () => {},
  }))
  await listener.close()
  const next = await systemTcp.listen(listener.local, echo)
  client.write(new TextEncoder().encode('still here'))
  await until(() => heard.length > 0)
  expect(heard).toEqual(['still here'])
  client.destroy()
  await next.close()
})

test('bytes written in many pieces to a slow reader arrive whole and in order, and each piece is released once', async () => {
  const pieces = Array.from({ length: 600 }, (_, i) => new Uint8Array((i * 977) % 60_000).fill(i % 251))
  let released = 0
  const listener = await systemTcp.listen({ address: '127.0.0.1', port: 0 }, (connection) => {
    for (const piece of pieces) connection.write(piece, () => released++)
    connection.end()
    return { onData: () => {}, onClose: () => {} }
  })
  const received: Uint8Array[] = []
  let ended = false
  const client = await systemTcp.connect(listener.local, (connection) => ({
    onData: (chunk) => {
      received.push(chunk)
      connection.pause()
      setTimeout(() => connection.resume(), 1)
    },
    onClose: () => {
      ended = true
    },
  }))
  await until(() => ended)
  expect(Buffer.concat(received).equals(Buffer.concat(pieces))).toBe(true)
  expect(released).toBe(pieces.length)
  expect(client.queuedBytes).toBe(0)
  await listener.close()
})

test('a handler that borrows its chunks gets every byte in order, busy or quiet, paused or not, and then the end', async () => {
  const sent = Uint8Array.from({ length: 400_000 }, (_, i) => (i * 7 + (i >> 9)) & 0xff)
  const received: Uint8Array[] = []
  const outcome: string[] = []
  let chunks = 0
  const listener = await systemTcp.listen({ address: '127.0.0.1', port: 0 }, (connection) => ({
    borrowsChunks: true,
    onData: (chunk) => {
      received.push(chunk.slice())
      connection.write(Uint8Array.of(1))
      if (++chunks % 7 !== 0) return
      connection.pause()
      setTimeout(() => connection.resume(), 1)
    },
    onEnd: () => {
      outcome.push('end')
      connection.end()
    },
    onClose: (reason) => outcome.push(reason),
  }))
  let clientClosed = false
  const client = await systemTcp.connect(listener.local, () => ({
    onData: () => {},
    onClose: () => {
      clientClosed = true
    },
  }))
  for (let at = 0, i = 0; at < sent.byteLength; i++) {
    const bytes = 1 + ((i * 131) % 5_000)
    client.write(sent.slice(at, at + bytes))
    at += bytes
    if (i % 11 === 0) await new Promise((resolve) => setTimeout(resolve, 1))
    else await new Promise((resolve) => setImmediate(resolve))
  }
  client.end()
  await until(() => clientClosed && outcome.length === 2)
  expect(Buffer.concat(received).equals(sent)).toBe(true)
  expect(outcome).toEqual(['end', 'closed'])
  await listener.close()
})

test("a busy connection that is cut, by us or by the peer, is told once, and its descriptor may be another's", async () => {
  let open = 0
  let closes = 0
  const listener = await systemTcp.listen({ address: '127.0.0.1', port: 0 }, (connection) => {
    open++
    return {
      borrowsChunks: true,
      onData: (chunk) => {
        connection.write(chunk.slice())
        if (chunk[0] === 9) connection.destroy()
      },
      onClose: () => {
        open--
        closes++
      },
    }
  })
  for (let round = 0; round < 60; round++) {
    let echoed = 0
    let closed = false
    const client = await systemTcp.connect(listener.local, (connection) => ({
      onData: () => {
        if (++echoed < 5) connection.write(Uint8Array.of(echoed === 4 && round % 2 === 0 ? 9 : 1))
        else if (round % 2 === 1) connection.destroy()
      },
      onClose: () => {
        closed = true
      },
    }))
    client.write(Uint8Array.of(1))
    await until(() => closed)
  }
  await until(() => open === 0)
  expect(closes).toBe(60)
  await listener.close()
})

test('of three hundred that are busy at once each is answered in order, while others are cut, ended and replaced', async () => {
  const open = new Set<TcpConnection>()
  const listener = await systemTcp.listen({ address: '127.0.0.1', port: 0 }, (connection) => {
    open.add(connection)
    return {
      borrowsChunks: true,
      onData: (chunk) => {
        if (chunk.includes(255)) connection.destroy()
        else connection.write(chunk.slice())
      },
      onClose: () => open.delete(connection),
    }
  })
  let rest = 600
  let wrong = 0
  const talk = async (index: number): Promise<void> => {
    const rounds = 20 + (index % 30)
    let asked = 0
    let closed = false
    await systemTcp.connect(listener.local, (connection) => {
      const ask = (): void => connection.write(Uint8Array.of(asked))
      queueMicrotask(ask)
      return {
        onData: (chunk) => {
          if (chunk.byteLength !== 1 || chunk[0] !== asked) wrong++
          asked++
          if (asked < rounds) ask()
          else if (index % 3 === 0) connection.end()
          else if (index % 3 === 1) connection.destroy()
          else connection.write(Uint8Array.of(255))
        },
        onClose: () => {
          closed = true
          if (asked !== rounds) wrong++
        },
      }
    })
    await until(() => closed)
    if (rest-- > 0) await talk(index + 1)
  }
  await Promise.all(Array.from({ length: 300 }, (_, index) => talk(index)))
  await until(() => open.size === 0)
  expect(wrong).toBe(0)
  await listener.close()
})

test('a socket that systemd opened is used instead of a new one', async () => {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  const port = typeof address === 'object' ? address?.port : undefined
  const fd = (server as unknown as { _handle: { fd: number } })._handle.fd
  const program = `
    process.env.LISTEN_PID = String(process.pid); process.env.LISTEN_FDS = '1'
    const { systemTcp } = await import('${join(import.meta.dirname, 'tcp.ts')}')
    const listener = await systemTcp.listen({ address: '127.0.0.1', port: ${port} }, (connection) => {
      connection.write(new TextEncoder().encode('inherited'))
      connection.end()
      return { onData: () => {}, onClose: () => process.exit(0) }
    })
    console.log('ready')`
  const child = spawn(process.execPath, ['--input-type=module-typescript', '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit', fd],
  })
  await new Promise((resolve) => child.stdout?.once('data', resolve))
  server.close() // or this process would accept the connection itself
  let heard = ''
  await systemTcp.connect({ address: '127.0.0.1', port: port ?? 0 }, () => ({
    onData: (chunk) => {
      heard += new TextDecoder().decode(chunk)
    },
    onClose: () => {},
  }))
  await until(() => heard === 'inherited')
  child.kill()
})

test('a handler with memory of its own receives into it', async () => {
  const whole = Uint8Array.from({ length: 3_000_000 }, (_, i) => i % 251)
  const place = new Uint8Array(whole.byteLength)
  let filled = 0
  let inPlace = 0
  let ended = ''
  const server = await systemTcp.listen({ address: '127.0.0.1', port: 0 }, (connection) => ({
    borrowsChunks: true,
    receiveInto: () => (filled === whole.byteLength ? undefined : place.subarray(filled)),
    onData: (chunk) => {
      if (chunk.buffer === place.buffer) inPlace += chunk.byteLength
      else place.set(chunk, filled)
      filled += chunk.byteLength
    },
    onEnd: () => connection.end(),
    onClose: (reason) => {
      ended = reason
    },
  }))
  const client = await systemTcp.connect(server.local, () => ({ onData: () => {}, onClose: () => {} }))
  client.write(whole)
  client.end()
  await until(() => ended !== '')
  expect(ended).toBe('closed')
  expect(inPlace).toBeGreaterThan(0)
  expect(Buffer.compare(place, whole)).toBe(0)
  await server.close()
})

test('segments of a listener with a limit are no larger than that, in either direction', async () => {
  const ignore = { onData: () => {}, onClose: () => {} }
  const network = createSystemTcp({ segmentBytesMax: 1456 })
  const accepted: TcpConnection[] = []
  const listener = await network.listen({ address: '127.0.0.1', port: 0 }, (connection) => {
    accepted.push(connection)
    return ignore
  })
  const client = createConnection({ host: '127.0.0.1', port: listener.local.port })
  await once(client, 'connect')
  await expect.poll(() => accepted).toHaveLength(1)
  const value = new Uint8Array(4)
  const [fd, size] = [Reflect.get(Reflect.get(client, '_handle'), 'fd'), Uint8Array.of(4, 0, 0, 0)]
  // IPPROTO_TCP, TCP_MAXSEG: what the client may send at once, as the listener told it (less the time stamps of each).
  expect(native?.getsockopt(fd, 6, 2, value, size)).toBe(0)
  const bytes = new DataView(value.buffer).getUint32(0, true)
  expect(bytes).toBeLessThanOrEqual(1456)
  expect(bytes).toBeGreaterThan(1400)
  client.destroy()
  for (const connection of accepted) connection.destroy()
  await listener.close()
})
