/**
 * The Linux that a disk's own boot menu would start: kernel, initramfs, command line, found without its boot loader. GRUB's menu
 * first, then boot loader entries, then a unified kernel image.
 */
import { textOf } from './fields.ts'
import type { FileSystem } from './file-system.ts'
import { defaultOfGrub, type GrubEntry, parseGrubEnvironment } from './grub-menu.ts'
import type { OpenedDisk, Volume } from './inspect.ts'
import { bootMenuBytesMax, loaderEntryCountMax } from './limits.ts'
import { defaultLoaderEntry, type LoaderEntry, parseLoaderEntry, sortLoaderEntries } from './loader-entries.ts'
import { type Architecture, isUki, readPe, sectionSource, sectionText } from './pe.ts'
import { type ByteSource, isDiskError, readWhole } from './source.ts'

export interface StartFile {
  /** Where it is, for people. */
  readonly path: string
  readonly source: ByteSource
}

export interface LinuxStart {
  /** What says so: '/boot/grub/grub.cfg'. */
  readonly menu: string
  readonly kernel: StartFile
  /** In the order in which they are handed to the kernel. */
  readonly initramfs: readonly StartFile[]
  /** As the menu has it: 'root=UUID=... ro quiet'. */
  readonly commandLine: string
  /** Of the kernel as an EFI program; undefined where it is none. */
  readonly architecture: Architecture | undefined
}

type Place = { readonly number: number; readonly fileSystem: FileSystem }
type Choice = {
  readonly menu: string
  readonly kernel: string
  readonly initramfs: readonly string[]
  readonly commandLine: string
  /** Which file system its paths are on, by GRUB's $root. */
  readonly device: string
  /** The one that has the menu. */
  readonly home: Place
}

const grubMenus = ['/boot/grub/grub.cfg', '/boot/grub2/grub.cfg', '/grub/grub.cfg', '/grub2/grub.cfg']
const loaderFolders = ['/loader', '/boot/loader']

export type FoundStart =
  | { readonly kind: 'found'; readonly start: LinuxStart }
  /** `why` is for people: 'partition 2 is btrfs'. */
  | { readonly kind: 'missing'; readonly why: string }

/** @throws {OperationError} ioError; never because of what the bytes say */
export async function findLinuxStart(disk: OpenedDisk): Promise<FoundStart> {
  const places = disk.volumes.flatMap(({ number, content }): Place[] => {
    return content.kind === 'fileSystem' ? [{ number, fileSystem: content.fileSystem }] : []
  })
  const troubles: string[] = []
  for (const find of [grubChoices, loaderEntryChoices]) {
    for (const home of places) {
      try {
        for (const choice of await find(home, places)) {
          const start = await openChoice(choice, disk.volumes, places)
          if (typeof start !== 'string') return { kind: 'found', start }
          troubles.push(start)
        }
      } catch (error) {
        if (!isDiskError(error)) throw error
        troubles.push(error.message)
      }
    }
  }
  for (const home of places) {
    try {
      const start = await unifiedKernel(home)
      if (start !== undefined) return { kind: 'found', start }
    } catch (error) {
      if (!isDiskError(error)) throw error
      troubles.push(error.message)
    }
  }
  return { kind: 'missing', why: troubles[0] ?? nothingReadable(disk.volumes, places) }
}

/** With the names of what is there instead: LVM, LUKS, btrfs. */
function nothingReadable(volumes: readonly Volume[], places: readonly Place[]): string {
  const others = volumes.flatMap(({ number, content }) => {
    return content.kind === 'known' ? [`partition ${number} is ${content.name}`] : []
  })
  const seen = places.length === 0 ? 'no file system that Slipway reads' : 'no boot menu that names a kernel'
  return [seen, ...others].join('; ')
}

async function grubChoices(home: Place, places: readonly Place[]): Promise<Choice[]> {
  const choices: Choice[] = []
  for (const path of grubMenus) {
    const text = await smallText(home, path)
    if (text === undefined) continue
    const environment = await smallText(home, path.replace(/grub\.cfg$/, 'grubenv'))
    const entries = sortLoaderEntries(
      (await Promise.all(places.map(loaderEntriesOf))).flatMap((found) => found.entries),
    )
    const chosen = defaultOfGrub(text, {
      environment: environment === undefined ? undefined : parseGrubEnvironment(environment),
      loaderEntries: entries.map((entry): GrubEntry => entry),
    })
    if (chosen !== undefined) choices.push({ ...chosen, menu: path, home })
  }
  return choices
}

async function loaderEntryChoices(home: Place): Promise<Choice[]> {
  const { entries, loaderConf, folder } = await loaderEntriesOf(home)
  const chosen = defaultLoaderEntry(entries, loaderConf)
  return chosen === undefined ? [] : [{ ...chosen, menu: `${folder}/entries/${chosen.id}.conf`, device: '', home }]
}

type FoundEntries = { readonly entries: readonly LoaderEntry[]; readonly loaderConf: string; readonly folder: string }

async function loaderEntriesOf(home: Place): Promise<FoundEntries> {
  for (const folder of loaderFolders) {
    const files = ((await home.fileSystem.list(`${folder}/entries`)) ?? []).filter(({ name }) => /\.conf$/i.test(name))
    const entries: LoaderEntry[] = []
    for (const { name } of files.slice(0, loaderEntryCountMax)) {
      const text = await smallText(home, `${folder}/entries/${name}`)
      const entry = text === undefined ? undefined : parseLoaderEntry(name, text)
      if (entry !== undefined) entries.push(entry)
    }
    if (entries.length > 0) {
      return { entries, loaderConf: (await smallText(home, `${folder}/loader.conf`)) ?? '', folder }
    }
  }
  return { entries: [], loaderConf: '', folder: '' }
}

/** A string says what is missing. */
async function openChoice(
  choice: Choice,
  volumes: readonly Volume[],
  places: readonly Place[],
): Promise<LinuxStart | string> {
  const kernel = await openFile(choice.kernel, choice, volumes, places)
  if (kernel === undefined) return `${choice.menu} starts ${choice.kernel}, which cannot be read`
  const initramfs: StartFile[] = []
  for (const path of choice.initramfs) {
    const file = await openFile(path, choice, volumes, places)
    if (file === undefined) return `${choice.menu} wants ${path}, which cannot be read`
    initramfs.push(file)
  }
  const architecture = (await peOf(kernel.source))?.architecture
  return { menu: choice.menu, kernel, initramfs, commandLine: choice.commandLine, architecture }
}

async function openFile(
  said: string,
  { device, home }: Choice,
  volumes: readonly Volume[],
  places: readonly Place[],
): Promise<StartFile | undefined> {
  const [, ownDevice, path = ''] = /^(?:\(([^)]*)\))?(.*)$/s.exec(said) ?? []
  const wanted = placesOf(ownDevice ?? device, volumes, places)
  // Where a mount point is not said in the menu's paths: /boot on a partition of its own, or not.
  for (const place of new Set([...wanted, home, ...places])) {
    for (const candidate of [path, `/boot${path}`]) {
      const source = await place.fileSystem.open(candidate)
      if (source !== undefined) return { path: candidate, source }
    }
  }
  return undefined
}

function placesOf(device: string, volumes: readonly Volume[], places: readonly Place[]): readonly Place[] {
  const [kind, name = ''] = device.split(/=(.*)/s)
  if (kind === 'uuid') return places.filter(({ fileSystem }) => fileSystem.uuid.toLowerCase() === name.toLowerCase())
  if (kind === 'label') return places.filter(({ fileSystem }) => fileSystem.label === name)
  // 'hd0,gpt2', 'hd0,msdos1': the second and the first partition.
  const number = /,(?:gpt|msdos)?(\d{1,3})$/.exec(device)?.[1]
  const volume = volumes.find((each) => each.number === Number(number ?? -1))
  return places.filter((place) => place.number === volume?.number)
}

async function unifiedKernel({ fileSystem }: Place): Promise<LinuxStart | undefined> {
  const folder = '/EFI/Linux'
  const names = ((await fileSystem.list(folder)) ?? []).map(({ name }) => name)
  const newestFirst = names
    .filter((name) => /\.efi$/i.test(name))
    .sort(new Intl.Collator('en', { numeric: true }).compare)
    .reverse()
  for (const name of newestFirst.slice(0, loaderEntryCountMax)) {
    const path = `${folder}/${name}`
    const file = await fileSystem.open(path)
    const image = file === undefined ? undefined : await peOf(file)
    if (file === undefined || image === undefined || !isUki(image)) continue
    const source = sectionSource(file, image, '.linux')
    if (source === undefined) continue
    const initramfs = sectionSource(file, image, '.initrd')
    return {
      menu: path,
      kernel: { path, source },
      initramfs: initramfs === undefined ? [] : [{ path, source: initramfs }],
      commandLine: ((await sectionText(file, image, '.cmdline')) ?? '').trim().replaceAll(/\s+/g, ' '),
      architecture: image.architecture,
    }
  }
  return undefined
}

/** Undefined for what is no EFI program: an old kernel, or one that is broken. */
async function peOf(source: ByteSource): ReturnType<typeof readPe> {
  try {
    return await readPe(source)
  } catch (error) {
    if (!isDiskError(error)) throw error
    return undefined
  }
}

async function smallText({ fileSystem }: Place, path: string): Promise<string | undefined> {
  const file = await fileSystem.open(path)
  return file === undefined || file.sizeBytes > bootMenuBytesMax ? undefined : textOf(await readWhole(file))
}
