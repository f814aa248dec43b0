/** Debian's own boot loaders are what `identifyLoader` says they are, and Debian's iPXE can be made ready for U-Boot. */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { sourceOfBytes } from '../../src/disk/source.ts'
import { identifyLoader } from '../../src/trust/loaders/identify.ts'
import { unpackLzma } from '../../src/trust/loaders/lzma.ts'
import { withoutSleep } from '../../src/trust/loaders/patch.ts'

const read = (path: string): Uint8Array => new Uint8Array(readFileSync(path))

const no = { https: 'no', http: 'no', iscsi: 'no', vlan: 'no', tftp: 'no' }
const debianIpxe = {
  kind: 'ipxe',
  can: { https: 'no', http: 'yes', iscsi: 'yes', vlan: 'no', tftp: 'yes' },
  signed: false,
}

test.for([
  [
    '/usr/lib/ipxe/snponly.efi',
    { ...debianIpxe, firmware: 'x86_64', version: expect.stringMatching(/^1\.0\.0\+git-/) },
  ],
  ['/usr/lib/ipxe/undionly.kpxe', { ...debianIpxe, form: 'pxe', firmware: 'bios', compressed: true }],
  ['/usr/lib/ipxe/ipxe.lkrn', { ...debianIpxe, form: 'kernel', version: expect.stringMatching(/^1\.0\.0\+git-/) }],
  ['/usr/lib/ipxe/qemu/pxe-virtio.rom', { ...debianIpxe, form: 'rom', firmware: 'bios' }],
  ['/usr/lib/PXELINUX/pxelinux.0', { kind: 'pxelinux', version: '6.04', can: { ...no, tftp: 'yes' } }],
  ['/usr/lib/PXELINUX/lpxelinux.0', { kind: 'pxelinux', version: '6.04', can: { ...no, tftp: 'yes', http: 'yes' } }],
  ['/usr/lib/syslinux/memdisk', { kind: 'memdisk', version: '6.04' }],
  [
    '/usr/lib/grub/x86_64-efi/monolithic/grubnetx64.efi',
    { kind: 'grub', version: expect.stringMatching(/^2\./), signed: false },
  ],
  [
    '/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed',
    { kind: 'grub', signed: true, signers: [expect.stringContaining('Debian Secure Boot Signer')] },
  ],
  [
    '/usr/lib/shim/shimx64.efi.signed',
    {
      kind: 'shim',
      signed: true,
      signers: expect.arrayContaining([expect.stringContaining('O=Microsoft Corporation')]),
    },
  ],
  ['/usr/lib/shim/mmx64.efi', { kind: 'shimTool', signed: false }],
  ['/usr/lib/systemd/boot/efi/systemd-bootx64.efi', { kind: 'systemdBoot', version: expect.stringMatching(/^\d+/) }],
] as const)('%s', async ([path, expected]) => {
  expect(await identifyLoader(sourceOfBytes(read(path)))).toMatchObject(expected)
})

test("Debian's snponly.efi rests the processor in one place, and the copy for U-Boot in none", async () => {
  const original = read('/usr/lib/ipxe/snponly.efi')
  const { bytes, changes } = await withoutSleep(original)
  expect(changes).toMatchObject([{ before: 'f4', after: '90' }])
  expect((await identifyLoader(sourceOfBytes(bytes))).sleepCount).toBe(0)
  expect(Buffer.compare(bytes, original)).not.toBe(0)
})

test("Debian's signed GRUB is not touched", async () => {
  const signed = read('/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed')
  await expect(withoutSleep(signed)).rejects.toMatchObject({ code: 'loaderNotIpxe' })
})

test('what xz packs, as iPXE packs it, is unpacked: a kernel of ours, text, and noise', () => {
  const noise = Uint8Array.from({ length: 20_000 }, (_, i) => (i * i * 2_654_435_761) >>> 13)
  const samples = [
    read('/usr/lib/ipxe/snponly.efi'),
    read('/usr/share/common-licenses/GPL-3'),
    noise,
    new Uint8Array(50_000),
  ]
  for (const sample of samples) {
    const xz = spawnSync('xz', ['--format=raw', '--lzma1=lc=2,lp=0,pb=0', '-c'], { input: sample })
    const { bytes, complete } = unpackLzma(new Uint8Array(xz.stdout), 0, sample.byteLength + 1)
    expect(complete).toBe(true)
    expect(Buffer.compare(bytes, sample)).toBe(0)
  }
})
