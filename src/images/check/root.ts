/** The root file system of an image, and small files in it. */
import { textOf } from '../../disk/fields.ts'
import type { FileSystem } from '../../disk/file-system.ts'
import { readWhole } from '../../disk/source.ts'
import { configurationBytesMax, dropInCountMax } from '../limits.ts'

export interface Root {
  readonly partition: number
  readonly fileSystem: FileSystem
}

/** Undefined when it is not there, or far larger than a person writes. @throws {DiskError} */
export async function readText({ fileSystem }: Root, path: string): Promise<string | undefined> {
  const file = await fileSystem.open(path)
  if (file === undefined || file.sizeBytes > configurationBytesMax) return undefined
  return textOf(await readWhole(file, configurationBytesMax))
}

/** A link that leads nowhere counts as there: systemd's own links to /dev/null and to units are such in an image. */
export async function exists({ fileSystem }: Root, path: string): Promise<boolean> {
  return (await fileSystem.stat(path)) !== undefined
}

/** The files of a folder whose names end so, in order of name: [path, text]. */
export async function readFolder(
  root: Root,
  folder: string,
  ending: string,
): Promise<readonly (readonly [path: string, text: string])[]> {
  const entries = (await root.fileSystem.list(folder)) ?? []
  const names = entries
    .filter(({ name, kind }) => kind !== 'directory' && name.endsWith(ending))
    .map(({ name }) => name)
  const found: (readonly [string, string])[] = []
  for (const name of names.sort().slice(0, dropInCountMax)) {
    const text = await readText(root, `${folder}/${name}`)
    if (text !== undefined) found.push([`${folder}/${name}`, text])
  }
  return found
}

/** Lines without comments and blanks. */
export function settingLines(text: string): string[] {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#') && !line.startsWith(';'))
}

/** Is a systemd unit started by itself? */
export async function isEnabled(
  root: Root,
  unit: string,
  targets: readonly string[] = ['multi-user'],
): Promise<boolean> {
  if (await exists(root, `/etc/systemd/system/${unit}`)) {
    // A link to /dev/null is a mask; a file of the same name replaces the unit and is started as it says.
    const entry = await root.fileSystem.stat(`/etc/systemd/system/${unit}`)
    if (entry?.linkTarget === '/dev/null') return false
  }
  for (const target of targets) {
    for (const folder of ['/etc/systemd/system', '/usr/lib/systemd/system', '/lib/systemd/system']) {
      if (await exists(root, `${folder}/${target}.target.wants/${unit}`)) return true
    }
  }
  return false
}
