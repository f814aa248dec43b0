import { describe, expect, test } from 'vitest'
import { reduce } from './attempt.ts'
import { type Audit, auditBoot, type Grade } from './audit.ts'
import type { BootEvent, Happening } from './events.ts'
import { discover, fetched, login, served, stream, testMac, wholeBoot } from './testing/streams.ts'
import { sentence } from './text.ts'

function auditOf(happenings: readonly Happening[], storageApart = false): Audit {
  const events: readonly BootEvent[] = stream(happenings.map((happening) => [100, happening] as const))
  const [first, ...more] = events
  if (first === undefined) throw new Error('a boot has events')
  let { current } = reduce(undefined, first, testMac, sentence(first))
  for (const event of more) current = reduce(current, event, testMac, sentence(event)).current
  return auditBoot(current, events, { storageApart })
}

const byHttps: Happening = { ...served('boot'), encrypted: true } as Happening
const tls = (cipher: string, protocol = 'TLSv1.2', clientFingerprint?: string): Happening => ({
  kind: 'tlsAgreed',
  protocol,
  cipher,
  compat: undefined,
  clientFingerprint,
})
const modern = tls('ECDHE-RSA-AES128-GCM-SHA256')
const proven = tls('TLS_AES_128_GCM_SHA256', 'TLSv1.3', 'ab'.repeat(32))
const loginWith = (more: object): Happening => ({ ...login(1, 'ipxe'), ...more }) as Happening
const sha256 = loginWith({ algorithm: 'sha256' })
const own = discover('ipxe', 'iPXE 2.0.0 on UEFI x86_64')

const boots: ReadonlyArray<[what: string, grade: Grade | undefined, audit: Audit, worst: RegExp | undefined]> = [
  ['defaults with Debian’s iPXE', 'E', auditOf(wholeBoot.map(([, each]) => each)), /script came by HTTP/],
  [
    'no CHAP',
    'F',
    auditOf([own, served('boot'), loginWith({ authentication: 'none', algorithm: undefined })]),
    /no secret was asked/,
  ],
  [
    'HTTPS script, loader by TFTP',
    'D',
    auditOf([discover('firmware'), fetched, modern, byHttps, sha256]),
    /loader came by TFTP/,
  ],
  [
    'one-way CHAP',
    'D',
    auditOf([own, proven, byHttps, loginWith({ authentication: 'oneWay' })], true),
    /proved nothing to the machine/,
  ],
  ['loader of its own, machine unproven', 'C', auditOf([own, modern, byHttps, sha256], true), /machine proved nothing/],
  [
    'certificates both ways, iSCSI among others',
    'C',
    auditOf([own, proven, byHttps, sha256]),
    /iSCSI is not encrypted: blocks/,
  ],
  [
    'the same on a network of its own, CHAP with MD5',
    'B',
    auditOf([own, proven, byHttps, login(1, 'ipxe')], true),
    /MD5, which is broken/,
  ],
  [
    'the same with the cipher of an iPXE of 2019',
    'B',
    auditOf([own, tls('AES128-SHA256', 'TLSv1.2', 'ab'), byHttps, sha256], true),
    /AES128-SHA256, which is old: no forward/,
  ],
  ['nothing left', 'A', auditOf([own, proven, byHttps, sha256], true), undefined],
  [
    'another board under a known address',
    'D',
    auditOf([own, proven, byHttps, sha256, { kind: 'identityAlarm', knownUuid: 'a', seenUuid: 'b' }], true),
    /known with a/,
  ],
  ['held: nothing was handed out', undefined, auditOf([own, served('held')]), undefined],
]

test.each(boots)('%s: %s', (_, grade, audit, worst) => {
  expect(audit.grade).toBe(grade)
  const [reason] = audit.reasons.filter(({ caps }) => caps !== undefined)
  if (worst === undefined) expect(reason).toBeUndefined()
  else expect(reason?.why).toMatch(worst)
})

describe('whatever the boot', () => {
  test.each(boots)('%s: every reason that costs says what to do, and none is milder than the one before', (_, __, {
    reasons,
  }) => {
    for (const { caps, remedy } of reasons) if (caps !== undefined) expect(remedy).not.toBe('')
    const caps = reasons.map((reason) => reason.caps ?? '')
    expect(caps).toEqual(caps.toSorted().reverse())
  })

  test.each(boots)('%s: DHCP, TFTP and iSCSI are never called encrypted', (_, __, { steps }) => {
    for (const { what, encrypted } of steps) if (/DHCP|TFTP|iSCSI/.test(what)) expect(encrypted).toMatch(/^no/)
  })
})

test('the steps of a boot are in its order, each program’s login once', () => {
  const { steps } = auditOf([...wholeBoot.map(([, each]) => each), login(3, 'system')])
  expect(steps.map(({ what }) => what)).toEqual([
    'Address and boot file by DHCP',
    'Loader by TFTP: undionly.kpxe',
    'Script with the secrets of this boot, by HTTP',
    'Disk by iSCSI, to iPXE',
    'Disk by iSCSI, to the operating system',
  ])
  expect(steps[3]).toMatchObject({
    machineProved: expect.stringContaining('CHAP with MD5'),
    serverProved: expect.stringContaining('MD5'),
  })
})

test('a loader by HTTPS is checked, and says with what', () => {
  const served: Happening = {
    kind: 'httpServed',
    path: '/loader/snp.efi',
    status: 200,
    sentBytes: 1,
    durationMs: 1,
    encrypted: true,
  }
  const { grade, steps } = auditOf([discover('firmware'), proven, served, byHttps, sha256], true)
  expect(grade).toBe('A')
  expect(steps[1]).toMatchObject({ what: 'Loader by HTTPS: snp.efi', encrypted: 'TLS 1.3, TLS_AES_128_GCM_SHA256' })
})

test('refused logins and failed handshakes are told, and cost nothing by themselves', () => {
  const failed: Happening = {
    kind: 'iscsiLoginFailed',
    initiatorName: 'i',
    targetName: 't',
    reason: 'authenticationFailed',
    detail: '',
  }
  const { grade, reasons } = auditOf(
    [
      own,
      proven,
      byHttps,
      failed,
      failed,
      { kind: 'tlsFailed', reason: 'no suite', hint: 'Use another.', offered: undefined },
      sha256,
    ],
    true,
  )
  expect(grade).toBe('A')
  expect(reasons.map(({ why }) => why)).toEqual(
    expect.arrayContaining([
      expect.stringMatching(/^2 times .*authenticationFailed/),
      expect.stringMatching(/^once TLS .*no suite/),
    ]),
  )
})
