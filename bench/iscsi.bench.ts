/**
 * How fast is the target beside Debian's tgt, on the same 1 GiB file in the page cache, each alone on its core? Debian's own
 * clients ask: iscsi-perf (libiscsi) for random reads, qemu-img bench for the rest, on the other core.
 */
import { randomBytes } from 'node:crypto'
import { closeSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemHash } from '../src/host/hash.ts'
import { systemRandom } from '../src/host/random.ts'
import { systemTcp } from '../src/host/tcp.ts'
import { connectInitiator, type InitiatorSession } from '../src/iscsi/initiator.ts'
import {
  type Contender,
  median,
  processorSeconds,
  type Question,
  type RunningProcess,
  residentKilobytes,
  serverAddress,
  startProcess,
  unlessInstalled,
} from './frame.ts'
import { iscsiPerf, type Measured, type QemuLoad, qemuBench } from './iscsi-load.ts'
import { serveByTgt } from './tgt.ts'

const diskBytes = 1024 * 1024 * 1024
const ourTarget = 'iqn.2026-01.slipway.bench:disk'
/** An odd number of blocks: going around the disk in such strides meets every block once, and none near the last. */
const randomStrideBytes = 4096 * 65_537

type Serving = { readonly server: RunningProcess; readonly url: string; readonly port: number; readonly disk: string }
type Measure = (serving: Serving) => Promise<Measured>

let port = 13_360

/** Bytes that do not compress, written once for all contenders and kept in the page cache. */
function makeDisk(folder: string): string {
  const path = join(folder, 'disk.img')
  const file = openSync(path, 'w')
  const piece = randomBytes(16 * 1024 * 1024)
  for (let at = 0; at < diskBytes; at += piece.byteLength) writeSync(file, piece, 0, piece.byteLength, at)
  closeSync(file)
  return path
}

function contender(
  name: string,
  serve: (disk: string, folder: string) => Promise<Serving>,
  measure: Measure,
): Contender {
  return {
    name,
    ...(name === 'tgt' ? { missing: unlessInstalled('tgt', '/usr/sbin/tgtd') } : {}),
    start: async () => {
      const folder = mkdtempSync(join(tmpdir(), 'slipway-bench-'))
      const serving = await serve(makeDisk(folder), folder)
      const costs: number[] = []
      return {
        measure: async () => {
          const before = processorSeconds(serving.server)
          const { figure, operations } = await measure(serving)
          if (operations !== undefined) costs.push((processorSeconds(serving.server) - before) / operations)
          return figure
        },
        note: () => (costs.length === 0 ? '' : `${(median(costs) * 1e6).toFixed(1)} us of processor for each`),
        stop: async () => {
          await serving.server.stop()
          rmSync(folder, { recursive: true })
        },
      }
    },
  }
}

async function serveOurs(disk: string): Promise<Serving> {
  const ourPort = port++
  const server = await startProcess({
    command: process.execPath,
    // As bin/slipway starts it.
    args: [
      '--max-semi-space-size=2',
      join(import.meta.dirname, 'iscsi-serve.ts'),
      serverAddress,
      String(ourPort),
      disk,
    ],
    ready: /ready/,
  })
  const url = `iscsi://${serverAddress}:${ourPort}/${ourTarget}/0`
  return { server, url, port: ourPort, disk }
}

async function serveTgt(disk: string, folder: string): Promise<Serving> {
  const theirPort = port++
  const { server, url } = await serveByTgt(disk, folder, theirPort)
  return { server, url, port: theirPort, disk }
}

function pair(measure: Measure): Pick<Question, 'ours' | 'peers'> {
  return { ours: contender('slipway', serveOurs, measure), peers: [contender('tgt', serveTgt, measure)] }
}

/** The goal is a number and not another program. */
function against(words: string, value: number, measure: Measure): Pick<Question, 'ours' | 'peers'> {
  const bound: Contender = {
    name: words,
    start: () => Promise.resolve({ measure: () => Promise.resolve(value), stop: () => Promise.resolve() }),
  }
  return { ours: contender('slipway', serveOurs, measure), peers: [bound] }
}

const qemu =
  (load: QemuLoad): Measure =>
  ({ url }) =>
    Promise.resolve(qemuBench(load, url))

const namePrefix = 'iqn.2026-01.slipway.bench:'
const seconds = 3.5

const randomReads =
  (inFlight: number): Measure =>
  async ({ url }) => {
    const [figure = 0] = await iscsiPerf([{ url, inFlight, initiatorName: `${namePrefix}one` }], seconds)
    return { figure, operations: figure * seconds }
  }

const initiatorCount = 64
const crowdSeconds = 6.5

function sixtyFour({ url }: Serving): Promise<readonly number[]> {
  const loads = Array.from({ length: initiatorCount }, (_, index) => {
    return { url, inFlight: 4, initiatorName: `${namePrefix}n${index}` }
  })
  return iscsiPerf(loads, crowdSeconds)
}

const totalOfSixtyFour: Measure = async (serving) => {
  const figure = (await sixtyFour(serving)).reduce((sum, each) => sum + each, 0)
  return { figure, operations: figure * crowdSeconds }
}

const shareOfSlowest: Measure = async (serving) => {
  const each = await sixtyFour(serving)
  return { figure: Math.min(...each) / (each.reduce((sum, one) => sum + one, 0) / each.length) }
}

const idleSessionCount = 1_000

/**
 * Kilobytes of the server's memory for each of a thousand sessions that logged in and say nothing. A fresh server each time:
 * one that has had a thousand sessions before has the room already.
 */
const memoryOfIdleSessions: Measure = async ({ disk }) => {
  const { server, port: at } = await serveOurs(disk)
  const before = residentKilobytes(server)
  const sessions: InitiatorSession[] = []
  for (let index = 0; index < idleSessionCount; index++) {
    sessions.push(
      await connectInitiator({
        network: systemTcp,
        random: systemRandom,
        hash: systemHash,
        to: { address: serverAddress, port: at },
        initiatorName: `iqn.2026-01.slipway.bench:idle${index}`,
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

export const questions: readonly Question[] = [
  { name: '4 KiB random read, 32 in flight', unit, better, goal: 2, ...pair(randomReads(32)) },
  { name: '4 KiB random read, 1 in flight', unit, better, goal: 1.1, ...pair(randomReads(1)) },
  {
    ...{ name: '256 KiB sequential read, 8 in flight', unit, better, goal: 1.3 },
    ...pair(qemu({ bytes: 262_144, count: 12_000, inFlight: 8, strideBytes: 262_144 })),
  },
  {
    ...{ name: '4 KiB random write, 32 in flight, flush at the end', unit, better, goal: 1.5 },
    ...pair(qemu({ write: true, bytes: 4096, count: 100_000, inFlight: 32, strideBytes: randomStrideBytes })),
  },
  {
    ...{ name: '256 KiB sequential write, 8 in flight', unit, better, goal: 1 },
    ...pair(qemu({ write: true, bytes: 262_144, count: 4_000, inFlight: 8, strideBytes: 262_144 })),
  },
  { name: '64 initiators, 4 KiB random read, total', unit, better, goal: 2, ...pair(totalOfSixtyFour) },
  {
    ...{ name: '64 initiators, the slowest one', unit: 'of the mean', better, goal: 0.8 },
    ...against('an equal share', 1, shareOfSlowest),
  },
  {
    ...{ name: 'memory of an idle session, of 1,000', unit: 'kB', better: 'lower', goal: 1 },
    ...against('the bound, 60 kB', 60, memoryOfIdleSessions),
  },
]
