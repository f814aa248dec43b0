import { messageOf, OperationError } from '../base/errors.ts'

/** What `slipway` tells the shell. Documented in `slipway --help`. */
export const exitCode = {
  done: 0,
  /** The world said no: a port is taken, a file is unreadable. The message says what to do. */
  failed: 1,
  /** The command line or the configuration is not understood; nothing was started. */
  usage: 2,
  /** `doctor` and the checks found something that will not work. */
  found: 3,
} as const

const usageCodes = new Set(['configInvalid', 'imageMissing', 'usage'])

/** Prints what failed, why and what to do next on standard error; returns the exit code. */
export function reportFailure(error: unknown): number {
  if (error instanceof OperationError) {
    process.stderr.write(`slipway: ${error.message}\n  ${error.hint}\n`)
    return usageCodes.has(error.code) ? exitCode.usage : exitCode.failed
  }
  const stack = error instanceof Error ? (error.stack ?? error.message) : messageOf(error)
  process.stderr.write(`slipway: a mistake of Slipway's own, please report it with these lines:\n${stack}\n`)
  return exitCode.failed
}
