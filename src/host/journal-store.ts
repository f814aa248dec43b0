/** The journal in SQLite: the last events of each kind of use, and every machine's last attempts to boot. */
import type { DatabaseSync, StatementSync } from 'node:sqlite'
import { OperationError } from '../base/errors.ts'
import type { Attempt } from '../journal/attempt.ts'
import type { BootEvent } from '../journal/events.ts'
import type { JournalStore } from '../journal/store.ts'
import { type Migrations, openDatabase } from './database.ts'

const migrations: Migrations = [
  `CREATE TABLE event (id INTEGER PRIMARY KEY, mac TEXT, document TEXT NOT NULL) STRICT;
   CREATE INDEX event_of_machine ON event (mac, id);
   CREATE TABLE attempt (id INTEGER PRIMARY KEY, mac TEXT NOT NULL, document TEXT NOT NULL) STRICT;
   CREATE INDEX attempt_of_machine ON attempt (mac, id)`,
]

/** At about 300 bytes each, 60 MB; the oldest go. */
const eventsMax = 200_000
const attemptsMax = 20_000
/** Making room is looked at after this many events, not after each. */
const eventsBetweenTrims = 5_000

/** @throws {OperationError} databaseUnusable */
export function openJournalStore(path: string): JournalStore & { close(): void } {
  return new SqliteJournalStore(openDatabase(path, migrations))
}

class SqliteJournalStore implements JournalStore {
  readonly #database: DatabaseSync
  readonly #putEvent: StatementSync
  readonly #putAttempt: StatementSync
  #eventsSinceTrim = 0

  constructor(database: DatabaseSync) {
    this.#database = database
    this.#putEvent = database.prepare('INSERT INTO event (id, mac, document) VALUES (?, ?, ?)')
    this.#putAttempt = database.prepare('INSERT OR REPLACE INTO attempt (id, mac, document) VALUES (?, ?, ?)')
  }

  lastEventId(): number {
    return Number(this.#database.prepare('SELECT coalesce(max(id), 0) AS id FROM event').get()?.['id'])
  }

  append(events: readonly BootEvent[]): void {
    this.#atomically(() => {
      for (const event of events) this.#putEvent.run(event.id, event.mac ?? null, JSON.stringify(event))
    })
    this.#eventsSinceTrim += events.length
    if (this.#eventsSinceTrim < eventsBetweenTrims) return
    this.#eventsSinceTrim = 0
    this.#atomically(() => {
      this.#database.prepare('DELETE FROM event WHERE id <= (SELECT max(id) FROM event) - ?').run(eventsMax)
      this.#database
        .prepare('DELETE FROM attempt WHERE id NOT IN (SELECT id FROM attempt ORDER BY id DESC LIMIT ?)')
        .run(attemptsMax)
    })
  }

  saveAttempts(attempts: readonly Attempt[]): void {
    this.#atomically(() => {
      for (const attempt of attempts) this.#putAttempt.run(attempt.id, attempt.mac, JSON.stringify(attempt))
    })
  }

  currentAttempts(): readonly Attempt[] {
    return this.#attempts(
      'SELECT document FROM attempt WHERE id IN (SELECT max(id) FROM attempt GROUP BY mac) ORDER BY id',
    )
  }

  attempts({ mac, countMax }: { readonly mac?: string; readonly countMax: number }): readonly Attempt[] {
    if (mac === undefined) return this.#attempts('SELECT document FROM attempt ORDER BY id DESC LIMIT ?', countMax)
    return this.#attempts('SELECT document FROM attempt WHERE mac = ? ORDER BY id DESC LIMIT ?', mac, countMax)
  }

  events(query: { readonly mac?: string; readonly afterId: number; readonly countMax: number }): readonly BootEvent[] {
    const { mac, afterId, countMax } = query
    const rows =
      mac === undefined
        ? this.#database.prepare('SELECT document FROM event WHERE id > ? ORDER BY id LIMIT ?').all(afterId, countMax)
        : this.#database
            .prepare('SELECT document FROM event WHERE mac = ? AND id > ? ORDER BY id LIMIT ?')
            .all(mac, afterId, countMax)
    return rows.map((row) => JSON.parse(String(row['document'])) as BootEvent)
  }

  close(): void {
    this.#database.close()
  }

  #attempts(statement: string, ...parameters: (string | number)[]): Attempt[] {
    const rows = this.#database.prepare(statement).all(...parameters)
    return rows.map((row) => JSON.parse(String(row['document'])) as Attempt)
  }

  #atomically(action: () => void): void {
    try {
      this.#database.exec('BEGIN')
      action()
      this.#database.exec('COMMIT')
    } catch (cause) {
      if (this.#database.isTransaction) this.#database.exec('ROLLBACK')
      const hint = 'Free space in the state directory; boots go on, but are not recorded meanwhile.'
      throw new OperationError('journalUnwritable', 'events cannot be kept', hint, { cause })
    }
  }
}
