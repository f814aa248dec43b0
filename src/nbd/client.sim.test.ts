import { expect, test } from 'vitest'
import { VirtualClock } from '../../test/simulation/clock.ts'
import { SimulatedNbdServer } from '../../test/simulation/nbd.ts'
import { SimulatedTcp } from '../../test/simulation/tcp.ts'
import { seededRandom } from '../base/random.ts'
import type { BlockDevice } from '../block/device.ts'
import { openRemoteDevice } from '../block/remote.ts'
import { connectNbd } from './client.ts'

const place = { address: '10.0.0.1', port: 10_809 }
const blocks = 128
const runs = Number(process.env['SLIPWAY_FUZZ_RUNS'] ?? 12)

type World = {
  readonly clock: VirtualClock
  readonly server: SimulatedNbdServer
  readonly random: () => number
  open(): Promise<BlockDevice>
}

async function world(seed: number): Promise<World> {
  const random = seededRandom(seed)
  const clock = new VirtualClock()
  const network = new SimulatedTcp(clock, random, { delayMs: 0.5, windowBytes: 65_536, segmentBytesMax: 3_000 })
  const structured = random() < 0.7
  const content = new Uint8Array(blocks * 512)
  const server = new SimulatedNbdServer({ network, clock, random, listen: place, content, structured })
  await server.start()
  const open = (): Promise<BlockDevice> =>
    openRemoteDevice({
      open: (onLost) =>
        connectNbd(
          { connect: (opened) => network.connect(place, opened), clock, exportName: 'lab', label: 'lab' },
          onLost,
        ),
      clock,
      label: 'lab',
      patienceMs: 1_000_000,
    })
  return { clock, server, random, open }
}

/** Lets the time go on until it is done. */
async function now<T>(clock: VirtualClock, work: Promise<T>): Promise<T> {
  let ended = false
  const noted = work.finally(() => {
    ended = true
  })
  noted.catch(() => undefined)
  await clock.run(() => ended, 100_000_000)
  return noted
}

test(`${runs} servers are killed under load, and what was acknowledged is there, on disk once it was flushed`, async () => {
  let kills = 0
  for (let seed = 1; seed <= runs; seed++) {
    const { clock, server, random, open } = await world(seed)
    const device = await now(clock, open())
    const model = new Uint8Array(blocks)
    const busy = new Set<number>()
    let writes = 0
    let running = true
    const writer = async (): Promise<void> => {
      while (running) {
        const block = Math.floor(random() * blocks)
        const count = Math.min(blocks - block, 1 + Math.floor(random() * 8))
        const range = Array.from({ length: count }, (_, index) => block + index)
        if (range.some((each) => busy.has(each))) {
          await new Promise<void>((resolve) => clock.after(1, resolve))
          continue
        }
        for (const each of range) busy.add(each)
        const value = Math.floor(random() * 256)
        if (random() < 0.15) await device.writeZeroes(block * 512, count * 512, true)
        else await device.write(block * 512, new Uint8Array(count * 512).fill(value))
        const bytes = new Uint8Array(count * 512)
        await device.read(block * 512, bytes)
        for (const [index, each] of range.entries()) {
          const is = bytes[index * 512] ?? -1
          expect([0, value], `seed ${seed}`).toContain(is)
          model[each] = is
          busy.delete(each)
        }
        writes++
        if (random() < 0.05) await device.flush()
      }
    }
    const load = Promise.all(Array.from({ length: 8 }, writer))
    for (let life = 0; life < 6; life++) {
      const goal = writes + Math.floor(random() * 40)
      expect(await clock.run(() => writes >= goal, 1_000_000), `seed ${seed} goes on`).toBe(true)
      server.kill()
      kills++
      clock.after(random() * 2_000, () => void server.start())
    }
    running = false
    await now(clock, load)
    await now(clock, Promise.resolve(device.flush()))
    server.kill()
    for (let block = 0; block < blocks; block++) {
      expect(server.durable[block * 512 + 511], `seed ${seed}, block ${block}`).toBe(model[block])
    }
    // What was flushed needs nothing of us any more.
    await server.start()
    await now(clock, device.close())
  }
  expect(kills).toBe(runs * 6)
})

test('a server that stops answering is given up, and asked again on another connection', async () => {
  const { clock, server, open } = await world(99)
  const device = await now(clock, open())
  await now(clock, Promise.resolve(device.write(0, new Uint8Array(512).fill(7))))
  const { answeredCount } = server
  server.deafen()
  const target = new Uint8Array(512)
  const reading = Promise.resolve(device.read(0, target))
  expect(await clock.run(() => server.answeredCount > answeredCount, 20_000)).toBe(false)
  await now(clock, reading)
  expect(target[0]).toBe(7)
  expect(clock.nowMs()).toBeGreaterThan(30_000)
  await now(clock, device.close())
})
