/** SQLite as Slipway uses it: one file, several processes, a schema that only grows. */
import { closeSync, fchmodSync, fstatSync, openSync } from 'node:fs'
import { DatabaseSync } from 'node:sqlite'
import { OperationError } from '../base/errors.ts'

/** Statements that bring a database from version `index` to `index + 1`. Never change one that was released: add. */
export type Migrations = readonly string[]

/** Another process that holds the database (`slipway admit`) is done within this. */
const busyTimeoutMs = 5_000

/** The file and what SQLite puts beside it are their owner's only. @throws {OperationError} databaseUnusable, noSpace */
export function openDatabase(path: string, migrations: Migrations): DatabaseSync {
  let database: DatabaseSync | undefined
  try {
    keepPrivate(path)
    database = new DatabaseSync(path, { timeout: busyTimeoutMs })
    // WAL: readers and the writer do not wait for each other. NORMAL: what was committed survives a kill; a power cut may
    // lose the last commits, but never tears the file.
    database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON')
    migrate(database, migrations)
    return database
  } catch (error) {
    database?.close()
    throw inWords(path, error)
  }
}

/** SQLite gives its own files the mode of the first. */
function keepPrivate(path: string): void {
  const fd = openSync(path, 'a', 0o600)
  try {
    // It may have been there before, in a directory that others may enter.
    if ((fstatSync(fd).mode & 0o077) !== 0) fchmodSync(fd, 0o600)
  } finally {
    closeSync(fd)
  }
}

/**
 * All of it or nothing. The write lock is taken before reading, so that no other process comes between.
 * @throws {OperationError} databaseUnusable, noSpace, and what `action` throws
 */
export function atomically<T>(database: DatabaseSync, action: () => T): T {
  try {
    database.exec('BEGIN IMMEDIATE')
    const result = action()
    database.exec('COMMIT')
    return result
  } catch (error) {
    // Of some failures, a full disk among them, SQLite has rolled back by itself.
    if (database.isTransaction) database.exec('ROLLBACK')
    throw inWords(database.location() ?? 'the database', error)
  }
}

/** SQLite's primary result codes (rescode.html), as far as they tell what to do. */
const resultCode = { busy: 5, inputOutput: 10, corrupt: 11, full: 13, notADatabase: 26 } as const

function inWords(path: string, error: unknown): unknown {
  if (error instanceof OperationError || !(error instanceof Error) || !('code' in error)) return error
  const code = 'errcode' in error && typeof error.errcode === 'number' ? error.errcode & 0xff : undefined
  if (code === resultCode.full || error.code === 'ENOSPC') {
    const hint = `Make room on that file system (df -h ${path}) and try again. What was kept before is still there.`
    return new OperationError('noSpace', `there is no space for ${path}`, hint, { cause: error })
  }
  return new OperationError('databaseUnusable', `cannot use ${path}: ${error.message}`, hintFor(code, path), {
    cause: error,
  })
}

function hintFor(code: number | undefined, path: string): string {
  switch (code) {
    case resultCode.busy:
      return 'Another Slipway writes to it and does not end: try again, or look which one (fuser).'
    case resultCode.inputOutput:
      return 'Look at the disk that it is on (dmesg).'
    case resultCode.corrupt:
    case resultCode.notADatabase:
      return `Restore ${path} from a backup, or move it away to begin with an empty one.`
    default:
      return `Look who may read and write it: ls -l ${path}.`
  }
}

function migrate(database: DatabaseSync, migrations: Migrations): void {
  atomically(database, () => {
    const row = database.prepare('PRAGMA user_version').get()
    const version = Number(row?.['user_version'] ?? 0)
    if (version > migrations.length) {
      const hint = 'Start the newer Slipway, or name another place with --state DIR.'
      throw new OperationError('databaseUnusable', 'the state was written by a newer Slipway', hint)
    }
    for (const statements of migrations.slice(version)) database.exec(statements)
    database.exec(`PRAGMA user_version = ${migrations.length}`)
  })
}
