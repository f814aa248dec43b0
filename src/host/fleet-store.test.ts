import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { stranger } from '../fleet/admission.ts'
import { Fleet } from '../fleet/fleet.ts'
import { namingAuthorityDefault } from '../fleet/names.ts'
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
  fleet.assign(mac, { image: 'other', version: 3, clonePolicy: 'ephemeral' }, 2_000)
  const minted = fleet.offerCredentials(mac, 3_000)
  fleet.credentialsUsed(mac, minted.initiator.user)
  const machine = before.machine(mac)
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

test('the undecided machine seen longest ago makes room, and a change that fails changes nothing', () => {
  const store = openFleetStore(join(folder, 'b.db'))
  for (let i = 1; i <= 3; i++) {
    const seen = { mac: `52:54:00:00:00:0${i}`, uuid: undefined, serial: undefined }
    store.changeMachine(seen.mac, () => stranger(seen, 10_000 - i))
  }
  expect(store.undecidedCount()).toBe(3)
  store.removeStalestUndecided()
  expect(store.machines().map((machine) => machine.mac)).toEqual(['52:54:00:00:00:01', '52:54:00:00:00:02'])
  expect(() =>
    store.changeMachine('52:54:00:00:00:01', () => {
      throw new Error('no')
    }),
  ).toThrow('no')
  expect(store.machines()).toHaveLength(2)
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
