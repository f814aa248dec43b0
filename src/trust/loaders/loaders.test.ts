import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { OperationError } from '../../base/errors.ts'
import { sourceOfBytes } from '../../disk/source.ts'
import { buildPe } from '../testing/pe-builder.ts'
import { identifyLoader, ipxePublicRoot, type KnownRoot, type Loader } from './identify.ts'
import { withoutSleep, withTrust } from './patch.ts'

const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text)
const concat = (...parts: readonly Uint8Array[]): Uint8Array => Uint8Array.from(parts.flatMap((part) => [...part]))
const x86Code = Uint8Array.of(0x90, 0xc3, 0xf4, 0xc3, 0x90)
/** cpu_nap() of iPXE 2.0: `cmpl; jne; hlt; ret`. Before it stands what looks like one, the middle of `jmp -12; ret`. */
const newX86Code = Uint8Array.of(0xeb, 0xf4, 0xc3, 0x83, 0x3d, 0x69, 0x13, 0x02, 0, 0, 0x75, 0x01, 0xf4, 0xc3)
const arm64Code = Uint8Array.of(0x1f, 0x20, 0x03, 0xd5, 0x7f, 0x20, 0x03, 0xd5, 0xc0, 0x03, 0x5f, 0xd6)
const data = utf8('\0#!ipxe\0iPXE\0\0\x001.21.1+ (gabc)\0HTTPS\0HTTP\0iSCSI\0TFTP\0')
const ours: KnownRoot = { name: 'ours', fingerprint: new Uint8Array(32).fill(7) }

const ipxe = (parts: {
  machine?: number
  code?: Uint8Array
  more?: Uint8Array
  signature?: Uint8Array
}): Uint8Array => {
  const { machine, code = x86Code, more = new Uint8Array(0), signature } = parts
  return buildPe({
    ...(machine !== undefined && { machine }),
    ...(signature !== undefined && { signature }),
    sections: [
      ['.text', code, true],
      ['.data', concat(data, more)],
    ],
  })
}
const identify = (bytes: Uint8Array, roots: readonly KnownRoot[] = []): Promise<Loader> =>
  identifyLoader(sourceOfBytes(bytes), roots)

describe('identifyLoader', () => {
  test('an iPXE for UEFI says its version and what it was built with', async () => {
    expect(await identify(ipxe({ more: ipxePublicRoot.fingerprint }))).toMatchObject({
      kind: 'ipxe',
      form: 'efiApplication',
      firmware: 'x86_64',
      version: '1.21.1+ (gabc)',
      can: { https: 'yes', http: 'yes', iscsi: 'yes', vlan: 'no', tftp: 'yes' },
      pinned: ['ipxe.org'],
      signed: false,
      sleepCount: 1,
      embeddedScript: undefined,
    })
  })

  test('an embedded script and a root of ours are seen', async () => {
    const more = concat(ours.fingerprint, utf8('\0#!ipxe\ndhcp\nchain https://boot.example/\n\0'))
    const loader = await identify(ipxe({ machine: 0xaa64, code: arm64Code, more }), [ours])
    expect(loader).toMatchObject({ firmware: 'arm64', pinned: ['ours'], sleepCount: 1 })
    expect(loader.embeddedScript).toBe('#!ipxe\ndhcp\nchain https://boot.example/')
  })

  test('TlsCaCertificate is found as UEFI spells it', async () => {
    const name = utf8([...'TlsCaCertificate'].join('\0'))
    expect((await identify(ipxe({ more: name }))).readsTlsCaVariable).toBe(true)
    expect((await identify(ipxe({}))).readsTlsCaVariable).toBe(false)
  })

  test('a compressed iPXE for BIOS is one whose abilities cannot be seen', async () => {
    const bytes = utf8('\xea\x05 PXENV+ at \0 !PXE at \0 UNDI code segment \0')
    expect(await identify(bytes)).toMatchObject({
      kind: 'ipxe',
      form: 'pxe',
      firmware: 'bios',
      compressed: true,
      can: { https: 'unknown', iscsi: 'unknown' },
    })
  })

  test('shim, GRUB, systemd-boot and a unified kernel image are told apart', async () => {
    const kindOf = async (...sections: (readonly [string, Uint8Array])[]): Promise<string> =>
      (await identify(buildPe({ sections }))).kind
    const sbat = (component: string): Uint8Array => utf8(`sbat,1,x,sbat,1,x\n${component},1,v,p,1.0,u\n`)
    expect(await kindOf(['.sbat', sbat('shim')], ['.data', utf8('UEFI SHIM\n$Version: 15.8 $\n')])).toBe('shim')
    expect(await kindOf(['.sbat', sbat('shim')])).toBe('shimTool')
    expect(await kindOf(['.sbat', sbat('grub')])).toBe('grub')
    expect(await kindOf(['mods', utf8('x')])).toBe('grub')
    expect(await kindOf(['.sdmagic', utf8('#### LoaderInfo: systemd-boot 252 ####')])).toBe('systemdBoot')
    expect(await kindOf(['.linux', utf8('x')], ['.osrel', utf8('ID=x')])).toBe('uki')
    expect(await kindOf(['.text', utf8('x')])).toBe('efi')
  })

  test.for([
    utf8(''),
    utf8('#!/bin/sh\n'),
    new Uint8Array(5000),
  ])('a file that is no loader is refused', async (bytes) => {
    await expect(identify(bytes)).rejects.toMatchObject({ code: 'notALoader' })
  })

  test('any bytes give a loader or an OperationError', async () => {
    const start = ipxe({ signature: utf8('0\x82\x01\x00') })
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(start.byteLength - 1), fc.nat(255)), { maxLength: 8 }),
        fc.option(fc.nat(start.byteLength)),
        async (changes, cut) => {
          const bytes = start.slice(0, cut ?? undefined)
          for (const [at, value] of changes) if (at < bytes.byteLength) bytes[at] = value
          await identify(bytes).catch((error: unknown) => expect(error).toBeInstanceOf(OperationError))
        },
      ),
      { numRuns: 500 },
    )
  })
})

describe('withoutSleep', () => {
  test.for([
    ['x86_64', 0x8664, x86Code, [0x90, 0xc3, 0x90, 0xc3, 0x90]],
    ['x86_64 of 2026', 0x8664, newX86Code, [...newX86Code.subarray(0, 12), 0x90, 0xc3]],
    ['arm64', 0xaa64, arm64Code, [0x1f, 0x20, 0x03, 0xd5, 0x1f, 0x20, 0x03, 0xd5, 0xc0, 0x03, 0x5f, 0xd6]],
  ] as const)('on %s changes the resting instruction and nothing else', async ([, machine, code, expected]) => {
    const original = ipxe({ machine, code })
    const { bytes, changes } = await withoutSleep(original)
    expect([...bytes.subarray(0x400, 0x400 + code.length)]).toEqual(expected)
    expect(changes.length).toBe(1)
    const differing = [...bytes.keys()].filter((i) => bytes[i] !== original[i])
    expect(differing.length).toBe(1)
    await expect(withoutSleep(bytes)).rejects.toMatchObject({ code: 'patternNotOnce' })
  })

  test('the pattern outside of code does not count, twice in code is refused', async () => {
    const { changes } = await withoutSleep(ipxe({ more: x86Code }))
    expect(changes.map(({ offset }) => offset)).toEqual([0x402])
    await expect(withoutSleep(ipxe({ code: concat(x86Code, x86Code) }))).rejects.toMatchObject({
      code: 'patternNotOnce',
    })
  })

  test('a signed iPXE, a BIOS one and another program are refused', async () => {
    await expect(withoutSleep(ipxe({ signature: utf8('0\0') }))).rejects.toMatchObject({ code: 'loaderSigned' })
    const bios = utf8('PXENV+ at UNDI code segment')
    await expect(withoutSleep(bios)).rejects.toThrow(/compressed/)
    const grub = buildPe({ sections: [['mods', x86Code, true]] })
    await expect(withoutSleep(grub)).rejects.toMatchObject({ code: 'loaderNotIpxe' })
  })
})

describe('withTrust', () => {
  const roots = { replaced: ipxePublicRoot, ours }

  test('our root takes the place of the public one, and the copy says so', async () => {
    const original = ipxe({ more: ipxePublicRoot.fingerprint })
    const { bytes, changes } = await withTrust(original, roots)
    expect(bytes.byteLength).toBe(original.byteLength)
    expect(changes.length).toBe(1)
    expect((await identify(bytes, [ours])).pinned).toEqual(['ours'])
    // And back again: nothing else changed.
    const back = await withTrust(bytes, { replaced: ours, ours: ipxePublicRoot })
    expect(back.bytes).toEqual(original)
  })

  test('signed, without HTTPS, or trusting somebody else: each is refused with its own reason', async () => {
    const more = ipxePublicRoot.fingerprint
    await expect(withTrust(ipxe({ more, signature: utf8('0\0') }), roots)).rejects.toMatchObject({
      code: 'loaderSigned',
    })
    await expect(withTrust(ipxe({}), roots)).rejects.toMatchObject({ code: 'pinNotThere' })
    const noHttps = buildPe({ sections: [['.data', concat(utf8('\0#!ipxe\0iPXE\0HTTP\0'), more)]] })
    await expect(withTrust(noHttps, roots)).rejects.toMatchObject({ code: 'loaderNoHttps' })
  })
})
