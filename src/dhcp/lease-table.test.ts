/**
 * Goal: no address is ever two machines'. Method: a model that knows only what machines were told (who was granted what,
 * until when) runs beside the table through random requests, expiries, restarts and reservations.
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { LeaseTable, type RequestKind } from './lease-table.ts'
import { offerHoldSeconds, quarantineSeconds } from './limits.ts'
import type { StoredLease } from './policy.ts'

const from = 0xc0a84d0a
const pool = { from, to: from + 5, leaseSeconds: 600, excluded: new Set([from + 2]) }
const [alice, bob, carol] = ['02:00:00:00:00:0a', '02:00:00:00:00:0b', '02:00:00:00:00:0c'] as const

describe('one machine', () => {
  test('asking again gives the same offer, and the lease after it too', () => {
    const table = new LeaseTable(pool)
    const address = table.offer(alice, undefined, 100)
    expect(table.offer(alice, undefined, 101)).toBe(address)
    expect(table.take(alice, address ?? 0, 'selecting', 102)).toEqual({ kind: 'granted' })
    expect(table.offer(alice, undefined, 5_000)).toBe(address)
  })

  test('gets the address it wishes for when that is free', () => {
    const table = new LeaseTable(pool)
    expect(table.offer(alice, from + 4, 0)).toBe(from + 4)
    expect(table.offer(bob, from + 4, 0)).not.toBe(from + 4)
    expect(table.offer(carol, from + 2, 0)).not.toBe(from + 2)
  })

  test('an address of another machine is refused to it', () => {
    const table = new LeaseTable(pool)
    const address = table.offer(alice, undefined, 0) ?? 0
    table.take(alice, address, 'selecting', 0)
    expect(table.take(bob, address, 'selecting', 1)).toEqual({ kind: 'refused', reason: 'taken' })
    expect(table.take(bob, address, 'rebooting', 1)).toEqual({ kind: 'refused', reason: 'taken' })
  })

  test('another address than its own is refused to it', () => {
    const table = new LeaseTable(pool)
    table.take(alice, table.offer(alice, undefined, 0) ?? 0, 'selecting', 0)
    expect(table.take(alice, from + 5, 'rebooting', 1)).toEqual({ kind: 'refused', reason: 'notYours' })
  })

  test('comes back with an address from long ago: silence (RFC 2131 §4.3.2); renewing it: it keeps it', () => {
    const table = new LeaseTable(pool)
    expect(table.take(alice, from, 'rebooting', 0)).toEqual({ kind: 'unknown' })
    expect(table.take(alice, from, 'renewing', 0)).toEqual({ kind: 'granted' })
    expect(table.take(bob, from + 100, 'renewing', 0)).toEqual({ kind: 'unknown' })
  })

  test('an offer nobody takes is free again', () => {
    const table = new LeaseTable({ ...pool, to: from })
    expect(table.offer(alice, undefined, 0)).toBe(from)
    expect(table.offer(bob, undefined, offerHoldSeconds - 1)).toBeUndefined()
    expect(table.offer(bob, undefined, offerHoldSeconds)).toBe(from)
  })

  test("taking another server's offer frees ours at once", () => {
    const table = new LeaseTable({ ...pool, to: from })
    table.offer(alice, undefined, 0)
    table.withdraw(alice, 1)
    expect(table.offer(bob, undefined, 1)).toBe(from)
  })

  test('a released address comes back to the machine, or goes to another when there is no other', () => {
    const table = new LeaseTable({ ...pool, to: from + 1 })
    table.take(alice, table.offer(alice, undefined, 0) ?? 0, 'selecting', 0)
    expect(table.release(bob, from, 1)).toBe(false)
    expect(table.release(alice, from, 1)).toBe(true)
    expect(table.offer(bob, undefined, 2)).toBe(from + 1)
    expect(table.offer(alice, undefined, 2)).toBe(from)
  })

  test('an address found in use is given to nobody for a while; a machine that declines all does not empty the pool', () => {
    const table = new LeaseTable({ ...pool, to: from + 7, excluded: new Set() })
    const first = table.offer(alice, undefined, 0) ?? 0
    table.take(alice, first, 'selecting', 0)
    expect(table.decline(bob, first, 0)).toBe(false)
    expect(table.decline(alice, first, 0)).toBe(true)
    for (let i = 0; i < 20; i++) {
      const address = table.offer(alice, first, i) ?? 0
      expect(address).not.toBe(first)
      if (i === 0) continue
      table.take(alice, address, 'selecting', i)
    }
    expect([...table.leases()].filter(({ kind }) => kind === 'declined')).toHaveLength(1)
    expect(table.offer(bob, first, quarantineSeconds)).toBe(first)
    for (let i = 0; i < 20; i++) {
      const address = table.offer(carol, undefined, i) ?? 0
      table.take(carol, address, 'selecting', i)
      table.decline(carol, address, i)
    }
    expect([...table.leases()].filter(({ kind }) => kind === 'declined')).toHaveLength(2)
  })
})

describe('reservations', () => {
  test("a reserved address is its machine's alone, also outside the pool", () => {
    const table = new LeaseTable({ ...pool, to: from + 1 })
    table.reserve(carol, from)
    table.reserve(bob, from + 50)
    expect(table.offer(alice, from, 0)).toBe(from + 1)
    expect(table.offer(carol, undefined, 0)).toBe(from)
    expect(table.offer(bob, undefined, 0)).toBe(from + 50)
    expect(table.take(alice, from, 'selecting', 0)).toEqual({ kind: 'refused', reason: 'taken' })
    expect(table.take(bob, from + 50, 'selecting', 0)).toEqual({ kind: 'granted' })
  })

  test('a lease that stands is let run out before the address changes hands', () => {
    const table = new LeaseTable(pool)
    table.take(alice, from, 'renewing', 0)
    table.reserve(bob, from)
    expect(table.take(alice, from, 'renewing', 10)).toEqual({ kind: 'granted' })
    expect(table.offer(bob, undefined, 10)).not.toBe(from)
    expect(table.offer(bob, undefined, 700)).toBe(from)
    expect(table.take(alice, from, 'renewing', 700)).toEqual({ kind: 'refused', reason: 'taken' })
  })
})

test('the address a machine had before one was reserved for it stays its own until the lease runs out', () => {
  const table = new LeaseTable({ ...pool, to: from })
  table.take(alice, from, 'renewing', 0)
  table.reserve(alice, from + 9)
  expect(table.offer(alice, undefined, 10)).toBe(from + 9)
  expect(table.take(alice, from + 9, 'selecting', 10)).toEqual({ kind: 'granted' })
  expect(table.offer(bob, undefined, 20)).toBeUndefined()
  expect(table.offer(bob, undefined, 700)).toBe(from)
})

describe('restart', () => {
  test('leases come back; those of addresses that are not ours any more do not', () => {
    const table = new LeaseTable(pool)
    table.restore(
      [
        { kind: 'bound', mac: alice, address: from, expiresAtSeconds: 500 },
        { kind: 'declined', mac: bob, address: from + 1, expiresAtSeconds: 500 },
        { kind: 'bound', mac: carol, address: from + 77, expiresAtSeconds: 500 },
        { kind: 'bound', mac: bob, address: from + 3, expiresAtSeconds: 99 },
      ],
      100,
    )
    expect(table.take(bob, from, 'rebooting', 100)).toEqual({ kind: 'refused', reason: 'taken' })
    expect(table.take(alice, from, 'rebooting', 100)).toEqual({ kind: 'granted' })
    expect(table.offer(carol, from + 1, 100)).not.toBe(from + 1)
    expect(table.offer(bob, undefined, 100)).toBe(from + 3)
  })
})

const machines = Array.from({ length: 9 }, (_, index) => `02:00:00:00:00:0${index}`)
type Action =
  | { readonly kind: 'discover'; readonly mac: string; readonly wish: number | undefined }
  | { readonly kind: 'request'; readonly mac: string; readonly address: number | undefined; readonly how: RequestKind }
  | {
      readonly kind: 'decline' | 'release' | 'withdraw' | 'reserve' | 'unreserve'
      readonly mac: string
      readonly address: number
    }
  | { readonly kind: 'wait'; readonly seconds: number }
  | { readonly kind: 'restart' }

const mac = fc.constantFrom(...machines)
const address = fc.integer({ min: from - 1, max: from + 8 })
const action: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({ kind: fc.constant('discover' as const), mac, wish: fc.option(address, { nil: undefined }) }),
  },
  {
    weight: 8,
    arbitrary: fc.record({
      kind: fc.constant('request' as const),
      mac,
      // Mostly what was offered.
      address: fc.option(address, { nil: undefined, freq: 3 }),
      how: fc.constantFrom('selecting', 'rebooting', 'renewing'),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constantFrom('decline', 'release', 'withdraw', 'reserve', 'unreserve'),
      mac,
      address,
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constant('wait' as const), seconds: fc.constantFrom(1, 59, 300, 601, 3_600) }),
  },
  { weight: 1, arbitrary: fc.constant({ kind: 'restart' as const }) },
)

test("no address is ever two machines', whatever they ask and however often we restart", () => {
  fc.assert(
    fc.property(fc.array(action, { maxLength: 80 }), (actions) => {
      let table = new LeaseTable(pool)
      let nowSeconds = 1_000
      const kept: StoredLease[] = []
      const reservations = new Map<string, number>()
      const granted = new Map<number, { mac: string; untilSeconds: number }>()
      const offers = new Map<string, number>()
      for (const a of actions) {
        if (a.kind === 'wait') nowSeconds += a.seconds
        else if (a.kind === 'restart') {
          table = new LeaseTable(pool)
          for (const [owner, reserved] of reservations) table.reserve(owner, reserved)
          table.restore(kept, nowSeconds)
        } else if (a.kind === 'discover') {
          const offered = table.offer(a.mac, a.wish, nowSeconds)
          if (offered === undefined) continue
          offers.set(a.mac, offered)
          const holder = granted.get(offered)
          if (holder !== undefined && holder.untilSeconds > nowSeconds) expect(holder.mac).toBe(a.mac)
        } else if (a.kind === 'request') {
          const wanted = a.address ?? offers.get(a.mac) ?? from
          const { kind } = table.take(a.mac, wanted, a.how, nowSeconds)
          if (kind !== 'granted') continue
          const holder = granted.get(wanted)
          if (holder !== undefined && holder.untilSeconds > nowSeconds) expect(holder.mac).toBe(a.mac)
          granted.set(wanted, { mac: a.mac, untilSeconds: nowSeconds + pool.leaseSeconds })
        } else if (a.kind === 'reserve') {
          for (const [owner, reserved] of reservations) if (reserved === a.address) reservations.delete(owner)
          reservations.set(a.mac, a.address)
          table.reserve(a.mac, a.address)
        } else if (a.kind === 'unreserve') {
          reservations.delete(a.mac)
          table.unreserve(a.mac)
        } else if (a.kind === 'withdraw') table.withdraw(a.mac, nowSeconds)
        else if (table[a.kind](a.mac, a.address, nowSeconds)) granted.delete(a.address)
        kept.push(...table.takeChanges())
        const inUse = [...table.leases()].map(({ address }) => address)
        expect(new Set(inUse).size).toBe(inUse.length)
      }
    }),
    { numRuns: 2_000 },
  )
})

test('a pool is never larger in memory than its addresses, however many machines ask', () => {
  const table = new LeaseTable(pool)
  for (let i = 0; i < 20_000; i++) table.offer(`03:00:00:00:${i >> 8}:${i & 255}`, undefined, i)
  expect([...table.leases()].length).toBeLessThanOrEqual(5)
})
