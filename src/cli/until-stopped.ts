import { exitCode } from './exit.ts'

export interface Running {
  /** Tells every session, flushes everything, lets go of everything. */
  stop(): Promise<void>
}

/** After a second Ctrl-C, or this long after the first, we no longer wait for anybody. */
const patienceMs = 20_000

/** Runs until Ctrl-C, SIGTERM or SIGHUP, then stops it in order. A second signal ends at once. Exit code 0. */
export async function untilStopped(running: Running, say: (line: string) => void): Promise<void> {
  await new Promise<void>((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => resolve())
  })
  say('Stopping: telling the machines, writing everything out ...')
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(exitCode.failed))
  const late = setTimeout(() => process.exit(exitCode.failed), patienceMs)
  await running.stop()
  clearTimeout(late)
  process.exitCode = exitCode.done
}
