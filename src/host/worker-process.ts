/**
 * A second process of this program, with a channel between the two. What has to stay secret goes through the channel: arguments
 * and environment of a process can be read by others.
 */
import { fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'

export interface WorkerProcess {
  send(message: unknown): void
  /** It is gone; how it ended, in words. */
  readonly ended: Promise<string>
}

/** `module` calls `serveParent`. The worker outlives neither this process nor its own mistakes. */
export function startWorkerProcess(module: URL, onMessage: (message: unknown) => void): WorkerProcess {
  const child = fork(fileURLToPath(module), { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
  child.on('message', onMessage)
  const ended = new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(error.message))
    child.once('exit', (code, signal) => resolve(signal === null ? `exit code ${code}` : `signal ${signal}`))
  })
  return {
    // Without a callback Node would throw when the worker is gone; `ended` tells that already.
    send: (message) => void child.send(message as object, () => {}),
    ended,
  }
}

export interface ParentProcess {
  send(message: unknown): void
  /** Nothing more will be said; the process ends when nothing else keeps it. */
  leave(): void
}

/**
 * The worker's side. Ctrl-C and a service manager's SIGTERM reach the whole group: they are the parent's to answer, in order.
 * `onParentGone` is called when the parent has ended without a word.
 */
export function serveParent(onMessage: (message: unknown) => void, onParentGone: () => void): ParentProcess {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {})
  process.on('message', onMessage)
  process.once('disconnect', onParentGone)
  return {
    send: (message) => {
      if (process.connected) process.send?.(message, () => {})
    },
    leave: () => {
      process.off('disconnect', onParentGone)
      if (process.connected) process.disconnect()
    },
  }
}
