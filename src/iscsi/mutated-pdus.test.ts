/**
 * Goal: no PDU with anything wrong in it breaks a bound, leaks memory, or touches another session. Method: a million PDUs, each of a
 * conversation that is right and each with one thing changed, into connections that are at login or logged in, whole or cut. Seeded;
 * a failure says which run it was, and SLIPWAY_FUZZ_SEED goes there.
 */
import { beforeAll, expect, test } from 'vitest'
import {
  below,
  bystanderName,
  conversation,
  createHost,
  type Dice,
  FakeWire,
  loginConversation,
  logins,
  lun,
  mutated,
  operationalWays,
  pick,
  settle,
} from '../../test/simulation/iscsi-hostile.ts'
import { seededRandom } from '../base/random.ts'
import { Secret } from '../base/secret.ts'
import { Connection } from './connection.ts'
import { noTag } from './header.ts'
import { encodeInitiatorPdu } from './initiator-pdu.ts'
import { sendQueueBytesToPause } from './limits.ts'
import type { Authentication } from './policy.ts'

/** Mutated PDUs in all. SLIPWAY_FUZZ_PDUS is for longer campaigns. */
const mutatedPdus = Number(process.env['SLIPWAY_FUZZ_PDUS'] ?? 1_000_000)
/** Where a campaign begins: another seed, other PDUs. */
const fuzzSeed = Number(process.env['SLIPWAY_FUZZ_SEED'] ?? 0)

/** One PDU whole, or in two chunks cut anywhere. */
function feedOne(dice: Dice, connection: Connection, pdu: Uint8Array): void {
  if (dice() < 0.7) {
    connection.onData(pdu)
    return
  }
  const at = below(dice, pdu.byteLength + 1)
  connection.onData(pdu.slice(0, at))
  connection.onData(pdu.slice(at))
}

type Campaign = {
  readonly authentication: Authentication
  /** What comes before, as it should be. */
  readonly before: (dice: Dice) => readonly Uint8Array[]
  readonly pool: readonly (readonly Uint8Array[])[]
}

/** Feeds mutated PDUs until as many as wanted have gone into connections that were still open. Returns how many connections. */
async function attack({ authentication, before, pool }: Campaign, pduCount: number): Promise<number> {
  const { host, events, clock } = createHost(authentication)
  const good = new FakeWire()
  const bystander = new Connection(host, good)
  for (const pdu of logins('400027230099', [], bystanderName)) bystander.onData(pdu)
  let commandNumber = 1
  let fedCount = 0
  let run = 0
  for (; fedCount < pduCount; run++) {
    const dice = seededRandom(fuzzSeed + run)
    const wire = new FakeWire()
    const connection = new Connection(host, wire)
    try {
      for (const pdu of before(dice)) connection.onData(pdu)
      // The one before may still be at work; the same initiator has to wait for it.
      if (connection.session === undefined) await settle()
      for (const pdu of pick(dice, pool)) {
        if (wire.isClosed) break
        feedOne(dice, connection, mutated(dice, pdu))
        fedCount++
        if (connection.outbox.queuedBytes >= 2 * sendQueueBytesToPause) throw new Error('more is queued than may be')
      }
      connection.onClose('gone')
      if (run % 500 > 0) continue
      await settle()
      expect(host.dataOut.usedBytes).toBe(0)
      expect(host.registry.all().length).toBe(1)
      expect(host.openChallenges.size).toBe(0)
      expect(events.length).toBeLessThan(500 * 60)
      events.length = 0
      await clock.run(() => false, 10_000)
      const sentBefore = good.sentBytes
      const ping = { kind: 'nopOut', immediate: false, lun, initiatorTaskTag: 5, targetTransferTag: noTag } as const
      bystander.onData(encodeInitiatorPdu({ ...ping, commandNumber: commandNumber++, expectedStatusNumber: 1 }))
      expect(good.sentBytes - sentBefore, 'the bystander is answered').toBe(48)
    } catch (error) {
      throw new Error(`run ${fuzzSeed + run}: ${error instanceof Error ? error.stack : String(error)}`, {
        cause: error,
      })
    }
  }
  await settle()
  expect(host.memory.regionCount).toBe(0)
  return run
}

const none: Authentication = { kind: 'none' }
const chap: Authentication = {
  kind: 'chap',
  initiator: [
    {
      user: 'labuser',
      secret: new Secret('labsecret1234'),
      target: { user: 't', secret: new Secret('reversesecret9') },
    },
  ],
}

function poolOf(make: (dice: Dice) => readonly Uint8Array[]): readonly (readonly Uint8Array[])[] {
  return Array.from({ length: 256 }, (_, i) => make(seededRandom(fuzzSeed + i)))
}

// Where an error was made is of no interest here, and finding it out takes a fifth of the time.
beforeAll(() => {
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = 0
  return () => {
    Error.stackTraceLimit = stackTraceLimit
  }
})

test('mutated PDUs into logins: nothing breaks, leaks, or disturbs the session beside them', async () => {
  for (const authentication of [none, chap]) {
    await attack({ authentication, before: () => [], pool: poolOf(loginConversation) }, mutatedPdus * 0.2)
  }
}, 3_600_000)

test('mutated PDUs into sessions: nothing breaks, leaks, or disturbs the session beside them', async () => {
  const ways = operationalWays.map((operational) => logins('400027230001', operational))
  // Data that nobody asked for ends a session: most conversations have none, and live long enough to be damaged often.
  const pool = poolOf((dice) => conversation(dice, 4, dice() < 0.2))
  const connectionCount = await attack(
    { authentication: none, before: (dice) => pick(dice, ways), pool },
    mutatedPdus * 0.6,
  )
  expect(connectionCount).toBeLessThan((mutatedPdus * 0.6) / 2)
}, 3_600_000)
