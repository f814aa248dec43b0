import fc from 'fast-check'
import { expect, test } from 'vitest'
import { SimulatedLink } from '../../test/simulation/link.ts'
import { readVector } from '../../test/vectors.ts'
import type { Icmpv6Network, Icmpv6Receiver } from '../ports/icmpv6.ts'
import { WireError } from '../wire/reader.ts'
import type { ClientFacts } from './client-facts.ts'
import { solicitorSeconds } from './limits.ts'
import type { DhcpEvent } from './policy.ts'
import { readRouterSolicitation, writeEmptyRouterAdvertisement } from './router-advertisement.ts'
import { startSolicitationResponder } from './solicitation-responder.ts'

const solicitation = readVector('dhcp', 'ipxe-router-solicitation')
const linkAddress = Uint8Array.of(2, 0, 0, 0, 0, 1)
const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

test("iPXE's router solicitation names its MAC", () => {
  expect(readRouterSolicitation(solicitation)).toEqual({ mac: '52:54:00:77:00:10' })
})

test('the advertisement says no router, no prefix, no DHCPv6 (RFC 4861 §4.2)', () => {
  expect(hexOf(writeEmptyRouterAdvertisement(linkAddress))).toBe(
    '86000000 00000000 00000000 00000000 0101020000000001'.replaceAll(' ', ''),
  )
})

test('any bytes are a solicitation or a WireError', () => {
  const input = fc.uint8Array({ maxLength: 60 }).map((bytes) => Uint8Array.of(133, 0, ...bytes))
  fc.assert(
    fc.property(input, (bytes) => {
      try {
        readRouterSolicitation(bytes)
      } catch (error) {
        expect(error).toBeInstanceOf(WireError)
      }
    }),
  )
})

const iPxe: ClientFacts = {
  mac: '52:54:00:77:00:10',
  program: { kind: 'ipxe', features: new Set(), version: '1.0.0' },
  architecture: 'bios',
  uuid: undefined,
  vendorClass: undefined,
  hostName: undefined,
  requestedFile: undefined,
}
const offered = (client: ClientFacts): DhcpEvent => ({
  kind: 'offered',
  client,
  address: '10.0.0.2',
  bootFile: undefined,
})

test('only a machine that was just seen with iPXE is answered: the kernel after it waits for real routers', async () => {
  const link = new SimulatedLink(1)
  const sent: string[] = []
  let receive: Icmpv6Receiver = () => {}
  const icmpv6: Icmpv6Network = {
    open: async (_name, _terms, receiver) => {
      receive = receiver
      return { send: (_bytes, to) => sent.push(to), close: () => {} }
    },
  }
  const events: DhcpEvent[] = []
  const responder = await startSolicitationResponder(
    { interfaceName: 'eth0', linkAddress },
    { icmpv6, clock: link.clock },
    { emit: (event) => events.push(event) },
  )
  receive(solicitation, 'fe80::1')
  expect(sent).toEqual([])
  responder.hear(offered(iPxe))
  receive(solicitation, 'fe80::1')
  receive(Uint8Array.of(133, 0, 0, 0, 0, 0, 0, 0, 1, 0), 'fe80::1')
  expect(sent).toEqual(['fe80::1'])
  expect(events).toEqual([{ kind: 'routerSolicitationAnswered', linkLocalAddress: 'fe80::1' }])
  receive(solicitation, '::')
  expect(sent.at(-1)).toBe('ff02::1')
  await link.run(solicitorSeconds * 1000 + 1)
  receive(solicitation, 'fe80::1')
  expect(sent).toHaveLength(2)
  responder.hear(offered(iPxe))
  responder.hear(offered({ ...iPxe, program: { kind: 'linuxIpconfig' } }))
  receive(solicitation, 'fe80::1')
  expect(sent).toHaveLength(2)
})
