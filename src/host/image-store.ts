/** The library of images, and which clone each machine's running boot uses, in SQLite. */
import type { DatabaseSync } from 'node:sqlite'
import type { BootDiskStore } from '../images/boot-disks.ts'
import type { ImagePolicy, ImageStore, ImageVersion } from '../images/catalogue.ts'
import { atomically, type Migrations, openDatabase } from './database.ts'

const migrations: Migrations = [
  `CREATE TABLE image (
     name TEXT PRIMARY KEY,
     next_version INTEGER NOT NULL
   ) STRICT;
   CREATE TABLE version (
     name TEXT NOT NULL REFERENCES image (name),
     version INTEGER NOT NULL,
     file TEXT NOT NULL,
     format TEXT NOT NULL CHECK (format IN ('raw', 'qcow2')),
     size_bytes INTEGER NOT NULL,
     sha256 TEXT NOT NULL,
     source TEXT NOT NULL,
     source_sha256 TEXT NOT NULL,
     added_ms INTEGER NOT NULL,
     contents TEXT NOT NULL,
     PRIMARY KEY (name, version)
   ) STRICT;
   CREATE TABLE publication (
     id INTEGER PRIMARY KEY AUTOINCREMENT,
     name TEXT NOT NULL,
     version INTEGER NOT NULL,
     at_ms INTEGER NOT NULL,
     FOREIGN KEY (name, version) REFERENCES version (name, version) ON DELETE CASCADE
   ) STRICT;
   CREATE INDEX publication_name ON publication (name, id);
   CREATE TABLE boot_disk (
     mac TEXT PRIMARY KEY,
     boot_id TEXT NOT NULL,
     file TEXT NOT NULL,
     policy TEXT NOT NULL
   ) STRICT`,
  `ALTER TABLE image ADD COLUMN policy TEXT CHECK (policy IN ('ephemeral', 'persistent', 'readOnly'))`,
]

/** @throws {OperationError} databaseUnusable */
export function openImageStore(path: string): ImageStore & BootDiskStore {
  return new SqliteImageStore(openDatabase(path, migrations))
}

class SqliteImageStore implements ImageStore, BootDiskStore {
  readonly #database: DatabaseSync

  constructor(database: DatabaseSync) {
    this.#database = database
  }

  versions(): readonly ImageVersion[] {
    return this.#database.prepare('SELECT * FROM version ORDER BY name, version').all().map(versionOf)
  }

  versionsOf(name: string): readonly ImageVersion[] {
    return this.#database.prepare('SELECT * FROM version WHERE name = ? ORDER BY version').all(name).map(versionOf)
  }

  version(name: string, version: number): ImageVersion | undefined {
    const row = this.#database.prepare('SELECT * FROM version WHERE name = ? AND version = ?').get(name, version)
    return row === undefined ? undefined : versionOf(row)
  }

  nextVersion(name: string): number {
    const row = this.#database.prepare('SELECT next_version FROM image WHERE name = ?').get(name)
    return Number(row?.['next_version'] ?? 1)
  }

  add(added: ImageVersion): void {
    atomically(this.#database, () => {
      this.#database
        .prepare(
          `INSERT INTO image (name, next_version) VALUES (?, ?)
           ON CONFLICT (name) DO UPDATE SET next_version = max(next_version, excluded.next_version)`,
        )
        .run(added.name, added.version + 1)
      this.#database
        .prepare(
          `INSERT INTO version (name, version, file, format, size_bytes, sha256, source, source_sha256, added_ms, contents)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
        )
        .run(
          added.name,
          added.version,
          added.file,
          added.format,
          added.sizeBytes,
          added.sha256 ?? '',
          added.source,
          added.sourceSha256 ?? '',
          Math.round(added.addedMs),
          JSON.stringify(added.contents),
        )
      if (this.published(added.name) === undefined) this.#recordPublication(added.name, added.version, added.addedMs)
    })
  }

  published(name: string): number | undefined {
    const row = this.#database
      .prepare('SELECT version FROM publication WHERE name = ? ORDER BY id DESC LIMIT 1')
      .get(name)
    return row === undefined ? undefined : Number(row['version'])
  }

  publish(name: string, version: number, nowMs: number): void {
    atomically(this.#database, () => {
      if (this.published(name) !== version) this.#recordPublication(name, version, nowMs)
    })
  }

  rollback(name: string): number | undefined {
    return atomically(this.#database, () => {
      const now = this.published(name)
      const before = this.#database
        .prepare('SELECT id, version FROM publication WHERE name = ? AND version <> ? ORDER BY id DESC LIMIT 1')
        .get(name, now ?? 0)
      if (before === undefined) return undefined
      this.#database.prepare('DELETE FROM publication WHERE name = ? AND id > ?').run(name, Number(before['id']))
      return Number(before['version'])
    })
  }

  remove(name: string, version: number): void {
    atomically(this.#database, () => {
      this.#database.prepare('DELETE FROM version WHERE name = ? AND version = ?').run(name, version)
      // Who adds an image of that name some day does not know what was once said of another one.
      if (this.versionsOf(name).length === 0) this.setPolicy(name, undefined)
    })
  }

  policyOf(name: string): ImagePolicy | undefined {
    const policy = this.#database.prepare('SELECT policy FROM image WHERE name = ?').get(name)?.['policy']
    return policy === 'ephemeral' || policy === 'persistent' || policy === 'readOnly' ? policy : undefined
  }

  setPolicy(name: string, policy: ImagePolicy | undefined): void {
    this.#database.prepare('UPDATE image SET policy = ? WHERE name = ?').run(policy ?? null, name)
  }

  bootDisk(mac: string): { bootId: string; file: string; policy: string } | undefined {
    const row = this.#database.prepare('SELECT boot_id, file, policy FROM boot_disk WHERE mac = ?').get(mac)
    if (row === undefined) return undefined
    return { bootId: String(row['boot_id']), file: String(row['file']), policy: String(row['policy']) }
  }

  setBootDisk(mac: string, disk: { bootId: string; file: string; policy: string }): void {
    this.#database
      .prepare('INSERT OR REPLACE INTO boot_disk (mac, boot_id, file, policy) VALUES (?, ?, ?, ?)')
      .run(mac, disk.bootId, disk.file, disk.policy)
  }

  close(): void {
    this.#database.close()
  }

  #recordPublication(name: string, version: number, atMs: number): void {
    this.#database
      .prepare('INSERT INTO publication (name, version, at_ms) VALUES (?, ?, ?)')
      .run(name, version, Math.round(atMs))
  }
}

function versionOf(row: Record<string, unknown>): ImageVersion {
  return {
    name: String(row['name']),
    version: Number(row['version']),
    file: String(row['file']),
    format: row['format'] === 'qcow2' ? 'qcow2' : 'raw',
    sizeBytes: Number(row['size_bytes']),
    sha256: digestOf(row['sha256']),
    source: String(row['source']),
    sourceSha256: digestOf(row['source_sha256']),
    addedMs: Number(row['added_ms']),
    contents: JSON.parse(String(row['contents'])) as ImageVersion['contents'],
  }
}

/** The column may not be null: an image that lives elsewhere has an empty one. */
function digestOf(value: unknown): string | undefined {
  return value === '' ? undefined : String(value)
}
