/** Debian packages fetched and unpacked into the cache, never installed: the golden image's kernel and iSCSI tools. */
import { execFile } from 'node:child_process'
import { mkdir, readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { messageOf, OperationError } from '../src/base/errors.ts'

const run = promisify(execFile)

export type UnpackedPackage = {
  /** 'linux-image-6.1.0-56-cloud-amd64_6.1.192-2_amd64'. */
  readonly release: string
  /** The folder that holds its files. */
  readonly folder: string
}

/** The package that the current cloud kernel's meta package names: it has virtio, iscsi_tcp and iscsi_ibft, and is small. */
export async function cloudKernelPackage(cacheFolder: string): Promise<UnpackedPackage> {
  const pattern = /^linux-image-[\w.-]+-cloud-amd64$/
  const cached = await newestUnpacked(cacheFolder, pattern)
  if (cached !== undefined) return cached
  const depends = await aptGet(() => run('apt-cache', ['depends', 'linux-image-cloud-amd64']))
  const name = /Depends: (\S+)/.exec(depends)?.[1]
  if (name === undefined || !pattern.test(name)) {
    throw new OperationError(
      'kernelUnknown',
      'apt knows no cloud kernel for amd64.',
      'Run `apt-get update` as root, on Debian 12 or newer.',
    )
  }
  return await unpackedPackage(cacheFolder, name)
}

/** Takes a package from the cache, else fetches it; once it is there, no network is needed. */
export async function unpackedPackage(cacheFolder: string, name: string): Promise<UnpackedPackage> {
  const literal = new RegExp(`^${name.replaceAll(/[.+]/g, '\\$&')}$`)
  const cached = await newestUnpacked(cacheFolder, literal)
  if (cached !== undefined) return cached

  const download = join(cacheFolder, `fetch-${process.pid}-${name}`)
  await mkdir(download, { recursive: true })
  try {
    await aptGet(() => run('apt-get', ['download', '-q', name], { cwd: download }))
    const archive = (await readdir(download)).find((file) => file.endsWith('.deb'))
    if (archive === undefined) {
      throw new OperationError('packageMissing', `apt-get download ${name} brought nothing.`, 'Run it by hand and see.')
    }
    const release = archive.slice(0, -'.deb'.length)
    await run('dpkg-deb', ['-x', join(download, archive), join(download, 'files')])
    const folder = join(cacheFolder, release)
    // Another build may have been faster: its files are the same.
    await rename(join(download, 'files'), folder).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error
    })
    return { release, folder }
  } finally {
    await rm(download, { recursive: true, force: true })
  }
}

async function newestUnpacked(cacheFolder: string, name: RegExp): Promise<UnpackedPackage | undefined> {
  const folders = await readdir(cacheFolder).catch(() => [])
  const release = folders
    .filter((folder) => name.test(folder.split('_')[0] ?? ''))
    .sort((a, b) => a.localeCompare(b, 'en', { numeric: true }))
    .at(-1)
  return release === undefined ? undefined : { release, folder: join(cacheFolder, release) }
}

/** A machine fresh from its image has no package lists: fetch them and try once more. */
async function aptGet(command: () => Promise<{ stdout: string }>): Promise<string> {
  try {
    return (await command()).stdout
  } catch (first) {
    try {
      await run('apt-get', ['update', '-q'])
      return (await command()).stdout
    } catch {
      throw new OperationError(
        'packageMissing',
        `A Debian package could not be fetched: ${messageOf(first).trim()}`,
        'Check the network and run `apt-get update` as root.',
        { cause: first },
      )
    }
  }
}
