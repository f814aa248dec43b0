/**
 * Goal: a Linux that was started without its boot loader is told what it needs, and its command line holds no secret. Method:
 * goldens, cpio itself as the judge of the archive, and hostile command lines.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, onTestFinished, test } from 'vitest'
import { Secret } from '../base/secret.ts'
import { cpioArchive } from './cpio.ts'
import { commandLineCharactersMax, kernelLine, type LinuxSettings, settingsArchive } from './linux-settings.ts'

const mac = '52:54:00:77:00:10'
const settings: LinuxSettings = {
  portal: { address: '192.168.77.1', port: 3260 },
  targetName: 'iqn.2026-01.internal.slipway:disk.525400770010',
  initiatorName: 'iqn.2026-01.internal.slipway:machine.525400770010',
  initiator: { user: 'USERUSERUSERUSER', secret: new Secret('SECRETSECRETSECR') },
  target: { user: 'TARGETTARGETTARG', secret: new Secret('PROOFPROOFPROOFP') },
}

/** By the cpio of this system, as another than us would. */
function unpacked(archive: Uint8Array): { text(path: string): string; mode(path: string): string } {
  const folder = mkdtempSync(join(tmpdir(), 'slipway-cpio-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const done = spawnSync('cpio', ['--extract', '--quiet', '--no-absolute-filenames'], { cwd: folder, input: archive })
  expect(String(done.stderr)).toBe('')
  return {
    text: (path) => readFileSync(join(folder, path), 'utf8'),
    mode: (path) => (statSync(join(folder, path)).mode & 0o7777).toString(8),
  }
}

describe('the archive', () => {
  test('has what initramfs-tools and dracut read, for root only', () => {
    const files = unpacked(settingsArchive(settings))
    expect(files.text('etc/iscsi.initramfs')).toBe(`ISCSI_INITIATOR='iqn.2026-01.internal.slipway:machine.525400770010'
ISCSI_TARGET_NAME='iqn.2026-01.internal.slipway:disk.525400770010'
ISCSI_TARGET_IP='192.168.77.1'
ISCSI_TARGET_PORT='3260'
ISCSI_USERNAME='USERUSERUSERUSER'
ISCSI_PASSWORD='SECRETSECRETSECR'
ISCSI_IN_USERNAME='TARGETTARGETTARG'
ISCSI_IN_PASSWORD='PROOFPROOFPROOFP'
`)
    expect(files.text('etc/cmdline.d/95-slipway.conf')).toBe(
      'netroot=iscsi:USERUSERUSERUSER:SECRETSECRETSECR:TARGETTARGETTARG:PROOFPROOFPROOFP@192.168.77.1::3260:0:iqn.2026-01.internal.slipway:disk.525400770010 rd.iscsi.initiator=iqn.2026-01.internal.slipway:machine.525400770010 rd.neednet=1\n',
    )
    expect(files.mode('etc/iscsi.initramfs')).toBe('600')
    expect(files.mode('etc/cmdline.d/95-slipway.conf')).toBe('600')
    expect(files.mode('etc')).toBe('755')
  })
  test('without proofs has none', () => {
    const files = unpacked(settingsArchive({ ...settings, initiator: undefined, target: undefined }))
    expect(files.text('etc/iscsi.initramfs')).not.toMatch(/PASSWORD|USERNAME/)
    expect(files.text('etc/cmdline.d/95-slipway.conf')).toMatch(/^netroot=iscsi:192\.168\.77\.1::3260:0:iqn/)
  })
  test('what would end a quotation is not ours', () => {
    expect(() => settingsArchive({ ...settings, targetName: "iqn.x';reboot;'" })).toThrow()
  })
  test('any content comes out as it went in, and every entry begins at a multiple of four', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 20 }), { maxLength: 3 }), (contents) => {
        const archive = cpioArchive(
          contents.map((content, i) => ({ kind: 'file', path: `${'f'.repeat(i + 1)}`, mode: 0o600, content })),
        )
        expect(archive.byteLength % 4).toBe(0)
        const files = unpacked(archive)
        for (const [i, content] of contents.entries()) {
          expect(Buffer.from(files.text('f'.repeat(i + 1)), 'utf8').toString()).toBe(Buffer.from(content).toString())
        }
      }),
      { numRuns: 20 },
    )
  })
})

describe('the command line', () => {
  const line = (commandLine: string): string | undefined => kernelLine({ commandLine, mac })?.join(' ')
  const network = 'ip=dhcp BOOTIF=01-52-54-00-77-00-10'
  test.for([
    ['root=UUID=x ro  quiet', `root=UUID=x ro quiet ${network}`],
    ['root=UUID=x ip=10.0.0.1::::eth0 BOOTIF=x iscsi_auto', `root=UUID=x ${network}`],
    ['netroot=iscsi:a rd.iscsi.firmware=1 root=LABEL=r rd.iscsi.param=y', `root=LABEL=r rd.iscsi.param=y ${network}`],
    ['ISCSI_INITIATOR=a iscsi_target_name=b ro', `ro ${network}`],
    ['dyndbg="file x +p" ro', `dyndbg="file x +p" ro ${network}`],
    ['ro -- single', `ro ${network} -- single`],
    ['', network],
  ] as const)('%s', ([said, wanted]) => expect(line(said)).toBe(wanted))
  test.for([
    ['a || reboot'],
    ['a && b'],
    ['a ; b'],
    ['a #b'],
    [`a=\${password}`],
    ['ends\\'],
    ['ümlaut'],
    ['root=iscsi:192.0.2.1::::iqn.other'],
    ['x'.repeat(commandLineCharactersMax)],
  ] as const)('%s cannot be said', ([said]) => expect(line(said)).toBeUndefined())
})
