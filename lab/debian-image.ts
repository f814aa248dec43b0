/**
 * A real Debian that keeps its root on iSCSI, small: debootstrap's minbase with open-iscsi, Debian's kernel with the few
 * drivers that the lab's machines have, GRUB for UEFI and for BIOS. Needs root (debootstrap does) but no loop device and no
 * mount that outlives its command; made once, in a minute or two, then taken from the cache.
 *
 *   plain   as a careful person would not leave it: installed on a local disk, which is written all over it
 *   ready   the same with everything done that docs/operating/images.md asks for, by Debian's own means
 *
 * Its console is the serial line; `root` logs in without a password.
 */
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { access, mkdir, mkdtemp, open, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { OperationError } from '../src/base/errors.ts'
import { mebibyte } from '../src/base/units.ts'
import { type Partition, partitionTypes, sectorBytes, writeGpt, writeGrubForBios } from './disk-layout.ts'
import { defaultCacheFolder } from './golden-image.ts'
import { grubBootSector, grubSetsQuirks, grubVersion, makeGrub } from './grub.ts'

const run = promisify(execFile)

export type DebianVariant = 'plain' | 'ready'

export type DebianImage = { readonly path: string; readonly variant: DebianVariant }

/** What its console says when somebody may log in. */
export const debianLoginPrompt = 'lab login:'
/** The shell's, once `root` has. */
export const debianShellPrompt = 'root@lab:~#'

const suite = 'bookworm'
const packages = [
  ...['systemd-sysv', 'udev', 'kmod', 'iproute2', 'ifupdown', 'isc-dhcp-client'],
  ...['linux-image-amd64', 'initramfs-tools', 'zstd', 'open-iscsi'],
]

/**
 * For dpkg inside: documentation, and drivers that no machine of the lab has, are left out, which makes the build, the
 * initramfs and the boot short. The last rule that suits a path counts (dpkg(1), --path-exclude).
 */
const dpkgConfig = `force-unsafe-io
${['/usr/share/{doc,man,locale,info}/*', '/lib/modules/*/kernel/{sound,net,fs,drivers}/*']
  .flatMap(alternatives)
  .map((path) => `path-exclude=${path}`)
  .join('\n')}
${[
  '/lib/modules/*/kernel/net/core/*',
  '/lib/modules/*/kernel/fs/{ext4,jbd2,fat,nls,autofs,configfs,efivarfs}/*',
  '/lib/modules/*/kernel/fs/mbcache.ko',
  '/lib/modules/*/kernel/drivers/{ata,firmware,pps,ptp,virtio}/*',
  '/lib/modules/*/kernel/drivers/block/virtio_blk.ko',
  '/lib/modules/*/kernel/drivers/net/{virtio_net,net_failover}.ko',
  '/lib/modules/*/kernel/drivers/net/ethernet/intel/{e1000,e1000e}/*',
  '/lib/modules/*/kernel/drivers/scsi/{*iscsi*,sd_mod.ko,scsi_mod.ko,scsi_common.ko}',
]
  .flatMap(alternatives)
  .map((path) => `path-include=${path}`)
  .join('\n')}
`

const biosBoot: Partition = {
  name: 'BIOS boot',
  type: partitionTypes.biosBoot,
  id: '5c1b0a7e-0011-4000-8000-536c69707761',
  firstSector: 64,
  sectorCount: 2048 - 64,
}
const efiSystem: Partition = {
  name: 'EFI system',
  type: partitionTypes.efiSystem,
  id: '5c1b0a7e-0012-4000-8000-536c69707761',
  firstSector: 2048,
  sectorCount: (8 * mebibyte) / sectorBytes,
}
const root: Partition = {
  name: 'root',
  type: partitionTypes.linuxData,
  id: '5c1b0a7e-0013-4000-8000-536c69707761',
  firstSector: efiSystem.firstSector + efiSystem.sectorCount,
  sectorCount: (512 * mebibyte) / sectorBytes,
}
/** For tools that look into a file: where its root file system begins. */
export const debianRootOffsetBytes: number = root.firstSector * sectorBytes

const diskId = '5c1b0a7e-0010-4000-8000-536c69707761'
const diskBytes = (root.firstSector + root.sectorCount) * sectorBytes + mebibyte
const rootUuid = '5c1b0a7e-0100-4000-8000-536c69707761'
/** mkfs.fat takes it as eight digits, everybody else prints it so. */
const efiUuid = '5C1B-0A7E'

/** @throws {OperationError} rootNeeded */
export async function debianImage(
  variant: DebianVariant,
  cacheFolder: string = defaultCacheFolder(),
): Promise<DebianImage> {
  const key = (await recipeHash()).slice(0, 16)
  const pathOf = (each: DebianVariant): string => join(cacheFolder, `debian-${each}-${key}.img`)
  const path = pathOf(variant)
  if (await isThere(path)) return { path, variant }
  if (process.getuid?.() !== 0) {
    throw new OperationError('rootNeeded', 'debootstrap needs root.', 'Run this as root; the image is made only once.')
  }
  await mkdir(cacheFolder, { recursive: true })
  // Not in /tmp: that may be mounted without device nodes, which debootstrap makes.
  const workFolder = await mkdtemp(join(cacheFolder, 'debian-'))
  try {
    const tree = join(workFolder, 'tree')
    await bootstrap(tree, join(cacheFolder, 'debs'))
    const kernelRelease = await makeInitramfs(tree)
    await writeFiles(tree, plainFiles(kernelRelease))
    await inside(tree, ['systemctl', 'enable', '--quiet', 'systemd-networkd.service'])
    await inside(tree, ['systemctl', 'disable', '--quiet', ...idleUnits])
    await buildDisk({ tree, workFolder, path: pathOf('plain'), removableLoader: false })

    await writeFiles(tree, readyFiles(kernelRelease))
    await inside(tree, ['systemctl', 'disable', '--quiet', 'systemd-networkd.service'])
    await rm(join(tree, 'etc/systemd/network/lan.network'))
    await patchFile(join(tree, 'etc/iscsi/iscsid.conf'), (text) =>
      text
        .replace(/^(node\.session\.timeo\.replacement_timeout) = .*$/m, '$1 = 86400')
        .replace(/^(node\.conn\[0\]\.timeo\.noop_out_(?:interval|timeout)) = .*$/gm, '$1 = 0'),
    )
    await makeInitramfs(tree)
    await buildDisk({ tree, workFolder, path: pathOf('ready'), removableLoader: true })
    return { path, variant }
  } finally {
    await rm(workFolder, { recursive: true, force: true })
  }
}

async function isThere(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  )
}

/** Changes whenever another image would come out, but for newer packages. */
async function recipeHash(): Promise<string> {
  const hash = createHash('sha256')
  for (const file of ['debian-image.ts', 'disk-layout.ts', 'grub.ts']) {
    hash.update(await readFile(join(import.meta.dirname, file)))
  }
  hash.update(await grubVersion())
  return hash.digest('hex')
}

/** '/a/{b,c}/*' is '/a/b/*' and '/a/c/*': dpkg has no such thing. */
function alternatives(pattern: string): string[] {
  const [, before = '', choices, after = ''] = /^(.*?)\{(.*?)\}(.*)$/.exec(pattern) ?? []
  return choices === undefined ? [pattern] : choices.split(',').map((choice) => `${before}${choice}${after}`)
}

async function bootstrap(tree: string, archiveCache: string): Promise<void> {
  await mkdir(archiveCache, { recursive: true })
  const what = ['--variant=minbase', `--cache-dir=${archiveCache}`, `--include=${packages.join(',')}`]
  await run('debootstrap', ['--foreign', ...what, suite, tree, await mirror()], { maxBuffer: 16 * mebibyte })
  // Between its two stages: what is left out is never unpacked, and nothing is started.
  await writeFile(join(tree, 'etc/dpkg/dpkg.cfg.d/lean'), dpkgConfig)
  await writeFile(join(tree, 'usr/sbin/policy-rc.d'), '#!/bin/sh\nexit 101\n', { mode: 0o755 })
  await inside(tree, ['/debootstrap/debootstrap', '--second-stage'])
  await inside(tree, ['passwd', '--quiet', '--delete', 'root'])
  for (const path of ['usr/sbin/policy-rc.d', 'var/cache/apt', 'var/lib/apt/lists', 'usr/share/doc', 'usr/share/man']) {
    await rm(join(tree, path), { recursive: true, force: true })
  }
}

/** Where this machine's own packages come from: that is reachable. */
async function mirror(): Promise<string> {
  const format = ['--format', '$(REPO_URI)', `Codename: ${suite}`, 'Created-By: Packages']
  const { stdout } = await run('apt-get', ['indextargets', ...format])
  return stdout.split('\n')[0] || 'http://deb.debian.org/debian'
}

/** Runs a program of the tree, with mounts that are gone with it. The kernel's package makes no initramfs on its own. */
async function inside(tree: string, command: readonly string[]): Promise<void> {
  const script = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
  const env = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C', DEBIAN_FRONTEND: 'noninteractive', INITRD: 'No' }
  const options = { env, maxBuffer: 16 * mebibyte }
  await run('unshare', ['--mount', '--', 'sh', '-c', script, tree, ...command], options)
}

/** Returns the kernel's release. */
async function makeInitramfs(tree: string): Promise<string> {
  const release = (await readdir(join(tree, 'lib/modules')))[0]
  if (release === undefined) throw new Error('the tree has no kernel')
  await rm(join(tree, `boot/initrd.img-${release}`), { force: true })
  await inside(tree, ['update-initramfs', '-c', '-k', release])
  return release
}

type Files = Readonly<Record<string, string>>

async function writeFiles(tree: string, files: Files): Promise<void> {
  for (const [path, content] of Object.entries(files)) {
    await mkdir(join(tree, path, '..'), { recursive: true })
    await writeFile(join(tree, path), content)
  }
}

async function patchFile(path: string, patch: (text: string) => string): Promise<void> {
  await writeFile(path, patch(await readFile(path, 'utf8')))
}

function menu(kernelRelease: string, rootDevice: string): string {
  return `${grubSetsQuirks}set timeout=0
menuentry 'Debian GNU/Linux' {
	linux /boot/vmlinuz-${kernelRelease} root=${rootDevice} ro console=ttyS0 quiet mitigations=off \${quirks}
	initrd /boot/initrd.img-${kernelRelease}
}
`
}

/**
 * An emulated processor is slow, and slower where others compute: nothing gives up after a minute and a half. It has nothing to
 * mitigate either, and pays dearly for trying.
 */
const patience = `[Manager]
DefaultTimeoutStartSec=900s
DefaultDeviceTimeoutSec=900s
`
/** What would run a while after the start, and has nothing to do in the lab. */
const idleUnits = [
  ...['apt-daily.timer', 'apt-daily-upgrade.timer', 'dpkg-db-backup.timer', 'e2scrub_all.timer', 'fstrim.timer'],
  'e2scrub_reap.service',
]

/** As an installation on a local disk leaves them, and one that likes networkd besides. */
function plainFiles(kernelRelease: string): Files {
  return {
    'etc/hostname': 'lab\n',
    'etc/hosts': '127.0.0.1 localhost lab\n',
    'etc/fstab': '/dev/sda3 / ext4 errors=remount-ro 0 1\n/dev/sda2 /boot/efi vfat umask=0077,nofail 0 1\n',
    'etc/default/grub': 'GRUB_TIMEOUT=0\nGRUB_DISABLE_LINUX_UUID=true\nGRUB_CMDLINE_LINUX="console=ttyS0"\n',
    'etc/network/interfaces':
      'source /etc/network/interfaces.d/*\n\nauto lo\niface lo inet loopback\n\nallow-hotplug enp0s1\niface enp0s1 inet dhcp\n',
    'etc/systemd/network/lan.network': '[Match]\nName=e*\n\n[Network]\nDHCP=yes\n',
    'boot/grub/grub.cfg': menu(kernelRelease, '/dev/sda3'),
    'boot/efi/.keep': '',
    'etc/systemd/system.conf.d/patience.conf': patience,
  }
}

/** With the care that a root on iSCSI takes. */
function readyFiles(kernelRelease: string): Files {
  return {
    'etc/fstab': `UUID=${rootUuid} / ext4 errors=remount-ro 0 1\nUUID=${efiUuid} /boot/efi vfat umask=0077,nofail 0 1\n`,
    'etc/default/grub': 'GRUB_TIMEOUT=0\nGRUB_CMDLINE_LINUX="console=ttyS0"\n',
    'etc/network/interfaces': 'source /etc/network/interfaces.d/*\n\nauto lo\niface lo inet loopback\n',
    'etc/machine-id': '',
    'etc/iscsi/iscsi.initramfs': 'ISCSI_AUTO=true\n',
    'boot/grub/grub.cfg': menu(kernelRelease, `UUID=${rootUuid}`),
  }
}

type DiskParts = {
  readonly tree: string
  readonly workFolder: string
  readonly path: string
  /** Where any firmware looks, or only where the firmware's own boot entry of that installation points. */
  readonly removableLoader: boolean
}

async function buildDisk({ tree, workFolder, path, removableLoader }: DiskParts): Promise<void> {
  const unfinished = join(workFolder, 'disk.img')
  const coreImage = join(workFolder, 'core.img')
  const efiImage = join(workFolder, 'grubx64.efi')
  const early = join(workFolder, 'early.cfg')
  await writeFile(early, `search.fs_uuid ${rootUuid} root\nset prefix=($root)/boot/grub\n`)
  const modules = ['ext2', 'search_fs_uuid']
  const recipe = { prefix: '/boot/grub', modules, earlyConfigPath: early }
  await makeGrub({ ...recipe, platform: 'i386-pc' }, coreImage)
  await makeGrub({ ...recipe, platform: 'x86_64-efi' }, efiImage)

  // Only its first and last sectors are ever touched, so it takes no more memory than those.
  const disk = new Uint8Array(diskBytes)
  writeGrubForBios(disk, { boot: await grubBootSector(), core: await readFile(coreImage) }, biosBoot)
  writeGpt(disk, diskId, [biosBoot, efiSystem, root])
  const tailAt = (root.firstSector + root.sectorCount) * sectorBytes
  const file = await open(unfinished, 'wx')
  try {
    await file.truncate(diskBytes)
    await file.write(disk, 0, efiSystem.firstSector * sectorBytes, 0)
    await file.write(disk, tailAt, diskBytes - tailAt, tailAt)
  } finally {
    await file.close()
  }

  const efi = `${unfinished}@@${efiSystem.firstSector * sectorBytes}`
  const efiKibibytes = (efiSystem.sectorCount * sectorBytes) / 1024
  const fat = [
    '--offset',
    String(efiSystem.firstSector),
    '-F',
    '16',
    '-s',
    '1',
    '-i',
    efiUuid.replace('-', ''),
    '-n',
    'EFI',
  ]
  await run('mkfs.fat', [...fat, unfinished, String(efiKibibytes)])
  const loaderFolder = removableLoader ? '::/EFI/BOOT' : '::/EFI/debian'
  const env = { ...process.env, MTOOLS_SKIP_CHECK: '1' }
  await run('mmd', ['-i', efi, '::/EFI', loaderFolder], { env })
  const loader = removableLoader ? 'BOOTX64.EFI' : 'grubx64.efi'
  await run('mcopy', ['-i', efi, efiImage, `${loaderFolder}/${loader}`], { env })

  const rootAt = `offset=${root.firstSector * sectorBytes}`
  const size = `${(root.sectorCount * sectorBytes) / 1024}k`
  const ext4 = ['-q', '-F', '-t', 'ext4', '-L', 'root', '-U', rootUuid, '-d', tree, '-E', rootAt]
  await run('mkfs.ext4', [...ext4, unfinished, size], {
    env: { ...process.env, PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
  })
  await rename(unfinished, path)
}
