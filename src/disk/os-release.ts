import { textOf } from './fields.ts'
import type { FileSystem } from './file-system.ts'
import { readWhole } from './source.ts'

/** os-release(5) is a few hundred bytes. */
const osReleaseBytesMax = 64 * 1024

export interface OsRelease {
  readonly id: string
  readonly name: string
  readonly version: string
}

/** Whose root file system it is; undefined when none. @throws {DiskError} */
export async function readOsRelease(fileSystem: FileSystem): Promise<OsRelease | undefined> {
  for (const path of ['/etc/os-release', '/usr/lib/os-release']) {
    const file = await fileSystem.open(path)
    if (file !== undefined && file.sizeBytes <= osReleaseBytesMax) {
      return parseOsRelease(textOf(await readWhole(file, osReleaseBytesMax)))
    }
  }
  return undefined
}

/** os-release(5): KEY=value lines as a shell would read them, without expansion. */
export function parseOsRelease(text: string): OsRelease {
  const values = new Map<string, string>()
  for (const line of text.split('\n')) {
    const match = /^([A-Z0-9_]+)=(.*)$/.exec(line.trim())
    if (match === null) continue
    const [, key = '', raw = ''] = match
    const quoted = /^(["'])(.*)\1$/.exec(raw)
    values.set(key, (quoted?.[2] ?? raw).replaceAll(/\\(.)/g, '$1'))
  }
  const id = values.get('ID') ?? 'linux'
  return { id, name: values.get('PRETTY_NAME') ?? values.get('NAME') ?? id, version: values.get('VERSION_ID') ?? '' }
}
