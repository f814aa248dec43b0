/** Captured packets for golden tests: src/ROOM/vectors/NAME.hex, hex digits with comment lines that say where they are from. */
import { readdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'

const sources = resolve(import.meta.dirname, '../src')

export function readVector(room: string, name: string): Uint8Array {
  const text = readFileSync(join(sources, room, 'vectors', `${name}.hex`), 'utf8')
  return Uint8Array.from(Buffer.from(text.replaceAll(/#.*$/gm, '').replaceAll(/\s/g, ''), 'hex'))
}

export function vectorNames(room: string): readonly string[] {
  return readdirSync(join(sources, room, 'vectors'))
    .filter((file) => file.endsWith('.hex'))
    .map((file) => file.slice(0, -'.hex'.length))
}
