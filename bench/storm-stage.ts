/** The two sides of a storm, made ready for it: what they serve, cold. */
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { bytesOf } from '../src/block/boot-trace.ts'
import { type BootRecording, readRecording, recordingFile, traceOf } from './boot-recording.ts'
import { type RunningProcess, serverAddress, startProcess } from './frame.ts'
import { replayStorm, usualInFlight } from './storm-replay.ts'
import type { StormFigures } from './storm-serve.ts'
import { serveManyByTgt } from './tgt.ts'

export const recording: BootRecording = readRecording()
const trace = traceOf(recording)
/** What one boot reads, each block once. */
export const bootBytes: number = bytesOf(trace)

let port = 15_260

/** A disk of the recorded machine's size, with something that does not compress wherever that boot reads. */
function writeDisk(path: string, content: Uint8Array): void {
  const file = openSync(path, 'w')
  ftruncateSync(file, recording.diskBytes)
  for (const { offset, bytes } of trace.ranges) {
    for (let done = 0; done < bytes; ) {
      const place = (offset + done) % content.byteLength
      const some = Math.min(bytes - done, content.byteLength - place)
      writeSync(file, content, place, some, offset + done)
      done += some
    }
  }
  closeSync(file)
}

/** Everything of these files is on disk, and nothing of them in memory: `dd` asks the kernel so (POSIX_FADV_DONTNEED). */
function chill(paths: readonly string[]): void {
  execFileSync('sync', ['-d', ...paths])
  for (const path of paths) execFileSync('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none'])
}

export type StormOutcome = {
  readonly seconds: number
  /** Of our server only, when the last machine has booted. */
  readonly figures: StormFigures | undefined
}

export interface Stage {
  /** `machineCount` machines switched on at once, everything cold. */
  storm(machineCount: number, inFlight?: number): Promise<StormOutcome>
  close(): void
}

/**
 * Clones of one golden image. `withTrace`: a machine has booted from this version before. `diskReadMs`: each read of the image
 * takes that much longer, as on a disk that is slower than this one.
 */
export function slipwayStage(withTrace: boolean, diskReadMs = 0): Stage {
  const folder = mkdtempSync(join(tmpdir(), 'slipway-bench-'))
  const golden = join(folder, 'golden.img')
  writeDisk(golden, randomBytes(16 * 1024 * 1024))
  return {
    storm: async (machineCount, inFlight = usualInFlight) => {
      const ourPort = port++
      const args = [serverAddress, String(ourPort), golden, folder, String(machineCount)]
      const server = await startProcess({
        command: process.execPath,
        args: [
          '--max-semi-space-size=2',
          '--expose-gc',
          join(import.meta.dirname, 'storm-serve.ts'),
          ...args,
          ...(withTrace ? [recordingFile] : []),
        ],
        // As bin/slipway does.
        environment: {
          UV_THREADPOOL_SIZE: '16',
          MALLOC_ARENA_MAX: '2',
          MALLOC_MMAP_THRESHOLD_: '131072',
          STORM_DISK_MS: String(diskReadMs),
        },
        ready: /ready/,
      })
      try {
        chill([golden])
        const seconds = await replayStorm(
          Array.from({ length: machineCount }, (_, index) => ({
            ...{ address: serverAddress, port: ourPort, lun: 0 },
            targetName: `iqn.2026-01.slipway.bench:storm-${index}`,
          })),
          recording,
          inFlight,
        )
        return { seconds, figures: await figuresOf(server) }
      } finally {
        await server.stop()
      }
    },
    close: () => rmSync(folder, { recursive: true }),
  }
}

async function figuresOf(server: RunningProcess): Promise<StormFigures> {
  process.kill(await lastChildOf(server), 'SIGUSR2')
  for (let tries = 0; tries < 100; tries++) {
    const line = /^\{.*\}$/m.exec(server.printed())?.[0]
    if (line !== undefined) return JSON.parse(line) as StormFigures
    await sleep(20)
  }
  throw new Error(`no figures from the server: ${server.printed()}`)
}

/** `timeout` stands in front of every process of a bench. */
function lastChildOf({ pid }: RunningProcess): Promise<number> {
  const child = execFileSync('pgrep', ['-P', String(pid)], { encoding: 'utf8' }).trim()
  return Promise.resolve(child === '' ? pid : Number(child.split('\n')[0]))
}

/** A raw copy for each machine. */
export function tgtStage(machineCountMax: number): Stage {
  const folder = mkdtempSync(join(tmpdir(), 'slipway-bench-'))
  const content = randomBytes(16 * 1024 * 1024)
  const copies = Array.from({ length: machineCountMax }, (_, index) => join(folder, `copy-${index}.img`))
  for (const copy of copies) writeDisk(copy, content)
  return {
    storm: async (machineCount, inFlight = usualInFlight) => {
      const theirPort = port++
      const files = copies.slice(0, machineCount)
      const { server, targetNames } = await serveManyByTgt(files, folder, theirPort)
      try {
        chill(files)
        const machines = targetNames.map((targetName) => ({
          ...{ address: serverAddress, port: theirPort, lun: 1 },
          targetName,
        }))
        return { seconds: await replayStorm(machines, recording, inFlight), figures: undefined }
      } finally {
        await server.stop()
      }
    },
    close: () => rmSync(folder, { recursive: true }),
  }
}
