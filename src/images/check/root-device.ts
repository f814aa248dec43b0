/** How the system finds its root: by a name that is the same on every machine, or by one that happens to be right here. */
import type { DiskSummary } from '../../disk/inspect.ts'
import { error, type ImageFinding, ok, warning } from './finding.ts'
import { type Root, readFolder, readText, settingLines } from './root.ts'

/** Names that the kernel gives out in the order in which disks answer. */
const kernelName = /^\/dev\/(sd|hd|vd|xvd|nvme|mmcblk)/
/** Where the disk is plugged in: not where it will be. */
const pathName = /^\/dev\/disk\/by-(path|id)\//

export async function checkRootDevice(root: Root, summary: DiskSummary): Promise<ImageFinding[]> {
  const findings: ImageFinding[] = []
  const fstab = await readText(root, '/etc/fstab')
  for (const line of settingLines(fstab ?? '')) {
    const [source = '', place = ''] = line.split(/\s+/)
    if (place === '/' || place.startsWith('/boot') || place === '/usr') {
      findings.push(...judge(source, `/etc/fstab: ${place}`, 'fstab', place === '/', summary))
    }
  }
  const kernelLines = await kernelCommandLines(root)
  const seen = new Set<string>()
  for (const [where, line] of kernelLines) {
    const source = /(?:^|\s)root=(\S+)/.exec(line)?.[1]
    if (source === undefined || seen.has(`${where} ${source}`)) continue
    seen.add(`${where} ${source}`)
    findings.push(...judge(source, `${where}: root=`, 'root.device', true, summary))
  }
  if (kernelLines.length === 0) {
    const why = 'The kernel must be told where its root is.'
    findings.push(warning('root.device', 'no boot menu was found (grub.cfg, loader/entries)', why, 'Check it by hand.'))
  }
  return findings
}

/** Every kernel command line of GRUB's menu and of boot loader specification entries: [file, line]. */
export async function kernelCommandLines(root: Root): Promise<readonly (readonly [where: string, line: string])[]> {
  const lines: (readonly [string, string])[] = []
  for (const path of ['/boot/grub/grub.cfg', '/boot/grub2/grub.cfg', '/grub/grub.cfg']) {
    for (const line of settingLines((await readText(root, path)) ?? '')) {
      const match = /^linux(?:16|efi)?\s+\S+\s*(.*)$/.exec(line)
      if (match !== null) lines.push([path, match[1] ?? ''])
    }
  }
  for (const folder of ['/boot/loader/entries', '/loader/entries']) {
    for (const [path, text] of await readFolder(root, folder, '.conf')) {
      for (const line of settingLines(text)) {
        const match = /^options\s+(.*)$/.exec(line)
        if (match !== null) lines.push([path, match[1] ?? ''])
      }
    }
  }
  return lines
}

function judge(source: string, where: string, check: string, isRoot: boolean, summary: DiskSummary): ImageFinding[] {
  const plain = source.replaceAll(/["']/g, '')
  if (kernelName.test(plain) || pathName.test(plain)) {
    const why = 'On iSCSI the disk has another name, and which one depends on the machine.'
    const next = `Use UUID=${summary.partitions.find(({ uuid }) => uuid !== '')?.uuid ?? '...'} (blkid shows it)${check === 'fstab' ? '' : ', then update-grub'}.`
    const make = isRoot ? error : warning
    return [make(check, `${where}${where.endsWith('=') ? '' : ' is '}${plain}`, why, next)]
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
    return [warning(check, `${where} ${plain}, which is nowhere on this disk`, why, 'Compare with blkid.')]
  }
  return [ok(check, `${where} ${plain}`)]
}
