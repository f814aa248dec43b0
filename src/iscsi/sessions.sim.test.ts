/**
 * Goal: what is no SCSI in full-feature phase is as RFC 7143 has it: text, pings, SNACK, logouts, asynchronous messages, and which
 * login takes whose place. Method: raw PDUs.
 */
import { expect, test } from 'vitest'
import { createWorld, initiatorName, targetName, testUnitReady, type World } from '../../test/simulation/iscsi.ts'
import { type Heard, openRaw, pduOf, RawSession } from '../../test/simulation/iscsi-raw.ts'
import { Secret } from '../base/secret.ts'
import { logoutResponse, rejectReason } from './codes.ts'
import { noTag } from './header.ts'
import type { TextResponse } from './target-pdu.ts'
import { decodeText, encodeText } from './text.ts'

const closings = (world: World): string[] =>
  world.events.flatMap((event) => (event.kind === 'sessionClosed' ? [event.end] : []))

// --- text, §11.10, §11.11

const text = (commandNumber: number, change: Parameters<typeof pduOf<'text'>>[1] = {}) =>
  pduOf('text', { commandNumber, initiatorTaskTag: 5, ...change })

function answerOf(heard: readonly Heard[]): { readonly pdu: TextResponse; readonly data: Uint8Array } {
  expect(heard).toHaveLength(1)
  const [{ pdu, data }] = heard as [Heard]
  if (pdu.kind !== 'textResponse') throw new Error(`a ${pdu.kind}`)
  return { pdu, data }
}

test('text that comes in pieces (C) is answered when it is whole, each piece with the tag for the next', async () => {
  const raw = await openRaw(await createWorld())
  const whole = encodeText([
    ['SendTargets', ''],
    ['X-com.example.something', 'long'],
  ])
  let tag = noTag
  for (let at = 0; at < whole.byteLength; at += 10) {
    const isLast = at + 10 >= whole.byteLength
    const request = text(2 + at / 10, { final: isLast, more: !isLast, targetTransferTag: tag })
    const { pdu, data } = answerOf(await raw.say(request, whole.subarray(at, at + 10)))
    expect(pdu).toMatchObject({ final: isLast, more: false, initiatorTaskTag: 5 })
    tag = pdu.targetTransferTag
    expect(tag === noTag).toBe(isLast)
    if (isLast) {
      expect(decodeText(data)).toEqual([
        ['X-com.example.something', 'NotUnderstood'],
        ['TargetName', targetName],
        ['TargetAddress', '10.0.0.1:3260,1'],
      ])
    } else expect(data.byteLength).toBe(0)
  }
})

test('a request without F is never answered with F, and a new one without our tag begins anew', async () => {
  const raw = await openRaw(await createWorld())
  const first = answerOf(await raw.say(text(2, { final: false }), encodeText([['X-a', '1']])))
  expect(first.pdu).toMatchObject({ final: false, more: false })
  expect(decodeText(first.data)).toEqual([['X-a', 'NotUnderstood']])
  const second = await raw.say(text(3, { targetTransferTag: first.pdu.targetTransferTag }), encodeText([['X-b', '1']]))
  expect(answerOf(second).pdu).toMatchObject({ final: true, targetTransferTag: noTag })
  const { pdu } = answerOf(await raw.say(text(4, { final: false, more: true }), new TextEncoder().encode('Send')))
  const fresh = answerOf(await raw.say(text(5), encodeText([['X-c', '1']])))
  expect(decodeText(fresh.data)).toEqual([['X-c', 'NotUnderstood']])
  const [stale] = await raw.say(text(6, { targetTransferTag: pdu.targetTransferTag }))
  expect(stale?.pdu).toMatchObject({ kind: 'reject', reason: rejectReason.invalidPduField })
})

test('bad text is rejected and changes nothing: no pairs, F and C together, the tag of another sequence', async () => {
  const raw = await openRaw(await createWorld())
  const reject = async (heard: Promise<Heard[]>): Promise<unknown> => (await heard)[0]?.pdu
  const nonsense = new TextEncoder().encode('nonsense')
  expect(await reject(raw.say(text(2), nonsense))).toMatchObject({ reason: rejectReason.protocolError })
  expect(await reject(raw.say(text(3, { more: true })))).toMatchObject({ reason: rejectReason.protocolError })
  const { pdu } = answerOf(await raw.say(text(4, { final: false }), encodeText([['X-a', '1']])))
  const other = text(5, { initiatorTaskTag: 6, targetTransferTag: pdu.targetTransferTag })
  expect(await reject(raw.say(other))).toMatchObject({ reason: rejectReason.invalidPduField })
  expect(answerOf(await raw.say(text(6), encodeText([['X-a', '1']]))).pdu.final).toBe(true)
})

test('what an initiator can receive may change in full-feature phase; what was settled at login may not', async () => {
  const raw = await openRaw(await createWorld())
  const offers = encodeText([
    ['MaxRecvDataSegmentLength', '512'],
    ['MaxBurstLength', '512'],
    ['InitialR2T', 'No'],
    ['AuthMethod', 'None'],
  ])
  const { data } = answerOf(await raw.say(text(2), offers))
  expect(decodeText(data).map(([key, value]) => `${key}=${value}`)).toEqual([
    'MaxBurstLength=Reject',
    'InitialR2T=Reject',
    'AuthMethod=Reject',
  ])
  const ping = await raw.say(pduOf('nopOut', { commandNumber: 3, initiatorTaskTag: 9 }), new Uint8Array(600))
  expect(ping[0]?.data.byteLength, 'no more than it can receive').toBe(512)
})

// --- NOP, §11.18, §11.19

test('pings go both ways: ours has a tag of ours and wants no answer to stay, its answer gets none', async () => {
  const world = await createWorld()
  const raw = await openRaw(world)
  const [ours] = await raw.hear(45_000)
  if (ours?.pdu.kind !== 'nopIn') throw new Error('no ping')
  const { targetTransferTag } = ours.pdu
  expect(ours.pdu).toMatchObject({ initiatorTaskTag: noTag })
  expect(targetTransferTag).not.toBe(noTag)
  const answer = pduOf('nopOut', { immediate: true, initiatorTaskTag: noTag, targetTransferTag, commandNumber: 2 })
  expect(await raw.say(answer)).toEqual([])
  const [echo] = await raw.say(pduOf('nopOut', { commandNumber: 2, initiatorTaskTag: 9 }), Uint8Array.of(1, 2, 3))
  expect(echo?.pdu).toMatchObject({
    kind: 'nopIn',
    initiatorTaskTag: 9,
    targetTransferTag: noTag,
    expectedCommandNumber: 3,
  })
  expect(echo?.data).toEqual(Uint8Array.of(1, 2, 3))
})

// --- what we do not do, §11.16, §11.17

test('SNACK, unknown PDUs and a second login are refused, each with its reason and the header that was refused', async () => {
  const world = await createWorld()
  const raw = await openRaw(world)
  const snack = pduOf('snack', { initiatorTaskTag: 5, type: 1, begin: 3, runLength: 2 })
  const [refused] = await raw.say(snack)
  expect(refused?.pdu).toMatchObject({ kind: 'reject', reason: rejectReason.snackRejected })
  expect([refused?.data[0], refused?.data[1], refused?.data[43], refused?.data[47]]).toEqual([0x10, 0x81, 3, 2])
  const unknown = new Uint8Array(48)
  unknown[0] = 0x1e
  unknown[20] = 0x77
  raw.sendBytes(unknown)
  const [odd] = await raw.hear()
  expect(odd?.pdu).toMatchObject({ kind: 'reject', reason: rejectReason.commandNotSupported })
  expect(odd?.data).toEqual(unknown)
  const [login] = await raw.say(pduOf('login', { initiatorTaskTag: 6 }))
  expect(login?.pdu).toMatchObject({ kind: 'reject', reason: rejectReason.protocolError })
  await raw.hear(3_000)
  expect(raw.isClosed).toBe(true)
  expect(closings(world)).toEqual(['protocolError'])
})

// --- logout, §11.14, §11.15

test.each([
  ['the session', 0, 0, logoutResponse.success],
  ['this connection', 1, 0, logoutResponse.success],
  ['another connection', 1, 7, logoutResponse.connectionMissing],
  ['a connection to be recovered', 2, 0, logoutResponse.recoveryNotSupported],
] as const)('logging out of %s', async (_, reason, connectionId, response) => {
  const world = await createWorld()
  const raw = await openRaw(world)
  const logout = pduOf('logout', { commandNumber: 2, initiatorTaskTag: 5, reason, connectionId })
  const [answer] = await raw.say(logout)
  expect(answer?.pdu).toMatchObject({ kind: 'logoutResponse', response, initiatorTaskTag: 5, timeToWaitSeconds: 2 })
  await raw.hear(3_000)
  const ends = response === logoutResponse.success
  expect(raw.isClosed).toBe(ends)
  expect(closings(world)).toEqual(ends ? ['logout'] : [])
})

test('a logout for no known reason is rejected; one that is not at its turn waits', async () => {
  const world = await createWorld()
  const raw = await openRaw(world)
  const [rejected] = await raw.say(pduOf('logout', { commandNumber: 2, reason: 3 }))
  expect(rejected?.pdu).toMatchObject({ kind: 'reject', reason: rejectReason.invalidPduField })
  expect(await raw.say(pduOf('logout', { commandNumber: 4 }))).toEqual([])
  const heard = await raw.say(pduOf('scsiCommand', { commandNumber: 3, initiatorTaskTag: 8 }))
  expect(heard.map(({ pdu }) => pdu.kind)).toEqual(['scsiResponse', 'logoutResponse'])
})

// --- asynchronous messages, §11.9

test('stopping: asks for a logout with the time that is left, then drops the session and says so', async () => {
  const world = await createWorld()
  const raw = await openRaw(world)
  const closing = world.target.close(3_000)
  const [asked] = await raw.hear(1_000)
  // Parameter 3 is the time in which the initiator should log out; event 1.
  expect(asked?.pdu).toMatchObject({ kind: 'asyncMessage', event: 1, parameters: [0, 0, 3], lun: new Uint8Array(8) })
  const [dropped] = await raw.hear(3_000)
  // Event 3: CID, Time2Wait, Time2Retain.
  expect(dropped?.pdu).toMatchObject({ kind: 'asyncMessage', event: 3, parameters: [0, 2, 0] })
  await world.wait(closing)
  expect(closings(world)).toEqual(['shutdown'])
})

test('stopping ends at once when the initiator logs out as it was asked to', async () => {
  const world = await createWorld()
  const raw = await openRaw(world)
  const begunMs = world.clock.nowMs()
  const closing = world.target.close(60_000)
  await raw.hear(100)
  await raw.say(pduOf('logout', { commandNumber: 2 }))
  raw.destroy()
  await world.wait(closing)
  expect(world.clock.nowMs() - begunMs).toBeLessThan(5_000)
  expect(closings(world)).toEqual(['logout'])
})

// --- which session it is, §4.4.3, §6.3.4, §6.3.5

test('the same name and ISID with TSIH 0 takes the place of the session: the old one is told, its commands are gone', async () => {
  const world = await createWorld()
  const first = await openRaw(world)
  const second = await RawSession.open(world)
  expect(second.login).toMatchObject({ status: 0 })
  expect(second.login.tsih).not.toBe(0)
  expect((await first.hear(3_000)).map(({ pdu }) => pdu)).toMatchObject([{ kind: 'asyncMessage', event: 3 }])
  expect(first.isClosed).toBe(true)
  expect(closings(world)).toEqual(['reinstated'])
  expect(world.target.sessions()).toHaveLength(1)
})

test('the same TSIH and CID takes the place of the connection, and the session keeps its handle', async () => {
  const world = await createWorld()
  const first = await openRaw(world, { connectionId: 3 })
  const { tsih } = first.login
  const again = await RawSession.open(world, { connectionId: 3, tsih })
  expect(again.login).toMatchObject({ status: 0, tsih })
  await first.hear(3_000)
  expect(first.isClosed).toBe(true)
  expect(world.target.sessions()).toHaveLength(1)
})

test('what does not fit a session is refused: another CID, another ISID or name with its TSIH, a TSIH of nobody', async () => {
  const world = await createWorld()
  const first = await openRaw(world)
  const { tsih } = first.login
  for (const [options, status] of [
    [{ tsih, connectionId: 1 }, 0x0206],
    [{ tsih, isid: '400027230002' }, 0x020a],
    [{ tsih, initiatorName: `${initiatorName}.other` }, 0x020a],
    [{ tsih: tsih + 1 }, 0x020a],
  ] as const) {
    expect((await RawSession.open(world, options)).login.status).toBe(status)
  }
  expect(first.isClosed).toBe(false)
  expect(closings(world)).toEqual([])
})

test('two sessions of one initiator live side by side, each with its attentions, numbers and handle', async () => {
  const world = await createWorld()
  const [one, two] = [await openRaw(world), await openRaw(world, { isid: '400027230002' })]
  expect(one.login.tsih).not.toBe(two.login.tsih)
  for (const raw of [one, two]) {
    const [answer] = await raw.say(pduOf('scsiCommand', { commandNumber: 2, initiatorTaskTag: 2 }))
    expect(answer?.pdu).toMatchObject({ kind: 'scsiResponse', status: 0, expectedCommandNumber: 3 })
  }
  await one.say(pduOf('logout', { commandNumber: 3 }))
  expect(world.target.sessions()).toHaveLength(1)
  expect((await two.say(pduOf('scsiCommand', { commandNumber: 3 })))[0]?.pdu).toMatchObject({ status: 0 })
})

// --- discovery

test('discovery wants its proof too, where one is set up', async () => {
  const initiator = { user: 'labuser', secret: new Secret('labsecret1234') }
  const reverse = { user: 'labtarget', secret: new Secret('reversesecret9') }
  const world = await createWorld({
    authentication: { kind: 'chap', initiator: [{ ...initiator, target: reverse }], mutualRequired: true },
  })
  await expect(world.discover()).rejects.toThrow('0x0201')
  await expect(world.discover({ chap: { initiator } })).rejects.toThrow('0x0201')
  const wrong = { ...initiator, secret: new Secret('labsecret9999') }
  await expect(world.discover({ chap: { initiator: wrong, target: reverse } })).rejects.toThrow('0x0201')
  const session = await world.discover({ chap: { initiator, target: reverse } })
  expect(await world.wait(session.text([['SendTargets', 'All']]))).toContainEqual(['TargetName', targetName])
  expect(world.events.at(-1)).toMatchObject({ kind: 'sessionOpened', authentication: { kind: 'chap', mutual: true } })
})

test('a discovery login with a TSIH is refused: it may have none, and none of another session', async () => {
  const world = await createWorld()
  const other = await openRaw(world)
  for (const tsih of [other.login.tsih, 0x1234]) {
    expect((await RawSession.open(world, { targetName: undefined, tsih })).login.status).toBe(0x020a)
  }
  expect(world.target.sessions()).toHaveLength(1)
})

test('a directory that throws refuses the login, or lists nothing; the target goes on', async () => {
  const broken = (): never => {
    throw new Error('no catalogue')
  }
  const world = await createWorld({ directory: { discover: broken } })
  expect((await RawSession.open(world, { targetName: undefined })).login.status).toBe(0x0300)
  const raw = await openRaw(await createWorld({ directory: { list: broken } }))
  expect(decodeText(answerOf(await raw.say(text(2), encodeText([['SendTargets', '']]))).data)).toEqual([])
  expect((await RawSession.open(world)).login.status).toBe(0)
})

test('a command in a discovery session is refused and does not hold up what follows', async () => {
  const world = await createWorld()
  const raw = await RawSession.open(world, { targetName: undefined })
  const [rejected] = await raw.say(pduOf('scsiCommand', { commandNumber: 1, cdb: testUnitReady }))
  expect(rejected?.pdu).toMatchObject({ kind: 'reject', reason: rejectReason.commandNotSupported })
  const { data } = answerOf(await raw.say(text(2), encodeText([['SendTargets', 'All']])))
  expect(decodeText(data)).toContainEqual(['TargetName', targetName])
})
