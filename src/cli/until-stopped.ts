import { exitCode } from './exit.ts'

export interface Running {
  /** Tells every session, flushes everything, lets go of everything. */
  stop(): Promise<void>
  /** What SIGHUP asks for. Absent: SIGHUP stops it. */
  reload?(): Promise<void>
}

/** After a second Ctrl-C, or this long after the first, we no longer wait for anybody. */
const patienceMs = 20_000

/**
 * Starts something and lets it run until Ctrl-C, SIGTERM or SIGHUP, then stops it in order: exit code 0. A signal that comes
 * while it is still starting is kept until it can be stopped in order. A second signal ends at once. Of what can reload, a
 * SIGHUP that does not come from a closed terminal asks for that.
 */
export async function runUntilStopped(start: () => Promise<Running>, say: (line: string) => void): Promise<void> {
  let reload: (() => Promise<void>) | undefined
  const signalled = new Promise<void>((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => resolve())
    process.on('SIGHUP', () => {
      if (reload === undefined || process.stdin.isTTY === true) resolve()
      else void reload()
    })
  })
  const running = await start()
  reload = running.reload?.bind(running)
  await signalled
  say('Stopping: telling the machines, writing everything out ...')
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(exitCode.failed))
  const late = setTimeout(() => process.exit(exitCode.failed), patienceMs)
  await running.stop()
  clearTimeout(late)
  process.exitCode = exitCode.done
}
