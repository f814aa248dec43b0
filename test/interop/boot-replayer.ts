/**
 * A machine that boots as the recorded one did, by our initiator, and looks at every block that it reads: `node boot-replayer.ts
 * ADDRESS TARGET INITIATOR`. The disk must be nbdkit's pattern, of which every 8 bytes say where they are, and a fresh clone.
 */
import { readRecording, recordedBlockBytes } from '../../bench/boot-recording.ts'
import { systemHash } from '../../src/host/hash.ts'
import { systemRandom } from '../../src/host/random.ts'
import { systemTcp } from '../../src/host/tcp.ts'
import { connectInitiator } from '../../src/iscsi/initiator.ts'

const [address = '', targetName = '', initiatorName = ''] = process.argv.slice(2)
const session = await connectInitiator({
  network: systemTcp,
  random: systemRandom,
  hash: systemHash,
  to: { address, port: 3260 },
  initiatorName,
  targetName,
})
// A unit attention waits for the first command of a session.
await session.command({ cdb: new Uint8Array(16) })

const written = new Set<number>()
let readCount = 0

function cdbOf(operationCode: number, block: number, blockCount: number): Uint8Array {
  const cdb = new Uint8Array(16)
  const view = new DataView(cdb.buffer)
  view.setUint8(0, operationCode)
  view.setUint32(2, block)
  view.setUint16(7, blockCount)
  return cdb
}

for (const { write, offset, bytes } of readRecording().requests) {
  const block = offset / recordedBlockBytes
  const blockCount = bytes / recordedBlockBytes
  const { status, data } = write
    ? await session.command({ cdb: cdbOf(0x2a, block, blockCount), write: new Uint8Array(bytes) })
    : await session.command({ cdb: cdbOf(0x28, block, blockCount), readBytes: bytes })
  if (status !== 0) throw new Error(`status ${status} at block ${block}`)
  if (write) for (let at = block; at < block + blockCount; at++) written.add(at)
  else look(block, data)
}
console.log(`${readCount} reads`)
session.destroy()

function look(first: number, data: Uint8Array): void {
  readCount++
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength)
  for (let at = 0; at < data.byteLength; at += recordedBlockBytes) {
    const place = first * recordedBlockBytes + at
    const expected = written.has(place / recordedBlockBytes) ? 0n : BigInt(place)
    if (view.getBigUint64(at) !== expected) throw new Error(`wrong data at ${place}`)
  }
}
