/** Goal: the house stays as docs/design.md says. Method: read every source file's imports and check them against the table. */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { expect, test } from 'vitest'

const everyRoom = [
  'base ports wire block disk dhcp tftp http nbd scsi iscsi ipxe boot fleet images trust journal host app cli',
].flatMap((line) => line.split(' '))

/** room -> rooms it may import, beside itself. */
const mayImport: Readonly<Record<string, readonly string[]>> = {
  base: [],
  ports: ['base'],
  wire: ['base'],
  block: ['base', 'ports', 'wire'],
  disk: ['base', 'wire', 'block'],
  dhcp: ['base', 'wire', 'ports'],
  tftp: ['base', 'wire', 'ports'],
  http: ['base', 'wire', 'ports'],
  nbd: ['base', 'wire', 'ports'],
  scsi: ['base', 'wire', 'block'],
  iscsi: ['base', 'wire', 'ports', 'scsi'],
  ipxe: ['base'],
  boot: ['base', 'ipxe'],
  fleet: ['base'],
  images: ['base', 'ports', 'block', 'disk'],
  trust: ['base', 'ports', 'wire', 'disk'],
  journal: ['base'],
  host: everyRoom,
  app: everyRoom.filter((room) => room !== 'cli'),
  cli: ['base', 'app', 'host'],
}
/** host may name other rooms' types only. */
const typesOnly: Readonly<Record<string, (room: string) => boolean>> = {
  host: (room) => !['base', 'ports'].includes(room),
}

const root = resolve(import.meta.dirname, '..')
const sources = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .map((file) => join(root, 'src', file))

type Import = { readonly file: string; readonly target: string; readonly isType: boolean }

function importsOf(file: string): Import[] {
  const text = readFileSync(file, 'utf8')
  const found: Import[] = []
  for (const match of text.matchAll(/^(?:import|export)\s+(type\s+)?[^'"]*?from\s+'([^']+)'|import\('([^']+)'\)/gm)) {
    found.push({ file, target: match[2] ?? match[3] ?? '', isType: match[1] !== undefined })
  }
  return found
}

const roomOf = (file: string): string => relative(join(root, 'src'), file).split('/')[0] ?? ''

test('every folder under src is a room of the table', () => {
  for (const file of sources) expect(mayImport, file).toHaveProperty(roomOf(file))
})

test('imports go only where the table of docs/design.md says', () => {
  const wrong: string[] = []
  for (const file of sources) {
    if (file.endsWith('.test.ts')) continue
    for (const { target, isType } of importsOf(file)) {
      const from = roomOf(file)
      if (!target.startsWith('.')) continue
      const to = roomOf(resolve(dirname(file), target))
      if (to === from) continue
      const allowed = mayImport[from]?.includes(to) ?? false
      const typeOk = isType || !(typesOnly[from]?.(to) ?? false)
      if (!allowed || !typeOk) wrong.push(`${relative(root, file)}: ${from} may not import ${to} (${target})`)
    }
  }
  expect(wrong).toEqual([])
})

test('only host touches Node itself', () => {
  const wrong = sources
    .filter((file) => !['host', 'cli'].includes(roomOf(file)) && !file.endsWith('.test.ts'))
    .flatMap((file) => importsOf(file))
    .filter(({ target }) => target.startsWith('node:'))
    .map(({ file, target }) => `${relative(root, file)} imports ${target}`)
  expect(wrong).toEqual([])
})

test('names say what a file is about', () => {
  const vague = /(^|[/-])(utils?|helpers?|manager|common|misc)([.-]|$)/
  expect(sources.filter((file) => vague.test(relative(root, file)))).toEqual([])
  for (const file of sources) expect(relative(root, file)).toMatch(/^[a-z0-9./-]+$/)
})

test('no path of a build machine and no leftover of work in progress is in a source file', () => {
  const forbidden = [/\/wo[r]k\//, /\bTO[D]O\b/, /\bFI[X]ME\b/, /\bX[X]X\b/]
  const folders = ['src', 'test', 'bench', 'lab', 'scripts', 'docs']
  for (const folder of folders) {
    for (const name of readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })) {
      if (!/\.(ts|mjs|md|toml|service)$/.test(name)) continue
      const text = readFileSync(join(root, folder, name), 'utf8')
      for (const pattern of forbidden) expect(pattern.test(text), `${folder}/${name} has ${pattern}`).toBe(false)
    }
  }
})
