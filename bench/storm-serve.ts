/**
 * Our side of the storm: `node bench/storm-serve.ts ADDRESS PORT GOLDEN FOLDER COUNT [RECORDING]`. COUNT targets, each a clone of GOLDEN
 * in FOLDER, over one cache. With RECORDING, the first login starts what `slipway up` does when a machine begins to boot: what
 * the recorded boot read is fetched ahead. STORM_DISK_MS makes every read of GOLDEN take that long. SIGUSR2 prints a line of
 * figures.
 */
import { join } from 'node:path'
import { bytesOf, fetchTrace } from '../src/block/boot-trace.ts'
import { createBlockCache } from '../src/block/cache.ts'
import type { BlockDevice } from '../src/block/device.ts'
import { openRawDevice } from '../src/block/file.ts'
import { createClone } from '../src/block/qcow2/create.ts'
import { openQcow2 } from '../src/block/qcow2/open.ts'
import { systemClock } from '../src/host/clock.ts'
import { nodeCompression } from '../src/host/compression.ts'
import { openFile } from '../src/host/file.ts'
import { systemHash } from '../src/host/hash.ts'
import { systemRandom } from '../src/host/random.ts'
import { systemTcp } from '../src/host/tcp.ts'
import { createIscsiTarget } from '../src/iscsi/server.ts'
import { createDeviceServer } from '../src/scsi/device-server.ts'
import type { DeviceServer } from '../src/scsi/task.ts'
import { readRecording, traceOf } from './boot-recording.ts'

/** One line of these is printed at SIGUSR2. */
export type StormFigures = {
  readonly rssBytes: number
  readonly cacheUsedBytes: number
  readonly cacheBytesMax: number
  readonly fetchedBytes: number
}

const targetPrefix = 'iqn.2026-01.slipway.bench:storm-'
const cacheBytes = 512 * 1024 * 1024
const [address = '', port = '', goldenPath = '', folder = '', count = '', recordingPath] = process.argv.slice(2)

const cache = createBlockCache(cacheBytes)
const raw = await openRawDevice(await openFile(goldenPath, 'readOnly'), { readOnly: true })
const golden = cache.attach(slowedDown(raw, Number(process.env['STORM_DISK_MS'] ?? 0)))
const trace = recordingPath === undefined ? undefined : traceOf(readRecording(recordingPath))
const servers = new Map<string, DeviceServer>()
for (let i = 0; i < Number(count); i++) {
  const file = await openFile(join(folder, `clone-${i}.qcow2`), 'createOrTruncate')
  await createClone(file, { sizeBytes: golden.sizeBytes, backing: { name: goldenPath, format: 'raw' } })
  const resolve = () => Promise.resolve({ kind: 'device' as const, device: golden.reader() })
  const device = await openQcow2(file, { compression: nodeCompression, backing: { resolve } })
  const targetName = `${targetPrefix}${i}`
  const server = createDeviceServer({
    targetName,
    disks: [{ device, serialNumber: `STORM${i}` }],
    report: (error) => console.error(error),
    pause: (milliseconds) => new Promise((resolvePause) => systemClock.after(milliseconds, resolvePause)),
  })
  servers.set(targetName, server)
}

function slowedDown(disk: BlockDevice, readMs: number): BlockDevice {
  if (readMs === 0) return disk
  return {
    sizeBytes: disk.sizeBytes,
    blockBytes: disk.blockBytes,
    readOnly: true,
    thin: false,
    read: async (offset, target) => {
      await new Promise((resolve) => setTimeout(resolve, readMs))
      await disk.read(offset, target)
    },
    write: disk.write.bind(disk),
    flush: disk.flush.bind(disk),
    writeZeroes: disk.writeZeroes.bind(disk),
    discard: disk.discard.bind(disk),
    extent: disk.extent.bind(disk),
    close: disk.close.bind(disk),
  }
}

let isFetching = false
function fetchAhead(): void {
  if (trace === undefined || isFetching) return
  isFetching = true
  const pause = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
  void fetchTrace(golden, trace, { bytesMax: bytesOf(trace), pause, isOver: () => false })
}

const target = createIscsiTarget({
  network: systemTcp,
  clock: systemClock,
  random: systemRandom,
  hash: systemHash,
  directory: {
    resolve: ({ targetName = '' }) => {
      const deviceServer = servers.get(targetName)
      if (deviceServer === undefined) return { kind: 'refuse', reason: 'notFound' }
      fetchAhead()
      return { kind: 'accept', authentication: { kind: 'none' }, deviceServer }
    },
    discover: () => ({ kind: 'accept', authentication: { kind: 'none' } }),
    list: () => [],
  },
  events: () => undefined,
})
await target.listen({ address, port: Number(port) })
process.on('SIGUSR2', () => {
  // What is held, and not what nobody has cleared away yet.
  globalThis.gc?.()
  const figures: StormFigures = {
    rssBytes: process.memoryUsage.rss(),
    cacheUsedBytes: cache.usedBytes,
    cacheBytesMax: cache.bytesMax,
    fetchedBytes: cache.statistics.fetchedBytes,
  }
  console.log(JSON.stringify(figures))
})
process.once('SIGTERM', () => process.exit(0))
console.log('ready')
