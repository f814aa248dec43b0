/**
 * Our own initiator as load, for what no client of Debian's can be told to do (data digests): reads for some seconds, and prints
 * how many. `node bench/initiator-load.ts ADDRESS PORT TARGET random|sequential BYTES IN_FLIGHT SECONDS digests|plain`
 */
import { systemHash } from '../src/host/hash.ts'
import { systemRandom } from '../src/host/random.ts'
import { systemTcp } from '../src/host/tcp.ts'
import { connectInitiator } from '../src/iscsi/initiator.ts'

const [address = '', port, targetName = '', order, size, inFlight, seconds, framing] = process.argv.slice(2)
const digests = framing === 'digests'
const session = await connectInitiator({
  network: systemTcp,
  random: systemRandom,
  hash: systemHash,
  to: { address, port: Number(port) },
  initiatorName: 'iqn.2026-01.slipway.bench:load',
  targetName,
  headerDigest: digests,
  dataDigest: digests,
})
const readBytes = Number(size)
const blocks = readBytes / 512
/** Of a disk of 1 GiB. */
const places = (1024 * 1024 * 1024) / readBytes
const endMs = performance.now() + Number(seconds) * 1_000
let count = 0

async function read(): Promise<void> {
  const cdb = new Uint8Array(16)
  const view = new DataView(cdb.buffer)
  for (;;) {
    const place = order === 'random' ? Math.floor(Math.random() * places) : count % places
    count++
    view.setUint8(0, 0x28)
    view.setUint32(2, place * blocks)
    view.setUint16(7, blocks)
    const { status, data } = await session.command({ cdb, readBytes })
    if (status !== 0 || data.byteLength !== readBytes) throw new Error(`status ${status}, ${data.byteLength} bytes`)
    if (performance.now() > endMs) return
  }
}

// A unit attention waits for the first command of a session.
await session.command({ cdb: new Uint8Array(16) })
await Promise.all(Array.from({ length: Number(inFlight) }, read))
session.destroy()
console.log(count)
