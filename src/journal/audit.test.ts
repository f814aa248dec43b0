import { describe, expect, test } from 'vitest'
import { reduce } from './attempt.ts'
import { type Audit, auditBoot, type Grade } from './audit.ts'
import type { BootEvent, Happening, ProvedBy } from './events.ts'
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
const byHttpsFor = (proof: ProvedBy, more: object = {}): Happening => ({ ...byHttps, proof, ...more }) as Happening
const certified = byHttpsFor({ kind: 'certificate', fingerprint: 'ab'.repeat(32) })
const signedIn = byHttpsFor({ kind: 'login', account: 'ann' })
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
const loaderByHttps: Happening = {
  kind: 'httpServed',
  path: '/loader/snp.efi',
  status: 200,
  sentBytes: 1,
  durationMs: 1,
  encrypted: true,
}
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
    auditOf([own, proven, certified, loginWith({ authentication: 'oneWay' })], true),
    /proved nothing to the machine/,
  ],
  ['loader of its own, machine unproven', 'C', auditOf([own, modern, byHttps, sha256], true), /machine proved nothing/],
  [
    'certificates both ways, iSCSI among others',
    'C',
    auditOf([own, proven, certified, sha256]),
    /iSCSI is not encrypted: blocks/,
  ],
  [
    'the same on a network of its own, CHAP with MD5',
    'B',
    auditOf([own, proven, certified, login(1, 'ipxe')], true),
    /MD5, which is broken/,
  ],
  [
    'the same with the cipher of an iPXE of 2019',
    'B',
    auditOf([own, tls('AES128-SHA256', 'TLSv1.2', 'ab'), certified, sha256], true),
    /AES128-SHA256, which is old: no forward/,
  ],
  ['nothing left', 'A', auditOf([own, proven, certified, sha256], true), undefined],
  [
    'another board under a known address',
    'D',
    auditOf([own, proven, certified, sha256, { kind: 'identityAlarm', knownUuid: 'a', seenUuid: 'b' }], true),
    /known with a/,
  ],
  ['a person signed in', 'A', auditOf([own, modern, signedIn, sha256], true), undefined],
  [
    'a person signed in at a loader that came by TFTP',
    'D',
    auditOf([discover('firmware'), fetched, modern, signedIn, sha256], true),
    /loader came by TFTP/,
  ],
  [
    'a certificate in a loader that we handed out',
    'C',
    auditOf([discover('firmware'), loaderByHttps, proven, certified, sha256], true),
    /key came over the network/,
  ],
  [
    'one script for a certificate, and one for admission only',
    'C',
    auditOf([own, proven, certified, byHttps, sha256], true),
    /machine proved nothing/,
  ],
  [
    'certificates both ways, iSCSI on a VLAN',
    'B',
    auditOf([own, proven, byHttpsFor({ kind: 'certificate', fingerprint: 'ab' }, { storageVlan: 2 }), sha256]),
    /on VLAN 2, and what keeps others out of that is your switch/,
  ],
  ['waits for somebody to sign in: nothing was handed out', undefined, auditOf([own, served('signIn')]), undefined],
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
  const { grade, steps } = auditOf([discover('firmware'), proven, loaderByHttps, signedIn, sha256], true)
  expect(grade).toBe('A')
  expect(steps[1]).toMatchObject({ what: 'Loader by HTTPS: snp.efi', encrypted: 'TLS 1.3, TLS_AES_128_GCM_SHA256' })
})

test('what was proved before the secrets were handed out is part of the boot', () => {
  const proof = { kind: 'login', account: 'ann' } as const
  const [begin, ...more] = stream([own, signedIn, sha256].map((happening) => [1, happening] as const))
  if (begin === undefined) throw new Error('a boot has events')
  const first = reduce(undefined, begin, testMac, '').current
  expect(more.reduce((attempt, event) => reduce(attempt, event, testMac, '').current, first).proof).toEqual(proof)
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
      certified,
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
