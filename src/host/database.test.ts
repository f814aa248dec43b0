import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { atomically, openDatabase } from './database.ts'

const folder = mkdtempSync(join(tmpdir(), 'slipway-database-'))
afterAll(() => rmSync(folder, { recursive: true }))
const first = 'CREATE TABLE machine (mac TEXT PRIMARY KEY) STRICT'
const second = "ALTER TABLE machine ADD COLUMN name TEXT NOT NULL DEFAULT ''"

test('an older database is brought up to date, once, and keeps what it has', () => {
  const path = join(folder, 'a.db')
  const old = openDatabase(path, [first])
  old.exec("INSERT INTO machine VALUES ('52:54:00:00:00:01')")
  old.close()
  openDatabase(path, [first, second]).close()
  const now = openDatabase(path, [first, second])
  expect(now.prepare('SELECT mac, name FROM machine').all()).toEqual([{ mac: '52:54:00:00:00:01', name: '' }])
  now.close()
})

test('a database of a newer Slipway, and a file that is none, are refused with a hint', () => {
  const path = join(folder, 'b.db')
  openDatabase(path, [first, second]).close()
  expect(() => openDatabase(path, [first])).toThrow('newer Slipway')
  const junk = join(folder, 'c.db')
  writeFileSync(junk, 'not a database, but long enough to be read as the header of one '.repeat(20))
  expect(() => openDatabase(junk, [first])).toThrow(expect.objectContaining({ code: 'databaseUnusable' }))
})

test('what one process commits, another sees', () => {
  const path = join(folder, 'd.db')
  const one = openDatabase(path, [first])
  const two = openDatabase(path, [first])
  one.exec("INSERT INTO machine VALUES ('52:54:00:00:00:02')")
  expect(two.prepare('SELECT count(*) AS n FROM machine').get()).toEqual({ n: 1 })
  one.close()
  two.close()
})

test('what is kept is its owner’s only, in whatever directory, and also where it was not before', () => {
  const open = join(folder, 'open')
  const path = join(open, 'e.db')
  rmSync(open, { recursive: true, force: true })
  mkdirSync(open, { mode: 0o755 })
  openDatabase(path, [first]).close()
  chmodSync(path, 0o644)
  const database = openDatabase(path, [first])
  database.exec("INSERT INTO machine VALUES ('52:54:00:00:00:03')")
  const modes = readdirSync(open).map((name) => [name, statSync(join(open, name)).mode & 0o777])
  expect(modes).toEqual([
    ['e.db', 0o600],
    ['e.db-shm', 0o600],
    ['e.db-wal', 0o600],
  ])
  database.close()
})

test('where there is no space the change is undone, what was there stays, and nobody is told to throw it away', () => {
  const path = join(folder, 'f.db')
  const database = openDatabase(path, [first])
  atomically(database, () => database.exec("INSERT INTO machine VALUES ('52:54:00:00:00:04')"))
  database.exec('PRAGMA max_page_count = 4')
  const fill = (): void => {
    const insert = database.prepare('INSERT INTO machine VALUES (?)')
    for (let i = 0; i < 100; i++) insert.run(`${i}`.padEnd(500, '.'))
  }
  const full = expect.objectContaining({ code: 'noSpace', hint: expect.stringContaining('still there') })
  expect(() => atomically(database, fill)).toThrow(full)
  expect(database.prepare('SELECT count(*) AS n FROM machine').get()).toEqual({ n: 1 })
  database.close()
})
