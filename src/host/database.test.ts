import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { openDatabase } from './database.ts'

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
