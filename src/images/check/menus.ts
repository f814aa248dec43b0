/** The kernel command lines of an image: GRUB's menu, boot loader entries (UAPI.1), what kernel-install writes them from. */
import type { Repair } from './finding.ts'
import { exists, type Root, readFolder, readText } from './root.ts'

export interface MenuLine {
  readonly partition: number
  readonly path: string
  /** Without the kernel's name: 'root=UUID=... ro quiet'. */
  readonly commandLine: string
}

const grubMenus = ['/boot/grub/grub.cfg', '/boot/grub2/grub.cfg', '/grub/grub.cfg', '/grub2/grub.cfg']
const entryFolders = ['/boot/loader/entries', '/loader/entries']
/** One line, the whole file: systemd's kernel-install makes entries and unified kernels with it. */
const kernelInstall = '/etc/kernel/cmdline'
/** What `update-grub` makes the menu from. */
const grubDefaults = '/etc/default/grub'

/** 1: what stands before the command line. */
const grubLine = /^(\s*linux(?:16|efi)?\s+\S+)(.*)$/
const entryLine = /^(options)\s(.*)$/

/** Of every file system that can be read: the menu may be on the root, on a /boot of its own, or on the ESP. */
export async function menuLinesOf(volumes: readonly Root[]): Promise<readonly MenuLine[]> {
  const lines: MenuLine[] = []
  for (const volume of volumes) {
    const texts: (readonly [path: string, text: string])[] = []
    for (const path of [...grubMenus, kernelInstall]) {
      const text = await readText(volume, path)
      if (text !== undefined) texts.push([path, text])
    }
    for (const folder of entryFolders) texts.push(...(await readFolder(volume, folder, '.conf')))
    for (const [path, text] of texts) {
      const take = (commandLine: string): string => {
        lines.push({ partition: volume.partition, path, commandLine: commandLine.trim() })
        return commandLine
      }
      editCommandLines(path, text, take)
    }
  }
  return lines
}

/** The same change in every menu, and in what menus are made from, so that the next update of one keeps it. */
export async function editMenus(
  root: Root,
  menus: readonly MenuLine[],
  change: (commandLine: string) => string,
  inDefaults: (text: string) => string,
): Promise<Repair[]> {
  const files = new Map(menus.map(({ partition, path }) => [`${partition}:${path}`, { partition, path }]))
  const repairs = [...files.values()].map(({ partition, path }): Repair => {
    return { kind: 'edit', partition, path, edit: (text) => editCommandLines(path, text, change) }
  })
  if (await exists(root, grubDefaults)) {
    repairs.push({ kind: 'edit', partition: root.partition, path: grubDefaults, edit: inDefaults })
  }
  return repairs
}

/** `word` at the end of GRUB_CMDLINE_LINUX, which every entry gets. */
export function addToGrubDefaults(text: string, word: string): string {
  const setting = /^(GRUB_CMDLINE_LINUX=)(["']?)(.*?)\2\s*$/m
  if (!setting.test(text)) return `${text.trimEnd()}\nGRUB_CMDLINE_LINUX="${word}"\n`
  return text.replace(setting, (all, name: string, quote: string, words: string) => {
    if (words.split(/\s+/).includes(word)) return all
    const marks = quote === '' ? '"' : quote
    return `${name}${marks}${[words, word].filter((each) => each !== '').join(' ')}${marks}`
  })
}

function editCommandLines(path: string, text: string, change: (commandLine: string) => string): string {
  if (path === kernelInstall) return `${change(text.trim())}\n`
  const pattern = path.endsWith('.conf') ? entryLine : grubLine
  return text
    .split('\n')
    .map((line) => {
      const match = pattern.exec(line)
      return match === null ? line : `${match[1]} ${change((match[2] ?? '').trim())}`
    })
    .join('\n')
}
