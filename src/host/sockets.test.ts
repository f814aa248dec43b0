import { expect, test } from 'vitest'
import type { TcpConnection } from '../ports/tcp.ts'
import { systemTcp } from './tcp.ts'
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
