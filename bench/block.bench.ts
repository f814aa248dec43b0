/**
 * What does a clone cost? A machine's private copy of a golden image over iSCSI beside the raw file itself, beside tgt
 * on a raw copy, and beside qemu-nbd on the same clone. `qemu-img bench` is the client for iSCSI, nbd-load.ts for NBD, on a
 * core of its own.
 */
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { closeSync, copyFileSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gibibyte } from '../src/base/units.ts'
import { createClone } from '../src/block/qcow2/create.ts'
import { removeFile } from '../src/host/directory.ts'
import { openFile } from '../src/host/file.ts'
import type { RandomAccessFile } from '../src/ports/file.ts'
import {
  type Contender,
  median,
  type Question,
  type RunningProcess,
  type Started,
  serverAddress,
  startProcess,
  unlessInstalled,
} from './frame.ts'
import { runNbd } from './nbd-load.ts'
import { isListening, serveByTgt } from './tgt.ts'

const goldenBytes = 256 * 1024 * 1024

type Load = {
  readonly write: boolean
  readonly bytes: number
  readonly count: number
  /** The same requests so many times before, unmeasured: other machines have read the image already. */
  readonly warmUps?: number
  /** From one request to the next, around the disk: a stride that meets every block once stands for chance. */
  readonly strideBytes: number
}

const inFlight = 32
/** The first reader leaves the blocks where they are, in the page cache; the second brings them into Slipway's. */
const randomRead: Load = { write: false, bytes: 4096, count: 65_500, strideBytes: 4096 * 35_003, warmUps: 2 }
const firstRandomRead: Load = { ...randomRead, warmUps: 0 }
const secondRandomRead: Load = { ...randomRead, warmUps: 1 }
/** Every block of the disk once, but for a few: no write finds one that is there already. */
const firstWrite: Load = { write: true, bytes: 4096, count: 65_500, strideBytes: 4096 * 35_003 }
const sequentialRead: Load = { write: false, bytes: 262_144, count: 8_000, strideBytes: 262_144 }
const qemuBenchLimitMs = 120_000

/** Operations a second. */
function runIscsi(load: Load, url: string): number {
  const shape = [
    '-c',
    String(load.count),
    '-s',
    String(load.bytes),
    '-S',
    String(load.strideBytes),
    '-d',
    String(inFlight),
  ]
  const args = ['bench', '-f', 'raw', '-t', 'none', ...shape, ...(load.write ? ['-w'] : []), url]
  const said = execFileSync('qemu-img', args, { encoding: 'utf8', timeout: qemuBenchLimitMs })
  const seconds = /completed in ([0-9.]+) seconds/.exec(said)?.[1]
  if (seconds === undefined) throw new Error(`qemu-img bench said: ${said}`)
  return load.count / Number(seconds)
}

/** Bytes that do not compress, in the page cache. */
function makeGolden(folder: string): string {
  const path = join(folder, 'golden.img')
  const file = openSync(path, 'w')
  const piece = randomBytes(16 * 1024 * 1024)
  for (let at = 0; at < goldenBytes; at += piece.byteLength) writeSync(file, piece, 0, piece.byteLength, at)
  closeSync(file)
  readFileSync(path)
  return path
}

type Served = { readonly server: RunningProcess; readonly run: () => number | Promise<number> }

/** Each measure has a server of its own: what was written is not fresh any more. */
function contender(
  name: string,
  debianPackage: string | undefined,
  file: string,
  warmUps: number,
  serve: (golden: string, folder: string) => Promise<Served>,
): Contender {
  const missing = debianPackage === undefined ? undefined : unlessInstalled(debianPackage, file)
  const start = async (): Promise<Started> => {
    const folder = mkdtempSync(join(tmpdir(), 'slipway-bench-'))
    const golden = makeGolden(folder)
    return {
      measure: async () => {
        const { server, run } = await serve(golden, folder)
        try {
          for (let i = 0; i < warmUps; i++) await run()
          return await run()
        } finally {
          await server.stop()
        }
      },
      stop: async () => rmSync(folder, { recursive: true }),
    }
  }
  return { name, start, ...(missing && { missing }) }
}

let port = 13_260

async function serveSlipway(what: string, load: Load): Promise<Served> {
  const ourPort = port++
  const server = await startProcess({
    command: process.execPath,
    args: [join(import.meta.dirname, 'iscsi-serve.ts'), serverAddress, String(ourPort), what],
    ready: /ready/,
  })
  return { server, run: () => runIscsi(load, `iscsi://${serverAddress}:${ourPort}/iqn.2026-01.slipway.bench:disk/0`) }
}

function slipwayClone(load: Load): Contender {
  return contender('slipway, clone', undefined, '', load.warmUps ?? 0, (golden, folder) =>
    serveSlipway(`clone:${golden}:${join(folder, 'clone.qcow2')}`, load),
  )
}

function slipwayRaw(load: Load): Contender {
  return contender('slipway, raw file', undefined, '', load.warmUps ?? 0, (golden, folder) => {
    const copy = join(folder, 'raw.img')
    copyFileSync(golden, copy)
    return serveSlipway(copy, load)
  })
}

function tgtRaw(load: Load): Contender {
  return contender('tgt, raw file', 'tgt', '/usr/sbin/tgtd', load.warmUps ?? 0, async (golden, folder) => {
    const copy = join(folder, 'raw.img')
    copyFileSync(golden, copy)
    const { server, url } = await serveByTgt(copy, folder, port++)
    return { server, run: () => runIscsi(load, url) }
  })
}

function qemuNbdClone(load: Load): Contender {
  return contender('qemu-nbd, clone', 'qemu-utils', '/usr/bin/qemu-nbd', load.warmUps ?? 0, async (golden, folder) => {
    const clone = join(folder, 'clone.qcow2')
    const file = await openFile(clone, 'createOrTruncate')
    await createClone(file, { sizeBytes: goldenBytes, backing: { name: golden, format: 'raw' } })
    await file.close()
    const ourPort = port++
    const server = await startProcess({
      command: 'qemu-nbd',
      args: ['-t', '-e', '4', '-b', serverAddress, '-p', String(ourPort), '-f', 'qcow2', '--cache=writeback', clone],
      ready: () => isListening(ourPort),
    })
    return { server, run: () => runNbd({ ...load, address: serverAddress, port: ourPort, inFlight }) }
  })
}

const cloneBytes = 100 * gibibyte
const clonesMeasured = 50
const aimMs = 1

/** Milliseconds for one, in a process that has made some before: the median of many. */
async function timeOfClone(folder: string, kind: 'making' | 'resetting'): Promise<number> {
  const golden = join(folder, 'large.img')
  const file = await openFile(golden, 'createOrTruncate')
  await file.truncate(cloneBytes)
  await file.close()
  const times: number[] = []
  for (let i = 0; i < clonesMeasured; i++) {
    const path = join(folder, 'large.qcow2')
    if (kind === 'resetting') await makeClone(path, golden, dirtyClone)
    const beganMs = performance.now()
    // `slipway clone reset` takes it away, the next boot makes one.
    if (kind === 'resetting') await removeFile(path)
    await makeClone(path, golden)
    times.push(performance.now() - beganMs)
    await removeFile(path)
  }
  return median(times)
}

async function makeClone(
  path: string,
  golden: string,
  change: (file: RandomAccessFile) => Promise<void> = async () => undefined,
): Promise<void> {
  const file = await openFile(path, 'createNew')
  await createClone(file, { sizeBytes: cloneBytes, backing: { name: golden, format: 'raw' } })
  await change(file)
  await file.close()
}

/** A machine has booted from it: the recorded one of the storm wrote 3 MB. */
async function dirtyClone(file: RandomAccessFile): Promise<void> {
  const piece = new Uint8Array(1024 * 1024).fill(0x5a)
  for (let i = 0; i < 4; i++) await file.write(file.sizeBytes(), piece)
}

/** The goal is a time and not another program. */
function cloneQuestion(kind: 'making' | 'resetting', words: string): Question {
  const start = async (): Promise<Started> => {
    const folder = mkdtempSync(join(tmpdir(), 'slipway-bench-'))
    return { measure: () => timeOfClone(folder, kind), stop: async () => rmSync(folder, { recursive: true }) }
  }
  const aim: Started = { measure: () => Promise.resolve(aimMs), stop: () => Promise.resolve() }
  return {
    ...{ name: words, unit: 'ms', better: 'lower', goal: 0.2 },
    ours: { name: 'slipway', start },
    peers: [{ name: 'the aim, 1 ms', start: () => Promise.resolve(aim) }],
  }
}

const unit = 'operations/s'
const better = 'higher'

export const questions: readonly Question[] = [
  {
    ...{ name: '4 KiB random read of a fresh clone over iSCSI, 32 in flight', unit, better, goal: 0.9 },
    ours: slipwayClone(randomRead),
    peers: [slipwayRaw(randomRead)],
  },
  {
    ...{
      name: '4 KiB random read of a fresh clone over iSCSI, first ever of the image, 32 in flight',
      unit,
      better,
      goal: 0.9,
    },
    ours: slipwayClone(firstRandomRead),
    peers: [slipwayRaw(firstRandomRead)],
  },
  {
    ...{
      name: '4 KiB random read of a fresh clone over iSCSI, second ever of the image, 32 in flight',
      unit,
      better,
      goal: 0.5,
    },
    ours: slipwayClone(secondRandomRead),
    peers: [slipwayRaw(secondRandomRead)],
  },
  {
    ...{ name: '4 KiB first write to a fresh clone over iSCSI, 32 in flight', unit, better, goal: 0.7 },
    ours: slipwayClone(firstWrite),
    peers: [tgtRaw(firstWrite)],
  },
  {
    ...{ name: '256 KiB sequential read of a fresh clone over iSCSI, 32 in flight', unit, better, goal: 1.2 },
    ours: slipwayClone(sequentialRead),
    peers: [tgtRaw(sequentialRead)],
  },
  {
    ...{ name: '4 KiB random read of a fresh clone, 32 in flight, beside NBD', unit, better, goal: 1 },
    ours: slipwayClone(randomRead),
    peers: [qemuNbdClone(randomRead)],
  },
  {
    ...{ name: '4 KiB first write to a fresh clone, 32 in flight, beside NBD', unit, better, goal: 1 },
    ours: slipwayClone(firstWrite),
    peers: [qemuNbdClone(firstWrite)],
  },
  cloneQuestion('making', 'making a clone of a 100 GiB image'),
  cloneQuestion('resetting', 'resetting a clone of a 100 GiB image'),
]
