/** Goal: our initiator believes no target more than it has to. Method: targets that say whatever a test wants, on a simulated network. */
import { expect, test } from 'vitest'
import { createWorld, initiatorName, portal, targetName } from '../../test/simulation/iscsi.ts'
import { Secret } from '../base/secret.ts'
import { systemHash } from '../host/hash.ts'
import { FrameReader } from './frame.ts'
import { type Header, headerBytes } from './header.ts'
import { connectInitiator, type InitiatorOptions, type InitiatorSession } from './initiator.ts'
import { decodeInitiatorPdu, type InitiatorPdu } from './initiator-pdu.ts'
import { encodeTargetPdu, type TargetPdu } from './target-pdu.ts'
import { encodeText, type KeyValue } from './text.ts'

type Said = { readonly pdu: TargetPdu; readonly data?: Uint8Array }
const numbers = { statusNumber: 0, expectedCommandNumber: 2, maxCommandNumber: 66 } as const

/** A target that answers what `answer` says. */
async function against(
  answer: (pdu: InitiatorPdu) => readonly Said[],
  options: Partial<InitiatorOptions> = {},
): Promise<{ readonly session: InitiatorSession; readonly wait: <T>(promise: Promise<T>) => Promise<T> }> {
  const { network, random, wait } = await createWorld()
  const to = { ...portal, port: 3261 }
  await network.listen(to, (connection) => {
    let pdu: InitiatorPdu | undefined
    const reader = new FrameReader({
      header: (header: Header) => {
        pdu = decodeInitiatorPdu(header)
      },
      data: () => {},
      end: () => {
        for (const said of pdu === undefined ? [] : answer(pdu)) connection.write(encoded(said))
      },
    })
    return { onData: (chunk) => reader.receive(chunk), onEnd: () => connection.end(), onClose: () => {} }
  })
  const connecting = connectInitiator({ network, random, hash: systemHash, to, initiatorName, targetName, ...options })
  return { session: await wait(connecting), wait }
}

function encoded({ pdu, data = new Uint8Array(0) }: Said): Uint8Array {
  const bytes = new Uint8Array(headerBytes + Math.ceil(data.byteLength / 4) * 4)
  encodeTargetPdu(new DataView(bytes.buffer), 0, pdu, data.byteLength)
  bytes.set(data, headerBytes)
  return bytes
}

/** Goes along with every login; in the operational stage it says `keys`. */
function welcome(pdu: InitiatorPdu, keys: readonly KeyValue[] = [], more = false): readonly Said[] {
  if (pdu.kind !== 'login') return []
  const { currentStage, nextStage, transit, isid, initiatorTaskTag } = pdu
  const isOperational = currentStage === 1
  const response: TargetPdu = {
    kind: 'loginResponse',
    ...numbers,
    ...{ transit: transit && !more, more, currentStage, nextStage, isid, tsih: 1, initiatorTaskTag, status: 0 },
    ...{ versionMax: 0, versionActive: 0 },
  }
  return [{ pdu: response, data: encodeText(isOperational || more ? keys : [['AuthMethod', 'None']]) }]
}

test('a target that lets us in without proof, where a proof was asked for, is an impostor', async () => {
  const initiator = { user: 'golden', secret: new Secret('a secret of enough length') }
  const target = { user: 'target', secret: new Secret('another one of enough length') }
  await expect(against(welcome, { chap: { initiator, target } })).rejects.toMatchObject({ code: 'impostor' })
  const { session } = await against(welcome, { chap: { initiator } })
  expect(session.tsih).toBe(1)
})

test.each([
  ['MaxRecvDataSegmentLength', '0'],
  ['MaxRecvDataSegmentLength', 'many'],
  ['MaxBurstLength', '16777216'],
  ['MaxOutstandingR2T', '0'],
])('%s=%s is no answer to a login', async (key, value) => {
  const connecting = against((pdu) => welcome(pdu, [[key, value]]))
  await expect(connecting).rejects.toThrow(`login refused: the target says ${key}=${value}`)
})

test('a target that asks for more data than a write has loses its connection', async () => {
  const asked: number[] = []
  const { session, wait } = await against((pdu) => {
    if (pdu.kind === 'dataOut') asked.push(pdu.bufferOffset)
    if (pdu.kind !== 'scsiCommand') return welcome(pdu, [['ImmediateData', 'No']])
    const { initiatorTaskTag, lun } = pdu
    const ready = { kind: 'readyToTransfer', ...numbers, lun, initiatorTaskTag, readyNumber: 0 } as const
    return [
      { pdu: { ...ready, targetTransferTag: 1, bufferOffset: 0, desiredBytes: 512 } },
      { pdu: { ...ready, targetTransferTag: 2, bufferOffset: 512, desiredBytes: 0xffff_fe00 } },
    ]
  })
  const writing = session.command({ cdb: Uint8Array.of(0x2a), write: new Uint8Array(1_024) })
  await expect(wait(writing)).rejects.toMatchObject({ code: 'connectionLost' })
  // What it had a right to may have been on its way.
  expect(asked.filter((offset) => offset !== 0)).toEqual([])
})

test('a target whose text never ends loses its connection', async () => {
  let pieces = 0
  const connecting = against((pdu) => {
    pieces++
    return welcome(
      pdu,
      [
        ['X-much', 'x'.repeat(200)],
        ['X-more', 'y'.repeat(8_000)],
      ],
      true,
    )
  })
  await expect(connecting).rejects.toMatchObject({ code: 'connectionLost' })
  expect(pieces).toBeLessThan(200)
})
