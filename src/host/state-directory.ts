import { closeSync, mkdirSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { messageOf, OperationError } from '../base/errors.ts'
import { tryLock } from './native.ts'

export interface StateDirectory {
  readonly path: string
  /** A file inside it. */
  file(name: string): string
  close(): void
}

/** Where state is kept when nobody says: /var/lib/slipway for root, else the user's own place. */
export function defaultStateDirectory(): string {
  const systemd = process.env['STATE_DIRECTORY']
  if (systemd !== undefined && systemd !== '') return systemd.split(':')[0] ?? systemd
  if (process.getuid?.() === 0) return '/var/lib/slipway'
  const home = process.env['XDG_STATE_HOME'] ?? join(process.env['HOME'] ?? '/tmp', '.local', 'state')
  return join(home, 'slipway')
}

/** Makes it if it is not there, readable by its owner only. @throws {OperationError} stateForbidden */
export function makeStateDirectory(path: string): string {
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 })
    return path
  } catch (error) {
    throw forbidden(path, error)
  }
}

/**
 * Makes it and locks it, so that two Slipways never write one clone. The lock goes with the process, however that ends.
 * @throws {OperationError} stateForbidden, stateInUse
 */
export function lockStateDirectory(path: string): StateDirectory {
  makeStateDirectory(path)
  let fd: number
  try {
    fd = openSync(join(path, 'lock'), 'a', 0o600)
  } catch (error) {
    throw forbidden(path, error)
  }
  if (!tryLock(fd)) {
    closeSync(fd)
    const hint = 'Stop it first, or give this one a place of its own with --state DIR.'
    throw new OperationError('stateInUse', `another Slipway is using ${path}`, hint)
  }
  return { path, file: (name) => join(path, name), close: () => closeSync(fd) }
}

function forbidden(path: string, cause: unknown): OperationError {
  const hint = 'Choose another place with --state DIR, or give the user that runs Slipway access to it.'
  return new OperationError('stateForbidden', `cannot keep state in ${path}: ${messageOf(cause)}`, hint, { cause })
}
