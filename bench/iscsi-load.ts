/** What asks the targets: Debian's own clients, iscsi-perf (libiscsi) and qemu-img bench, and for digests our own. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { clientCore, serverAddress } from './frame.ts'

/** What one run gave. */
export type Measured = {
  /** In the question's unit. */
  readonly figure: number
  /** How many commands the server answered for it, if that is to be told. */
  readonly operations?: number
}

export type QemuLoad = {
  readonly write?: boolean
  readonly bytes: number
  readonly count: number
  readonly inFlight: number
  readonly strideBytes: number
}

const qemuBenchLimitMs = 120_000

/** Operations a second by qemu-img bench; writes end with a flush that is in the time. */
export function qemuBench(load: QemuLoad, url: string): Measured {
  const numbers = { '-c': load.count, '-s': load.bytes, '-S': load.strideBytes, '-d': load.inFlight }
  const shape = Object.entries(numbers).flatMap(([flag, value]) => [flag, String(value)])
  const write = load.write === true ? ['-w', `--flush-interval=${load.count}`, '--no-drain'] : []
  const args = ['-c', String(clientCore), 'qemu-img', 'bench', '-f', 'raw', '-t', 'none', ...shape, ...write, url]
  const said = execFileSync('taskset', args, { encoding: 'utf8', timeout: qemuBenchLimitMs })
  const seconds = /completed in ([0-9.]+) seconds/.exec(said)?.[1]
  if (seconds === undefined) throw new Error(`qemu-img bench said: ${said}`)
  return { figure: load.count / Number(seconds), operations: load.count }
}

export type PerfLoad = {
  readonly url: string
  readonly inFlight: number
  readonly initiatorName: string
  /** Default: the clients' core. */
  readonly core?: number
}

/**
 * One iscsi-perf for each, 4 KiB random reads, all for the same seconds; what each did on average, operations a second. They are
 * held until all are there: none shall have had the server to itself because it was first.
 */
export async function iscsiPerf(loads: readonly PerfLoad[], seconds: number): Promise<readonly number[]> {
  const started = loads.map((load) => startPerf(load, seconds))
  for (const { child } of started) await untilStopped(child)
  for (const { child } of started) child.kill('SIGCONT')
  return Promise.all(started.map(({ average }) => average))
}

function startPerf({ url, inFlight, initiatorName, core = clientCore }: PerfLoad, seconds: number) {
  const perf = ['iscsi-perf', '-i', initiatorName, '-m', String(inFlight), '-b', '8', '-r', url]
  // It runs until it is interrupted, and then tells the average.
  const bounded = ['taskset', '-c', String(core), 'timeout', '-s', 'INT', String(seconds), ...perf]
  const child = spawn('sh', ['-c', 'kill -STOP $$; exec "$@"', 'sh', ...bounded], {
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  let printed = ''
  child.stdout.on('data', (text) => {
    printed = (printed + String(text)).slice(-4_000)
  })
  const average = new Promise<number>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', () => {
      const last = [...printed.matchAll(/iops average (\d+)/g)].at(-1)?.[1]
      if (last === undefined) reject(new Error(`iscsi-perf said: ${printed}`))
      else resolve(Number(last))
    })
  })
  return { child, average }
}

export type InitiatorLoad = {
  readonly to: { readonly port: number; readonly targetName: string }
  readonly order: 'random' | 'sequential'
  readonly bytes: number
  readonly inFlight: number
  readonly digests: boolean
}

/** Reads by our own initiator for some seconds; how many there were. */
export function ownInitiator(load: InitiatorLoad, seconds: number): number {
  const { to, order, bytes, inFlight, digests } = load
  const program = join(import.meta.dirname, 'initiator-load.ts')
  const place = [serverAddress, String(to.port), to.targetName]
  const shape = [order, String(bytes), String(inFlight), String(seconds), digests ? 'digests' : 'plain']
  const args = ['-c', String(clientCore), process.execPath, program, ...place, ...shape]
  return Number(execFileSync('taskset', args, { encoding: 'utf8', timeout: (seconds + 30) * 1_000 }))
}

async function untilStopped({ pid }: ChildProcess): Promise<void> {
  // proc(5): the state stands behind the name, which is in parentheses.
  while (pid !== undefined && !readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') T ')) await sleep(2)
}
