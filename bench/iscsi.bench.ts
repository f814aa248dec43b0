/**
 * How fast is the target beside Debian's tgt, on the same 1 GiB file in the page cache, each alone on its core? Debian's own
 * clients ask: iscsi-perf (libiscsi) for random reads, qemu-img bench for the rest, on the other core.
 */
import { execFileSync, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemHash } from '../src/host/hash.ts'
import { systemRandom } from '../src/host/random.ts'
import { systemTcp } from '../src/host/tcp.ts'
import { connectInitiator, type InitiatorSession } from '../src/iscsi/initiator.ts'
import {
  type Contender,
  clientCore,
  type Question,
  type RunningProcess,
  serverAddress,
  startProcess,
  unlessInstalled,
} from './frame.ts'
import { serveByTgt } from './tgt.ts'

const diskBytes = 1024 * 1024 * 1024
const ourTarget = 'iqn.2026-01.slipway.bench:disk'
const qemuBenchLimitMs = 120_000
/** An odd number of blocks: going around the disk in such strides meets every block once, and none near the last. */
const randomStrideBytes = 4096 * 65_537

type Serving = { readonly server: RunningProcess; readonly url: string; readonly port: number; readonly disk: string }
type Measure = (serving: Serving) => Promise<number>

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
      return {
        measure: () => measure(serving),
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

type Load = {
  readonly write?: boolean
  readonly bytes: number
  readonly count: number
  readonly inFlight: number
  readonly strideBytes: number
}

/** Operations a second by qemu-img bench; writes end with a flush that is in the time. */
function qemuBench(load: Load): Measure {
  return ({ url }) => {
    const numbers = { '-c': load.count, '-s': load.bytes, '-S': load.strideBytes, '-d': load.inFlight }
    const shape = Object.entries(numbers).flatMap(([flag, value]) => [flag, String(value)])
    const write = load.write === true ? ['-w', `--flush-interval=${load.count}`, '--no-drain'] : []
    const args = ['-c', String(clientCore), 'qemu-img', 'bench', '-f', 'raw', '-t', 'none', ...shape, ...write, url]
    const said = execFileSync('taskset', args, { encoding: 'utf8', timeout: qemuBenchLimitMs })
    const seconds = /completed in ([0-9.]+) seconds/.exec(said)?.[1]
    if (seconds === undefined) throw new Error(`qemu-img bench said: ${said}`)
    return Promise.resolve(load.count / Number(seconds))
  }
}

/** iscsi-perf for some seconds; what it says it did on average, operations a second. */
function iscsiPerf(url: string, inFlight: number, seconds: number, name: string): Promise<number> {
  const words = ['-i', `iqn.2026-01.slipway.bench:${name}`, '-m', String(inFlight), '-b', '8', '-r', url]
  // It runs until it is interrupted, and then tells the average.
  const args = ['-c', String(clientCore), 'timeout', '-s', 'INT', String(seconds), 'iscsi-perf', ...words]
  const child = spawn('taskset', args, { stdio: ['ignore', 'pipe', 'ignore'] })
  let printed = ''
  child.stdout.on('data', (text) => {
    printed = (printed + String(text)).slice(-4_000)
  })
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', () => {
      const averages = [...printed.matchAll(/iops average (\d+)/g)]
      const last = averages.at(-1)?.[1]
      if (last === undefined) reject(new Error(`iscsi-perf said: ${printed}`))
      else resolve(Number(last))
    })
  })
}

const randomReads =
  (inFlight: number): Measure =>
  ({ url }) =>
    iscsiPerf(url, inFlight, 3.5, 'one')

const initiatorCount = 64

async function sixtyFour({ url }: Serving): Promise<readonly number[]> {
  const runs = Array.from({ length: initiatorCount }, (_, index) => iscsiPerf(url, 4, 6.5, `n${index}`))
  return Promise.all(runs)
}

const totalOfSixtyFour: Measure = async (serving) => (await sixtyFour(serving)).reduce((sum, each) => sum + each, 0)

const shareOfSlowest: Measure = async (serving) => {
  const each = await sixtyFour(serving)
  return Math.min(...each) / (each.reduce((sum, one) => sum + one, 0) / each.length)
}

const idleSessionCount = 1_000

/**
 * Kilobytes of the server's memory for each of a thousand sessions that logged in and say nothing. A fresh server each time:
 * one that has had a thousand sessions before has the room already.
 */
const memoryOfIdleSessions: Measure = async ({ disk }) => {
  const { server, port: at } = await serveOurs(disk)
  const before = residentKilobytes(server.pid)
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
  const after = residentKilobytes(server.pid)
  for (const session of sessions) session.destroy()
  await server.stop()
  return (after - before) / idleSessionCount
}

/** taskset and timeout stand in front of the server: the child of the child is it. */
function residentKilobytes(pid: number): number {
  let server = pid
  for (;;) {
    const [child] = readFileSync(`/proc/${server}/task/${server}/children`, 'utf8').split(' ')
    if (child === undefined || child === '') break
    server = Number(child)
  }
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${server}/status`, 'utf8'))?.[1])
}

const unit = 'operations/s'
const better = 'higher'

export const questions: readonly Question[] = [
  { name: '4 KiB random read, 32 in flight', unit, better, goal: 2, ...pair(randomReads(32)) },
  { name: '4 KiB random read, 1 in flight', unit, better, goal: 1.1, ...pair(randomReads(1)) },
  {
    ...{ name: '256 KiB sequential read, 8 in flight', unit, better, goal: 1.3 },
    ...pair(qemuBench({ bytes: 262_144, count: 12_000, inFlight: 8, strideBytes: 262_144 })),
  },
  {
    ...{ name: '4 KiB random write, 32 in flight, flush at the end', unit, better, goal: 1.5 },
    ...pair(qemuBench({ write: true, bytes: 4096, count: 100_000, inFlight: 32, strideBytes: randomStrideBytes })),
  },
  {
    ...{ name: '256 KiB sequential write, 8 in flight', unit, better, goal: 1 },
    ...pair(qemuBench({ write: true, bytes: 262_144, count: 4_000, inFlight: 8, strideBytes: 262_144 })),
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
