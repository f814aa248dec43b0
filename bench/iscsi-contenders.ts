/** The targets of the iSCSI bench, all with one disk: a file of 1 GiB that is in the page cache. They never work at once. */
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { closeSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  type Contender,
  median,
  processorSeconds,
  type RunningProcess,
  serverAddress,
  startProcess,
  unlessInstalled,
} from './frame.ts'
import type { Measured } from './iscsi-load.ts'
import { isListening, serveByTgt } from './tgt.ts'

export type Serving = {
  readonly server: RunningProcess
  readonly port: number
  readonly disk: string
  /** Of each target, its disk. */
  readonly urls: readonly string[]
}

export type Serve = (disk: string, folder: string) => Promise<Serving>
export type Measure = (serving: Serving) => Measured | Promise<Measured>

export const ourTarget = 'iqn.2026-01.slipway.bench:disk'
const diskBytes = 1024 * 1024 * 1024
/** As bin/slipway starts it. */
const nodeOptions = ['--max-semi-space-size=2']

let nextPort = 13_360
let diskFolder: string | undefined

/** Bytes that do not compress, written once; read again before each question, should the kernel have thrown some out. */
function theDisk(): string {
  const path = (folder: string): string => join(folder, 'disk.img')
  if (diskFolder !== undefined) {
    execFileSync('dd', [`if=${path(diskFolder)}`, 'of=/dev/null', 'bs=1M', 'status=none'])
    return path(diskFolder)
  }
  const folder = mkdtempSync(join(tmpdir(), 'slipway-bench-'))
  process.once('exit', () => rmSync(folder, { recursive: true }))
  const file = openSync(path(folder), 'w')
  const piece = randomBytes(16 * 1024 * 1024)
  for (let at = 0; at < diskBytes; at += piece.byteLength) writeSync(file, piece, 0, piece.byteLength, at)
  closeSync(file)
  diskFolder = folder
  return path(folder)
}

export function contender(name: string, serve: Serve, measure: Measure, missing?: Contender['missing']): Contender {
  return {
    name,
    ...(missing === undefined ? {} : { missing }),
    start: async () => {
      const folder = mkdtempSync(join(tmpdir(), 'slipway-bench-'))
      const serving = await serve(theDisk(), folder)
      const costs: number[] = []
      return {
        measure: async () => {
          const before = processorSeconds(serving.server)
          const { figure, operations } = await measure(serving)
          if (operations !== undefined) costs.push((processorSeconds(serving.server) - before) / operations)
          return figure
        },
        note: () =>
          costs.length === 0 ? '' : `${(median(costs) * 1e6).toFixed(1)} us of the server's processor for each`,
        stop: async () => {
          await serving.server.stop()
          rmSync(folder, { recursive: true })
        },
      }
    },
  }
}

export const slipway = (measure: Measure): Contender => contender('slipway', serveOurs, measure)
export const tgt = (measure: Measure): Contender =>
  contender('tgt', serveTgt, measure, unlessInstalled('tgt', '/usr/sbin/tgtd'))
export const limit = (measure: Measure): Contender =>
  contender('the limit, in C', serveLimit, measure, unlessInstalled('gcc libc6-dev', '/usr/bin/cc'))

/** The goal is a number and not another program. */
export function bound(name: string, figure: number): Contender {
  return {
    name,
    start: () => Promise.resolve({ measure: () => Promise.resolve(figure), stop: () => Promise.resolve() }),
  }
}

export async function serveOurs(disk: string): Promise<Serving> {
  const port = nextPort++
  const program = join(import.meta.dirname, 'iscsi-serve.ts')
  const server = await startProcess({
    command: process.execPath,
    args: [...nodeOptions, program, serverAddress, String(port), disk],
    ready: /ready/,
  })
  return { server, port, disk, urls: [`iscsi://${serverAddress}:${port}/${ourTarget}/0`] }
}

async function serveTgt(disk: string, folder: string): Promise<Serving> {
  const port = nextPort++
  const { server, url } = await serveByTgt(disk, folder, port)
  return { server, port, disk, urls: [url] }
}

/** A target in C that does nothing but login and reads: bench/limit.c. */
async function serveLimit(disk: string, folder: string): Promise<Serving> {
  const port = nextPort++
  const program = join(folder, 'limit')
  execFileSync('cc', ['-O2', '-o', program, join(import.meta.dirname, 'limit.c')])
  const ready = (): boolean => isListening(port)
  const server = await startProcess({ command: program, args: [serverAddress, String(port), disk], ready })
  return { server, port, disk, urls: [`iscsi://${serverAddress}:${port}/${ourTarget}/0`] }
}

const targetCount = 8

/** `slipway target` with eight targets of one image, in one process or spread over workers. */
export const serveEight =
  (workerCount: number, place: 'ownCore' | 'anyCore'): Serve =>
  async (disk) => {
    const port = nextPort
    nextPort += 1 + workerCount
    const images = Array.from({ length: targetCount }, () => disk)
    const where = ['--listen', `${serverAddress}:${port}`, '--workers', String(workerCount)]
    const start = join(import.meta.dirname, '..', 'bin', 'start.mjs')
    const server = await startProcess({
      command: process.execPath,
      args: [...nodeOptions, start, 'target', ...images, '--read-only', ...where],
      anyCore: place === 'anyCore',
      ready: new RegExp(`(Serving .*\\n){${targetCount}}`),
    })
    const name = (index: number): string => `iqn.2026-01.internal.slipway:disk.img${index === 0 ? '' : `-${index + 1}`}`
    const urls = images.map((_, index) => `iscsi://${serverAddress}:${port}/${name(index)}/0`)
    return { server, port, disk, urls }
  }
