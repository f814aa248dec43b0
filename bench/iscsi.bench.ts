/**
 * How fast is the target beside Debian's tgt, and beside what a program in C can do at most, on the same 1 GiB file in the page
 * cache, each alone on its core? Debian's own clients ask: iscsi-perf (libiscsi) for random reads, qemu-img bench for the rest, on
 * the other core.
 */
import { systemHash } from '../src/host/hash.ts'
import { systemRandom } from '../src/host/random.ts'
import { systemTcp } from '../src/host/tcp.ts'
import { connectInitiator, type InitiatorSession } from '../src/iscsi/initiator.ts'
import { clientCore, processorSeconds, type Question, residentKilobytes, serverAddress, serverCore } from './frame.ts'
import {
  bound,
  contender,
  limit,
  type Measure,
  ourTarget,
  type Serving,
  serveEight,
  serveOurs,
  slipway,
  tgt,
} from './iscsi-contenders.ts'
import { iscsiPerf, ownInitiator, type QemuLoad, qemuBench } from './iscsi-load.ts'

/** An odd number of blocks: going around the disk in such strides meets every block once, and none near the last. */
const randomStrideBytes = 4096 * 65_537
const namePrefix = 'iqn.2026-01.slipway.bench:'
const seconds = 2.5

const qemu =
  (load: QemuLoad): Measure =>
  ({ urls: [url = ''] }) =>
    qemuBench(load, url)

const randomReads =
  (inFlight: number): Measure =>
  async ({ urls: [url = ''] }) => {
    const [figure = 0] = await iscsiPerf([{ url, inFlight, initiatorName: `${namePrefix}one` }], seconds)
    return { figure, operations: figure * seconds }
  }

const initiatorCount = 64
const crowdSeconds = 4.5

function sixtyFour({ urls }: Serving, cores: readonly number[] = [clientCore]): Promise<readonly number[]> {
  const loads = Array.from({ length: initiatorCount }, (_, index) => {
    const url = urls[index % urls.length] ?? ''
    // Not in step with the targets: each target's initiators are on all cores.
    const core = cores[Math.floor(index / urls.length) % cores.length] ?? clientCore
    return { url, inFlight: 4, initiatorName: `${namePrefix}n${index}`, core }
  })
  return iscsiPerf(loads, crowdSeconds)
}

const totalOfSixtyFour =
  (cores?: readonly number[]): Measure =>
  async (serving) => {
    const figure = (await sixtyFour(serving, cores)).reduce((sum, each) => sum + each, 0)
    return { figure, operations: figure * crowdSeconds }
  }

const shareOfSlowest: Measure = async (serving) => {
  const each = await sixtyFour(serving)
  return { figure: Math.min(...each) / (each.reduce((sum, one) => sum + one, 0) / each.length) }
}

const ownReads =
  (digests: boolean, order: 'random' | 'sequential', bytes: number, inFlight: number): Measure =>
  ({ port }) => {
    const to = { port, targetName: ourTarget }
    const operations = ownInitiator({ to, order, bytes, inFlight, digests }, seconds)
    return { figure: operations / seconds, operations }
  }

/** Microseconds of the server's processor for each command: what is left when the client is slower than what it asks. */
const costOf =
  (measure: Measure): Measure =>
  async (serving) => {
    const before = processorSeconds(serving.server)
    const { operations = Number.NaN } = await measure(serving)
    return { figure: ((processorSeconds(serving.server) - before) / operations) * 1e6 }
  }

const idleSessionCount = 1_000
/** Before these the login's code has not been compiled, which is no session's memory. */
const firstSessionCount = 200

/**
 * Kilobytes of the server's memory for each of a thousand sessions that logged in and say nothing. A fresh server each time:
 * one that has had a thousand sessions before has the room already.
 */
const memoryOfIdleSessions: Measure = async ({ disk }) => {
  const { server, port: at } = await serveOurs(disk)
  const sessions: InitiatorSession[] = []
  let before = 0
  for (let index = 0; index < firstSessionCount + idleSessionCount; index++) {
    if (index === firstSessionCount) before = residentKilobytes(server)
    sessions.push(
      await connectInitiator({
        network: systemTcp,
        random: systemRandom,
        hash: systemHash,
        to: { address: serverAddress, port: at },
        initiatorName: `${namePrefix}idle${index}`,
        targetName: ourTarget,
      }),
    )
  }
  await new Promise((resolve) => setTimeout(resolve, 1_000))
  const after = residentKilobytes(server)
  for (const session of sessions) session.destroy()
  await server.stop()
  return { figure: (after - before) / idleSessionCount }
}

const unit = 'operations/s'
const better = 'higher'
const besideTgt = (measure: Measure) => ({ unit, better, ours: slipway(measure), peers: [tgt(measure)] }) as const
const cost = { unit: 'us of the server’s processor each', better: 'lower' } as const
const ofTheLimit = (measure: Measure) => {
  return { ...cost, ours: slipway(costOf(measure)), peers: [limit(costOf(measure))] }
}
const sequentialRead = qemu({ bytes: 262_144, count: 12_000, inFlight: 8, strideBytes: 262_144 })
const randomWrite = qemu({ write: true, bytes: 4096, count: 100_000, inFlight: 32, strideBytes: randomStrideBytes })
const sequentialWrite = qemu({ write: true, bytes: 262_144, count: 4_000, inFlight: 8, strideBytes: 262_144 })
const bothCores = [clientCore, serverCore]

function digests(order: 'random' | 'sequential', bytes: number, inFlight: number) {
  const reads = (on: boolean): Measure => costOf(ownReads(on, order, bytes, inFlight))
  const peers = [contender('without', serveOurs, reads(false))]
  return { ...cost, ours: contender('with digests', serveOurs, reads(true)), peers }
}

export const questions: readonly Question[] = [
  { name: '4 KiB random read, 32 in flight', goal: 2, ...besideTgt(randomReads(32)) },
  { name: '4 KiB random read, 1 in flight', goal: 1.1, ...besideTgt(randomReads(1)) },
  { name: '256 KiB sequential read, 8 in flight', goal: 1.3, ...besideTgt(sequentialRead) },
  { name: '4 KiB random write, 32 in flight, flush at the end', goal: 1.5, ...besideTgt(randomWrite) },
  { name: '256 KiB sequential write, 8 in flight', goal: 1, ...besideTgt(sequentialWrite) },
  { name: '64 initiators, 4 KiB random read, total', goal: 2, ...besideTgt(totalOfSixtyFour()) },
  {
    ...{ name: '64 initiators, the slowest one', unit: 'of the mean', better, goal: 0.8 },
    ...{ ours: slipway(shareOfSlowest), peers: [bound('an equal share', 1)] },
  },
  {
    ...{ name: 'memory of an idle session, of 1,000', unit: 'kB', better: 'lower', goal: 1 },
    ...{ ours: slipway(memoryOfIdleSessions), peers: [bound('the bound, 60 kB', 60)] },
  },
  { name: '4 KiB random read, 32 in flight, of the limit', goal: 0.5, ...ofTheLimit(randomReads(32)) },
  { name: '256 KiB sequential read, 8 in flight, of the limit', goal: 0.5, ...ofTheLimit(sequentialRead) },
  { name: 'digests, 4 KiB random read', goal: 0.6, ...digests('random', 4096, 32) },
  { name: 'digests, 256 KiB sequential read', goal: 0.6, ...digests('sequential', 262_144, 8) },
  {
    ...{ name: '64 initiators of 8 targets, two workers beside one process', unit, better, goal: 1 },
    ours: contender('two workers, clients on both cores', serveEight(2, 'anyCore'), totalOfSixtyFour(bothCores)),
    peers: [
      contender('one process, clients on the other core', serveEight(0, 'ownCore'), totalOfSixtyFour()),
      contender('one process, clients on both cores', serveEight(0, 'anyCore'), totalOfSixtyFour(bothCores)),
    ],
  },
]
