/**
 * What every bench shares. A bench asks one question: how fast are we beside what a user would run instead, on this
 * machine, in this run? Ours and the peers' are measured in turn (A B A B), so that a machine that gets slower or
 * faster under way does it to all; the answer is the median of the rounds' ratios.
 */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { closeSync, existsSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, getPriority, setPriority, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

export type Question = {
  /** Also the key in ratios.json: what is measured, under which load. */
  readonly name: string
  readonly unit: string
  readonly better: 'higher' | 'lower'
  /** Ratio against the best peer that must be reached; above 1 means that we are ahead, whatever the unit. */
  readonly goal: number
  readonly ours: Contender
  readonly peers: readonly Contender[]
}

export type Contender = {
  readonly name: string
  /** What is not there, as a Debian package name; undefined when it can run. */
  readonly missing?: () => string | undefined
  /** Starts the server. Called once; all contenders of a question are up while each is measured in turn. */
  readonly start: () => Promise<Started>
}

export type Started = {
  /** One run: the figure in the question's unit. */
  readonly measure: () => Promise<number>
  /** Said beside the median: what the rounds cost the server, for one. */
  readonly note?: () => string
  readonly stop: () => Promise<void>
}

export type Answer = {
  readonly name: string
  readonly unit: string
  readonly goal: number
  /** Medians by contender, ours first. */
  readonly figures: readonly {
    readonly contender: string
    readonly median: number
    readonly runs: readonly number[]
    readonly note?: string
  }[]
  readonly absent: readonly { readonly contender: string; readonly debianPackage: string }[]
  /** The best peer and how we stand against it; absent when no peer is installed. */
  readonly against?: { readonly peer: string; readonly ratio: number }
}

export async function answer(question: Question, rounds: number): Promise<Answer> {
  const contenders = [question.ours, ...question.peers]
  const absent: { contender: string; debianPackage: string }[] = []
  const running: { name: string; started: Started; runs: number[]; note?: string }[] = []
  try {
    for (const contender of contenders) {
      const debianPackage = contender.missing?.()
      if (debianPackage !== undefined) absent.push({ contender: contender.name, debianPackage })
      else running.push({ name: contender.name, started: await contender.start(), runs: [] })
    }
    // The first round warms caches and compilers up and counts for nobody.
    for (let round = -1; round < rounds; round++) {
      for (const { started, runs } of running) {
        const figure = await started.measure()
        if (round >= 0) runs.push(figure)
      }
    }
    for (const one of running) if (one.started.note !== undefined) one.note = one.started.note()
  } finally {
    for (const { started } of running) await started.stop()
  }
  return summarise(question, running, absent)
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length / 2
  return ((sorted[Math.ceil(middle) - 1] ?? 0) + (sorted[Math.floor(middle)] ?? 0)) / 2
}

function summarise(
  question: Question,
  running: readonly { readonly name: string; readonly runs: readonly number[]; readonly note?: string }[],
  absent: Answer['absent'],
): Answer {
  const figures = running.map(({ name, runs, note }) => {
    return { contender: name, median: median(runs), runs, ...(note === undefined ? {} : { note }) }
  })
  const ours = figures.find(({ contender }) => contender === question.ours.name)
  const sign = question.better === 'higher' ? 1 : -1
  const best = figures.filter((figure) => figure !== ours).toSorted((a, b) => sign * (b.median - a.median))[0]
  const base = { name: question.name, unit: question.unit, goal: question.goal, figures, absent }
  if (ours === undefined || best === undefined) return base
  const ratios = ours.runs.map((run, round) => (run / (best.runs[round] ?? Number.NaN)) ** sign)
  return { ...base, against: { peer: best.contender, ratio: median(ratios) } }
}

/** By question. */
export type StoredRatios = Readonly<Record<string, { readonly peer: string; readonly ratio: number }>>

/** How much worse than the stored ratio one of today may be: machines and rounds differ by less. */
const regressionMax = 0.15

/** What got slower, in words. A question that is new, or has no peer today, has nothing to be held against. */
export function regressionsOf(
  answers: readonly Pick<Answer, 'name' | 'against'>[],
  stored: StoredRatios,
): readonly string[] {
  return answers.flatMap(({ name, against }) => {
    const before = stored[name]
    if (against === undefined || before === undefined || against.ratio >= before.ratio * (1 - regressionMax)) return []
    return [`${name}: ${against.ratio.toFixed(2)} of ${against.peer}, was ${before.ratio.toFixed(2)} of ${before.peer}`]
  })
}

/**
 * Where servers listen. Not a loopback address: tftpd-hpa finds none to listen on when there are only those.
 * The bench runs in a network namespace of its own, so that every port is free and nobody is disturbed.
 */
export const serverAddress = '10.111.1.1'
const inNamespaceMark = 'SLIPWAY_BENCH_NAMESPACE'

/** Runs this program again inside a new network namespace, unless it is the one inside already. */
export function enterOwnNetwork(): void {
  if (process.env[inNamespaceMark] !== undefined) {
    execFileSync('ip', ['link', 'set', 'lo', 'up'])
    execFileSync('ip', ['address', 'add', `${serverAddress}/32`, 'dev', 'lo'])
    return
  }
  const unprivileged = process.getuid?.() === 0 ? [] : ['--user', '--map-root-user']
  const again = [...unprivileged, '--net', process.execPath, ...process.execArgv, ...process.argv.slice(1)]
  const done = spawnSync('unshare', again, { stdio: 'inherit', env: { ...process.env, [inNamespaceMark]: '1' } })
  process.exit(done.status ?? 1)
}

/** Servers have one core, load clients the other, so that neither is measured through the other's scheduling. */
export const serverCore = 0
const coreCount = availableParallelism()
export const clientCore: number = coreCount > 1 ? 1 : 0

/** Keeps this process, which is the load client or starts it, off the servers' core. */
export function moveToClientCore(): void {
  spawnSync('taskset', ['-a', '-c', '-p', String(clientCore), String(process.pid)])
}

/**
 * Whatever else the machine has to do comes behind this process and all that it starts, until it ends: servers and clients of a
 * bench are to be alone with each other. Linux weighs sessions first (sched_autogroup), then the processes of each.
 */
export function comeFirst(): void {
  try {
    setPriority(benchPriority)
    setSessionPriority(process.pid, benchPriority)
    process.once('exit', () => setSessionPriority(process.pid, 0))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EACCES') throw error
    console.error('bench: not root, so what else runs on this machine is not kept behind.')
  }
}
const benchPriority = -15

function setSessionPriority(pid: number, priority: number): void {
  const file = `/proc/${pid}/autogroup`
  if (existsSync(file)) writeFileSync(file, String(priority))
}

/** Seconds of processor that a server has used so far: it, and all that it started. */
export function processorSeconds({ pid }: Pick<RunningProcess, 'pid'>): number {
  let nanoseconds = 0
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    nanoseconds += Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'utf8').split(' ')[0])
  }
  return nanoseconds / 1e9 + childrenOf(pid).reduce((sum, child) => sum + processorSeconds({ pid: child }), 0)
}

/** Kilobytes of memory that a server has in use: it, and all that it started. */
export function residentKilobytes({ pid }: Pick<RunningProcess, 'pid'>): number {
  const own = Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1])
  return childrenOf(pid).reduce((sum, child) => sum + residentKilobytes({ pid: child }), own)
}

function childrenOf(pid: number): number[] {
  const children = readdirSync(`/proc/${pid}/task`).flatMap((task) =>
    readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').split(' '),
  )
  return children.filter((child) => child !== '').map(Number)
}

export type ProcessOptions = {
  readonly command: string
  readonly args: readonly string[]
  readonly core?: number
  /** On no core in particular. */
  readonly anyCore?: boolean
  readonly environment?: Readonly<Record<string, string>>
  /** Runs it in this network namespace. */
  readonly namespaceName?: string
  /** Ready when this stands in what it prints, or when the function says so. */
  readonly ready?: RegExp | (() => Promise<boolean> | boolean)
}

export type RunningProcess = {
  readonly pid: number
  /** Everything it printed so far. */
  readonly printed: () => string
  readonly stop: () => Promise<void>
}

/** No process of a bench outlives this, whatever becomes of the bench. */
const lifetimeSeconds = 1_800
const readyWithinMs = 20_000
const alive = new Set<ChildProcess>()
process.once('exit', () => {
  for (const child of alive) signal(child, 'SIGKILL')
})
for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => process.exit(130))

/** @throws {Error} if it ends, or says nothing of being ready in 20 s; what it printed is in the message. */
export async function startProcess(options: ProcessOptions): Promise<RunningProcess> {
  const inNamespace = options.namespaceName === undefined ? [] : ['ip', 'netns', 'exec', options.namespaceName]
  const cores = options.anyCore === true ? `0-${coreCount - 1}` : String(options.core ?? serverCore)
  const pinned = ['taskset', '-c', cores]
  const bounded = ['timeout', '--kill-after=5', String(lifetimeSeconds)]
  const [program = '', ...args] = [...inNamespace, ...pinned, ...bounded, options.command, ...options.args]
  // To a file and not a pipe: a load client that blocks this thread reads no pipe, and the server would wait for it.
  const folder = mkdtempSync(join(tmpdir(), 'slipway-bench-'))
  const logFile = join(folder, 'printed')
  const log = openSync(logFile, 'a+')
  const child = spawn(program, args, {
    // A group of its own: workers that a server forks are ended with it.
    detached: true,
    stdio: ['ignore', log, log],
    env: { ...process.env, ...options.environment },
  })
  closeSync(log)
  // A process group of its own is a session of its own.
  if (child.pid !== undefined && getPriority() === benchPriority) setSessionPriority(child.pid, benchPriority)
  const printed = (): string => readFileSync(logFile, 'utf8')
  let spawnError = ''
  let ended = false
  alive.add(child)
  const closed = new Promise<void>((resolve) => {
    const end = (): void => {
      ended = true
      alive.delete(child)
      resolve()
    }
    child.once('exit', end)
    child.once('error', (error) => {
      spawnError = error.message
      end()
    })
  })
  const ready = options.ready ?? (() => true)
  for (const giveUpAtMs = Date.now() + readyWithinMs; ; await sleep(20)) {
    if (ended) throw new Error(`${options.command} ended before it was ready: ${printed()}${spawnError}`)
    if (ready instanceof RegExp ? ready.test(printed()) : await ready()) break
    if (Date.now() > giveUpAtMs) {
      signal(child, 'SIGKILL')
      throw new Error(`${options.command} was not ready within ${readyWithinMs} ms: ${printed()}`)
    }
  }
  const stop = async (): Promise<void> => {
    if (!ended) signal(child, 'SIGTERM')
    await Promise.race([closed, sleep(3_000, undefined, { ref: false })])
    if (!ended) signal(child, 'SIGKILL')
    await closed
    rmSync(folder, { recursive: true })
  }
  return { pid: child.pid ?? 0, printed, stop }
}

/** To the process and all it started. */
function signal(child: ChildProcess, name: 'SIGTERM' | 'SIGKILL'): void {
  if (child.pid === undefined) return
  try {
    process.kill(-child.pid, name)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

/** For `Contender.missing`: the package's name unless the file it brings is there. */
export function unlessInstalled(debianPackage: string, file: string): () => string | undefined {
  return () => (existsSync(file) ? undefined : debianPackage)
}

export type NamespacePair = {
  readonly server: { readonly name: string; readonly interfaceName: string; readonly address: string }
  readonly client: { readonly name: string; readonly interfaceName: string; readonly address: string }
  readonly remove: () => void
}

/** Two network namespaces joined by a veth pair, addressed 10.111.0.1 and .2 of a /16, for what loopback cannot carry (DHCP). */
export function makeNamespacePair(label: string): NamespacePair {
  const id = `${label}${process.pid}`
  const side = (role: string, host: number) => ({
    name: `slipway-${role}-${id}`,
    interfaceName: `${role}${process.pid}`.slice(0, 15),
    address: `10.111.0.${host}`,
  })
  const [server, client] = [side('srv', 1), side('cli', 2)]
  const ip = (...args: string[]): void => {
    execFileSync('ip', args, { stdio: 'pipe' })
  }
  const remove = (): void => {
    for (const { name } of [server, client]) spawnSync('ip', ['netns', 'delete', name])
  }
  process.once('exit', remove)
  for (const { name } of [server, client]) ip('netns', 'add', name)
  const peer = ['peer', 'name', client.interfaceName, 'netns', client.name]
  ip('-n', server.name, 'link', 'add', server.interfaceName, 'type', 'veth', ...peer)
  for (const { name, interfaceName, address } of [server, client]) {
    ip('-n', name, 'addr', 'add', `${address}/16`, 'dev', interfaceName)
    ip('-n', name, 'link', 'set', interfaceName, 'up')
    ip('-n', name, 'link', 'set', 'lo', 'up')
  }
  return { server, client, remove }
}
