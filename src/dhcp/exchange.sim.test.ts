/**
 * Goal: whatever the network does, every machine gets an address of its own and what to boot, or stops by itself, and no
 * address is two machines'. Method: the server and many clients, each sending what a captured firmware sends, on one
 * seeded link that loses, doubles and reorders packets. A failing run prints its seed.
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type LinkQuality, perfectLink, SimulatedLink } from '../../test/simulation/link.ts'
import { readVector } from '../../test/vectors.ts'
import { formatMac } from '../base/address.ts'
import { seededRandom } from '../base/random.ts'
import type { Timer } from '../ports/clock.ts'
import { WireError } from '../wire/reader.ts'
import {
  type ExchangeInput,
  type ExchangeState,
  type ExchangeTerms,
  exchangeInitial,
  stepExchange,
} from './exchange.ts'
import { decode, type Message, MessageBuffer } from './message.ts'
import { type BootAdvisor, forgetfulLeaseStore } from './policy.ts'
import { probeServers } from './probe.ts'
import { type DhcpServer, type DhcpServerTerms, startDhcpServer } from './server.ts'

const firmware = [
  'pxe-rom-discover',
  'ovmf-pxe-discover',
  'ovmf-http-discover',
  'ipxe-bios-discover',
  'ipxe-efi-2026-discover',
  'uboot-x86-discover',
  'uboot-x86-distro-discover',
  'uboot-arm64-discover',
  'linux-ipconfig-discover',
] as const

const quiet = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} }
const advisor: BootAdvisor = {
  answer: ({ program }) => ({ kind: 'boot', bootFile: `${program.kind}.efi` }),
}
const pool = {
  serverAddress: '10.0.0.1',
  prefixBits: 24,
  from: '10.0.0.100',
  to: '10.0.0.139',
  leaseSeconds: 600,
}

function startServer(link: SimulatedLink, mode: DhcpServerTerms['mode'], address: string): Promise<DhcpServer> {
  const host = link.addHost(`02:00:00:00:01:${address.slice(-1).padStart(2, '0')}`, [address])
  return startDhcpServer(
    { interfaceName: 'eth0', mode },
    { udp: host.udp, neighbours: host.neighbours, clock: link.clock, log: quiet },
    { advisor, leases: forgetfulLeaseStore, events: { emit: () => {} } },
  )
}

type Machine = { readonly mac: string; state: ExchangeState }

async function startMachine(link: SimulatedLink, index: number, terms: Partial<ExchangeTerms>): Promise<Machine> {
  const hardwareAddress = Uint8Array.of(2, 0, 0, 0, 2, index)
  const name = firmware[index % firmware.length] ?? 'ovmf-pxe-discover'
  // U-Boot and others start with transaction numbers that repeat from machine to machine.
  const discover: Message = { ...decode(readVector('dhcp', name)), hardwareAddress, transaction: index % 3 }
  const all: ExchangeTerms = { discover, collectOffersMs: 0, retryAfterMs: 1_000, retriesMax: 12, naksMax: 4, ...terms }
  const mac = formatMac(hardwareAddress)
  const host = link.addHost(mac, [])
  const machine: Machine = { mac, state: exchangeInitial }
  const buffer = new MessageBuffer(1472)
  let timer: Timer | undefined
  const socket = await host.udp.bind({ address: '0.0.0.0', port: 68 }, (bytes) => {
    drive({ kind: 'received', message: decode(bytes.slice()) })
  })
  const drive = (input: ExchangeInput): void => {
    const next = stepExchange(all, machine.state, input)
    machine.state = next.state
    for (const output of next.outputs) {
      if (output.kind === 'broadcast') {
        const bytes = buffer.encode(output.message, 1472)
        socket.send(buffer.bytes.subarray(0, bytes), { address: '255.255.255.255', port: 67 })
        continue
      }
      timer?.cancel()
      if (output.kind === 'setTimer') timer = link.clock.after(output.afterMs, () => drive({ kind: 'timerFired' }))
    }
  }
  drive({ kind: 'start' })
  return machine
}

const quality: fc.Arbitrary<LinkQuality> = fc.record({
  loss: fc.constantFrom(0, 0.05, 0.3),
  duplicate: fc.constantFrom(0, 0.3),
  jitterMs: fc.constantFrom(0, 30, 1_500),
})

test('on a lossy, doubling, reordering link every machine ends with an address of its own, or gives up by itself', async () => {
  await fc.assert(
    fc.asyncProperty(quality, fc.integer(), fc.integer({ min: 1, max: 30 }), async (link, seed, machineCount) => {
      const simulation = new SimulatedLink(seed, link)
      await startServer(simulation, { kind: 'server', pool }, '10.0.0.1')
      const machines: Machine[] = []
      for (let index = 0; index < machineCount; index++) machines.push(await startMachine(simulation, index, {}))
      await simulation.run()
      const addresses = machines.flatMap(({ state }) => (state.kind === 'bound' ? [state.ack.yourAddress] : []))
      expect(new Set(addresses).size).toBe(addresses.length)
      for (const { state } of machines) expect(['bound', 'failed']).toContain(state.kind)
      if (link.loss < 0.3) expect(addresses).toHaveLength(machineCount)
      expect(simulation.packetsSent).toBeLessThan(machineCount * 4 * 60)
    }),
    { numRuns: 60 },
  )
})

test('more machines than addresses: as many as there are addresses get one, the others stop by themselves', async () => {
  const link = new SimulatedLink(1)
  await startServer(link, { kind: 'server', pool: { ...pool, to: '10.0.0.109' } }, '10.0.0.1')
  const machines: Machine[] = []
  for (let index = 0; index < 30; index++) machines.push(await startMachine(link, index, {}))
  await link.run()
  expect(machines.filter(({ state }) => state.kind === 'bound')).toHaveLength(10)
  expect(machines.filter(({ state }) => state.kind === 'failed')).toHaveLength(20)
})

test('beside a server that hands out addresses, a proxy adds what to boot, and only for machines that boot', async () => {
  const link = new SimulatedLink(1)
  await startServer(link, { kind: 'server', pool }, '10.0.0.1')
  await startServer(link, { kind: 'proxy', serverAddress: '10.0.0.2' }, '10.0.0.2')
  const machines: Machine[] = []
  for (let index = 0; index < firmware.length; index++) {
    machines.push(await startMachine(link, index, { collectOffersMs: 500 }))
  }
  await link.run()
  for (const [index, { state }] of machines.entries()) {
    expect(state.kind).toBe('bound')
    const boots = /pxe|http/.test(firmware[index] ?? '') && !/uboot/.test(firmware[index] ?? '')
    expect(state.kind === 'bound' && state.proxyOffer !== undefined).toBe(boots)
  }
})

test('the probe finds every server and proxy once, and leaves no lease behind', async () => {
  const link = new SimulatedLink(7, { ...perfectLink, duplicate: 0.5 })
  const server = await startServer(link, { kind: 'server', pool }, '10.0.0.1')
  await startServer(link, { kind: 'proxy', serverAddress: '10.0.0.2' }, '10.0.0.2')
  const host = link.addHost('02:00:00:00:00:05', ['10.0.0.5'])
  const terms = { interfaceName: 'eth0', linkAddress: Uint8Array.of(2, 0, 0, 0, 0, 5), waitMs: 3_000 }
  const random = { bytes: (count: number) => new Uint8Array(count).fill(200) }
  const probe = probeServers(terms, { udp: host.udp, clock: link.clock, random })
  await link.run()
  expect(await probe).toEqual([
    { server: '10.0.0.1', offeredAddress: '10.0.0.100', bootFile: 'pxe.efi', nextServer: '10.0.0.1', routers: [] },
    { server: '10.0.0.2', offeredAddress: undefined, bootFile: 'pxe.efi', nextServer: '10.0.0.2', routers: [] },
  ])
  expect(server.leases().filter(({ kind }) => kind === 'bound')).toEqual([])
})

describe('hostile', () => {
  const packets = Number(process.env['SLIPWAY_FUZZ_RUNS'] ?? 100_000)

  test(`after ${packets} mutated packets the next good client is answered, and memory is bounded`, async () => {
    const link = new SimulatedLink(1)
    let malformed = 0
    const mistakes: unknown[] = []
    const log = { ...quiet, error: (_message: string, fields?: object) => mistakes.push(fields) }
    const host = link.addHost('02:00:00:00:01:01', ['10.0.0.1'])
    const receivers: ((bytes: Uint8Array, from: { address: string; port: number }) => void)[] = []
    let answers = 0
    const udp = {
      bind: async (_binding: unknown, receive: (typeof receivers)[number]) => {
        receivers.push(receive)
        return { local: { address: '0.0.0.0', port: 67 }, send: () => answers++, close: () => {} }
      },
    }
    const server = await startDhcpServer(
      { interfaceName: 'eth0', mode: { kind: 'server', pool } },
      { udp, neighbours: host.neighbours, clock: link.clock, log },
      {
        advisor,
        leases: forgetfulLeaseStore,
        events: { emit: ({ kind }) => (malformed += kind === 'malformed' ? 1 : 0) },
      },
    )
    const seeds = [...firmware, 'ovmf-pxe-request', 'ipxe-bios-request', 'dnsmasq-ipxe-ack'].map((name) =>
      readVector('dhcp', name),
    )
    const random = seededRandom(20_260_101)
    const below = (max: number): number => Math.floor(random() * max)
    globalThis.gc?.()
    const heapBefore = process.memoryUsage().heapUsed
    for (let run = 0; run < packets; run++) {
      const packet = (seeds[below(seeds.length)] ?? new Uint8Array(1)).slice()
      for (let change = below(6); change >= 0; change--) packet[below(packet.length)] = below(256)
      // The message type decides most: all of them get their share.
      if (run % 3 === 0) packet[242] = below(10)
      const cut = run % 5 === 0 ? packet.subarray(0, below(packet.length)) : packet
      receivers[run & 1]?.(cut, { address: '10.0.0.66', port: 68 })
      if (run % 1_000 === 0) await link.run(link.clock.nowMs() + 100)
    }
    const grownBytes = process.memoryUsage().heapUsed - heapBefore
    expect(mistakes).toEqual([])
    expect(grownBytes).toBeLessThan(64 * 1024 * 1024)
    expect(server.leases().length).toBeLessThanOrEqual(40)
    // 10 a second at most, and the time was 10 seconds.
    expect(malformed).toBeGreaterThan(0)
    expect(malformed).toBeLessThanOrEqual(10 * (packets / 10_000 + 2))

    await link.run(link.clock.nowMs() + 3_600_000)
    answers = 0
    receivers[0]?.(readVector('dhcp', 'ovmf-pxe-discover'), { address: '0.0.0.0', port: 68 })
    expect(answers).toBe(1)
  })

  test('no sequence of answers keeps a client busy for ever', () => {
    const discover = decode(readVector('dhcp', 'ovmf-pxe-discover'))
    const terms: ExchangeTerms = { discover, collectOffersMs: 100, retryAfterMs: 1_000, retriesMax: 3, naksMax: 2 }
    const answers = ['dnsmasq-ovmf-pxe-ack', 'dnsmasq-ipxe-offer', 'dnsmasq-ovmf-http-offer'].map((name) => ({
      ...decode(readVector('dhcp', name)),
      transaction: discover.transaction,
    }))
    const message = fc
      .tuple(fc.constantFrom(...answers), fc.constantFrom('offer', 'ack', 'nak'), fc.nat(1))
      .map(([base, type, own]) => ({ ...base, type, yourAddress: own * base.yourAddress }) as Message)
    const input: fc.Arbitrary<ExchangeInput> = fc.oneof(
      message.map((m) => ({ kind: 'received' as const, message: m })),
      fc.constant({ kind: 'timerFired' as const }),
    )
    fc.assert(
      fc.property(fc.array(input, { maxLength: 60 }), (inputs) => {
        let state: ExchangeState = stepExchange(terms, exchangeInitial, { kind: 'start' }).state
        let sent = 1
        for (const i of inputs) {
          const next = stepExchange(terms, state, i)
          state = next.state
          sent += next.outputs.filter(({ kind }) => kind === 'broadcast').length
        }
        expect(sent).toBeLessThanOrEqual((terms.naksMax + 1) * 2 * (terms.retriesMax + 1))
      }),
      { numRuns: 1_000 },
    )
  })

  test('every captured packet, cut at every byte, is a message or a WireError', () => {
    for (const name of firmware) {
      const packet = readVector('dhcp', name)
      for (let bytes = 0; bytes <= packet.length; bytes++) {
        try {
          decode(packet.subarray(0, bytes))
        } catch (error) {
          expect(error).toBeInstanceOf(WireError)
        }
      }
    }
  })
})
