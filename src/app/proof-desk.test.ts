/**
 * Goal: a password is looked at no more often than the limit says, however many ask at once; and what is answered is true when
 * it is answered. Method: the desk alone, with passwords whose verification takes as long as the test wants.
 */
import { expect, test } from 'vitest'
import { Secret } from '../base/secret.ts'
import { signInLimits } from '../fleet/limits.ts'
import { openFleetStore } from '../host/fleet-store.ts'
import { createLog } from '../host/log.ts'
import type { HttpRequest } from '../http/policy.ts'
import type { Happening } from '../journal/events.ts'
import { Journal } from '../journal/journal.ts'
import { forgetfulJournalStore } from '../journal/store.ts'
import type { Clock } from '../ports/clock.ts'
import type { PeerCertificate } from '../ports/tcp.ts'
import { EventStream } from './event-stream.ts'
import { ProofDesk, type SignIn } from './proof-desk.ts'

const mac = '52:54:00:77:00:10'
const kept = new Secret('kept')
const request: HttpRequest = {
  from: { address: '192.0.2.66', port: 1 },
  local: { address: '192.0.2.1', port: 443 },
  secure: true,
  certificate: undefined,
  method: 'GET',
  path: '',
  query: new Map(),
  headers: new Map(),
  body: new Uint8Array(0),
}

/** `verifying` is called while a password is looked at. */
function makeDesk(verifying: () => boolean = () => false) {
  let nowMs = 0
  const clock: Clock = { nowMs: () => nowMs, wallMs: () => nowMs, after: () => ({ cancel: () => {} }) }
  const { proofs } = openFleetStore(':memory:')
  proofs.putAccount({ name: 'ann', password: kept, madeMs: 0 })
  let verified = 0
  const passwords = {
    hash: async (): Promise<Secret> => new Secret('decoy'),
    verify: async (): Promise<boolean> => {
      verified++
      await new Promise((resolve) => setImmediate(resolve))
      return verifying()
    },
  }
  const journal = new Journal(forgetfulJournalStore, () => nowMs)
  const happened: Happening[] = []
  journal.subscribe((event) => happened.push(event))
  const events = new EventStream(journal, clock, createLog('silent'), () => undefined)
  const desk = new ProofDesk({ proofs, passwords, events, clock })
  const signIn = (from: string, name: string): Promise<SignIn> =>
    desk.signIn(mac, {
      ...request,
      from: { address: from, port: 1 },
      headers: new Map([['authorization', `Basic ${btoa(`${name}:guess`)}`]]),
    })
  const show = (certificate: PeerCertificate): string => desk.certificate(mac, { ...request, certificate }).kind
  return { proofs, happened, show, signIn, verifiedCount: () => verified, wait: (ms: number) => (nowMs += ms) }
}

test('many addresses at once have no more passwords of an account looked at than one after the other', async () => {
  const { signIn, verifiedCount, wait } = makeDesk()
  let count = 0
  const fromMany = () => Promise.all(Array.from({ length: 32 }, () => signIn(`10.0.0.${count++}`, 'ann')))
  const answers = await fromMany()
  expect(verifiedCount()).toBe(signInLimits.freeTries.account)
  const slowed = answers.filter((answer) => answer.kind === 'refused' && answer.trouble.kind === 'slowed')
  expect(slowed).toHaveLength(32 - signInLimits.freeTries.account)
  wait(signInLimits.firstPauseMs)
  await fromMany()
  expect(verifiedCount()).toBe(signInLimits.freeTries.account + 1)
})

test('what is answered does not tell whether there is an account of that name, and no such name is told in an event', async () => {
  const { signIn, happened } = makeDesk()
  const answersFor = async (name: string): Promise<readonly SignIn[]> => {
    const answers: SignIn[] = []
    for (let i = 0; i < 15; i++) answers.push(await signIn(`10.${name.length}.0.${i}`, name))
    return answers
  }
  expect(await answersFor('nobody')).toEqual(await answersFor('ann'))
  expect(JSON.stringify(happened)).not.toContain('nobody')
})

test('an account that is removed, or has another password, while a try is looked at opens nothing', async () => {
  const removed = makeDesk(() => {
    removed.proofs.removeAccount('ann')
    return true
  })
  expect(await removed.signIn('10.0.0.1', 'ann')).toEqual({ kind: 'refused', trouble: { kind: 'wrong' } })
  const changed = makeDesk(() => {
    changed.proofs.putAccount({ name: 'ann', password: new Secret('another'), madeMs: 1 })
    return true
  })
  expect(await changed.signIn('10.0.0.1', 'ann')).toEqual({ kind: 'refused', trouble: { kind: 'wrong' } })
  const untouched = makeDesk(() => true)
  expect(await untouched.signIn('10.0.0.1', 'ann')).toEqual({ kind: 'signedIn', account: 'ann' })
})

test('a certificate that was made here is good until its end, by whichever authority, and also on a connection from before', () => {
  const { proofs, happened, show, wait } = makeDesk()
  const fingerprint = 'ab'
  const noChain = { kind: 'bad', fingerprint, reason: 'UNABLE_TO_VERIFY_LEAF_SIGNATURE' } as const
  expect(show(noChain)).toBe('unfit')
  proofs.putCertificate({ fingerprint, mac, serial: '01', issuedMs: 0, notAfterMs: 1_000, revokedMs: undefined })
  expect(show(noChain)).toBe('good')
  expect(show({ kind: 'good', fingerprint })).toBe('good')
  wait(1_000)
  expect(show({ kind: 'good', fingerprint })).toBe('unfit')
  const refused = happened.filter((event) => event.kind === 'certificateRefused')
  expect(refused.map(({ detail }) => detail)).toEqual([noChain.reason, 'it has ended'])
})
