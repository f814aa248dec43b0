/** Debian packages fetched and unpacked into the cache, never installed: the golden image's kernel and iSCSI tools. */
import { execFile } from 'node:child_process'
import { mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises'
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

/** Packages for another processor come by an apt of their own, which knows nothing of what is installed here. */
export type Architecture = 'amd64' | 'arm64'

/** The package that the current cloud kernel's meta package names: it has virtio, iscsi_tcp and iscsi_ibft, and is small. */
export async function cloudKernelPackage(
  cacheFolder: string,
  architecture: Architecture = 'amd64',
): Promise<UnpackedPackage> {
  const pattern = new RegExp(`^linux-image-[\\w.-]+-cloud-${architecture}$`)
  const cached = await newestUnpacked(folderFor(cacheFolder, architecture), pattern)
  if (cached !== undefined) return cached
  const env = await aptEnvironment(cacheFolder, architecture)
  const depends = await aptGet(env, () => run('apt-cache', ['depends', `linux-image-cloud-${architecture}`], { env }))
  const name = /Depends: (\S+)/.exec(depends)?.[1]
  if (name === undefined || !pattern.test(name)) {
    throw new OperationError(
      'kernelUnknown',
      `apt knows no cloud kernel for ${architecture}.`,
      'Run `apt-get update` as root, on Debian 12 or newer.',
    )
  }
  return await unpackedPackage(cacheFolder, name, architecture)
}

/** Takes a package from the cache, else fetches it; once it is there, no network is needed. */
export async function unpackedPackage(
  cacheFolder: string,
  name: string,
  architecture: Architecture = 'amd64',
): Promise<UnpackedPackage> {
  const literal = new RegExp(`^${name.replaceAll(/[.+]/g, '\\$&')}$`)
  const unpacked = folderFor(cacheFolder, architecture)
  const cached = await newestUnpacked(unpacked, literal)
  if (cached !== undefined) return cached

  const env = await aptEnvironment(cacheFolder, architecture)
  const download = join(unpacked, `fetch-${process.pid}-${name}`)
  await mkdir(download, { recursive: true })
  try {
    await aptGet(env, () => run('apt-get', ['download', '-q', name], { cwd: download, env }))
    const archive = (await readdir(download)).find((file) => file.endsWith('.deb'))
    if (archive === undefined) {
      throw new OperationError('packageMissing', `apt-get download ${name} brought nothing.`, 'Run it by hand and see.')
    }
    const release = archive.slice(0, -'.deb'.length)
    await run('dpkg-deb', ['-x', join(download, archive), join(download, 'files')])
    const folder = join(unpacked, release)
    // Another build may have been faster: its files are the same.
    await rename(join(download, 'files'), folder).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error
    })
    return { release, folder }
  } finally {
    await rm(download, { recursive: true, force: true })
  }
}

function folderFor(cacheFolder: string, architecture: Architecture): string {
  return architecture === 'amd64' ? cacheFolder : join(cacheFolder, architecture)
}

/** For another processor: the same sources, with lists and a record of installed packages (none) of their own. */
async function aptEnvironment(cacheFolder: string, architecture: Architecture): Promise<NodeJS.ProcessEnv> {
  if (architecture === 'amd64') return process.env
  const folder = join(folderFor(cacheFolder, architecture), 'apt')
  await mkdir(join(folder, 'state', 'lists', 'partial'), { recursive: true })
  await mkdir(join(folder, 'cache', 'archives', 'partial'), { recursive: true })
  const config = [
    `APT::Architecture "${architecture}";`,
    `APT::Architectures { "${architecture}"; };`,
    'APT::Sandbox::User "root";',
    `Dir::State "${folder}/state";`,
    `Dir::State::status "${folder}/status";`,
    `Dir::Cache "${folder}/cache";`,
  ]
  await writeFile(join(folder, 'status'), '')
  await writeFile(join(folder, 'apt.conf'), `${config.join('\n')}\n`)
  return { ...process.env, APT_CONFIG: join(folder, 'apt.conf') }
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
async function aptGet(env: NodeJS.ProcessEnv, command: () => Promise<{ stdout: string }>): Promise<string> {
  try {
    return (await command()).stdout
  } catch (first) {
    try {
      await run('apt-get', ['update', '-q'], { env })
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
