/** What the system needs to find its disk (in the initramfs) and to keep it (open-iscsi's configuration). */
import type { KernelFile } from '../../disk/inspect.ts'
import { isUki, readPe, sectionSource, sectionText } from '../../disk/pe.ts'
import { type ByteSource, readWhole } from '../../disk/source.ts'
import type { Unpacker } from '../../ports/unpack.ts'
import { initramfsBytesMax } from '../limits.ts'
import { error, type ImageFinding, ok, type Repair, warning } from './finding.ts'
import { type InitramfsListing, listInitramfs } from './initramfs.ts'
import { addToGrubDefaults, editMenus, type MenuLine } from './menus.ts'
import { exists, type Root, readText, settingLines } from './root.ts'

/** Debian's hook puts the image's /etc/iscsi/iscsi.initramfs here. */
const initramfsSettings = 'etc/iscsi.initramfs'

/** `boot` is the file system that has the kernel: the root, or a /boot of its own. */
export async function checkInitramfs(
  parts: {
    readonly root: Root
    readonly boot: Root
    readonly kernel: KernelFile
    readonly menus: readonly MenuLine[]
  },
  unpacker: Unpacker,
): Promise<ImageFinding[]> {
  const { root, boot, kernel, menus } = parts
  const check = 'initramfs'
  const found = await openInitramfs(boot, kernel)
  if (found === undefined) {
    const what = `${kernel.path} has no initramfs`
    return [
      error(check, what, 'Nothing logs in to the target before the root is wanted.', 'update-initramfs -c -k all'),
    ]
  }
  const { name, source, ownCommandLine } = found
  const listing = await listInitramfs(await readWhole(source, initramfsBytesMax), [initramfsSettings], unpacker)
  if (listing.unreadPacking !== undefined) {
    const next = `Install ${listing.unreadPacking} here, and check again.`
    return [warning(check, `${name} is packed with ${listing.unreadPacking}`, 'It could not be looked into.', next)]
  }
  const builtIn = await readBuiltIn(root, kernel.version)
  const findings = judgeInitramfs({
    listing,
    builtIn,
    name,
    commandLines: ownCommandLine === undefined ? menus.map(({ commandLine }) => commandLine) : [ownCommandLine],
  })
  // What stands in a unified kernel image is not changed here: it may be signed.
  if (ownCommandLine !== undefined) return findings
  const isDracut = hasProgram(listing, 'iscsiroot')
  const asking = menus.length === 0 ? undefined : await askByCommandLine(root, menus, isDracut)
  return findings.map((each) => {
    return each.check === 'initramfs.unasked' && asking !== undefined ? { ...each, repairs: asking } : each
  })
}

type Initramfs = {
  readonly name: string
  readonly source: ByteSource
  /** Of a unified kernel image: it asks nobody else. */
  readonly ownCommandLine?: string
}

/** A file of its own, or a section of a unified kernel image (UAPI.5). */
async function openInitramfs(boot: Root, kernel: KernelFile): Promise<Initramfs | undefined> {
  if (kernel.initrd !== undefined) {
    const source = await boot.fileSystem.open(kernel.initrd)
    return source === undefined ? undefined : { name: kernel.initrd, source }
  }
  const file = await boot.fileSystem.open(kernel.path)
  const image = file === undefined ? undefined : await readPe(file)
  if (file === undefined || image === undefined || !isUki(image)) return undefined
  const source = sectionSource(file, image, '.initrd')
  if (source === undefined) return undefined
  return { name: kernel.path, source, ownCommandLine: (await sectionText(file, image, '.cmdline')) ?? '' }
}

/** The command line asks at once, and the file (Debian's) also where somebody writes the menu anew. */
async function askByCommandLine(root: Root, menus: readonly MenuLine[], isDracut: boolean): Promise<Repair[]> {
  const word = isDracut ? 'rd.iscsi.firmware=1' : 'iscsi_auto'
  const repairs = await editMenus(
    root,
    menus,
    (line) => (line.split(/\s+/).includes(word) ? line : `${line} ${word}`),
    (text) => addToGrubDefaults(text, word),
  )
  if (isDracut) return repairs
  const edit = (text: string): string => `${text.replace(/^\s*ISCSI_AUTO=.*\n?/gm, '')}ISCSI_AUTO=true\n`
  return [...repairs, { kind: 'edit', partition: root.partition, path: '/etc/iscsi/iscsi.initramfs', edit }]
}

function hasProgram({ names }: InitramfsListing, program: string): boolean {
  return [...names].some((each) => each.endsWith(`bin/${program}`))
}

/** modules.builtin: 'kernel/drivers/scsi/sd_mod.ko', one a line. */
async function readBuiltIn(root: Root, version: string): Promise<ReadonlySet<string>> {
  const text =
    (await readText(root, `/lib/modules/${version}/modules.builtin`)) ??
    (await readText(root, `/usr/lib/modules/${version}/modules.builtin`))
  return new Set(settingLines(text ?? '').map(moduleName))
}

/** 'kernel/drivers/scsi/iscsi_tcp.ko.zst' -> 'iscsi_tcp'. Dashes and underscores are one to modprobe. */
function moduleName(path: string): string {
  return (path.split('/').at(-1) ?? '').replace(/\.ko(\.\w+)?$/, '').replaceAll('-', '_')
}

export function judgeInitramfs(facts: {
  readonly listing: InitramfsListing
  readonly builtIn: ReadonlySet<string>
  readonly name: string
  readonly commandLines: readonly string[]
}): ImageFinding[] {
  const { listing, builtIn, name, commandLines } = facts
  const modules = new Set([...listing.names].filter((each) => /\.ko(\.\w+)?$/.test(each)).map(moduleName))
  const hasModule = (module: string): boolean => modules.has(module) || builtIn.has(module)
  const findings: ImageFinding[] = []

  const isDracut = hasProgram(listing, 'iscsiroot')
  if (hasProgram(listing, 'iscsistart')) findings.push(ok('initramfs.iscsi', `${name} can log in to a target`))
  else {
    const next =
      'apt install open-iscsi; touch /etc/iscsi/iscsi.initramfs; update-initramfs -u (Fedora: dracut -f --add iscsi)'
    findings.push(
      error('initramfs.iscsi', `${name} has no iscsistart`, 'Nothing logs in to the target: no root is found.', next),
    )
  }
  const needed = ['iscsi_tcp', 'sd_mod'].filter((module) => !hasModule(module))
  if (needed.length > 0) {
    const why = 'Without iscsi_tcp there is no login, without sd_mod the disk has no device.'
    const next = `echo ${needed.join(' ')} | tr ' ' '\\n' >> /etc/initramfs-tools/modules; update-initramfs -u`
    findings.push(error('initramfs.modules', `${name} lacks ${needed.join(', ')}`, why, next))
  }
  const hasCard =
    [...listing.names].some((each) => /drivers\/net\/(ethernet\/|virtio_net)/.test(each)) || builtIn.has('virtio_net')
  if (!hasCard) {
    const why = 'The network card that the firmware used is not found by Linux.'
    const next = 'Set MODULES=most in /etc/initramfs-tools/initramfs.conf; update-initramfs -u'
    findings.push(error('initramfs.network', `${name} has no driver for a network card`, why, next))
  }
  const ibftText = listing.texts.get(initramfsSettings) ?? ''
  const asked = commandLines.some((line) =>
    /(^|\s)(iscsi_auto|rd\.iscsi\.(firmware|ibft)(=1)?|ip=ibft|netroot=iscsi\S*|iscsi_target_name=\S+)(\s|$)/i.test(
      line,
    ),
  )
  const isAutomatic = /^\s*ISCSI_AUTO=["']?true/im.test(ibftText) || asked
  if (!hasModule('iscsi_ibft')) {
    const why = 'The table (iBFT) in which iPXE leaves the target and its secrets is not read.'
    const next = 'echo iscsi_ibft >> /etc/initramfs-tools/modules; update-initramfs -u'
    findings.push(error('initramfs.ibft', `${name} lacks iscsi_ibft`, why, next))
  } else if (!isAutomatic) {
    const why =
      'Everything is there, and nothing looks at the table (iBFT) in which iPXE leaves the target. (Under U-Boot there is none: start = "kernel" tells it.)'
    const next = isDracut
      ? 'Add rd.iscsi.firmware=1 to the kernel command line.'
      : 'echo ISCSI_AUTO=true > /etc/iscsi/iscsi.initramfs; update-initramfs -u'
    findings.push(error('initramfs.unasked', `${name} does not use the iBFT by itself`, why, next))
  } else findings.push(ok('initramfs.ibft', `${name} uses the iBFT`))
  return findings
}

/** What README.iscsi's readers set, and why: no ping decides that a silent server is a dead one, and waiting is cheap. */
const wantedSettings: ReadonlyArray<readonly [key: string, value: string]> = [
  ['node.conn[0].timeo.noop_out_interval', '0'],
  ['node.conn[0].timeo.noop_out_timeout', '0'],
  ['node.session.timeo.replacement_timeout', '86400'],
]

export async function checkOpenIscsi(root: Root): Promise<ImageFinding[]> {
  const path = '/etc/iscsi/iscsid.conf'
  const hasDaemon = (await exists(root, '/sbin/iscsid')) || (await exists(root, '/usr/sbin/iscsid'))
  if (!hasDaemon) {
    const why = 'When the connection breaks, nobody makes it again: the disk is gone for good.'
    return [error('iscsid', 'open-iscsi is not installed', why, 'apt install open-iscsi')]
  }
  const text = await readText(root, path)
  if (text === undefined)
    return [warning('iscsid.conf', `${path} is missing`, 'Time-outs are then the short ones.', 'Reinstall open-iscsi.')]
  const values = new Map(
    settingLines(text).map((line) => {
      const [key = '', value = ''] = line.split('=').map((part) => part.trim())
      return [key, value] as const
    }),
  )
  const wrong = wantedSettings.filter(([key, value]) => values.get(key) !== value)
  if (wrong.length === 0) return [ok('iscsid.conf', `${path}: a server that is away is waited for`)]
  const list = wrong.map(([key, value]) => `${key} = ${value} (is ${values.get(key) ?? 'not set'})`).join(', ')
  const whyShort =
    'When the server is restarted, or a cable is pulled, the root disk fails after two minutes instead of waiting.'
  return [
    {
      ...warning('iscsid.conf', `${path}: time-outs are too short for a root disk`, whyShort, `Set ${list}.`),
      repairs: [{ kind: 'edit', partition: root.partition, path, edit: (before) => withSettings(before, wrong) }],
    },
  ]
}

/** Each setting where it stood, commented or not; at the end where it did not. */
export function withSettings(text: string, settings: ReadonlyArray<readonly [key: string, value: string]>): string {
  let lines = text.trimEnd().split('\n')
  for (const [key, value] of settings) {
    const isKey = (line: string): boolean =>
      line
        .replace(/^[#\s]+/, '')
        .split('=')[0]
        ?.trim() === key
    const isSet = (line: string): boolean => !line.trim().startsWith('#') && isKey(line)
    const place = lines.find(isSet) ?? lines.find(isKey)
    const at = place === undefined ? lines.length : lines.indexOf(place)
    // open-iscsi takes the last of several: the others go.
    lines = [
      ...lines.slice(0, at).filter((line) => !isSet(line)),
      `${key} = ${value}`,
      ...lines.slice(at + 1).filter((line) => !isSet(line)),
    ]
  }
  return `${lines.join('\n')}\n`
}
