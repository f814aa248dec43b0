/** SQLite as Slipway uses it: one file, several processes, a schema that only grows. */
import { DatabaseSync } from 'node:sqlite'
import { messageOf, OperationError } from '../base/errors.ts'

/** Statements that bring a database from version `index` to `index + 1`. Never change one that was released: add. */
export type Migrations = readonly string[]

/** Another process that holds the database (`slipway admit`) is done within this. */
const busyTimeoutMs = 5_000

/** @throws {OperationError} databaseUnusable */
export function openDatabase(path: string, migrations: Migrations): DatabaseSync {
  let database: DatabaseSync | undefined
  try {
    database = new DatabaseSync(path, { timeout: busyTimeoutMs })
    // WAL: readers and the writer do not wait for each other. NORMAL: what was committed survives a kill; a power cut may
    // lose the last commits, but never tears the file.
    database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON')
    migrate(database, migrations)
    return database
  } catch (error) {
    database?.close()
    if (error instanceof OperationError) throw error
    const hint = `Move ${path} away to begin with an empty one, or restore it from a backup.`
    throw new OperationError('databaseUnusable', `cannot use ${path}: ${messageOf(error)}`, hint, { cause: error })
  }
}

/** All of it or nothing. The write lock is taken before reading, so that no other process comes between. */
export function atomically<T>(database: DatabaseSync, action: () => T): T {
  database.exec('BEGIN IMMEDIATE')
  try {
    const result = action()
    database.exec('COMMIT')
    return result
  } catch (error) {
    database.exec('ROLLBACK')
    throw error
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
