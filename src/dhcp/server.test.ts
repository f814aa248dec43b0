/** The server on a simulated link: what each firmware gets, where answers are sent, and that a lease is kept before it is told. */
import { beforeEach, describe, expect, test } from 'vitest'
import { type LinkQuality, perfectLink, type SimulatedHost, SimulatedLink } from '../../test/simulation/link.ts'
import { readVector } from '../../test/vectors.ts'
import { parseIpv4 } from '../base/address.ts'
import { OperationError } from '../base/errors.ts'
import type { Endpoint, UdpSocket } from '../ports/udp.ts'
import { decode, type Message, MessageBuffer } from './message.ts'
import * as option from './option.ts'
import {
  type BootAdvisor,
  type BootAnswer,
  type DhcpEvent,
  forgetfulLeaseStore,
  type LeaseStore,
  type StoredLease,
} from './policy.ts'
import type { PoolConfiguration } from './pool.ts'
import { readPxeBootItem, readPxeDiscoveryControl, readPxeMenuLabels } from './pxe-options.ts'
import { type DhcpServer, type DhcpServerTerms, startDhcpServer } from './server.ts'

const serverAddress = '192.168.77.1'
const pool: PoolConfiguration = {
  serverAddress,
  prefixBits: 24,
  from: '192.168.77.100',
  to: '192.168.77.110',
  routers: ['192.168.77.254'],
  domainNameServers: ['192.168.77.253'],
  leaseSeconds: 3_600,
}
const quiet = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} }
const ipv4 = (text: string): number => parseIpv4(text) ?? 0

const advisor: BootAdvisor = {
  answer: ({ program }): BootAnswer => {
    switch (program.kind) {
      case 'pxe':
        return { kind: 'boot', bootFile: 'snponly.efi' }
      case 'ipxe':
        return { kind: 'boot', bootFile: 'http://192.168.77.1/boot.ipxe', rootPath: 'iscsi:192.168.77.1::::iqn.x:y' }
      case 'uefiHttp':
        return { kind: 'boot', bootFile: 'http://192.168.77.1/snponly.efi' }
      case 'uboot':
        return { kind: 'boot', bootFile: 'snp.efi', nextServer: '192.168.77.9' }
      default:
        return { kind: 'addressOnly' }
    }
  },
}

type Heard = { readonly message: Message; readonly from: Endpoint }

class Scene {
  readonly link: SimulatedLink
  readonly serverHost: SimulatedHost
  readonly clientHost: SimulatedHost
  readonly events: DhcpEvent[] = []
  readonly heard: Heard[] = []
  server: DhcpServer | undefined
  #client: UdpSocket | undefined
  readonly #buffer = new MessageBuffer(1472)

  constructor(quality: LinkQuality = perfectLink) {
    this.link = new SimulatedLink(1, quality)
    this.serverHost = this.link.addHost('02:00:00:00:00:01', [serverAddress])
    this.clientHost = this.link.addHost('52:54:00:77:00:10', [])
  }

  async start(
    mode: DhcpServerTerms['mode'] = { kind: 'server', pool },
    plugs: { readonly advisor?: BootAdvisor; readonly leases?: LeaseStore } = {},
  ): Promise<void> {
    this.server = await startDhcpServer(
      { interfaceName: 'eth0', mode },
      { udp: this.serverHost.udp, neighbours: this.serverHost.neighbours, clock: this.link.clock, log: quiet },
      {
        advisor: plugs.advisor ?? advisor,
        leases: plugs.leases ?? forgetfulLeaseStore,
        events: { emit: (event) => this.events.push(event) },
      },
    )
    this.#client = await this.clientHost.udp.bind({ address: '0.0.0.0', port: 68 }, (bytes, from) => {
      this.heard.push({ message: decode(bytes.slice()), from })
    })
  }

  /** Sends and returns what comes back within a second. */
  async ask(message: Message, to: Endpoint = { address: '255.255.255.255', port: 67 }): Promise<readonly Message[]> {
    const before = this.heard.length
    const bytes = this.#buffer.encode(message, 1472)
    this.#client?.send(this.#buffer.bytes.subarray(0, bytes), to)
    await this.link.run(this.link.clock.nowMs() + 1_000)
    return this.heard.slice(before).map(({ message }) => message)
  }

  async askOne(message: Message, to?: Endpoint): Promise<Message> {
    const answers = await this.ask(message, to)
    expect(answers).toHaveLength(1)
    const [first] = answers
    if (first === undefined) throw new Error('no answer')
    return first
  }
}

function captured(name: string, change: Partial<Message> = {}): Message {
  return { ...decode(readVector('dhcp', name)), ...change }
}

function withOptions(message: Message, set: (options: option.Options) => void): Message {
  const options = new option.Options()
  for (const [code, value] of message.options.entries()) options.setRaw(code, value)
  set(options)
  return { ...message, options }
}

function requestOf(discover: Message, offer: Message): Message {
  return withOptions({ ...discover, type: 'request' }, (options) => {
    options.set(option.requestedAddress, offer.yourAddress)
    options.set(option.serverIdentifier, offer.options.get(option.serverIdentifier) ?? 0)
  })
}

let scene: Scene
beforeEach(() => {
  scene = new Scene()
})

describe('what each firmware is offered', () => {
  test.for([
    ['pxe-rom-discover', 'snponly.efi', '192.168.77.1'],
    ['ovmf-pxe-discover', 'snponly.efi', '192.168.77.1'],
    ['ipxe-bios-discover', 'http://192.168.77.1/boot.ipxe', '192.168.77.1'],
    ['ipxe-efi-2026-discover', 'http://192.168.77.1/boot.ipxe', '192.168.77.1'],
    ['uboot-x86-discover', 'snp.efi', '192.168.77.9'],
    ['uboot-arm64-distro-discover', 'snp.efi', '192.168.77.9'],
  ] as const)('%s: the file in the BOOTP field, its server in siaddr', async ([name, bootFile, nextServer]) => {
    await scene.start()
    const offer = await scene.askOne(captured(name))
    expect(offer).toMatchObject({ type: 'offer', bootFile, nextServer: ipv4(nextServer) })
    expect(offer.options.get(option.subnetMask)).toBe(ipv4('255.255.255.0'))
    expect(offer.options.get(option.routers)).toEqual([ipv4('192.168.77.254')])
    expect(offer.options.get(option.domainNameServers)).toEqual([ipv4('192.168.77.253')])
    expect(offer.options.get(option.leaseSeconds)).toBe(3_600)
    expect(offer.options.get(option.serverIdentifier)).toBe(ipv4(serverAddress))
  })

  test('UEFI HTTP boot: class HTTPClient and the URL in option 67', async () => {
    await scene.start()
    const offer = await scene.askOne(captured('ovmf-http-discover'))
    expect(offer.bootFile).toBe('')
    expect(offer.options.get(option.vendorClass)).toBe('HTTPClient')
    expect(offer.options.get(option.bootFileName)).toBe('http://192.168.77.1/snponly.efi')
  })

  test('iPXE is told to wait for no ProxyDHCP, and gets its root path; a plain ROM with iPXE inside is told too', async () => {
    await scene.start()
    const offer = await scene.askOne(captured('ipxe-bios-discover'))
    expect(offer.options.get(option.ipxe)).toEqual(Uint8Array.of(176, 1, 1))
    expect(offer.options.get(option.rootPath)).toBe('iscsi:192.168.77.1::::iqn.x:y')
    // Class PXEClient would make it take us for a ProxyDHCP.
    expect(offer.options.has(option.vendorClass)).toBe(false)
    const rom = await scene.askOne(captured('pxe-rom-discover'))
    expect(rom.options.get(option.ipxe)).toEqual(Uint8Array.of(176, 1, 1))
  })

  test('options 61 and 97 come back as they were sent (RFC 6842, RFC 4578)', async () => {
    await scene.start()
    const discover = captured('ipxe-bios-discover')
    const offer = await scene.askOne(discover)
    expect(offer.options.raw(61)).toEqual(discover.options.raw(61))
    expect(offer.options.raw(97)).toEqual(discover.options.raw(97))
  })

  test('a boot file too long for its field goes into option 67', async () => {
    const bootFile = `http://192.168.77.1/${'x'.repeat(200)}`
    await scene.start(undefined, { advisor: { answer: () => ({ kind: 'boot', bootFile }) } })
    const offer = await scene.askOne(captured('ipxe-bios-discover'))
    expect(offer.bootFile).toBe('')
    expect(offer.options.get(option.bootFileName)).toBe(bootFile)
  })

  test('U-Boot takes 576 bytes at most and gets no more', async () => {
    const long = `iscsi:192.168.77.1::::iqn.2026-01.example:${'y'.repeat(180)}`
    await scene.start(undefined, {
      advisor: { answer: () => ({ kind: 'boot', bootFile: 'snp.efi', rootPath: long, hostName: 'z'.repeat(60) }) },
    })
    const offer = await scene.askOne(captured('uboot-x86-discover'))
    expect(offer.options.get(option.rootPath)).toBe(long)
    expect(offer.bootFile).toBe('snp.efi')
  })

  test('a mistake of the advisor costs the packet it was asked for, and no other', async () => {
    let isWrong = true
    const answer = (): BootAnswer => ({ kind: 'boot', bootFile: isWrong ? '' : 'snponly.efi' })
    await scene.start(undefined, { advisor: { answer } })
    expect(await scene.ask(captured('ovmf-pxe-discover'))).toEqual([])
    isWrong = false
    expect((await scene.askOne(captured('ovmf-pxe-discover'))).bootFile).toBe('snponly.efi')
  })

  test('a machine that the advisor ignores hears nothing at all', async () => {
    await scene.start(undefined, { advisor: { answer: () => ({ kind: 'ignore' }) } })
    expect(await scene.ask(captured('ovmf-pxe-discover'))).toEqual([])
    expect(scene.server?.leases()).toEqual([])
  })
})

describe('leases', () => {
  test('DISCOVER, OFFER, REQUEST, ACK; and the next stage of the same machine has the same address', async () => {
    await scene.start()
    const discover = captured('ovmf-pxe-discover')
    const offer = await scene.askOne(discover)
    const ack = await scene.askOne(requestOf(discover, offer))
    expect(ack).toMatchObject({ type: 'ack', yourAddress: offer.yourAddress, bootFile: 'snponly.efi' })
    expect(ack.options.get(option.renewalSeconds)).toBe(1_800)
    for (const stage of ['ipxe-bios-discover', 'uboot-x86-discover', 'linux-ipconfig-discover']) {
      expect((await scene.askOne(captured(stage))).yourAddress).toBe(offer.yourAddress)
    }
    expect(scene.events.filter(({ kind }) => kind === 'leased')).toHaveLength(1)
  })

  test('the same DISCOVER again gets the same offer', async () => {
    await scene.start()
    const first = await scene.askOne(captured('ovmf-pxe-discover'))
    expect((await scene.askOne(captured('ovmf-pxe-discover'))).yourAddress).toBe(first.yourAddress)
  })

  test('the ACK goes out only after the lease was kept', async () => {
    let keep: (() => void) | undefined
    const batches: (readonly StoredLease[])[] = []
    const commit = (batch: readonly StoredLease[]): Promise<void> => {
      batches.push([...batch])
      return new Promise((resolve) => {
        keep = resolve
      })
    }
    await scene.start(undefined, { leases: { load: () => Promise.resolve([]), commit } })
    const discover = captured('ovmf-pxe-discover')
    const offer = await scene.askOne(discover)
    expect(await scene.ask(requestOf(discover, offer))).toEqual([])
    expect(batches).toHaveLength(1)
    // While the first commit is under way, the next ones gather.
    const other = captured('ipxe-bios-discover', { hardwareAddress: Uint8Array.of(2, 0, 0, 0, 0, 9), broadcast: true })
    await scene.ask(requestOf(other, await scene.askOne(other)))
    await scene.ask(requestOf(discover, offer))
    expect(batches).toHaveLength(1)
    keep?.()
    await scene.link.run(scene.link.clock.nowMs() + 1_000)
    expect(scene.heard.filter(({ message }) => message.type === 'ack')).toHaveLength(1)
    expect(batches[1]).toHaveLength(2)
    keep?.()
    await scene.link.run(scene.link.clock.nowMs() + 1_000)
    expect(scene.heard.filter(({ message }) => message.type === 'ack')).toHaveLength(3)
  })

  test('when leases cannot be kept there is no ACK, and an event says why; when they can again, there is one', async () => {
    let isFull = true
    const commit = (): Promise<void> =>
      isFull ? Promise.reject(new OperationError('noSpace', 'the disk is full', 'Free some.')) : Promise.resolve()
    await scene.start(undefined, { leases: { load: () => Promise.resolve([]), commit } })
    const discover = captured('ovmf-pxe-discover')
    const request = requestOf(discover, await scene.askOne(discover))
    expect(await scene.ask(request)).toEqual([])
    expect(scene.events).toContainEqual({ kind: 'storeFailed', reason: 'the disk is full' })
    isFull = false
    expect(await scene.askOne(request)).toMatchObject({ type: 'ack' })
  })

  test('an address of another network is refused, by broadcast', async () => {
    await scene.start()
    const request = withOptions(captured('linux-ipconfig-discover', { type: 'request' }), (options) =>
      options.set(option.requestedAddress, ipv4('10.0.0.7')),
    )
    expect(await scene.askOne(request)).toMatchObject({ type: 'nak', yourAddress: 0 })
    expect(scene.events).toContainEqual(expect.objectContaining({ kind: 'refused', reason: 'wrongNetwork' }))
  })

  test('an address of our network that we know nothing of is met with silence (RFC 2131 §4.3.2)', async () => {
    await scene.start()
    const request = withOptions(captured('linux-ipconfig-discover', { type: 'request' }), (options) =>
      options.set(option.requestedAddress, ipv4('192.168.77.105')),
    )
    expect(await scene.ask(request)).toEqual([])
  })

  test("a REQUEST for another server's offer is not ours to answer, and frees ours", async () => {
    await scene.start({ kind: 'server', pool: { ...pool, from: '192.168.77.100', to: '192.168.77.100' } })
    const discover = captured('ovmf-pxe-discover')
    const offer = await scene.askOne(discover)
    const request = withOptions(requestOf(discover, offer), (o) => o.set(option.serverIdentifier, ipv4('192.168.77.2')))
    expect(await scene.ask(request)).toEqual([])
    const other = captured('ovmf-pxe-discover', { hardwareAddress: Uint8Array.of(2, 0, 0, 0, 0, 9) })
    expect((await scene.askOne(other)).yourAddress).toBe(offer.yourAddress)
  })

  test("renewing goes to the client's own address", async () => {
    await scene.start()
    const discover = captured('linux-ipconfig-discover')
    const offer = await scene.askOne(discover)
    await scene.askOne(requestOf(discover, offer))
    scene.clientHost.addresses.add('192.168.77.100')
    const renewal = { ...discover, type: 'request' as const, clientAddress: offer.yourAddress, broadcast: false }
    expect(await scene.askOne(renewal, { address: serverAddress, port: 67 })).toMatchObject({
      type: 'ack',
      clientAddress: offer.yourAddress,
      yourAddress: offer.yourAddress,
    })
  })

  test('a declined address is not offered again; a released one is', async () => {
    await scene.start()
    const discover = captured('linux-ipconfig-discover')
    const offer = await scene.askOne(discover)
    await scene.askOne(requestOf(discover, offer))
    await scene.ask({ ...requestOf(discover, offer), type: 'decline' })
    const second = await scene.askOne(discover)
    expect(second.yourAddress).not.toBe(offer.yourAddress)
    await scene.askOne(requestOf(discover, second))
    await scene.ask({ ...requestOf(discover, second), type: 'release', clientAddress: second.yourAddress })
    expect((await scene.askOne(discover)).yourAddress).toBe(second.yourAddress)
    expect(scene.events.map(({ kind }) => kind)).toEqual([
      'offered',
      'leased',
      'declined',
      'offered',
      'leased',
      'released',
      'offered',
    ])
  })

  test('INFORM is told the rest, without an address or a lease', async () => {
    await scene.start()
    scene.clientHost.addresses.add('192.168.77.50')
    const inform = captured('linux-ipconfig-discover', { type: 'inform', clientAddress: ipv4('192.168.77.50') })
    const ack = await scene.askOne(inform)
    expect(ack).toMatchObject({ type: 'ack', yourAddress: 0 })
    expect(ack.options.get(option.leaseSeconds)).toBeUndefined()
    expect(ack.options.get(option.routers)).toEqual([ipv4('192.168.77.254')])
  })

  test('an exhausted pool is an event and silence', async () => {
    await scene.start({ kind: 'server', pool: { ...pool, to: pool.from } })
    await scene.ask(captured('ovmf-pxe-discover'))
    expect(
      await scene.ask(captured('ovmf-pxe-discover', { hardwareAddress: Uint8Array.of(2, 0, 0, 0, 0, 9) })),
    ).toEqual([])
    expect(scene.events.at(-1)).toEqual({ kind: 'poolExhausted', mac: '02:00:00:00:00:09' })
  })

  test('a reserved address is offered to its machine', async () => {
    await scene.start()
    expect(scene.server?.reserve('52:54:00:77:00:10', '192.168.77.40')).toBe(true)
    expect(scene.server?.reserve('52:54:00:77:00:10', '10.0.0.1')).toBe(false)
    expect((await scene.askOne(captured('ovmf-pxe-discover'))).yourAddress).toBe(ipv4('192.168.77.40'))
  })
})

describe('where answers go', () => {
  test('with the broadcast flag to everybody, without it to the machine alone', async () => {
    await scene.start()
    const bystander = scene.link.addHost('02:00:00:00:00:77', [])
    let overheard = 0
    await bystander.udp.bind({ address: '0.0.0.0', port: 68 }, () => overheard++)
    await scene.ask(captured('ipxe-bios-discover', { broadcast: false }))
    expect(overheard).toBe(0)
    await scene.ask(captured('ovmf-pxe-discover', { broadcast: true }))
    expect(overheard).toBe(1)
  })

  test('a relayed request is answered to the relay, from the pool of its network, with option 82 last', async () => {
    const relayed = { ...pool, serverAddress: '10.1.0.1', from: '10.1.0.100', to: '10.1.0.110' }
    await scene.start({ kind: 'server', pool, relayed: [relayed] })
    const relay = scene.link.addHost('02:00:00:00:00:99', ['10.1.0.9'])
    const answers: Message[] = []
    const socket = await relay.udp.bind({ address: '0.0.0.0', port: 67 }, (bytes) => answers.push(decode(bytes)))
    const discover = withOptions(
      captured('ovmf-pxe-discover', { relayAddress: ipv4('10.1.0.9'), hops: 1 }),
      (options) => options.set(option.relayAgent, Uint8Array.of(1, 2, 7, 7)),
    )
    const buffer = new MessageBuffer(1472)
    socket.send(buffer.bytes.subarray(0, buffer.encode(discover, 1472)), { address: serverAddress, port: 67 })
    await scene.link.run(1_000)
    expect(answers).toHaveLength(1)
    expect(answers[0]).toMatchObject({ yourAddress: ipv4('10.1.0.100'), relayAddress: ipv4('10.1.0.9') })
    expect([...(answers[0]?.options.entries() ?? [])].at(-1)).toEqual([82, Uint8Array.of(1, 2, 7, 7)])
  })

  test('a relay of a network that is not ours gets no answer', async () => {
    await scene.start()
    expect(await scene.ask(captured('ovmf-pxe-discover', { relayAddress: ipv4('10.9.0.1') }))).toEqual([])
  })

  test('answers of other servers are left alone', async () => {
    await scene.start()
    expect(await scene.ask(captured('dnsmasq-ipxe-offer'))).toEqual([])
  })
})

describe('proxyDHCP', () => {
  const proxy: DhcpServerTerms['mode'] = { kind: 'proxy', serverAddress }

  test('PXE firmware is told what to boot, and no address; it need not ask port 4011', async () => {
    await scene.start(proxy)
    const offer = await scene.askOne(captured('ovmf-pxe-discover'))
    expect(offer).toMatchObject({
      type: 'offer',
      yourAddress: 0,
      bootFile: 'snponly.efi',
      nextServer: ipv4(serverAddress),
    })
    expect(offer.options.get(option.vendorClass)).toBe('PXEClient')
    expect(offer.options.get(option.leaseSeconds)).toBeUndefined()
    expect(readPxeDiscoveryControl(offer.options.get(option.vendorSpecific) ?? new Uint8Array(0))).toBe(8)
    expect(offer.options.raw(97)).toEqual(captured('ovmf-pxe-discover').options.raw(97))
  })

  test('UEFI HTTP boot gets its URL', async () => {
    await scene.start(proxy)
    const offer = await scene.askOne(captured('ovmf-http-discover'))
    expect(offer.options.get(option.vendorClass)).toBe('HTTPClient')
    expect(offer.options.get(option.bootFileName)).toBe('http://192.168.77.1/snponly.efi')
  })

  test('iPXE gets its script, named and with a server, so that it asks nobody else', async () => {
    await scene.start(proxy)
    const offer = await scene.askOne(captured('ipxe-bios-discover', { broadcast: true }))
    expect(offer).toMatchObject({ bootFile: 'http://192.168.77.1/boot.ipxe', nextServer: ipv4(serverAddress) })
    expect(offer.options.get(option.vendorClass)).toBe('PXEClient')
  })

  test('U-Boot and operating systems, which would take it for an address, hear nothing', async () => {
    await scene.start(proxy)
    for (const name of ['uboot-x86-discover', 'uboot-x86-distro-discover', 'linux-ipconfig-discover']) {
      expect(await scene.ask(captured(name))).toEqual([])
    }
  })

  test('requests for addresses are not ours to answer', async () => {
    await scene.start(proxy)
    expect(await scene.ask(captured('ovmf-pxe-request'))).toEqual([])
    expect(await scene.ask(captured('ovmf-pxe-discover', { type: 'inform' }))).toEqual([])
  })

  test('port 4011 answers where it was asked from, with the entry of the menu that was chosen', async () => {
    const menu = {
      prompt: 'Press F8',
      timeoutSeconds: 3,
      entries: [
        { bootServerType: 1, label: 'Linux', bootFile: 'linux.efi' },
        { bootServerType: 0, label: 'Local disk', bootFile: undefined },
      ],
    }
    const answer = (): BootAnswer => ({ kind: 'boot', bootFile: 'first.efi', menu })
    await scene.start(proxy, { advisor: { answer } })
    const offer = await scene.askOne(captured('ovmf-pxe-discover'))
    expect(readPxeMenuLabels(offer.options.get(option.vendorSpecific) ?? new Uint8Array(0)).get(1)).toBe('Linux')

    scene.clientHost.addresses.add('192.168.77.60')
    const ask = captured('ovmf-pxe-discover', {
      type: 'request',
      clientAddress: ipv4('192.168.77.60'),
      broadcast: false,
    })
    const chosen = withOptions(ask, (o) => o.set(option.vendorSpecific, Uint8Array.of(71, 4, 0, 1, 0, 0, 255)))
    const ack = await scene.askOne(chosen, { address: serverAddress, port: 4011 })
    expect(ack).toMatchObject({ type: 'ack', bootFile: 'linux.efi', yourAddress: 0 })
    expect(readPxeBootItem(ack.options.get(option.vendorSpecific) ?? new Uint8Array(0))).toEqual({
      bootServerType: 1,
      layer: 0,
    })
    expect(scene.heard.at(-1)?.from.port).toBe(4011)
    const plain = await scene.askOne(ask, { address: serverAddress, port: 4011 })
    expect(plain.bootFile).toBe('first.efi')
  })
})

describe('configuration that cannot work is refused with what to do', () => {
  test.for([
    [{ ...pool, from: '192.168.78.1' }, /not on the network/],
    [{ ...pool, from: '192.168.77.120' }, /the range/],
    [{ ...pool, prefixBits: 31 }, /prefix/],
    [{ ...pool, leaseSeconds: 5 }, /5 seconds/],
    [{ ...pool, serverAddress: 'nas' }, /serverAddress "nas"/],
    [{ ...pool, reservations: new Map([['02:00:00:00:00:01', '192.168.77.1']]) }, /reservation/],
  ] as const)('%#', async ([broken, words]) => {
    await expect(scene.start({ kind: 'server', pool: broken })).rejects.toThrow(words)
  })
})

test('closing waits for what is being kept, and answers it', async () => {
  let keep: (() => void) | undefined
  const commit = (): Promise<void> => new Promise((resolve) => (keep = resolve))
  await scene.start(undefined, { leases: { load: () => Promise.resolve([]), commit } })
  const discover = captured('ovmf-pxe-discover')
  await scene.ask(requestOf(discover, await scene.askOne(discover)))
  const closed = scene.server?.close()
  keep?.()
  await closed
  await scene.link.run(scene.link.clock.nowMs() + 1_000)
  expect(scene.heard.at(-1)?.message.type).toBe('ack')
  expect(await scene.ask(discover)).toEqual([])
})
