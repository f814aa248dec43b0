/** Goal: nobody gets in who has not proven itself, and everybody who has, does. Method: whole logins, and single requests. */
import { expect, test } from 'vitest'
import { createWorld, portal, targetName, testUnitReady, type World } from '../../test/simulation/iscsi.ts'
import { Secret } from '../base/secret.ts'
import { systemHash } from '../host/hash.ts'
import { chapAlgorithms, respond } from './chap.ts'
import { dataOf, headerBytes, headerOf, paddedBytes } from './header.ts'
import { encodeInitiatorPdu, type LoginRequest } from './initiator-pdu.ts'
import { chapFailuresMax, loginWithinMs, pendingLoginsMax } from './limits.ts'
import type { Authentication, IscsiEvent } from './policy.ts'
import { decodeTargetPdu } from './target-pdu.ts'
import {
  decodeText,
  encodeText,
  formatBase64,
  formatHexadecimal,
  type KeyValue,
  parseBinary,
  textValue,
} from './text.ts'

const initiator = { user: 'labuser', secret: new Secret('labsecret1234') } as const
const reverse = { user: 'labtarget', secret: new Secret('reversesecret9') } as const
const oneWay: Authentication = { kind: 'chap', initiator: [initiator] }
const mutual: Authentication = { kind: 'chap', initiator: [{ ...initiator, target: reverse }], mutualRequired: true }

const failure = (world: World): Extract<IscsiEvent, { kind: 'loginFailed' }> | undefined =>
  world.events.findLast((event) => event.kind === 'loginFailed')

test.each(chapAlgorithms.map(({ name }) => name))('CHAP with %s, one-way and mutual', async (name) => {
  for (const [authentication, target] of [
    [oneWay, undefined],
    [mutual, reverse],
  ] as const) {
    const world = await createWorld({ authentication })
    const chap = { initiator, algorithms: [name], ...(target === undefined ? {} : { target }) }
    await world.login({ chap })
    expect(world.events).toMatchObject([
      {
        kind: 'sessionOpened',
        authentication: {
          kind: 'chap',
          user: 'labuser',
          algorithm: name,
          mutual: target !== undefined,
          downgraded: name === 'md5' || name === 'sha1',
        },
      },
    ])
  }
})

test('of what the initiator offers, the strongest is taken', async () => {
  const world = await createWorld({ authentication: oneWay })
  await world.login({ chap: { initiator, algorithms: ['md5', 'sha1', 'sha3-256', 'sha256'] } })
  expect(world.events).toMatchObject([{ authentication: { algorithm: 'sha3-256', downgraded: false } }])
})

test('a wrong secret, a wrong user and no CHAP at all are refused, each with its reason', async () => {
  const world = await createWorld({ authentication: oneWay })
  const wrongSecret = { initiator: { user: 'labuser', secret: new Secret('labsecret1235') } }
  await expect(world.login({ chap: wrongSecret })).rejects.toThrow('0x0201')
  expect(failure(world)).toMatchObject({ reason: 'wrongCredentials', targetName })
  await expect(world.login({ chap: { initiator: { ...initiator, user: 'x' } } })).rejects.toThrow('0x0201')
  expect(failure(world)).toMatchObject({ reason: 'wrongCredentials' })
  await expect(world.login()).rejects.toThrow('0x0201')
  expect(failure(world)).toMatchObject({ reason: 'chapRequired' })
  expect(world.target.sessions()).toEqual([])
})

test('mutual CHAP is refused where it is not set up, and demanded where it must be', async () => {
  const without = await createWorld({ authentication: oneWay })
  await expect(without.login({ chap: { initiator, target: reverse } })).rejects.toThrow('0x0201')
  expect(failure(without)).toMatchObject({ reason: 'mutualChapNotConfigured' })
  const demanding = await createWorld({ authentication: mutual })
  await expect(demanding.login({ chap: { initiator } })).rejects.toThrow('0x0201')
  expect(failure(demanding)).toMatchObject({ reason: 'mutualChapRequired' })
})

test('an initiator notices a target that does not know the reverse secret', async () => {
  const world = await createWorld({ authentication: mutual })
  const other = { user: 'labtarget', secret: new Secret('anothersecret') }
  await expect(world.login({ chap: { initiator, target: other } })).rejects.toThrow('does not know its own secret')
})

test.each([
  ['shorter than 12 bytes', [{ user: 'labuser', secret: new Secret('elevenbytes') }]],
  ['the same in both directions', [{ ...initiator, target: { user: 't', secret: new Secret('labsecret1234') } }]],
] as const)('secrets that are %s let nobody in', async (_, credentials) => {
  const world = await createWorld({ authentication: { kind: 'chap', initiator: credentials } })
  const chap = { initiator: credentials[0] }
  await expect(world.login({ chap })).rejects.toThrow('0x0201')
  expect(failure(world)).toMatchObject({ reason: 'secretUnfit' })
})

// --- single requests

type Stage = 0 | 1 | 3
type Said = {
  readonly pairs?: readonly KeyValue[]
  readonly from?: Stage
  readonly to?: Stage
  readonly change?: Partial<LoginRequest>
  readonly text?: Uint8Array
}

const names: readonly KeyValue[] = [
  ['InitiatorName', 'iqn.2026-01.lab.client:golden'],
  ['TargetName', targetName],
]

function request({ pairs = [], from = 0, to, change, text }: Said): Uint8Array {
  return encodeInitiatorPdu(
    {
      kind: 'login',
      transit: to !== undefined,
      more: false,
      currentStage: from,
      nextStage: to ?? 0,
      versionMax: 0,
      versionMin: 0,
      isid: '400027230001',
      tsih: 0,
      initiatorTaskTag: 1,
      connectionId: 0,
      commandNumber: 1,
      expectedStatusNumber: 0,
      ...change,
    },
    text ?? encodeText(pairs),
  )
}

async function talk(world: World, address = '10.0.1.9') {
  const client = await world.raw(address)
  /** The last answer was not whole: this one begins in the middle of a pair. */
  let continues = false
  return {
    client,
    say: async (said: Said) => {
      client.received.length = 0
      client.write(request(said))
      await world.pass(20)
      const bytes = Uint8Array.from(client.received.flatMap((chunk) => [...chunk]))
      if (bytes.byteLength < headerBytes) return { status: -1, transit: false, more: false, tsih: 0, pairs: [] }
      const header = headerOf(bytes)
      expect(bytes.byteLength).toBe(headerBytes + paddedBytes(header.dataBytes))
      const pdu = decodeTargetPdu(header)
      if (pdu.kind !== 'loginResponse') throw new Error(`a ${pdu.kind} in a login`)
      const { status, transit, more, tsih } = pdu
      const pairs = more || continues ? [] : decodeText(dataOf(header))
      continues = more
      return { status, transit, more, tsih, pairs }
    },
  }
}

test('T from the first request on, as iPXE sends it, is granted when CHAP is through', async () => {
  const world = await createWorld({ authentication: mutual })
  const { say } = await talk(world)
  const first = await say({ pairs: [...names, ['AuthMethod', 'CHAP,None']], to: 1 })
  expect(first).toMatchObject({
    status: 0,
    transit: false,
    pairs: [
      ['TargetPortalGroupTag', '1'],
      ['TargetAlias', 'tiny'],
      ['AuthMethod', 'CHAP'],
    ],
  })
  const second = await say({ pairs: [['CHAP_A', '5']], to: 1 })
  expect(second.transit).toBe(false)
  const challenge = parseBinary(textValue(second.pairs, 'CHAP_C') ?? '', 1024) ?? new Uint8Array(0)
  const identifier = Number(textValue(second.pairs, 'CHAP_I'))
  const proof = respond(systemHash, { algorithm: 'md5', identifier, bytes: challenge }, initiator.secret)
  const asked = Uint8Array.from({ length: 16 }, (_, i) => i)
  const third = await say({
    pairs: [
      ['CHAP_N', 'labuser'],
      ['CHAP_R', formatHexadecimal(proof)],
      ['CHAP_I', '77'],
      ['CHAP_C', formatHexadecimal(asked)],
    ],
    to: 1,
  })
  expect(third.transit).toBe(true)
  const answer = respond(systemHash, { algorithm: 'md5', identifier: 77, bytes: asked }, reverse.secret)
  expect(third.pairs).toEqual([
    ['CHAP_N', 'labtarget'],
    ['CHAP_R', formatHexadecimal(answer)],
  ])
  const last = await say({ pairs: [['ImmediateData', 'No']], from: 1, to: 3 })
  expect(last).toMatchObject({ status: 0, transit: true })
  expect(last.tsih).not.toBe(0)
})

async function challenged(world: World, address?: string) {
  const connection = await talk(world, address)
  await connection.say({ pairs: [...names, ['AuthMethod', 'CHAP']] })
  const { pairs } = await connection.say({ pairs: [['CHAP_A', '7,5']] })
  const bytes = parseBinary(textValue(pairs, 'CHAP_C') ?? '', 1024) ?? new Uint8Array(0)
  const identifier = Number(textValue(pairs, 'CHAP_I'))
  const proof = respond(systemHash, { algorithm: 'sha256', identifier, bytes }, initiator.secret)
  return { ...connection, bytes, proof }
}

test('our own challenge, sent back on the same or on another connection, gets no proof', async () => {
  const world = await createWorld({ authentication: mutual })
  const first = await challenged(world)
  const second = await challenged(world)
  for (const [on, bytes] of [
    [first, second.bytes],
    [second, second.bytes],
  ] as const) {
    const answer = await on.say({
      pairs: [
        ['CHAP_N', 'labuser'],
        ['CHAP_R', formatHexadecimal(on.proof)],
        ['CHAP_I', '1'],
        ['CHAP_C', formatHexadecimal(bytes)],
      ],
    })
    expect(answer).toMatchObject({ status: 0x0201, pairs: [] })
    expect(failure(world)).toMatchObject({ reason: 'reflectedChallenge' })
  }
})

test('a proof that was right once is wrong for the next challenge', async () => {
  const world = await createWorld({ authentication: oneWay })
  const first = await challenged(world)
  const pairs: KeyValue[] = [
    ['CHAP_N', 'labuser'],
    ['CHAP_R', formatHexadecimal(first.proof)],
  ]
  expect(await first.say({ pairs, to: 3 })).toMatchObject({ status: 0, transit: true })
  const second = await challenged(world)
  expect(await second.say({ pairs, to: 3 })).toMatchObject({ status: 0x0201 })
})

test('an initiator that repeats its challenge from boot to boot (iPXE) logs in each time', async () => {
  const world = await createWorld({ authentication: mutual })
  for (let boot = 0; boot < 3; boot++) {
    const { say, proof } = await challenged(world)
    const answer = await say({
      pairs: [
        ['CHAP_N', 'labuser'],
        ['CHAP_R', formatHexadecimal(proof)],
        ['CHAP_I', '16'],
        ['CHAP_C', '0x185b6fc87956cd2e438f5c3708941d85'],
      ],
      to: 3,
    })
    expect(answer).toMatchObject({ status: 0, transit: true })
  }
})

test('base64 is understood and answered in base64; a challenge may have 1024 bytes and not 1025', async () => {
  const world = await createWorld({ authentication: mutual })
  for (const [bytes, status] of [
    [1024, 0],
    [1025, 0x0200],
  ] as const) {
    const { say, proof } = await challenged(world)
    const asked = new Uint8Array(bytes).fill(9)
    const answer = await say({
      pairs: [
        ['CHAP_N', 'labuser'],
        ['CHAP_R', formatBase64(proof)],
        ['CHAP_I', '3'],
        ['CHAP_C', formatBase64(asked)],
      ],
      to: 3,
    })
    expect(answer.status).toBe(status)
    if (status !== 0) continue
    const wanted = respond(systemHash, { algorithm: 'sha256', identifier: 3, bytes: asked }, reverse.secret)
    expect(textValue(answer.pairs, 'CHAP_R')).toBe(formatBase64(wanted))
  }
})

test('text may come in many requests (C bit)', async () => {
  const world = await createWorld()
  const { say } = await talk(world)
  const text = encodeText([...names, ['AuthMethod', 'None']])
  const pieceBytes = 9
  const last = Math.floor((text.byteLength - 1) / pieceBytes) * pieceBytes
  for (let at = 0; at < last; at += pieceBytes) {
    const piece = { text: text.subarray(at, at + pieceBytes), change: { more: true } }
    expect(await say(piece)).toMatchObject({ status: 0, transit: false, pairs: [] })
  }
  expect(await say({ text: text.subarray(last), to: 3 })).toMatchObject({ status: 0, transit: true })
})

test('an answer that does not fit one PDU comes in several, and T with the last', async () => {
  const world = await createWorld()
  const { say } = await talk(world)
  await say({ pairs: [...names, ['AuthMethod', 'None']], to: 1 })
  const unknown = Array.from(
    { length: 120 },
    (_, i): KeyValue => [`X-${'k'.repeat(55)}${String(i).padStart(4, '0')}`, ''],
  )
  const text = encodeText(unknown)
  await say({ from: 1, text: text.subarray(0, 6_000), change: { more: true } })
  const first = await say({ from: 1, to: 3, text: text.subarray(6_000) })
  expect(first).toMatchObject({ status: 0, transit: false, more: true })
  const second = await say({ from: 1, to: 3 })
  expect(second).toMatchObject({ status: 0, transit: true, more: false })
})

const wrong: readonly (readonly [string, readonly Said[], number])[] = [
  ['no InitiatorName', [{ pairs: [['TargetName', targetName]] }], 0x0207],
  ['no TargetName', [{ pairs: [['InitiatorName', 'iqn.a:b']] }], 0x0207],
  ['a SessionType nobody knows', [{ pairs: [...names, ['SessionType', 'Other']] }], 0x0209],
  [
    'another target',
    [
      {
        pairs: [
          ['InitiatorName', 'iqn.a:b'],
          ['TargetName', 'iqn.2026-01.lab.boot:other'],
        ],
      },
    ],
    0x0203,
  ],
  ['a later version', [{ pairs: names, change: { versionMin: 1 } }], 0x0205],
  ['T and C at once', [{ pairs: names, to: 1, change: { more: true } }], 0x0200],
  ['a stage that is none', [{ pairs: names, change: { currentStage: 2 } }], 0x0200],
  ['a step back', [{ pairs: names, from: 1, change: { transit: true, nextStage: 0 } }], 0x0200],
  ['a key twice', [{ pairs: [...names, ['TargetName', 'x']] }], 0x0200],
  [
    'a key offered again later',
    [
      { pairs: names, to: 1 },
      { pairs: names, from: 1 },
    ],
    0x0200,
  ],
  ['text without an end', [{ text: new TextEncoder().encode('InitiatorName=iqn.a:b') }], 0x0200],
  ['text that is none', [{ text: Uint8Array.of(0xff, 0x3d, 0x41, 0) }], 0x0200],
  [
    'another ISID half-way',
    [
      { pairs: names, to: 1 },
      { from: 1, change: { isid: '400027230002' } },
    ],
    0x0200,
  ],
  ['the wrong stage', [{ pairs: names, to: 1 }, { from: 0 }], 0x0200],
  ['a session that is not there', [{ pairs: names, to: 3, change: { tsih: 7 } }], 0x020a],
]

test.each(wrong)('a login with %s is refused with the right status', async (_, sayings, status) => {
  const world = await createWorld()
  const { say, client } = await talk(world)
  let last = { status: -1 }
  for (const said of sayings) last = await say(said)
  expect(last.status).toBe(status)
  await world.pass(3_000)
  expect(client.isClosed()).toBe(true)
  expect(world.target.sessions()).toEqual([])
  expect(failure(world)).toBeDefined()
})

test('a second connection for a session is refused; the same connection again takes its place', async () => {
  const world = await createWorld()
  const first = await talk(world)
  const { tsih } = await first.say({ pairs: names, to: 3 })
  const second = await talk(world)
  expect(await second.say({ pairs: names, to: 3, change: { tsih, connectionId: 1 } })).toMatchObject({ status: 0x0206 })
  expect(world.target.sessions().length).toBe(1)
  const third = await talk(world)
  expect(await third.say({ pairs: names, to: 3, change: { tsih } })).toMatchObject({ status: 0, tsih })
  await world.pass(3_000)
  expect(first.client.isClosed()).toBe(true)
  expect(world.target.sessions().length).toBe(1)
})

test('a login is sent elsewhere, for now or for good, and our initiator follows', async () => {
  const there = await createWorld()
  for (const permanent of [false, true]) {
    const world = await createWorld({
      directory: {
        resolve: () => ({ kind: 'redirect', to: { address: '10.0.0.2', port: 3261, group: 1 }, permanent }),
      },
    })
    const { say } = await talk(world)
    expect(await say({ pairs: names, to: 3 })).toEqual({
      status: permanent ? 0x0102 : 0x0101,
      transit: false,
      more: false,
      tsih: 0,
      pairs: [['TargetAddress', '10.0.0.2:3261,1']],
    })
    expect(failure(world)).toMatchObject({ reason: 'redirected' })
  }
  const moving = await createWorld({
    directory: {
      resolve: (attempt) =>
        attempt.local.port === portal.port
          ? { kind: 'redirect', to: { address: '10.0.0.1', port: 3261 }, permanent: false }
          : { kind: 'refuse', reason: 'unavailable' },
    },
  })
  await moving.target.listen({ address: '10.0.0.1', port: 3261 })
  await expect(moving.login()).rejects.toThrow('0x0301')
  await there.login()
})

test('ten wrong secrets slow their address down, are reported, and slow nobody else', async () => {
  const world = await createWorld({ authentication: oneWay })
  const guess = async (address: string) => {
    const { say, proof } = await challenged(world, address)
    proof[0] = (proof[0] ?? 0) ^ 1
    const pairs: KeyValue[] = [
      ['CHAP_N', 'labuser'],
      ['CHAP_R', formatHexadecimal(proof)],
    ]
    return (await say({ pairs, to: 3 })).status
  }
  for (let i = 0; i < chapFailuresMax; i++) expect(await guess('10.0.1.66')).toBe(0x0201)
  expect(world.events.filter(({ kind }) => kind === 'addressSlowed').length).toBe(1)
  expect(await guess('10.0.1.66')).toBe(-1)
  const { say, proof } = await challenged(world, '10.0.1.9')
  const pairs: KeyValue[] = [
    ['CHAP_N', 'labuser'],
    ['CHAP_R', formatHexadecimal(proof)],
  ]
  expect(await say({ pairs, to: 3 })).toMatchObject({ status: 0, transit: true })
  // The slowed one gets its answer, later; and after a while all is forgotten.
  await world.pass(10_000)
  expect(world.events.filter((event) => event.kind === 'loginFailed').length).toBe(chapFailuresMax + 1)
  await world.pass(700_000)
  expect(await guess('10.0.1.66')).toBe(0x0201)
})

test('a login that is never finished ends in time', async () => {
  const world = await createWorld()
  const silent = await world.raw()
  const { client } = await talk(world)
  client.write(request({ pairs: names }).subarray(0, 50))
  await world.pass(loginWithinMs - 2_000)
  expect([silent.isClosed(), client.isClosed()]).toEqual([false, false])
  await world.pass(4_000)
  expect([silent.isClosed(), client.isClosed()]).toEqual([true, true])
  expect(failure(world)).toMatchObject({ reason: 'timedOut' })
})

test('ten thousand half-open connections, and logins that stop half-way, hold bounded memory and delay nobody', async () => {
  const world = await createWorld()
  const unspoilt = await durationOfLogin(world)
  const half = request({ pairs: names }).subarray(0, 60)
  const first = request({ pairs: [...names, ['AuthMethod', 'None']] })
  for (let i = 0; i < 10_000; i++) {
    const client = await world.raw(`10.9.${i % 7}.1`)
    if (i % 3 > 0) client.write(i % 3 === 1 ? half : first)
    // In the middle of it all, and not only at the end.
    if (i % 2_500 === 2_499) expect(await durationOfLogin(world)).toBeLessThanOrEqual(unspoilt + 2)
  }
  await world.pass(10)
  // Each of both ends; what is past the limit has made room.
  expect(world.network.openCount).toBeLessThan(2 * (pendingLoginsMax + 100))
  await world.pass(2 * loginWithinMs)
  expect(world.network.openCount, 'and the rest is gone in time').toBeLessThan(20)
})

async function durationOfLogin(world: World): Promise<number> {
  const begunMs = world.clock.nowMs()
  const session = await world.login()
  const result = await world.wait(session.command({ cdb: testUnitReady }))
  expect(result.status).toBe(2)
  const durationMs = world.clock.nowMs() - begunMs
  session.destroy()
  return durationMs
}
