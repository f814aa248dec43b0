import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { readVector, vectorNames } from '../../test/vectors.ts'
import { formatMac, parseIpv4 } from '../base/address.ts'
import { WireError } from '../wire/reader.ts'
import { readIpxeFacts, writeIpxeDirections, writeIpxeFacts } from './ipxe-options.ts'
import { messageBytesMin, optionPartsMax, replyBytesMax, requestBytesMax } from './limits.ts'
import { decode, type Message, MessageBuffer } from './message.ts'
import * as option from './option.ts'
import {
  pxeBootHere,
  readPxeBootItem,
  readPxeDiscoveryControl,
  readPxeMenuLabels,
  writePxeBootItem,
  writePxeMenu,
} from './pxe-options.ts'

const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
const bytesOf = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex.replaceAll(' ', ''), 'hex'))

function encoded(message: Message, bytesMax = replyBytesMax): Uint8Array {
  const buffer = new MessageBuffer(replyBytesMax)
  return buffer.bytes.slice(0, buffer.encode(message, bytesMax))
}

/** Options as a plain object, so that a difference is readable. */
function plain(message: Message): object {
  const options = [...message.options.entries()].map(([code, value]) => [code, hexOf(value)])
  return { ...message, hardwareAddress: hexOf(message.hardwareAddress), options }
}

describe('golden', () => {
  test.for(vectorNames('dhcp').filter((name) => !name.includes('router')))('%s comes out as it went in', (name) => {
    const packet = readVector('dhcp', name)
    expect(hexOf(encoded(decode(packet)))).toBe(hexOf(packet))
  })

  test("iPXE's ROM says who it is", () => {
    const message = decode(readVector('dhcp', 'ipxe-bios-discover'))
    expect(message).toMatchObject({ op: 'request', type: 'discover', broadcast: false, elapsedSeconds: 4 })
    expect(formatMac(message.hardwareAddress)).toBe('52:54:00:77:00:10')
    expect(message.options.get(option.messageBytesMax)).toBe(1472)
    expect(message.options.get(option.clientArchitectures)).toEqual([0])
    expect(message.options.get(option.userClass)).toEqual(['iPXE'])
    expect(message.options.get(option.vendorClass)).toBe('PXEClient:Arch:00000:UNDI:002001')
  })

  test("dnsmasq's answer to U-Boot names the file in the BOOTP field", () => {
    const message = decode(readVector('dhcp', 'dnsmasq-uboot-distro-ack'))
    expect(message).toMatchObject({
      op: 'reply',
      type: 'ack',
      bootFile: 'snp.efi',
      nextServer: parseIpv4('192.168.77.1'),
      yourAddress: parseIpv4('192.168.77.115'),
    })
    expect(message.options.get(option.subnetMask)).toBe(parseIpv4('255.255.255.0'))
  })

  test("dnsmasq's answer to UEFI HTTP boot has the URL in option 67", () => {
    const message = decode(readVector('dhcp', 'dnsmasq-ovmf-http-offer'))
    expect(message.options.get(option.vendorClass)).toBe('HTTPClient')
    expect(message.options.get(option.bootFileName)).toBe('http://192.168.77.1/tiny.img')
  })

  test('PXE 2.1 menu: discovery control, servers, entries, prompt', () => {
    const menu = writePxeMenu(
      {
        prompt: 'F8',
        timeoutSeconds: 5,
        entries: [
          { bootServerType: 0x8001, label: 'Linux', bootFile: 'linux.efi' },
          { bootServerType: 0, label: 'Disk', bootFile: undefined },
        ],
      },
      0xc0a84d01,
    )
    expect(hexOf(menu)).toBe(
      ['060107', '0807', '800101c0a84d01', '090f', '8001054c696e7578', '0000044469736b', '0a03', '054638', 'ff'].join(
        '',
      ),
    )
    expect(readPxeMenuLabels(menu)).toEqual(
      new Map([
        [0x8001, 'Linux'],
        [0, 'Disk'],
      ]),
    )
    expect(hexOf(pxeBootHere)).toBe('060108ff')
    expect(readPxeDiscoveryControl(pxeBootHere)).toBe(8)
  })

  test('PXE 2.1 boot item: type and layer', () => {
    expect(readPxeBootItem(bytesOf('4704 8001 0000 ff'))).toEqual({ bootServerType: 0x8001, layer: 0 })
    expect(hexOf(writePxeBootItem({ bootServerType: 0x8001, layer: 0 }))).toBe('470480010000ff')
    expect(readPxeBootItem(bytesOf('060108ff'))).toBeUndefined()
  })

  test('iPXE option 175: no-pxedhcp is 176 = 1', () => {
    expect(hexOf(writeIpxeDirections({ noProxyDhcp: true }))).toBe('b00101')
  })

  test('RFC 3004 user classes have a length before each; iPXE sends its one bare', () => {
    const { read } = option.userClass
    expect(read(bytesOf('04 69505845'))).toEqual(['iPXE'])
    expect(read(bytesOf('69505845'))).toEqual(['iPXE'])
    expect(read(bytesOf('01 61 02 6263'))).toEqual(['a', 'bc'])
  })
})

const latin1 = (maxLength: number): fc.Arbitrary<string> =>
  fc.string({ unit: fc.integer({ min: 1, max: 255 }).map((code) => String.fromCharCode(code)), maxLength })
const address = fc.nat(0xffffffff)
const optionCode = fc.integer({ min: 1, max: 254 }).filter((code) => code !== 52 && code !== 53)

const message: fc.Arbitrary<Message> = fc.record({
  op: fc.constantFrom('request' as const, 'reply' as const),
  type: fc.constantFrom('discover', 'offer', 'request', 'decline', 'ack', 'nak', 'release', 'inform'),
  hardwareType: fc.nat(255),
  hardwareAddress: fc.uint8Array({ maxLength: 16 }),
  hops: fc.nat(255),
  transaction: address,
  elapsedSeconds: fc.nat(0xffff),
  broadcast: fc.boolean(),
  clientAddress: address,
  yourAddress: address,
  nextServer: address,
  relayAddress: address,
  serverName: latin1(64),
  bootFile: latin1(128),
  options: fc
    .uniqueArray(fc.tuple(optionCode, fc.uint8Array({ maxLength: 300 })), { maxLength: 3, selector: ([code]) => code })
    .map((entries) => {
      const options = new option.Options()
      for (const [code, value] of entries) options.setRaw(code, value)
      return options
    }),
})

describe('property', () => {
  test('what is encoded decodes to itself, also options over 255 bytes (RFC 3396)', () => {
    fc.assert(
      fc.property(message, (m) => {
        const bytes = encoded(m)
        expect(bytes.byteLength).toBeGreaterThanOrEqual(messageBytesMin)
        expect(plain(decode(bytes))).toEqual(plain(m))
      }),
      { numRuns: 1_000 },
    )
  })

  test('in a small message options move to file and sname (RFC 2131 §4.1), in order of importance, and nothing is lost unsaid', () => {
    const small = fc.integer({ min: 1, max: 60 }).map((bytes) => new Uint8Array(bytes).fill(bytes))
    fc.assert(
      fc.property(
        fc.uniqueArray(optionCode, { maxLength: 14 }),
        fc.array(small, { minLength: 14, maxLength: 14 }),
        (codes, values) => {
          const options = new option.Options()
          for (const [index, code] of codes.entries()) options.setRaw(code, values[index] ?? new Uint8Array(1))
          const m: Message = {
            ...decode(readVector('dhcp', 'ovmf-pxe-discover')),
            bootFile: '',
            serverName: '',
            options,
          }
          const buffer = new MessageBuffer(replyBytesMax)
          const omitted: number[] = []
          const bytes = buffer.encode(m, 548, omitted)
          expect(bytes).toBeLessThanOrEqual(548)
          const back = decode(buffer.bytes.slice(0, bytes))
          const found = new Map([...back.options.entries()].map(([code, value]) => [code, hexOf(value)]))
          for (const [code, value] of options.entries()) {
            expect(found.get(code)).toBe(omitted.includes(code) ? undefined : hexOf(value))
          }
        },
      ),
      { numRuns: 500 },
    )
  })

  test('whatever arrives, decode returns a message or throws WireError', () => {
    const vectors = vectorNames('dhcp').map((name) => readVector('dhcp', name))
    const mutated = fc
      .tuple(fc.constantFrom(...vectors), fc.array(fc.tuple(fc.nat(800), fc.nat(255)), { maxLength: 8 }), fc.nat(800))
      .map(([bytes, changes, length]) => {
        const copy = bytes.slice(0, Math.max(length, 1))
        for (const [at, value] of changes) copy[at % copy.length] = value
        return copy
      })
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 700 }), mutated), (bytes) => {
        try {
          decode(bytes)
        } catch (error) {
          expect(error).toBeInstanceOf(WireError)
        }
      }),
      { numRuns: 10_000 },
    )
  })

  test('any bytes in an option are read or refused with WireError', () => {
    const known = Object.values(option).flatMap((kind) => (typeof kind === 'object' ? [kind.read] : []))
    const readers = [...known, readIpxeFacts, readPxeBootItem, readPxeMenuLabels]
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
        for (const read of readers) {
          try {
            read(bytes)
          } catch (error) {
            expect(error).toBeInstanceOf(WireError)
          }
        }
      }),
      { numRuns: 2_000 },
    )
  })

  test("an iPXE's features survive the wire", () => {
    const features = fc.uniqueArray(fc.constantFrom('iscsi', 'http', 'https', 'dns', 'efi', 'menu', 'nfs', 'sdi'))
    fc.assert(
      fc.property(features, (names) => {
        const facts = { features: new Set(names), version: '1.21.1' }
        expect(readIpxeFacts(writeIpxeFacts(facts))).toEqual(facts)
      }),
    )
  })
})

describe('limits', () => {
  test('a packet larger than any request is refused before it is looked at', () => {
    expect(() => decode(new Uint8Array(requestBytesMax + 1))).toThrow(new WireError('badLength', requestBytesMax))
  })

  test('an option in a thousand parts is refused: joining them would cost the square', () => {
    const packet = new Uint8Array(4_000)
    packet.set(readVector('dhcp', 'ovmf-pxe-discover').subarray(0, 240))
    for (let at = 240; at + 3 <= packet.length; at += 3) packet.set([61, 1, 7], at)
    expect(() => decode(packet)).toThrow(new WireError('badLength', 240 + 3 * (optionPartsMax + 1)))
  })
})
