/** How the system finds its root: by a name that is the same on every machine, or by one that happens to be right here. */
import type { DiskSummary } from '../../disk/inspect.ts'
import { error, type ImageFinding, ok, type Repair, warning } from './finding.ts'
import { editMenus, type MenuLine } from './menus.ts'
import { type Root, readText } from './root.ts'

const fstabPath = '/etc/fstab'
/** Names that the kernel gives out in the order in which disks answer. */
const kernelName = /^\/dev\/(sd|hd|vd|xvd|nvme|mmcblk)/
/** Where the disk is plugged in: not where it will be. */
const pathName = /^\/dev\/disk\/by-(path|id)\//

/** What is mounted, or swapped to, at start: a line's first two words. */
const fstabLine = /^(\s*)([^\s#]\S*)(\s+)(\S+)/

export async function checkRootDevice(
  root: Root,
  summary: DiskSummary,
  menus: readonly MenuLine[],
): Promise<ImageFinding[]> {
  const findings: ImageFinding[] = []
  for (const line of ((await readText(root, fstabPath)) ?? '').split('\n')) {
    const [, , source = '', , place = ''] = fstabLine.exec(line) ?? []
    // Of what is not for the start only names that cannot be right are told.
    const isNeeded = place === '/' || place.startsWith('/boot') || place === '/usr'
    if (source === '' || !(isNeeded || isOfThisMachine(source))) continue
    const where = `${fstabPath}: ${place}`
    findings.push(judge({ source, where, check: 'fstab', isRoot: place === '/', root, summary }, renameInFstab))
  }
  const seen = new Set<string>()
  for (const { path, commandLine } of menus) {
    const source = /(?:^|\s)root=(\S+)/.exec(commandLine)?.[1]
    if (source === undefined || seen.has(`${path} ${source}`)) continue
    seen.add(`${path} ${source}`)
    const found = judge({ source, where: `${path}: root=`, check: 'root.device', isRoot: true, root, summary })
    if (found.level !== 'error' || root.fileSystem.uuid === '') findings.push(found)
    else findings.push({ ...found, repairs: await rootByUuid(root, menus) })
  }
  if (menus.length === 0) {
    const why = 'The kernel must be told where its root is.'
    findings.push(warning('root.device', 'no boot menu was found (grub.cfg, loader/entries)', why, 'Check it by hand.'))
  }
  return findings
}

/** In every menu; and GRUB's next menu is to be written so, too. */
async function rootByUuid(root: Root, menus: readonly MenuLine[]): Promise<Repair[]> {
  const name = `UUID=${root.fileSystem.uuid}`
  return editMenus(
    root,
    menus,
    (line) =>
      line.replaceAll(/(^|\s)root=(\S+)/g, (all, before, source) => {
        return isOfThisMachine(String(source)) ? `${before}root=${name}` : all
      }),
    (text) => text.replace(/^\s*(GRUB_DISABLE_LINUX_UUID)=.*$/m, '#$1=true'),
  )
}

function isOfThisMachine(source: string): boolean {
  return kernelName.test(source) || pathName.test(source)
}

type Named = {
  readonly source: string
  readonly where: string
  readonly check: string
  readonly isRoot: boolean
  readonly root: Root
  readonly summary: DiskSummary
}

function judge(
  { source, where, check, isRoot, root, summary }: Named,
  repair?: (root: Root, source: string, name: string) => Repair,
): ImageFinding {
  const plain = source.replaceAll(/["']/g, '')
  if (isOfThisMachine(plain)) {
    const why = 'On iSCSI the disk has another name, and which one depends on the machine.'
    const uuid = isRoot ? root.fileSystem.uuid : uuidBehind(plain, summary)
    const next = `Use UUID=${uuid === '' ? '...' : uuid} (blkid shows it)${check === 'fstab' ? '' : ', then update-grub'}.`
    const make = isRoot ? error : warning
    const found = make(check, `${where}${where.endsWith('=') ? '' : ' is '}${plain}`, why, next)
    if (repair === undefined || uuid === '') return found
    return { ...found, repairs: [repair(root, source, `UUID=${uuid}`)] }
  }
  const [, kind = '', value = ''] = /^(UUID|PARTUUID|LABEL)=(.*)$/i.exec(plain) ?? []
  const wanted = value.toLowerCase()
  const known = summary.partitions.flatMap(({ uuid, id, label }) => {
    return kind.toUpperCase() === 'UUID' ? [uuid] : kind.toUpperCase() === 'PARTUUID' ? [id] : [label]
  })
  // A partition that cannot be looked into has no UUID here: then nothing is known against it.
  const allRead = summary.partitions.every(({ content }) => content !== 'unknown' && content !== 'unreadable')
  if (kind !== '' && allRead && !known.some((each) => each.toLowerCase() === wanted)) {
    const why = 'The system waits for it, and then gives up.'
    return warning(check, `${where} ${plain}, which is nowhere on this disk`, why, 'Compare with blkid.')
  }
  return ok(check, `${where} ${plain}`)
}

/** '/dev/sda2' and '/dev/nvme0n1p2' are partition 2, of this disk as it seems; '' when that has no UUID. */
function uuidBehind(name: string, { partitions }: DiskSummary): string {
  const number = Number(/(?:^\/dev\/(?:[hsv]|xv)d[a-z]+|\dp)(\d+)$/.exec(name)?.[1])
  return partitions.find((partition) => partition.number === number)?.uuid ?? ''
}

function renameInFstab({ partition }: Root, source: string, name: string): Repair {
  const edit = (text: string): string =>
    text
      .split('\n')
      .map((line) => {
        const [, indent = '', found] = fstabLine.exec(line) ?? []
        return found === source ? `${indent}${name}${line.slice(indent.length + source.length)}` : line
      })
      .join('\n')
  return { kind: 'edit', partition, path: fstabPath, edit }
}
