import { connect, createServer, type Server, type Socket } from 'node:net'
import { afterEach, expect, test } from 'vitest'
import { type DoorLimits, doorLimits, TlsDoor } from './tls-door.ts'

const ends: (() => void)[] = []
afterEach(() => {
  for (const end of ends.splice(0)) end()
})

/** A door where an opening is whole with its first 'B'. */
async function open(limits: Partial<DoorLimits> = {}) {
  const failures: string[] = []
  const begun: Socket[] = []
  const door = new TlsDoor({
    openingIsWhole: (bytes) => bytes.includes(0x42),
    begin: (socket, opening) => {
      begun.push(socket)
      expect(Buffer.from(opening.bytes).toString()).toMatch(/B$/)
    },
    failed: (opening, reason) => failures.push(`${Buffer.from(opening.bytes)}: ${reason}`),
    limits: { ...doorLimits, ...limits },
  })
  const server: Server = createServer((socket) => door.enter(socket))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  ends.push(() => server.close())
  const address = server.address()
  const port = typeof address === 'object' && address !== null ? address.port : 0
  const enter = async (says: string) => {
    const client = { isClosed: false, socket: connect(port, '127.0.0.1') }
    ends.push(() => client.socket.destroy())
    client.socket.on('error', () => {})
    client.socket.on('close', () => {
      client.isClosed = true
    })
    client.socket.resume()
    await new Promise<void>((resolve) => client.socket.once('connect', resolve))
    if (says !== '') client.socket.write(says)
    return client
  }
  return { door, failures, begun, enter }
}

const until = async (condition: () => boolean): Promise<void> => {
  for (let i = 0; !condition(); i++) {
    if (i > 5_000) throw new Error('nothing came')
    await new Promise((resolve) => setTimeout(resolve, 1))
  }
}

test('who goes on sending and never comes to a handshake is dismissed in time all the same', async () => {
  const { door, failures, enter } = await open({ handshakeMsMax: 200 })
  const client = await enter('a')
  const drip = setInterval(() => client.socket.write('a'), 20)
  ends.push(() => clearInterval(drip))
  await until(() => client.isClosed)
  expect(failures).toHaveLength(1)
  expect(failures[0]).toMatch(/^a{2,}: timeout$/)
  expect(door.placesTaken).toBe(0)
})

test('who begins a handshake and does not finish it is dismissed too, and told of once', async () => {
  const { door, failures, begun, enter } = await open({ handshakeMsMax: 200 })
  const client = await enter('aB')
  await until(() => begun.length === 1)
  expect(door.placesTaken).toBe(1)
  await until(() => client.isClosed)
  expect(failures).toEqual(['aB: timeout'])
})

test('one address has so many places and no more: the newest has the place of the oldest', async () => {
  const { door, failures, begun, enter } = await open({ placesOfAddressMax: 3 })
  const first = await enter('first')
  await until(() => door.placesTaken === 1)
  const others = [await enter('second'), await enter('third'), await enter('B')]
  await until(() => first.isClosed && begun.length === 1)
  expect(failures).toEqual(['first: crowded out'])
  expect(door.placesTaken).toBe(3)
  expect(others.map(({ isClosed }) => isClosed)).toEqual([false, false, false])
})

test('a finished handshake has no place any more, and a port that is only tried is no failure', async () => {
  const { door, failures, begun, enter } = await open({ placesMax: 1 })
  await enter('B')
  await until(() => begun.length === 1)
  const [socket] = begun
  expect(socket !== undefined && door.leave(socket)).toBe(true)
  expect(socket !== undefined && door.leave(socket)).toBe(false)
  const tried = await enter('')
  await until(() => door.placesTaken === 1)
  await enter('c')
  await until(() => tried.isClosed)
  expect(failures).toEqual([])
})
