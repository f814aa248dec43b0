import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Secret } from '../base/secret.ts'
import { accountName, checkPassword } from './accounts.ts'
import { faultOf, type MachineCertificate } from './certificates.ts'
import { Fleet, type FleetTerms } from './fleet.ts'
import { signInLimits } from './limits.ts'
import { namingAuthorityDefault, targetNameOf } from './names.ts'
import { type Proof, suffices } from './proof.ts'
import { SignInLimit, type TriedName } from './sign-in-limit.ts'
import { MemoryFleetStore } from './store.ts'

const mac = '52:54:00:77:00:10'
const other = '52:54:00:77:00:11'
const certificate: MachineCertificate = {
  fingerprint: 'ab',
  mac,
  serial: '01',
  issuedMs: 0,
  notAfterMs: 1,
  revokedMs: undefined,
}

test('a certificate is good for the machine it was made for, until it is revoked or ends; one that is not known, for none', () => {
  expect(faultOf(certificate, mac, 0)).toBeUndefined()
  expect(faultOf(certificate, other, 0)).toBe('ofAnother')
  expect(faultOf({ ...certificate, revokedMs: 5 }, mac, 0)).toBe('revoked')
  expect(faultOf({ ...certificate, revokedMs: 5 }, other, 0)).toBe('ofAnother')
  expect(faultOf(undefined, mac, 0)).toBe('unknown')
  expect(faultOf(certificate, mac, certificate.notAfterMs)).toBe('unfit')
  expect(faultOf({ ...certificate, revokedMs: 5 }, mac, certificate.notAfterMs)).toBe('revoked')
})

test('a stronger proof does where a weaker one is required, never the other way round', () => {
  const kinds = ['admission', 'login', 'certificate'] as const
  const table = kinds.map((proved) => kinds.map((required) => suffices(proved, required)))
  expect(table).toEqual([
    [true, false, false],
    [true, true, false],
    [true, true, true],
  ])
})

describe('the fleet', () => {
  const terms: FleetTerms = {
    policy: 'all',
    namingAuthority: namingAuthorityDefault,
    assignment: { image: 'debian', version: undefined, clonePolicy: 'persistent' },
    transport: 'open',
    require: 'admission',
    demands: new Map([
      [mac, { transport: undefined, require: 'certificate' as const }],
      [other, { transport: 'strict' as const, require: undefined }],
    ]),
  }
  let count = 0
  const fleet = new Fleet(terms, new MemoryFleetStore(), (bytes) => new Uint8Array(bytes).fill(++count))

  test('what the configuration demands of a machine holds over what it says of all; a proof takes TLS', () => {
    const meet = (address: string) => fleet.meet({ mac: address, uuid: undefined, serial: undefined }, 0).machine
    expect(fleet.requiredOf(mac)).toBe('certificate')
    expect(fleet.transportOf(meet(mac))).toBe('strict')
    expect(fleet.requiredOf(other)).toBe('admission')
    expect(fleet.transportOf(meet(other))).toBe('strict')
    expect(fleet.transportOf(meet('52:54:00:77:00:12'))).toBe('open')
  })

  test('when a proof counts no more, the boots that began with it end, and no others', () => {
    const login = (account: string): Proof => ({ kind: 'login', account })
    const ann = fleet.offerCredentials(mac, 0, login('ann'))
    const bob = fleet.offerCredentials(mac, 0, login('bob'))
    fleet.credentialsUsed(mac, ann.initiator.user)
    const left = (): readonly string[] =>
      fleet.candidatesFor(targetNameOf(namingAuthorityDefault, mac), 0).map(({ bootId }) => bootId)
    expect(left()).toEqual([bob.bootId, ann.bootId])
    fleet.releaseProvedBy(mac, (proof) => proof.kind === 'login' && proof.account === 'ann')
    expect(left()).toEqual([bob.bootId])
    expect(fleet.endOf(mac, ann.bootId)).toBe('released')
    expect(fleet.endOf(mac, bob.bootId)).toBeUndefined()
  })
})

describe('accounts', () => {
  test.each([
    ['ann', 'ann'],
    ['J.Doe', 'j.doe'],
    ['', undefined],
    ['-ann', undefined],
    ['ann smith', undefined],
    ['a'.repeat(33), undefined],
    [`\${mac}`, undefined],
    ['ann\n', undefined],
  ])('%j is called %s', (text, name) => {
    expect(accountName(text)).toBe(name)
  })

  test.each([
    ['tiny', 'shorter than 8'],
    ['x'.repeat(64), 'longer than the 63'],
    ['pässwörter', 'no key for'],
    ['tab\there-is', 'no key for'],
    [`a \${net0/ip} b`, 'takes for a setting'],
  ])('a password that nobody could type at iPXE is refused, without saying it: %j', (text, why) => {
    expect(() => checkPassword(new Secret(text))).toThrow(why)
    expect(() => checkPassword(new Secret(text))).not.toThrow(text)
  })
})

describe('wrong passwords', () => {
  const { freeTries, firstPauseMs, pauseMsMax, forgottenMs, remembered } = signInLimits
  const ann: TriedName = { name: 'ann', exists: true }
  const bob: TriedName = { name: 'bob', exists: true }
  const nobody: TriedName = { name: 'nobody', exists: false }

  test('an address has some free tries, then pauses that double, and is as new after a quiet time', () => {
    const limit = new SignInLimit()
    let nowMs = 0
    const pauses: number[] = []
    for (let tries = 0; tries < 12; tries++) {
      const [slowed] = limit.failed('10.0.0.1', undefined, nowMs)
      pauses.push(slowed === undefined ? 0 : slowed.untilMs - nowMs)
      if (slowed === undefined) continue
      expect(limit.slowed('10.0.0.1', undefined, slowed.untilMs - 1)).toEqual(slowed)
      expect(limit.slowed('10.0.0.1', undefined, slowed.untilMs)).toBeUndefined()
      nowMs = slowed.untilMs
    }
    expect(pauses.slice(0, freeTries.address)).toEqual([0, 0, firstPauseMs])
    expect(pauses.at(-1)).toBe(pauseMsMax.address)
    expect(limit.failed('10.0.0.1', undefined, nowMs + forgottenMs + 1)).toEqual([])
  })

  test('an account is slowed from everywhere, but only after more tries than one address has', () => {
    const limit = new SignInLimit()
    const slowed = Array.from({ length: freeTries.account }, (_, i) => limit.failed(`10.0.0.${i}`, ann, 0)).flat()
    expect(slowed).toEqual([{ by: 'account', failureCount: freeTries.account, untilMs: firstPauseMs }])
    expect(limit.slowed('10.0.1.1', ann, 0)).toMatchObject({ by: 'account' })
    expect(limit.slowed('10.0.1.1', bob, 0)).toBeUndefined()
    expect(freeTries.account).toBeGreaterThan(freeTries.address)
  })

  test('a name that nobody has is slowed as one that somebody has, and a flood of such names forgets no account', () => {
    const limit = new SignInLimit()
    const pausesOf = (tried: TriedName): readonly unknown[] =>
      Array.from({ length: 20 }, (_, i) => limit.failed(`10.1.0.${i}`, tried, 0).filter(({ by }) => by === 'account'))
    expect(pausesOf(nobody)).toEqual(pausesOf(ann))
    expect(limit.slowed('10.0.1.1', nobody, 0)).toEqual(limit.slowed('10.0.1.1', ann, 0))
    for (let i = 0; i <= remembered; i++) limit.failed('10.2.0.1', { name: `n${i}`, exists: false }, 0)
    expect(limit.slowed('10.0.1.1', ann, 0)).toMatchObject({ by: 'account' })
  })

  test('who signs in has a clean record at that address, and the account keeps its own', () => {
    const limit = new SignInLimit()
    for (let tries = 0; tries < freeTries.account - 1; tries++) limit.failed('10.0.0.1', ann, 0)
    limit.succeeded('10.0.0.1')
    expect(limit.slowed('10.0.0.1', bob, 0)).toBeUndefined()
    expect(limit.failed('10.0.0.2', ann, 0)).toHaveLength(1)
  })

  test('whatever is tried by others, an address and an account that failed at nothing wait for nothing', () => {
    const address = fc.integer({ min: 0, max: 2_000 }).map((n) => `10.0.${n >> 8}.${n & 255}`)
    fc.assert(
      fc.property(
        fc.array(fc.tuple(address, fc.constantFrom(ann, bob, nobody, undefined)), { maxLength: 300 }),
        (tried) => {
          const limit = new SignInLimit()
          for (const [from, account] of tried) limit.failed(from, account, 0)
          expect(limit.slowed('192.0.2.1', { name: 'eve', exists: true }, 0)).toBeUndefined()
          expect(limit.slowed('192.0.2.1', undefined, 0)).toBeUndefined()
        },
      ),
    )
  })
})
