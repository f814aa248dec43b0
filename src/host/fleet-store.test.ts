import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { Secret } from '../base/secret.ts'
import { stranger } from '../fleet/admission.ts'
import { Fleet } from '../fleet/fleet.ts'
import { namingAuthorityDefault } from '../fleet/names.ts'
import { openDatabase } from './database.ts'
import { openFleetStore } from './fleet-store.ts'
import { systemRandom } from './random.ts'

const folder = mkdtempSync(join(tmpdir(), 'slipway-fleet-'))
afterAll(() => rmSync(folder, { recursive: true }))
const mac = '52:54:00:77:00:10'
const assignment = { image: 'golden', version: undefined, clonePolicy: 'persistent' } as const

test('a machine and its credentials are what they were after the store was closed and opened', () => {
  const path = join(folder, 'a.db')
  const terms = { policy: 'ask', namingAuthority: namingAuthorityDefault, assignment, transport: 'auto' } as const
  const before = openFleetStore(path)
  const fleet = new Fleet(terms, before, (bytes) => systemRandom.bytes(bytes))
  fleet.meet({ mac, uuid: '33221100-5544-7766-8899-aabbccddeeff', serial: 'S1' }, 1_000)
  fleet.admit(mac, 2_000)
  fleet.loaderTold(fleet.assign(mac, { image: 'other', version: 3, clonePolicy: 'ephemeral' }, 2_000), true)
  const minted = fleet.offerCredentials(mac, 3_000)
  fleet.credentialsUsed(mac, minted.initiator.user)
  const machine = before.machine(mac)
  expect(machine?.loaderHasHttps).toBe(true)
  before.close()

  const after = openFleetStore(path)
  expect(after.machine(mac)).toEqual(machine)
  expect(after.machines()).toEqual([machine])
  const ring = after.credentials(mac)
  expect(ring.active?.bootId).toBe(minted.bootId)
  expect(ring.active?.initiator.secret.reveal()).toBe(minted.initiator.secret.reveal())
  expect(ring.active?.target.secret.reveal()).toBe(minted.target.secret.reveal())
  expect(ring.offered).toEqual([])
  after.removeMachine(mac)
  expect(after.machine(mac)).toBeUndefined()
  expect(after.credentials(mac)).toEqual({ active: undefined, offered: [] })
  after.close()
})

test('an address on the storage VLAN is kept across a restart, and goes with the machine', () => {
  const path = join(folder, 'c.db')
  const before = openFleetStore(path)
  before.changeMachine(mac, () => stranger({ mac, uuid: undefined, serial: undefined }, 1))
  expect(before.changeStorageAddress(mac, () => 7)).toBe(7)
  before.close()
  const after = openFleetStore(path)
  const seen: unknown[] = []
  const note = (known: number | undefined, taken: ReadonlySet<number>): number | undefined => {
    seen.push(known, [...taken])
    return known
  }
  expect(after.changeStorageAddress(mac, note)).toBe(7)
  expect(after.changeStorageAddress('52:54:00:77:00:11', note)).toBeUndefined()
  after.removeMachine(mac)
  after.changeStorageAddress(mac, note)
  expect(seen).toEqual([7, [7], undefined, [7], undefined, []])
  after.close()
})

test('the stranger seen longest ago makes room, and a change that fails changes nothing', () => {
  const store = openFleetStore(join(folder, 'b.db'))
  for (let i = 1; i <= 3; i++) {
    const seen = { mac: `52:54:00:00:00:0${i}`, uuid: undefined, serial: undefined }
    store.changeMachine(seen.mac, () => stranger(seen, 10_000 - i))
  }
  expect(store.undecidedCount()).toBe(3)
  expect(store.removeStalestStranger()).toBe(true)
  expect(store.machines().map((machine) => machine.mac)).toEqual(['52:54:00:00:00:01', '52:54:00:00:00:02'])
  expect(() =>
    store.changeMachine('52:54:00:00:00:01', () => {
      throw new Error('no')
    }),
  ).toThrow('no')
  expect(store.machines()).toHaveLength(2)
  store.close()
})

test('nobody makes room who is up, has a name, a disk of its own, or a certificate', () => {
  const store = openFleetStore(join(folder, 'd.db'))
  const terms = { policy: 'all', namingAuthority: namingAuthorityDefault, assignment, transport: 'auto' } as const
  const fleet = new Fleet(terms, store, (bytes) => systemRandom.bytes(bytes))
  const macs = ['up', 'booting', 'named', 'assigned', 'certified', 'stranger'].map((what, index) => {
    const seen = { mac: `52:54:00:00:01:0${index}`, uuid: undefined, serial: undefined }
    fleet.meet(seen, index)
    return [what, seen.mac] as const
  })
  const macOf = Object.fromEntries(macs)
  const nowMs = 100
  fleet.credentialsUsed(macOf['up'] ?? '', fleet.offerCredentials(macOf['up'] ?? '', nowMs).initiator.user)
  fleet.offerCredentials(macOf['booting'] ?? '', nowMs)
  store.changeMachine(macOf['named'] ?? '', (machine) => ({
    ...(machine ?? stranger({ mac, uuid: undefined, serial: undefined }, 1)),
    name: 'rack1',
  }))
  fleet.assign(macOf['assigned'] ?? '', assignment, nowMs)
  const certificate = { fingerprint: 'f', serial: '1', issuedMs: 1, notAfterMs: 2, revokedMs: undefined }
  store.proofs.putCertificate({ ...certificate, mac: macOf['certified'] ?? '' })
  for (let i = 0; store.removeStalestStranger(); i++) expect(i).toBeLessThan(macs.length)
  const kept = store.machines().map((machine) => macs.find((each) => each[1] === machine.mac)?.[0])
  expect(kept).toEqual(['up', 'named', 'assigned', 'certified'])
  expect(store.credentials(macOf['up'] ?? '').active).toBeDefined()
  store.close()
})

test('the counter of foreign changes moves when another process changes something, and not by what we do ourselves', () => {
  const path = join(folder, 'c.db')
  const [ours, theirs] = [openFleetStore(path), openFleetStore(path)]
  const before = ours.foreignChanges()
  ours.changeMachine(mac, () => stranger({ mac, uuid: undefined, serial: undefined }, 1))
  expect(ours.foreignChanges()).toBe(before)
  theirs.removeMachine(mac)
  expect(ours.foreignChanges()).not.toBe(before)
  ours.close()
  theirs.close()
})

test('a database of before there were proofs goes on: its machines, and its boots, which had proved nothing', () => {
  const path = join(folder, 'old.db')
  // As the first version made it and left it.
  const old = openDatabase(path, [
    `CREATE TABLE machine (
       mac TEXT PRIMARY KEY, name TEXT, uuid TEXT, serial TEXT,
       decision TEXT NOT NULL CHECK (decision IN ('undecided', 'admitted', 'refused')),
       rival_uuid TEXT, assignment TEXT, transport TEXT, first_seen_ms INTEGER NOT NULL, last_seen_ms INTEGER NOT NULL
     ) STRICT;
     CREATE INDEX machine_undecided ON machine (last_seen_ms) WHERE decision = 'undecided';
     CREATE TABLE credentials (mac TEXT PRIMARY KEY, ring TEXT NOT NULL) STRICT`,
  ])
  old.exec(`INSERT INTO machine VALUES ('${mac}', 'bench', NULL, NULL, 'admitted', NULL, NULL, NULL, 1, 2)`)
  const login = (user: string): object => ({ user, secret: 'S'.repeat(16) })
  const boot = { bootId: 'k3x9abcd', mac, initiatorName: 'i', targetName: 't', mintedMs: 5 }
  const ring = { active: { ...boot, initiator: login('A'), target: login('B') }, offered: [] }
  old.prepare('INSERT INTO credentials VALUES (?, ?)').run(mac, JSON.stringify(ring))
  old.close()

  const store = openFleetStore(path)
  expect(store.machine(mac)).toMatchObject({ name: 'bench', decision: 'admitted' })
  expect(store.credentials(mac).active).toMatchObject({ bootId: 'k3x9abcd', proof: { kind: 'admission' } })
  expect(store.proofs.certificates()).toEqual([])
  expect(store.proofs.accounts()).toEqual([])
  store.close()
})

test('certificates and accounts are what they were; who is forgotten has no certificate any more', () => {
  const path = join(folder, 'proofs.db')
  const before = openFleetStore(path)
  const certificate = { fingerprint: 'ab', mac, serial: '01', issuedMs: 1, notAfterMs: 2, revokedMs: undefined }
  before.proofs.putCertificate(certificate)
  before.proofs.putCertificate({ ...certificate, fingerprint: 'cd', issuedMs: 2, revokedMs: 3 })
  before.proofs.putAccount({ name: 'ann', password: new Secret('kept'), madeMs: 4 })
  before.close()

  const after = openFleetStore(path)
  const { proofs } = after
  expect(proofs.certificate('ab')).toEqual(certificate)
  expect(proofs.certificates().map(({ revokedMs }) => revokedMs)).toEqual([undefined, 3])
  expect(proofs.account('ann')).toMatchObject({ name: 'ann', madeMs: 4 })
  expect(proofs.account('ann')?.password.reveal()).toBe('kept')
  proofs.removeAccount('ann')
  expect(proofs.accounts()).toEqual([])
  after.removeMachine(mac)
  expect(proofs.certificate('ab')).toBeUndefined()
  after.close()
})
