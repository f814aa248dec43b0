/**
 * Goal: we agree with bytes that others made. Method: what real initiators sent is decoded and encoded again, and sent to
 * our target with tgt's challenge in the place of a fresh one, so that the initiator's own proof must be right.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { createWorld } from '../../test/simulation/iscsi.ts'
import { Secret } from '../base/secret.ts'
import { createMemoryDevice } from '../block/memory.ts'
import { createDeviceServer } from '../scsi/device-server.ts'
import { dataOf, headerBytes, headerOf, paddedBytes } from './header.ts'
import { decodeInitiatorPdu, encodeInitiatorPdu } from './initiator-pdu.ts'
import { decodeTargetPdu, encodeTargetPdu } from './target-pdu.ts'
import { decodeText, encodeText, parseBinary, parseNumber, textValue } from './text.ts'

type Spoken = { readonly from: 'initiator' | 'target'; readonly bytes: Uint8Array }

function capture(name: string): readonly Spoken[] {
  const lines = readFileSync(join(import.meta.dirname, 'vectors', `${name}.hex`), 'utf8').split('\n')
  return lines
    .filter((line) => /^[<>] /.test(line))
    .map((line) => ({
      from: line.startsWith('>') ? 'initiator' : 'target',
      bytes: Uint8Array.from(Buffer.from(line.slice(2), 'hex')),
    }))
}

const captures = ['ipxe-2019-mutual-chap', 'ipxe-2026-chap', 'ipxe-2026-wrong-secret'] as const

test.each(captures)('every PDU of %s is the same after decoding and encoding', (name) => {
  for (const { from, bytes } of capture(name)) {
    const header = headerOf(bytes)
    const data = dataOf(header)
    if (from === 'initiator') {
      expect(Buffer.from(encodeInitiatorPdu(decodeInitiatorPdu(header), data)).toString('hex')).toBe(
        Buffer.from(bytes).toString('hex'),
      )
    } else {
      const again = new Uint8Array(headerBytes + paddedBytes(data.byteLength))
      again.set(data, headerBytes)
      encodeTargetPdu(new DataView(again.buffer), 0, decodeTargetPdu(header), data.byteLength)
      expect(Buffer.from(again).toString('hex')).toBe(Buffer.from(bytes).toString('hex'))
    }
  }
})

test.each(captures)('the text of every login of %s is the same after decoding and encoding', (name) => {
  for (const { bytes } of capture(name)) {
    const header = headerOf(bytes)
    if ((bytes[0] ?? 0) % 0x20 !== 0x03) continue
    expect(encodeText(decodeText(dataOf(header)))).toEqual(dataOf(header))
  }
})

/** What the target of the capture sent as its challenge: one byte of identifier, then the challenge. */
function challengeOf(spoken: readonly Spoken[]): Uint8Array {
  for (const { from, bytes } of spoken) {
    if (from !== 'target' || bytes[0] !== 0x23) continue
    const pairs = decodeText(dataOf(headerOf(bytes)))
    const challenge = parseBinary(textValue(pairs, 'CHAP_C') ?? '', 1024)
    if (challenge !== undefined) return Uint8Array.of(parseNumber(textValue(pairs, 'CHAP_I') ?? '') ?? 0, ...challenge)
  }
  return new Uint8Array(0)
}

const secrets = { user: 'labuser', secret: new Secret('labsecret1234') } as const
const reverse = { user: 'labtarget', secret: new Secret('reversesecret9') } as const

/** Says the initiator's part to our target; returns what our target said, PDU by PDU, and what tgt had said. */
async function replay(
  spoken: readonly Spoken[],
  options: { readonly name: string; readonly secret?: Secret },
): Promise<readonly { readonly ours: Uint8Array; readonly theirs: Uint8Array }[]> {
  const challenge = challengeOf(spoken)
  const credential = {
    ...secrets,
    target: reverse,
    ...(options.secret === undefined ? {} : { secret: options.secret }),
  }
  const world = await createWorld({
    name: options.name,
    random: { bytes: () => challenge },
    deviceServer: createDeviceServer({ targetName: options.name, disks: [disk('LUN0'), disk('LUN1')] }),
    authentication: { kind: 'chap', initiator: [credential] },
  })
  const client = await world.raw()
  const exchanges: { ours: Uint8Array; theirs: Uint8Array }[] = []
  for (const [index, { from, bytes }] of spoken.entries()) {
    if (from === 'target') continue
    client.received.length = 0
    client.write(bytes)
    await world.pass(50)
    const theirs = spoken[index + 1]
    const answer = Uint8Array.from(client.received.flatMap((chunk) => [...chunk]))
    if (theirs?.from === 'target') exchanges.push({ ours: answer, theirs: theirs.bytes })
  }
  return exchanges
}

/** tgt's disk is LUN 1. */
const disk = (serialNumber: string) => ({ device: createMemoryDevice(1024 * 1024), serialNumber })

const noBytes = new Uint8Array(48)
const textOf = (bytes: Uint8Array) => decodeText(dataOf(headerOf(bytes)))

test('iPXE of 2019 logs in to our target with mutual CHAP, and our proof is the one that tgt gave', async () => {
  const spoken = capture('ipxe-2019-mutual-chap')
  const exchanges = await replay(spoken, { name: 'iqn.2026-01.lab.boot:full' })
  const logins = exchanges.slice(0, 4)
  for (const { ours, theirs } of logins) {
    const [mine, his] = [decodeTargetPdu(headerOf(ours)), decodeTargetPdu(headerOf(theirs))]
    if (his.kind !== 'loginResponse') throw new Error('tgt answers logins')
    // The TSIH, and how far the window is open, are each target's own affair.
    expect({ ...mine, tsih: 0, maxCommandNumber: 0 }).toEqual({ ...his, tsih: 0, maxCommandNumber: 0 })
  }
  expect(textOf(logins[1]?.ours ?? noBytes)).toEqual(textOf(logins[1]?.theirs ?? noBytes))
  expect(textOf(logins[2]?.ours ?? noBytes)).toEqual(textOf(logins[2]?.theirs ?? noBytes))
  const answers = new Map(textOf(logins[3]?.ours ?? noBytes))
  for (const [key, value] of textOf(logins[3]?.theirs ?? noBytes)) {
    if (key !== 'DefaultTime2Wait') expect([key, answers.get(key)]).toEqual([key, value])
  }
  // Then TEST UNIT READY twice (the unit attention first), READ CAPACITY (10).
  const [attention, ready, capacity] = exchanges.slice(4)
  expect(dataOf(headerOf(attention?.ours ?? noBytes)).subarray(0, 16)).toEqual(
    dataOf(headerOf(attention?.theirs ?? noBytes)).subarray(0, 16),
  )
  for (const exchange of [attention, ready, capacity]) {
    const [mine, his] = [exchange?.ours, exchange?.theirs].map((bytes) => decodeTargetPdu(headerOf(bytes ?? noBytes)))
    expect({ ...mine, maxCommandNumber: 0 }).toEqual({ ...his, maxCommandNumber: 0 })
  }
})

test('iPXE of 2026 logs in to our target', async () => {
  const exchanges = await replay(capture('ipxe-2026-chap'), { name: 'iqn.2026-01.lab.boot:tiny' })
  const last = decodeTargetPdu(headerOf(exchanges[3]?.ours ?? noBytes))
  expect(last).toMatchObject({ kind: 'loginResponse', status: 0, transit: true, nextStage: 3 })
})

test('a wrong secret gets the status that tgt gives', async () => {
  const exchanges = await replay(capture('ipxe-2026-wrong-secret'), { name: 'iqn.2026-01.lab.boot:tiny' })
  const last = exchanges.at(-1)
  expect(decodeTargetPdu(headerOf(last?.ours ?? noBytes))).toMatchObject({ status: 0x0201 })
  expect(decodeTargetPdu(headerOf(last?.theirs ?? noBytes))).toMatchObject({ status: 0x0201 })
})
