/**
 * Goal: whole audits, as a person reads them, of the boots that there are. Method: the events of each kind of boot, told by the
 * command's own printer, against texts that were read and found true; read them again when this fails.
 */
import { expect, test } from 'vitest'
import { inFull } from '../../src/cli/audit.ts'
import { reduce } from '../../src/journal/attempt.ts'
import { auditBoot } from '../../src/journal/audit.ts'
import type { Happening, ProvedBy } from '../../src/journal/events.ts'
import {
  closed,
  discover,
  fetched,
  firstRead,
  login,
  served,
  stream,
  testMac,
  wholeBoot,
} from '../../src/journal/testing/streams.ts'

const fingerprint = '9faf717b7f8ca2f93c256c79f8ac5591895d66d1ff3bee6397a70d29c65eed1a'
const ipxe2026 = discover('ipxe', 'iPXE 2.0.0 on UEFI x86_64')

function tls(protocol: string, cipher: string, more: { compat?: string; clientFingerprint?: string } = {}): Happening {
  return { kind: 'tlsAgreed', protocol, cipher, compat: undefined, clientFingerprint: undefined, ...more }
}
const byHttps = (script: 'prove' | 'signIn' | 'boot', more: object = {}): Happening =>
  ({ ...served(script), encrypted: true, ...more }) as Happening
const linuxPart = (file: string, encrypted: boolean): Happening => {
  const path = `/linux/52-54-00-77-00-10/${file}`
  return { kind: 'httpServed', path, status: 200, sentBytes: 8_000_000, durationMs: 900, encrypted }
}
const bootFor = (proof: ProvedBy, more: object = {}): Happening => byHttps('boot', { proof, ...more })
const disk = [login(1, 'ipxe'), firstRead, discover('system', 'Linux'), login(2, 'system'), closed(1)]
const modern = tls('TLSv1.2', 'ECDHE-ECDSA-AES128-GCM-SHA256')
const proving = tls('TLSv1.2', 'ECDHE-ECDSA-AES128-GCM-SHA256', { clientFingerprint: fingerprint })
const certificate: ProvedBy = { kind: 'certificate', fingerprint }
const fromFlash = [ipxe2026, modern, byHttps('prove'), proving]

/** The last: a person's word that only machines and server are on the network of the disks. */
const boots: ReadonlyArray<[file: string, happened: readonly Happening[], storageApart?: boolean]> = [
  ['ipxe-2019-by-http', wholeBoot.map(([, happening]) => happening)],
  [
    'kernel-by-http',
    [
      discover('firmware', 'U-Boot'),
      fetched,
      discover('ipxe', 'iPXE 1.0.0 on UEFI x86_64'),
      { ...served('boot'), start: 'kernel' } as Happening,
      ...['kernel', 'initramfs-0', 'settings'].map((file) => linuxPart(file, false)),
      discover('system', 'Linux'),
      login(1, 'system'),
    ],
  ],
  [
    'kernel-by-https',
    [
      ...fromFlash,
      bootFor(certificate, { start: 'kernel' }),
      ...['kernel', 'initramfs-0', 'settings'].map((file) => linuxPart(file, true)),
      discover('system', 'Linux'),
      login(1, 'system'),
    ],
  ],
  [
    'ipxe-2019-signed-in',
    [
      discover('ipxe', 'iPXE 1.0.0+ on UEFI x86_64'),
      tls('TLSv1.2', 'AES128-SHA256', { compat: 'ipxe-2019' }),
      byHttps('signIn'),
      { kind: 'signInFailed', account: 'ann' },
      { kind: 'signedIn', account: 'ann' },
      bootFor({ kind: 'login', account: 'ann' }),
      ...disk,
    ],
  ],
  ['certificate-on-local-media', [...fromFlash, bootFor(certificate), ...disk]],
  ['certificate-on-local-media-vlan', [...fromFlash, bootFor(certificate, { storageVlan: 2 }), ...disk]],
  ['certificate-on-local-media-apart', [...fromFlash, bootFor(certificate, { storageVlan: 2 }), ...disk], true],
  [
    'certificate-in-a-loader-by-tftp',
    [discover('firmware', 'UEFI x86_64 by PXE'), fetched, ...fromFlash, bootFor(certificate), ...disk],
  ],
  [
    'another-board-with-a-revoked-certificate',
    [
      ...fromFlash,
      {
        kind: 'identityAlarm',
        knownUuid: '00112233-4455-6677-8899-aabbccddeeff',
        seenUuid: 'deadbeef-4455-6677-8899-aabbccddeeff',
      },
      { kind: 'certificateRefused', fingerprint, reason: 'revoked', detail: undefined },
      { kind: 'refused', reason: 'certificateRevoked' },
    ],
  ],
]

test.each(boots)('%s', async (file, happened, storageApart = false) => {
  const [first, ...more] = stream(
    happened.map((happening) => [100, happening] as const),
    Date.UTC(2026, 0, 1),
  )
  if (first === undefined) throw new Error('a boot has events')
  const begun = reduce(undefined, first, testMac, '').current
  const attempt = more.reduce((before, event) => reduce(before, event, testMac, '').current, begun)
  const audit = auditBoot(attempt, [first, ...more], { storageApart })
  await expect(inFull({ ...audit, name: 'bench-3' })).toMatchFileSnapshot(`audits/${file}.txt`)
  for (const { what, encrypted } of audit.steps) if (/DHCP|TFTP|iSCSI/.test(what)) expect(encrypted).toMatch(/^no/)
})
