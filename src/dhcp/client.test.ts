import { describe, expect, test } from 'vitest'
import { readVector } from '../../test/vectors.ts'
import { recognise } from './client.ts'
import { decode } from './message.ts'
import * as option from './option.ts'

const facts = (name: string) => recognise(decode(readVector('dhcp', name)))

describe('every firmware of docs/quirks.md is known by its captured DISCOVER', () => {
  test.for([
    ['pxe-rom-discover', { kind: 'pxe' }, 'bios'],
    ['ovmf-pxe-discover', { kind: 'pxe' }, 'x86_64'],
    ['ovmf-http-discover', { kind: 'uefiHttp' }, 'x86_64'],
    ['uboot-x86-discover', { kind: 'uboot', distro: false }, 'unknown'],
    ['uboot-x86-distro-discover', { kind: 'uboot', distro: true }, 'x86_64'],
    ['uboot-arm64-discover', { kind: 'uboot', distro: false }, 'arm64'],
    ['uboot-arm64-distro-discover', { kind: 'uboot', distro: true }, 'arm64'],
    ['linux-ipconfig-discover', { kind: 'linuxIpconfig' }, 'unknown'],
  ] as const)('%s', ([name, program, architecture]) => {
    expect(facts(name)).toMatchObject({ program, architecture, mac: '52:54:00:77:00:10' })
  })

  test.for([
    ['ipxe-bios-discover', 'bios', '1.0.0'],
    ['ipxe-efi-2019-discover', 'x86_64', '1.0.0'],
    ['ipxe-efi-2026-discover', 'x86_64', '2.0.0'],
    ['ipxe-arm64-discover', 'arm64', '1.0.0'],
  ] as const)('%s', ([name, architecture, version]) => {
    expect(facts(name)).toMatchObject({ program: { kind: 'ipxe', version }, architecture })
  })
})

test('what an iPXE can do is known from option 175', () => {
  const { program } = facts('ipxe-bios-discover')
  const features = program.kind === 'ipxe' ? program.features : new Set()
  expect(features.has('iscsi')).toBe(true)
  expect(features.has('http')).toBe(true)
  expect(features.has('https')).toBe(false)
})

test('the UUID of option 97 is printed as SMBIOS prints it; all zeroes are no identity', () => {
  expect(facts('ovmf-pxe-discover').uuid).toBe('00112233-4455-6677-8899-aabbccddeeff')
  expect(facts('ipxe-efi-2026-discover').uuid).toBeUndefined()
})

test('what U-Boot would like to load stands in the file field', () => {
  expect(facts('uboot-x86-discover').requestedFile).toBe('bzImage')
})

test('a machine whose hardware is not Ethernet has a key too', () => {
  const message = decode(readVector('dhcp', 'linux-ipconfig-discover'))
  expect(recognise({ ...message, hardwareType: 32, hardwareAddress: new Uint8Array(0) }).mac).toBe('20')
})

test('an ordinary operating system is other', () => {
  const message = decode(readVector('dhcp', 'linux-ipconfig-discover'))
  message.options.delete(option.vendorClass)
  expect(recognise(message).program).toEqual({ kind: 'other' })
})

test('no client puts control characters on our terminal', () => {
  const message = decode(readVector('dhcp', 'uboot-x86-discover'))
  message.options.set(option.hostName, 'a\u001b[2Jb')
  expect(recognise({ ...message, bootFile: 'x\ny' })).toMatchObject({ hostName: 'a?[2Jb', requestedFile: 'x?y' })
})
