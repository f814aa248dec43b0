/**
 * The small golden image that the demo, the end-to-end tests and the boot bench serve: GPT, an EFI system partition with
 * GRUB for UEFI and for BIOS, Debian's cloud kernel, and a busybox initramfs that says on the serial console how the
 * machine came up. Made from Debian's packages without root, loop devices or mounting; cached by what went into it.
 *
 * It leaves traces of its own on the disk, so that a test can see what a machine wrote:
 *   GRUB adds a stroke to `boots` in its environment block, through the firmware's block device, at every boot;
 *   variant `full`: Linux logs in to the disk again by the iBFT and writes a line to the third partition.
 */
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { copyFile, mkdir, mkdtemp, readdir, readFile, rename, rm, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { mebibyte } from '../src/base/units.ts'
import { cloudKernelPackage, type UnpackedPackage, unpackedPackage } from './debian.ts'
import { type Partition, partitionTypes, sectorBytes, writeGpt, writeGrubForBios } from './disk-layout.ts'
import { type GrubRecipe, grubBootSector, grubSetsQuirks, grubVersion, makeGrub } from './grub.ts'
import { type ArchiveEntry, packInitramfs } from './initramfs.ts'

const run = promisify(execFile)

/** What the machine prints on its serial console. Tests and the demo wait for these words. */
export const machineSays = {
  /** GRUB, from the disk: 'GRUB on the golden image, boot III'. */
  grub: 'GRUB on the golden image, boot',
  /** Linux has started and everything the initramfs checks is done. */
  ready: 'SLIPWAY-LAB ready',
  /** variant `full`: what the scratch partition held before this boot. */
  scratchWas: 'SLIPWAY-LAB scratch was:',
  /** variant `full`: written, flushed and read back. */
  scratchIs: 'SLIPWAY-LAB scratch is:',
} as const

export type GoldenVariant =
  /** The marker and a shell. */
  | 'tiny'
  /** Also open-iscsi: logs in to the disk it came from and writes to it. */
  | 'full'
  /** As tiny, for the other processor: UEFI only. */
  | 'tiny-arm64'

export type GoldenImage = {
  readonly path: string
  readonly variant: GoldenVariant
  readonly kernelRelease: string
  readonly sha256: string
}

const efiSystem: Partition = {
  name: 'EFI system',
  type: partitionTypes.efiSystem,
  id: '5c1b0a7e-0002-4000-8000-536c69707761',
  firstSector: 2048,
  sectorCount: (40 * mebibyte) / sectorBytes,
}
const biosBoot: Partition = {
  name: 'BIOS boot',
  type: partitionTypes.biosBoot,
  id: '5c1b0a7e-0001-4000-8000-536c69707761',
  firstSector: 64,
  sectorCount: 2048 - 64,
}
const scratch: Partition = {
  name: 'scratch',
  type: partitionTypes.linuxData,
  id: '5c1b0a7e-0003-4000-8000-536c69707761',
  firstSector: efiSystem.firstSector + efiSystem.sectorCount,
  sectorCount: mebibyte / sectorBytes,
}
const diskId = '5c1b0a7e-0000-4000-8000-536c69707761'
const diskBytes = (scratch.firstSector + scratch.sectorCount) * sectorBytes + mebibyte

/** Everything in the image has this time: same inputs, same bytes. */
const imageTime = new Date('2026-01-01T00:00:00Z')

/** GRUB talks on the firmware's console: in the lab that is the serial line, with either firmware. */
const grubConfig = (console: string): string => `load_env
set boots="\${boots}I"
save_env boots
echo "${machineSays.grub} \${boots}"
${grubSetsQuirks}linux /linux console=${console} quiet panic=5 slipway.boots=\${boots} \${quirks}
initrd /initramfs
boot
`

/** Built in a few seconds the first time, taken from `cacheFolder` afterwards. */
export async function goldenImage(
  variant: GoldenVariant,
  cacheFolder: string = defaultCacheFolder(),
): Promise<GoldenImage> {
  await mkdir(cacheFolder, { recursive: true })
  const parts = await gatherParts(variant, cacheFolder)
  const kernelRelease = basename(parts.kernelFile).slice('vmlinuz-'.length)
  const path = join(cacheFolder, `golden-${variant}-${(await recipeHash(parts)).slice(0, 16)}.img`)
  const cached = await readFile(path).catch(() => undefined)
  if (cached !== undefined) return { path, variant, kernelRelease, sha256: sha256(cached) }

  const workFolder = await mkdtemp(join(tmpdir(), 'slipway-golden-'))
  try {
    const disk = await buildDisk(parts, variant, workFolder)
    const unfinished = `${path}.${process.pid}`
    await writeFile(unfinished, disk)
    await rename(unfinished, path)
    return { path, variant, kernelRelease, sha256: sha256(disk) }
  } finally {
    await rm(workFolder, { recursive: true, force: true })
  }
}

/** `.cache/lab` in the project, which git ignores. */
export function defaultCacheFolder(): string {
  return resolve(import.meta.dirname, '..', '.cache', 'lab')
}

export async function sha256OfFile(path: string): Promise<string> {
  return sha256(await readFile(path))
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

type Parts = {
  readonly grub: GrubRecipe
  /** Where firmware of this processor looks for what to start. */
  readonly loaderName: 'BOOTX64.EFI' | 'BOOTAA64.EFI'
  readonly console: 'ttyS0' | 'ttyAMA0'
  readonly busybox: string
  readonly kernelFile: string
  readonly modulesFolder: string
  /** open-iscsi and its libraries; none in `tiny`. */
  readonly initiator: readonly UnpackedPackage[]
  readonly releases: readonly string[]
}

async function gatherParts(variant: GoldenVariant, cacheFolder: string): Promise<Parts> {
  if (variant === 'tiny-arm64') return await gatherArm64Parts(cacheFolder)
  const kernel = await cloudKernelPackage(cacheFolder)
  const initiator: UnpackedPackage[] = []
  if (variant === 'full') {
    for (const name of ['open-iscsi', 'libopeniscsiusr', 'libkmod2']) {
      initiator.push(await unpackedPackage(cacheFolder, name))
    }
  }
  return {
    ...(await kernelParts(kernel)),
    grub: { platform: 'x86_64-efi', prefix: '/grub' },
    loaderName: 'BOOTX64.EFI',
    console: 'ttyS0',
    busybox: '/bin/busybox',
    initiator,
    releases: [kernel, ...initiator].map(({ release }) => release),
  }
}

async function gatherArm64Parts(cacheFolder: string): Promise<Parts> {
  const kernel = await cloudKernelPackage(cacheFolder, 'arm64')
  const grub = await unpackedPackage(cacheFolder, 'grub-efi-arm64-bin', 'arm64')
  const busybox = await unpackedPackage(cacheFolder, 'busybox-static', 'arm64')
  return {
    ...(await kernelParts(kernel)),
    grub: {
      platform: 'arm64-efi',
      prefix: '/grub',
      platformFolder: join(grub.folder, 'usr', 'lib', 'grub', 'arm64-efi'),
    },
    loaderName: 'BOOTAA64.EFI',
    console: 'ttyAMA0',
    busybox: join(busybox.folder, 'bin', 'busybox'),
    initiator: [],
    releases: [kernel, grub, busybox].map(({ release }) => release),
  }
}

async function kernelParts({ folder, release }: UnpackedPackage): Promise<Pick<Parts, 'kernelFile' | 'modulesFolder'>> {
  const kernelName = (await readdir(join(folder, 'boot'))).find((file) => file.startsWith('vmlinuz-'))
  if (kernelName === undefined) throw new Error(`${release} holds no kernel`)
  return {
    kernelFile: join(folder, 'boot', kernelName),
    modulesFolder: join(folder, 'lib', 'modules', kernelName.slice('vmlinuz-'.length), 'kernel'),
  }
}

/** Changes whenever another image would come out. */
async function recipeHash(parts: Parts): Promise<string> {
  const hash = createHash('sha256')
  for (const file of ['golden-image.ts', 'initramfs.ts', 'disk-layout.ts', 'grub.ts']) {
    hash.update(await readFile(join(import.meta.dirname, file)))
  }
  hash.update(parts.releases.join('\n'))
  hash.update(await grubVersion())
  hash.update(await readFile(parts.busybox))
  return hash.digest('hex')
}

async function buildDisk(parts: Parts, variant: GoldenVariant, workFolder: string): Promise<Uint8Array> {
  const disk = new Uint8Array(diskBytes)
  if (parts.grub.platform === 'x86_64-efi') {
    const coreImage = join(workFolder, 'core.img')
    await makeGrub({ platform: 'i386-pc', prefix: '(,gpt2)/grub' }, coreImage)
    writeGrubForBios(disk, { boot: await grubBootSector(), core: await readFile(coreImage) }, biosBoot)
  }
  writeGpt(disk, diskId, [biosBoot, efiSystem, scratch])
  disk.set(await buildEfiSystemPartition(parts, variant, workFolder), efiSystem.firstSector * sectorBytes)
  return disk
}

async function buildEfiSystemPartition(parts: Parts, variant: GoldenVariant, workFolder: string): Promise<Uint8Array> {
  const volume = join(workFolder, 'esp.img')
  const sizeKibibytes = (efiSystem.sectorCount * sectorBytes) / 1024
  await run('mkfs.fat', ['-C', '-F', '16', '-n', 'GOLDEN', '--invariant', volume, String(sizeKibibytes)])

  const files = join(workFolder, 'files')
  await mkdir(files)
  await makeGrub(parts.grub, join(files, parts.loaderName))
  await writeFile(join(files, 'grub.cfg'), grubConfig(parts.console))
  // An environment block is exactly 1024 bytes, padded with '#': GRUB rewrites it in place and never makes it longer.
  await writeFile(join(files, 'grubenv'), '# GRUB Environment Block\n'.padEnd(1024, '#'))
  await copyFile(parts.kernelFile, join(files, 'linux'))
  await writeFile(join(files, 'initramfs'), await buildInitramfs(parts, variant))

  const places = {
    [parts.loaderName]: `::/EFI/BOOT/${parts.loaderName}`,
    'grub.cfg': '::/grub/grub.cfg',
    grubenv: '::/grub/grubenv',
    linux: '::/linux',
    initramfs: '::/initramfs',
  }
  const env = { ...process.env, MTOOLS_SKIP_CHECK: '1', SOURCE_DATE_EPOCH: String(imageTime.getTime() / 1000) }
  await run('mmd', ['-i', volume, '::/EFI', '::/EFI/BOOT', '::/grub'], { env })
  for (const [file, place] of Object.entries(places)) {
    await utimes(join(files, file), imageTime, imageTime)
    await run('mcopy', ['-m', '-i', volume, join(files, file), place], { env })
  }
  return await readFile(volume)
}

/** Loaded in this order, each before what needs it. */
const ibftModules = ['iscsi_ibft']
const initiatorModules = ['virtio_pci', 'virtio_net', 'sd_mod', 'iscsi_tcp']

async function buildInitramfs(parts: Parts, variant: GoldenVariant): Promise<Uint8Array> {
  const entries: ArchiveEntry[] = [
    { kind: 'folder', path: 'proc' },
    { kind: 'folder', path: 'sys' },
    { kind: 'folder', path: 'dev' },
    { kind: 'folder', path: 'run' },
    { kind: 'file', path: 'bin/busybox', content: await readFile(parts.busybox), executable: true },
    { kind: 'link', path: 'bin/sh', target: 'busybox' },
  ]
  const modules = await modulesInOrder(parts.modulesFolder, [
    ...ibftModules,
    ...(variant === 'full' ? initiatorModules : []),
  ])
  for (const file of modules) {
    entries.push({ kind: 'file', path: `modules/${basename(file)}`, content: await readFile(file), executable: false })
  }
  if (variant === 'full') entries.push(...(await initiatorFiles(parts.initiator)))
  const init = initScript(
    modules.map((file) => basename(file)),
    variant,
  )
  entries.push({ kind: 'file', path: 'init', content: new TextEncoder().encode(init), executable: true })
  return packInitramfs(entries)
}

/** iscsistart and every library it needs: its own from their packages, the C library and the like from this system. */
async function initiatorFiles(packages: readonly UnpackedPackage[]): Promise<ArchiveEntry[]> {
  const libraryFolders = packages.map(({ folder }) => join(folder, 'usr', 'lib', 'x86_64-linux-gnu'))
  const openIscsi = packages[0]
  if (openIscsi === undefined) throw new Error('the initiator comes first')
  const program = join(openIscsi.folder, 'sbin', 'iscsistart')
  const env = { ...process.env, LD_LIBRARY_PATH: libraryFolders.join(':') }
  const { stdout } = await run('ldd', [program], { env })
  const entries: ArchiveEntry[] = [
    { kind: 'file', path: 'bin/iscsistart', content: await readFile(program), executable: true },
    { kind: 'folder', path: 'etc/iscsi' },
  ]
  for (const match of stdout.matchAll(/(?:(\S+) => )?(\/\S+) \(0x/g)) {
    const file = match[2] ?? ''
    // The loader is asked for by its full path, everything else by its name in the default folders.
    const path = match[1] === undefined ? file.slice(1) : `lib/${match[1]}`
    entries.push({ kind: 'file', path, content: await readFile(file), executable: true })
  }
  return entries
}

/** The modules and what they depend on, dependencies first, each once; built into the kernel means no file. */
async function modulesInOrder(folder: string, wanted: readonly string[]): Promise<string[]> {
  const byName = new Map<string, string>()
  for (const file of await readdir(folder, { recursive: true })) {
    if (file.endsWith('.ko')) byName.set(basename(file, '.ko').replaceAll('-', '_'), join(folder, file))
  }
  const ordered = new Set<string>()
  const add = async (name: string): Promise<void> => {
    const file = byName.get(name.replaceAll('-', '_'))
    if (file === undefined || ordered.has(file)) return
    for (const dependency of await dependenciesOf(file)) await add(dependency)
    ordered.add(file)
  }
  for (const name of wanted) await add(name)
  return [...ordered]
}

/** The `depends=a,b` string of the module's .modinfo section; `softdep=pre:` too, which modprobe would honour. */
async function dependenciesOf(file: string): Promise<string[]> {
  const text = (await readFile(file)).toString('latin1')
  const hard = /\0depends=([^\0]*)\0/.exec(text)?.[1] ?? ''
  const soft = /\0softdep=pre: ([^\0]*)\0/.exec(text)?.[1] ?? ''
  return [...hard.split(','), ...soft.split(' ')].filter((name) => name !== '')
}

function initScript(modules: readonly string[], variant: GoldenVariant): string {
  return `#!/bin/sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t tmpfs run /run
for module in ${modules.join(' ')}; do insmod /modules/$module; done
echo
echo "SLIPWAY-LAB kernel $(uname -r), command line: $(cat /proc/cmdline)"
for table in /sys/firmware/ibft/target*; do
  [ -e $table/target-name ] || continue
  echo "SLIPWAY-LAB ibft target $(cat $table/target-name) at $(cat $table/ip-addr):$(cat $table/port)"
  echo "SLIPWAY-LAB ibft initiator $(cat /sys/firmware/ibft/initiator/initiator-name)"
  # Names only: what is printed here ends up in test reports.
  echo "SLIPWAY-LAB ibft chap $(cat $table/chap-name 2>/dev/null) reverse $(cat $table/rev-chap-name 2>/dev/null)"
done
${variant === 'full' ? scratchScript : ''}
boots=$(sed -n 's/.*slipway.boots=\\([^ ]*\\).*/\\1/p' /proc/cmdline)
echo "${machineSays.ready}: kernel $(uname -r), boot $boots, up $(cut -d. -f1 /proc/uptime) s"
while :; do setsid cttyhack sh; done
`
}

/** Logs in by the iBFT, reads the scratch partition's line, replaces it, flushes, and reads it back past the page cache. */
const scratchScript = `ip link set lo up
iscsistart -N && iscsistart -b
for i in $(seq 100); do [ -b /dev/sda3 ] && break; sleep 0.1; done
if [ -b /dev/sda3 ]; then
  echo "${machineSays.scratchWas} $(head -c 512 /dev/sda3 | tr -d '\\000' | head -n 1)"
  count=$(head -c 512 /dev/sda3 | tr -d '\\000' | sed -n 's/^written \\([0-9]*\\) times$/\\1/p')
  echo "written $((\${count:-0} + 1)) times" | dd of=/dev/sda3 bs=512 conv=sync,fsync,notrunc 2>/dev/null
  echo 3 > /proc/sys/vm/drop_caches
  echo "${machineSays.scratchIs} $(head -c 512 /dev/sda3 | tr -d '\\000' | head -n 1)"
else
  echo "SLIPWAY-LAB no disk after iscsistart -b"
fi`
