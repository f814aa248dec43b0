/**
 * Files written into an ext4 file system of an image, by e2fsprogs' debugfs: no mount, no root, and checksums as they must
 * be. The image is a new version that nobody serves yet; never a golden one.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { OperationError } from '../base/errors.ts'
import { runTool } from './tool.ts'

export interface FileWrite {
  /** From the file system's root; folders on the way are made where they are missing. */
  readonly path: string
  readonly content: string
}

export interface Ext4Place {
  readonly imagePath: string
  /** Where the file system begins in the image. */
  readonly offsetBytes: number
}

const waitMsMax = 120_000
const environment = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C', DEBUGFS_PAGER: 'cat' }

/**
 * Each file as a whole, owned by root, mode 0644, or as it was where it was there before.
 * @throws {OperationError} repairFailed, toolMissing
 */
export async function writeFilesInExt4(place: Ext4Place, files: readonly FileWrite[]): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'slipway-repair-'))
  try {
    for (const [index, { path, content }] of files.entries()) {
      checkPath(path)
      const source = join(folder, String(index))
      await writeFile(source, content)
      const before = await debugfs(place, [`stat "${path}"`], false)
      const mode = /Mode:\s+0?([0-7]{4})\b/.exec(before)?.[1] ?? '0644'
      const [, user = '0', group = '0'] = /User:\s+(\d+)\s+Group:\s+(\d+)/.exec(before) ?? []
      const made = await missingFolders(place, path)
      await debugfs(
        place,
        [
          ...made.map((each) => `mkdir "${each}"`),
          ...(before.includes('Inode:') ? [`rm "${path}"`] : []),
          `write "${source}" "${path}"`,
          // A regular file's type and its mode are one field.
          `set_inode_field "${path}" mode 010${mode.slice(-4)}`,
          `set_inode_field "${path}" uid ${user}`,
          `set_inode_field "${path}" gid ${group}`,
        ],
        true,
      )
      const after = await debugfs(place, [`cat "${path}"`], false)
      if (after !== content) throw failed(`${path} does not read back as it was written`)
    }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

async function missingFolders(place: Ext4Place, path: string): Promise<string[]> {
  const parts = path.split('/').filter(Boolean).slice(0, -1)
  const missing: string[] = []
  for (const [index] of parts.entries()) {
    const folder = `/${parts.slice(0, index + 1).join('/')}`
    if (!(await debugfs(place, [`stat "${folder}"`], false)).includes('Inode:')) missing.push(folder)
  }
  return missing
}

/** debugfs has quotes, and nothing to put a quote in them with. */
function checkPath(path: string): void {
  const isPlain = /^\/[\x20-\x7e]+$/.test(path) && !path.includes('"') && !path.split('/').includes('..')
  if (!isPlain) throw failed(`a path that debugfs cannot be told: ${JSON.stringify(path)}`)
}

async function debugfs(place: Ext4Place, commands: readonly string[], write: boolean): Promise<string> {
  const args = [...(write ? ['-w'] : []), '-f', '-', `${place.imagePath}?offset=${place.offsetBytes}`]
  const input = `${commands.join('\n')}\n`
  const options = { env: environment, timeoutMs: waitMsMax, debianPackage: 'e2fsprogs', name: 'debugfs', input }
  const { said, complained } = await runTool('debugfs', args, options)
  // It repeats each command behind its prompt, exits 0 whatever happens, and says its version on the error stream.
  const errors = complained.replace(/^debugfs \S+ \(.*\)\n/m, '').trim()
  if (write && errors !== '') throw failed(errors)
  return withoutPrompts(said.toString())
}

function withoutPrompts(text: string): string {
  return text.replaceAll(/^debugfs: .*\n/gm, '')
}

function failed(what: string): OperationError {
  const hint = 'Nothing that is served was changed. Make the change in the image by hand, and check it again.'
  return new OperationError('repairFailed', `the image could not be repaired: ${what}`, hint)
}
