import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { parseMac } from '../base/address.ts'
import { meet, stranger } from './admission.ts'
import { base32, type CredentialRing, candidates, emptyRing, mint, mintBytes, offer, use } from './credentials.ts'
import { Fleet, type FleetTerms } from './fleet.ts'
import {
  iscsiNameBytesMax,
  lastSeenStaleMs,
  offeredCredentialsMax,
  offerValidMs,
  undecidedMachinesMax,
} from './limits.ts'
import { type Identity, sameUuid, serialOf, uuidOf } from './machine.ts'
import { initiatorNameOf, macOfTargetName, namingAuthorityDefault, parseIscsiName, targetNameOf } from './names.ts'
import { admissionOnly } from './proof.ts'
import { MemoryFleetStore } from './store.ts'

const mac = '52:54:00:77:00:10'
const uuid = '00112233-4455-6677-8899-aabbccddeeff'
const otherUuid = 'deadbeef-4455-6677-8899-aabbccddeeff'
const me: Identity = { mac, uuid, serial: 'LAB 7' }

const terms: FleetTerms = {
  policy: 'ask',
  namingAuthority: namingAuthorityDefault,
  assignment: { image: 'debian', version: undefined, clonePolicy: 'ephemeral' },
  transport: 'auto',
}

/** Random enough for a test: no two alike. */
function counting(): (byteCount: number) => Uint8Array {
  let count = 0
  return (byteCount) => Uint8Array.from({ length: byteCount }, (_, index) => (index * 7 + count++ * 13) & 0xff)
}

const fleet = (more: Partial<FleetTerms> = {}, store = new MemoryFleetStore()): Fleet =>
  new Fleet({ ...terms, ...more }, store, counting())

describe('who a machine is', () => {
  test.for([
    ['00000000-0000-0000-0000-000000000000', undefined],
    ['FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF', undefined],
    ['00112233-4455-6677-8899-AABBCCDDEEFF', uuid],
    ['', undefined],
    ['not a uuid', undefined],
    [undefined, undefined],
  ] as const)('UUID %j is %j', ([text, expected]) => {
    expect(uuidOf(text)).toBe(expected)
  })

  test.for([
    '',
    '0',
    'None',
    'To be filled by O.E.M.',
    'System Serial Number',
    'a\nb',
    'x'.repeat(65),
    ' ',
  ])('serial %j is none', (text) => {
    expect(serialOf(text)).toBeUndefined()
  })

  test('firmware that turns the first fields of a UUID round is the same machine', () => {
    expect(sameUuid(uuid, '33221100-5544-7766-8899-aabbccddeeff')).toBe(true)
    expect(sameUuid(uuid, otherUuid)).toBe(false)
  })
})

// decision of a person, policy, what came: standing
const admissions: ReadonlyArray<[string, string, 'stranger' | 'same' | 'other', string]> = [
  ['undecided', 'ask', 'stranger', 'held'],
  ['undecided', 'all', 'stranger', 'admitted'],
  ['undecided', 'none', 'stranger', 'refused'],
  ['admitted', 'ask', 'same', 'admitted'],
  ['admitted', 'none', 'same', 'admitted'],
  ['admitted', 'ask', 'other', 'held'],
  ['admitted', 'none', 'other', 'held'],
  ['admitted', 'all', 'other', 'admitted'],
  ['refused', 'all', 'same', 'refused'],
  ['refused', 'ask', 'same', 'refused'],
]

test.for(admissions)('%s, with policy %s, %s: %s', ([decision, policy, who, standing]) => {
  const one = fleet({ policy: policy as FleetTerms['policy'] })
  if (who !== 'stranger') one.meet(me, 0)
  if (decision === 'admitted') one.admit(mac, 0)
  if (decision === 'refused') one.refuse(mac, 0)
  if (decision === 'admitted' && policy === 'none') one.meet(me, 0)
  expect(one.meet({ ...me, uuid: who === 'other' ? otherUuid : uuid }, 1).standing).toBe(standing)
})

describe('meeting', () => {
  test('a stranger is remembered and announced once', () => {
    const one = fleet()
    expect(one.meet(me, 5)).toMatchObject({
      standing: 'held',
      notices: [{ kind: 'firstSeen' }],
      machine: { firstSeenMs: 5 },
    })
    expect(one.meet(me, 6)).toMatchObject({ notices: [], changed: false })
    expect(one.machines()).toHaveLength(1)
  })

  test('an admitted machine boots at once from then on', () => {
    const one = fleet()
    one.meet(me, 0)
    one.admit(mac, 1)
    expect(one.meet(me, 2).standing).toBe('admitted')
  })

  test('another UUID under the same MAC is an alarm, once, and admitting accepts the new board', () => {
    const one = fleet()
    one.meet(me, 0)
    one.admit(mac, 0)
    const alarm = one.meet({ ...me, uuid: otherUuid }, 1)
    expect(alarm).toMatchObject({
      standing: 'held',
      notices: [{ kind: 'uuidChanged', known: uuid, seen: otherUuid }],
      machine: { uuid, rivalUuid: otherUuid },
    })
    expect(one.meet({ ...me, uuid: otherUuid }, 2).notices).toEqual([])
    expect(one.meet(me, 3).standing).toBe('admitted')
    one.admit(mac, 4, otherUuid)
    expect(one.meet({ ...me, uuid: otherUuid }, 5)).toMatchObject({
      standing: 'admitted',
      machine: { uuid: otherUuid },
    })
    expect(one.meet(me, 6).standing).toBe('held')
  })

  test('a stage of the boot that has no UUID (U-Boot) is the same machine, and forgets nothing', () => {
    const one = fleet()
    one.meet(me, 0)
    one.admit(mac, 0)
    expect(one.meet({ mac, uuid: undefined, serial: undefined }, 1)).toMatchObject({
      standing: 'admitted',
      notices: [],
      machine: { uuid },
    })
    expect(one.meet({ mac, uuid: '00000000-0000-0000-0000-000000000000', serial: '' }, 2).notices).toEqual([])
  })

  test('a machine of the configuration is completed by what it says first', () => {
    const one = fleet()
    one.configure({ mac, name: 'bench-3', admit: true }, 0)
    expect(one.meet(me, 1)).toMatchObject({ standing: 'admitted', machine: { name: 'bench-3', uuid, serial: 'LAB 7' } })
  })

  test('what a person refused stays refused when the configuration only names it; admit = true holds over that', () => {
    const one = fleet()
    one.configure({ mac, name: 'bench-3', admit: undefined }, 0)
    expect(one.machine(mac)?.decision).toBe('admitted')
    one.refuse(mac, 1)
    one.configure({ mac, name: 'bench-3', admit: undefined }, 2)
    expect(one.machine(mac)?.decision).toBe('refused')
    one.configure({ mac, name: 'bench-3', admit: true }, 3)
    expect(one.machine(mac)?.decision).toBe('admitted')
  })

  test('when it was last seen is written once a minute, not at every packet', () => {
    const known = stranger(me, 0)
    expect(meet('ask', known, me, lastSeenStaleMs).changed).toBe(false)
    expect(meet('ask', known, me, lastSeenStaleMs + 1)).toMatchObject({ changed: true })
  })

  test('with none, strangers leave no trace', () => {
    const one = fleet({ policy: 'none' })
    expect(one.meet(me, 0)).toMatchObject({ standing: 'refused', notices: [] })
    expect(one.machines()).toEqual([])
  })

  test('a flood of invented addresses pushes out strangers, never a machine that somebody decided about', () => {
    const one = fleet()
    one.admit(mac, 0)
    for (let i = 0; i < undecidedMachinesMax + 50; i++) {
      const invented = parseMac(`02${i.toString(16).padStart(10, '0')}`) ?? ''
      one.meet({ mac: invented, uuid: undefined, serial: undefined }, i)
    }
    expect(one.machines()).toHaveLength(undecidedMachinesMax + 1)
    expect(one.machine(mac)?.decision).toBe('admitted')
    expect(one.machine('02:00:00:00:00:00')).toBeUndefined()
  })

  test('with all, such a flood neither ends the boot of a machine that is up nor fills the store', () => {
    const one = fleet({ policy: 'all' })
    const boots: string[] = []
    for (let i = 0; i <= undecidedMachinesMax; i++) {
      const invented = parseMac(`02${i.toString(16).padStart(10, '0')}`) ?? ''
      const { standing, changed } = one.meet({ mac: invented, uuid: undefined, serial: undefined }, i)
      const isLast = i === undecidedMachinesMax
      expect({ standing, changed }).toEqual({ standing: isLast ? 'held' : 'admitted', changed: !isLast })
      if (isLast) break
      const { bootId, initiator } = one.offerCredentials(invented, i)
      one.credentialsUsed(invented, initiator.user)
      boots.push(bootId)
    }
    expect(one.machines()).toHaveLength(undecidedMachinesMax)
    expect(one.endOf('02:00:00:00:00:00', boots[0] ?? '')).toBeUndefined()
  })

  test('what another process decided meanwhile is not overwritten', () => {
    const store = new MemoryFleetStore()
    const racing = new Fleet(
      terms,
      Object.assign(Object.create(store) as MemoryFleetStore, {
        // `slipway admit` comes between our reading and our writing.
        machine: () => undefined,
        changeMachine: store.changeMachine.bind(store),
        undecidedCount: () => 0,
      }),
      counting(),
    )
    fleet({}, store).admit(mac, 0)
    expect(racing.meet(me, 1).machine.decision).toBe('admitted')
    expect(store.machine(mac)).toMatchObject({ decision: 'admitted', uuid })
  })
})

describe('names', () => {
  test.for([
    // RFC 7143 §4.2.7.4 to 6
    ['iqn.2001-04.com.example:storage:diskarrays-sn-a8675309', true],
    ['iqn.2001-04.com.example', true],
    ['eui.02004567A425678D', true],
    ['naa.52004567BA64678D', true],
    ['naa.62004567BA64678D0123456789ABCDEF', true],
    ['iqn.2001-13.com.example:x', false],
    ['iqn.2001-04.com.example:', false],
    ['iqn.2001-04.com.example:a b', false],
    ['iqn.2001-04.com.example:a_b', false],
    ['iqn.2001-04.-com:a', false],
    ['eui.02004567A425678', false],
    ['', false],
    [`iqn.2001-04.com.example:${'a'.repeat(iscsiNameBytesMax)}`, false],
  ] as const)('%s: %s', ([name, isName]) => {
    expect(parseIscsiName(name) !== undefined).toBe(isName)
  })

  test('upper case is folded, so that two spellings are one machine', () => {
    expect(parseIscsiName('IQN.2001-04.COM.Example:Disk')).toBe('iqn.2001-04.com.example:disk')
  })

  test('a machine keeps its names, and its target leads back to it', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 6, maxLength: 6 }), (bytes) => {
        const address = parseMac(Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')) ?? ''
        const name = targetNameOf(namingAuthorityDefault, address)
        expect(parseIscsiName(name)).toBe(name)
        expect(macOfTargetName(namingAuthorityDefault, name)).toBe(address)
        expect(initiatorNameOf(namingAuthorityDefault, address)).not.toBe(name)
      }),
    )
    expect(targetNameOf(namingAuthorityDefault, mac)).toBe('iqn.2026-01.internal.slipway:disk.525400770010')
    const odd = '20-80-00-02-08'
    expect(macOfTargetName(namingAuthorityDefault, targetNameOf(namingAuthorityDefault, odd))).toBe(odd)
    expect(macOfTargetName(namingAuthorityDefault, 'iqn.2026-01.internal.slipway:disk.../etc')).toBeUndefined()
    expect(macOfTargetName(namingAuthorityDefault, 'iqn.1999-01.com.evil:disk.525400770010')).toBeUndefined()
  })
})

describe('the credentials of a boot', () => {
  test('base32 is RFC 4648 §10', () => {
    const of = (text: string): string => base32(new TextEncoder().encode(text))
    expect(['', 'f', 'fo', 'foo', 'foob', 'fooba', 'foobar'].map(of)).toEqual([
      '',
      'MY',
      'MZXQ',
      'MZXW6',
      'MZXW6YQ',
      'MZXW6YTB',
      'MZXW6YTBOI',
    ])
  })

  test('are four strings that every initiator takes, all different, and hide themselves', () => {
    const boot = fleet().offerCredentials(mac, 0)
    const four = [boot.initiator.user, boot.initiator.secret.reveal(), boot.target.user, boot.target.secret.reveal()]
    for (const text of four) expect(text).toMatch(/^[A-Z2-7]{16}$/)
    expect(new Set(four).size).toBe(4)
    expect(JSON.stringify(boot)).not.toContain(boot.initiator.secret.reveal())
    expect(four.some((text) => text.toLowerCase().includes(boot.bootId))).toBe(false)
  })

  test('work from the first login until the next boot logs in, and no longer', () => {
    const one = fleet()
    const first = one.offerCredentials(mac, 0)
    expect(one.candidatesFor(first.targetName, 1).map((boot) => boot.bootId)).toEqual([first.bootId])
    expect(one.credentialsUsed(mac, first.initiator.user)).toMatchObject({
      boot: { bootId: first.bootId },
      ended: undefined,
    })
    // Linux logs in again under the same name, and after a restart of ours, and the day after.
    const nextDayMs = 86_400_000
    expect(one.candidatesFor(first.targetName, nextDayMs).map((boot) => boot.bootId)).toEqual([first.bootId])
    // Somebody asks for the script in its name: the machine that runs keeps its disk.
    const second = one.offerCredentials(mac, nextDayMs)
    expect(one.candidatesFor(first.targetName, nextDayMs).map((boot) => boot.bootId)).toEqual([
      second.bootId,
      first.bootId,
    ])
    // The machine itself boots again: the old secrets end with that login.
    expect(one.credentialsUsed(mac, second.initiator.user)).toMatchObject({
      boot: { bootId: second.bootId },
      ended: { bootId: first.bootId },
    })
    expect(one.candidatesFor(first.targetName, nextDayMs).map((boot) => boot.bootId)).toEqual([second.bootId])
    expect(one.credentialsUsed(mac, first.initiator.user)).toMatchObject({ boot: undefined })
  })

  test('outlive a restart', () => {
    const store = new MemoryFleetStore()
    const boot = fleet({}, store).offerCredentials(mac, 0)
    fleet({}, store).credentialsUsed(mac, boot.initiator.user)
    expect(fleet({}, store).candidatesFor(boot.targetName, 1e9)[0]?.initiator.secret.reveal()).toBe(
      boot.initiator.secret.reveal(),
    )
  })

  test('end when the machine is released, refused or forgotten', () => {
    for (const end of ['release', 'refuse', 'forget'] as const) {
      const one = fleet()
      const boot = one.offerCredentials(mac, 0)
      one.credentialsUsed(mac, boot.initiator.user)
      if (end === 'refuse') one.refuse(mac, 1)
      else one[end](mac)
      expect(one.candidatesFor(boot.targetName, 1)).toEqual([])
    }
  })

  test('without CHAP, the newest offer becomes the boot, so that the machine may log in again the day after', () => {
    const one = fleet()
    expect(one.loggedInUnproven(mac, 0).boot).toBeUndefined()
    const boot = one.offerCredentials(mac, 0)
    expect(one.loggedInUnproven(mac, 1).boot?.bootId).toBe(boot.bootId)
    expect(one.loggedInUnproven(mac, 86_400_000).boot?.bootId).toBe(boot.bootId)
    const next = one.offerCredentials(mac, 86_400_000)
    expect(one.loggedInUnproven(mac, 86_400_001)).toMatchObject({
      boot: { bootId: next.bootId },
      ended: { bootId: boot.bootId },
    })
  })

  test('open no other machine', () => {
    const one = fleet()
    const boot = one.offerCredentials(mac, 0)
    const other = targetNameOf(namingAuthorityDefault, '52:54:00:77:00:11')
    expect(one.candidatesFor(other, 1)).toEqual([])
    expect(one.credentialsUsed('52:54:00:77:00:11', boot.initiator.user).boot).toBeUndefined()
  })

  type Move = { readonly kind: 'offer' | 'use' | 'wait'; readonly pick: number }

  test('whatever is asked for and used, the ring is bounded, and what was used last is what works', () => {
    const move: fc.Arbitrary<Move> = fc.record({ kind: fc.constantFrom('offer', 'use', 'wait'), pick: fc.nat(9) })
    fc.assert(
      fc.property(fc.array(move, { maxLength: 60 }), (moves) => {
        const names = { initiatorName: 'i', targetName: 't' }
        const random = counting()
        let ring: CredentialRing = emptyRing
        let nowMs = 0
        const ended = new Set<string>()
        for (const { kind, pick } of moves) {
          if (kind === 'offer')
            ring = offer(ring, mint({ mac, names, proof: admissionOnly, random: random(mintBytes), nowMs }), nowMs)
          if (kind === 'wait') nowMs += (pick * offerValidMs) / 5
          if (kind === 'use') {
            const boot = candidates(ring, nowMs)[pick]
            if (boot === undefined) continue
            const used = use(ring, boot.initiator.user)
            if (used.ended !== undefined) ended.add(used.ended.initiator.user)
            ring = used.ring
            expect(ring.active?.initiator.user).toBe(boot.initiator.user)
          }
          expect(ring.offered.length).toBeLessThanOrEqual(offeredCredentialsMax)
          for (const boot of candidates(ring, nowMs)) expect(ended.has(boot.initiator.user)).toBe(false)
        }
      }),
      { numRuns: 500 },
    )
  })
})

test('an assignment of its own goes before the common one, and back', () => {
  const one = fleet()
  const machine = one.admit(mac, 0)
  expect(one.assignmentOf(machine).image).toBe('debian')
  const assigned = one.assign(mac, { image: 'fedora', version: 3, clonePolicy: 'persistent' }, 1)
  expect(one.assignmentOf(assigned)).toEqual({ image: 'fedora', version: 3, clonePolicy: 'persistent' })
  expect(one.assignmentOf(one.assign(mac, undefined, 2)).image).toBe('debian')
  expect(one.transportOf(machine)).toBe('auto')
})
