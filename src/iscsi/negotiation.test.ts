/** Goal: each key of RFC 7143 §13 is negotiated by its rule, and what is out of its range is refused. Method: one table. */
import { expect, test } from 'vitest'
import { defaultParameters, negotiate, type Parameters, renegotiate } from './negotiation.ts'

type Row = readonly [key: string, offer: string, answer: string | undefined, effect?: Partial<Parameters>]

const rows: readonly Row[] = [
  // §6.2.1: of a list, the first that we know.
  ['HeaderDigest', 'CRC32C,None', 'CRC32C', { headerDigest: true }],
  ['HeaderDigest', 'None,CRC32C', 'None', { headerDigest: false }],
  ['DataDigest', 'X-strong,CRC32C', 'CRC32C', { dataDigest: true }],
  ['DataDigest', 'X-strong', 'Reject', { dataDigest: false }],
  ['TaskReporting', 'FastAbort,RFC3720', 'RFC3720'],
  ['TaskReporting', 'FastAbort', 'Reject'],
  // §6.2.2: yes if both, yes if one.
  ['ImmediateData', 'Yes', 'Yes', { immediateData: true }],
  ['ImmediateData', 'No', 'No', { immediateData: false }],
  ['ImmediateData', 'maybe', 'Reject', { immediateData: true }],
  ['InitialR2T', 'Yes', 'Yes', { initialReadyToTransfer: true }],
  ['InitialR2T', 'No', 'No', { initialReadyToTransfer: false }],
  ['DataPDUInOrder', 'No', 'Yes'],
  ['DataSequenceInOrder', 'No', 'Yes'],
  ['DataSequenceInOrder', 'yes', 'Reject'],
  // Numbers: the smaller, or the larger; decimal and hexadecimal; the ends of each range.
  ['MaxConnections', '8', '1'],
  ['MaxConnections', '0', 'Reject'],
  ['MaxConnections', '65536', 'Reject'],
  ['MaxBurstLength', '16776192', '1048576', { burstBytesMax: 1_048_576 }],
  ['MaxBurstLength', '0x2000', '8192', { burstBytesMax: 8_192, firstBurstBytesMax: 8_192 }],
  ['MaxBurstLength', '511', 'Reject', { burstBytesMax: 262_144 }],
  ['MaxBurstLength', '16777216', 'Reject'],
  ['FirstBurstLength', '262144', '65536', { firstBurstBytesMax: 65_536 }],
  ['FirstBurstLength', '512', '512', { firstBurstBytesMax: 512 }],
  ['FirstBurstLength', '-1', 'Reject'],
  ['MaxOutstandingR2T', '65535', '8', { outstandingReadyToTransferMax: 8 }],
  ['MaxOutstandingR2T', '1', '1', { outstandingReadyToTransferMax: 1 }],
  ['MaxOutstandingR2T', '0', 'Reject'],
  ['DefaultTime2Wait', '0', '0', { timeToWaitSeconds: 0 }],
  ['DefaultTime2Wait', '3600', '3600', { timeToWaitSeconds: 3_600 }],
  ['DefaultTime2Wait', '3601', 'Reject'],
  ['DefaultTime2Retain', '20', '0', { timeToRetainSeconds: 0 }],
  ['ErrorRecoveryLevel', '2', '0'],
  ['ErrorRecoveryLevel', '3', 'Reject'],
  ['iSCSIProtocolLevel', '31', '1'],
  ['iSCSIProtocolLevel', '0', '0'],
  // Told, not negotiated: no answer, unless it cannot be.
  ['MaxRecvDataSegmentLength', '512', undefined, { peerSegmentBytesMax: 512 }],
  ['MaxRecvDataSegmentLength', '16777215', undefined, { peerSegmentBytesMax: 16_777_215 }],
  ['MaxRecvDataSegmentLength', '511', 'Reject', { peerSegmentBytesMax: 8_192 }],
  ['MaxRecvDataSegmentLength', '1e4', 'Reject'],
  ['InitiatorAlias', 'a machine', undefined],
  ['X#NodeArchitecture', 'PDP-11', undefined],
  // Only a target may say these; of former versions; of nobody.
  ['TargetAlias', 'mine', 'Reject'],
  ['TargetAddress', '10.0.0.1', 'Reject'],
  ['TargetPortalGroupTag', '1', 'Reject'],
  ['OFMarker', 'Yes', 'No'],
  ['IFMarkInt', '2048~8192', 'Irrelevant'],
  ['X-com.example.key', 'value', 'NotUnderstood'],
  ['NotAKey', '1', 'NotUnderstood'],
  // What every object of JavaScript has.
  ['constructor', '1', 'NotUnderstood'],
  ['toString', '1', 'NotUnderstood'],
  ['__proto__', '1', 'NotUnderstood'],
]

for (const [key, offer, answer, effect = {}] of rows) {
  test(`${key}=${offer} is answered ${answer === undefined ? 'by nothing' : `with ${answer}`}`, () => {
    const { answers, parameters } = negotiate(defaultParameters, [[key, offer]])
    expect(answers).toEqual(answer === undefined ? [] : [[key, answer]])
    expect(parameters).toMatchObject(effect)
  })
}

test('the first burst is never longer than a burst, whichever is offered first', () => {
  for (const order of [
    ['FirstBurstLength', 'MaxBurstLength'],
    ['MaxBurstLength', 'FirstBurstLength'],
  ]) {
    const offers = order.map((key) => [key, key === 'MaxBurstLength' ? '4096' : '65536'] as const)
    const { answers, parameters } = negotiate(defaultParameters, offers)
    expect(answers).toContainEqual(['FirstBurstLength', '4096'])
    expect(parameters.firstBurstBytesMax).toBe(4_096)
  }
})

test('in full-feature phase a key that only JavaScript knows is not understood either', () => {
  const { answers } = renegotiate(defaultParameters, [['constructor', '1']])
  expect(answers).toEqual([['constructor', 'NotUnderstood']])
})
