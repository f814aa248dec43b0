/**
 * Targets in processes of their own, for more than one core. This process keeps the portal that initiators know: it answers
 * discovery, and sends each login on to its target's worker ("target moved temporarily", RFC 7143 §11.13.5).
 *
 *   initiator ──login──▶ portal :3260 ──moved to :3261──▶ initiator ──login──▶ worker :3261 ── disks 0, 2, ...
 *                                                                              worker :3262 ── disks 1, 3, ...
 *
 * A target lives in one worker only, so whatever has to be in one place (reservations, order of writes, sessions) is. The worker's
 * port stays the same when it is started again: a machine that boots keeps the address in its iBFT.
 */
import { unreachable } from '../base/assert.ts'
import { OperationError } from '../base/errors.ts'
import { systemClock } from '../host/clock.ts'
import { systemHash } from '../host/hash.ts'
import { systemRandom } from '../host/random.ts'
import { systemTcp } from '../host/tcp.ts'
import { startWorkerProcess, type WorkerProcess } from '../host/worker-process.ts'
import type { Verdict } from '../iscsi/policy.ts'
import { createIscsiTarget } from '../iscsi/server.ts'
import type { Timer } from '../ports/clock.ts'
import { type DiskEvent, listTargets, type ServedDisks, type ServeOptions } from './served-disks.ts'
import { type FromWorker, type ToWorker, toWire } from './worker-messages.ts'

export type WorkerEvent =
  | {
      readonly kind: 'workerEnded'
      readonly targetNames: readonly string[]
      readonly reason: string
      /** Undefined: it is not started again. */
      readonly restartsInMs: number | undefined
      readonly hint: string
    }
  | { readonly kind: 'workerRestarted'; readonly targetNames: readonly string[] }

type Listener = (event: DiskEvent | WorkerEvent) => void

const restartMsMin = 250
const restartMsMax = 30_000
/** One that ran this long before it ended is started again at once, and not later with each time. */
const soundAfterMs = 60_000
/** The portal's own sessions are discoveries: there is nothing to wait for. */
const portalGraceMs = 100

/** @throws {OperationError} what a worker says that it cannot do; workerFailed if it ends without a word */
export async function serveByWorkers(
  options: ServeOptions & { readonly workerCount: number },
  listener: Listener,
): Promise<ServedDisks> {
  const { disks, authentication, listen, workerCount } = options
  const workers: DiskWorker[] = []
  const portal = createIscsiTarget({
    network: systemTcp,
    clock: systemClock,
    random: systemRandom,
    hash: systemHash,
    directory: {
      resolve: ({ targetName, local }) => {
        const worker = workers.find((one) => one.has(targetName))
        return worker === undefined ? { kind: 'refuse', reason: 'notFound' } : worker.verdict(local.address)
      },
      discover: () => ({ kind: 'accept', authentication }),
      list: ({ local }) => listTargets(disks, local),
    },
    events: listener,
  })
  // First, so that nobody is sent to a portal that is not ours.
  const { local } = await portal.listen(listen)
  const stop = async (): Promise<void> => {
    await portal.close(portalGraceMs)
    await Promise.all(workers.map((worker) => worker.stop()))
  }
  try {
    for (let index = 0; index < workerCount; index++) {
      const port = listen.port === 0 ? 0 : local.port + 1 + index
      const share = disks.filter((_, disk) => disk % workerCount === index)
      const what = { disks: share, authentication, listen: { ...listen, port }, portalPort: local.port }
      workers.push(new DiskWorker(what, listener))
    }
    const sizes = await Promise.all(workers.map((worker) => worker.start()))
    const sizesBytes = disks.map((_, disk) => sizes[disk % workerCount]?.[Math.floor(disk / workerCount)] ?? 0)
    return { local, sizesBytes, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

class DiskWorker {
  #options: ServeOptions
  readonly #listener: Listener
  #process: WorkerProcess | undefined
  /** Undefined while nobody is there. */
  #port: number | undefined
  #readyAtMs = 0
  #restartMs = restartMsMin
  #restart: Timer | undefined
  #stopping = false

  constructor(options: ServeOptions, listener: Listener) {
    this.#options = options
    this.#listener = listener
  }

  get #targetNames(): readonly string[] {
    return this.#options.disks.map(({ targetName }) => targetName)
  }

  has(targetName: string | undefined): boolean {
    return this.#options.disks.some((disk) => disk.targetName === targetName)
  }

  /** `address` is the one that the initiator came to: it reaches us there. */
  verdict(address: string): Verdict {
    if (this.#port === undefined) return { kind: 'refuse', reason: 'unavailable' }
    return { kind: 'redirect', to: { address, port: this.#port }, permanent: false }
  }

  /** Sizes of its disks, once it serves them. */
  start(): Promise<readonly number[]> {
    return new Promise((resolve, reject) => {
      const worker = startWorkerProcess(new URL('./target-worker.ts', import.meta.url), (received) => {
        const message = received as FromWorker
        switch (message.kind) {
          case 'ready':
            this.#port = message.local.port
            this.#readyAtMs = systemClock.nowMs()
            this.#options = { ...this.#options, listen: message.local }
            resolve(message.sizesBytes)
            return
          case 'failed':
            reject(new OperationError(message.code, message.message, message.hint))
            return
          case 'event':
            this.#listener(message.event)
            return
          default:
            unreachable(message)
        }
      })
      this.#process = worker
      this.#say(worker, { kind: 'serve', options: toWire(this.#options) })
      void worker.ended.then((how) => {
        const hint = 'What it printed before says why; please report it if it was a mistake of Slipway.'
        reject(new OperationError('workerFailed', `a worker ended before it served anything: ${how}`, hint))
        this.#process = undefined
        if (this.#port === undefined) return
        this.#port = undefined
        if (!this.#stopping) this.#lost(how)
      })
    })
  }

  async stop(): Promise<void> {
    this.#stopping = true
    this.#restart?.cancel()
    const worker = this.#process
    if (worker === undefined) return
    this.#say(worker, { kind: 'stop' })
    await worker.ended
  }

  #say(worker: WorkerProcess, message: ToWorker): void {
    worker.send(message)
  }

  /** Ended by itself, or killed: its machines log in again, and find the disk as it was when they last flushed. */
  #lost(reason: string): void {
    const targetNames = this.#targetNames
    // A disk that was in memory is gone; one that comes back without what was written to it is worse than none.
    if (this.#options.disks.some(({ access }) => access.kind === 'ephemeral')) {
      const hint = 'What was written to these disks was in its memory. Start the target again for fresh ones.'
      this.#listener({ kind: 'workerEnded', targetNames, reason, restartsInMs: undefined, hint })
      return
    }
    if (systemClock.nowMs() - this.#readyAtMs > soundAfterMs) this.#restartMs = restartMsMin
    const hint = 'It is started again by itself; machines wait for it.'
    this.#startLater({ kind: 'workerEnded', targetNames, reason, restartsInMs: this.#restartMs, hint })
  }

  #startLater(event: WorkerEvent): void {
    this.#listener(event)
    const afterMs = this.#restartMs
    this.#restartMs = Math.min(restartMsMax, afterMs * 2)
    this.#restart = systemClock.after(afterMs, () => {
      this.start().then(
        () => this.#listener({ kind: 'workerRestarted', targetNames: this.#targetNames }),
        (error: unknown) => {
          if (!(error instanceof OperationError)) throw error
          if (this.#stopping) return
          const { message: reason, hint } = error
          const restartsInMs = this.#restartMs
          this.#startLater({ kind: 'workerEnded', targetNames: this.#targetNames, reason, restartsInMs, hint })
        },
      )
    })
  }
}
