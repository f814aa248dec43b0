/** Does a firmware find something to start? A disk that travels has no boot entry in anybody's NVRAM: only \EFI\BOOT counts. */
import type { DiskSummary, Firmware } from '../../disk/inspect.ts'
import { error, type ImageFinding, ok, type Repair, warning } from './finding.ts'
import type { Root } from './root.ts'

/** Of one processor: what an installation calls its loaders, the first that is there is the one that firmware starts. */
const loaderNames = [
  { firmware: 'x86_64', removable: 'BOOTX64.EFI', own: ['shimx64.efi', 'grubx64.efi', 'systemd-bootx64.efi'] },
  { firmware: 'arm64', removable: 'BOOTAA64.EFI', own: ['shimaa64.efi', 'grubaa64.efi', 'systemd-bootaa64.efi'] },
] as const

/** `volumes`: every file system that can be read. @throws {DiskError} */
export async function checkLoaders(summary: DiskSummary, volumes: readonly Root[]): Promise<ImageFinding[]> {
  const works = summary.bootableFor.filter(({ bootable }) => bootable)
  const findings = works.map(({ firmware, reason }) => ok('loader', `${firmware}: ${reason}`))
  const told = new Set<Firmware>()
  const esp = volumes.find(({ partition }) => partition === summary.esp)
  for (const names of loaderNames) {
    const judged = summary.bootableFor.find(({ firmware }) => firmware === names.firmware)
    if (judged?.bootable === true || esp === undefined) continue
    const own = await installedLoader(esp, names.own)
    if (own === undefined) continue
    const place = `\\EFI\\BOOT\\${names.removable}`
    const from = `\\EFI\\${own.folder}\\${own.file}`
    const why = `${from} is started by a boot entry that the machine it was installed on has, and no other.`
    const next = `Copy it to ${place} (grub-install --removable, or bootctl install).`
    const make = works.length > 0 ? warning : error
    const found = make('loader.efi', `${names.firmware}: ${place} is missing`, why, next)
    findings.push({ ...found, repairs: copiesOf(esp.partition, own, names.removable) })
    told.add(names.firmware)
  }
  if (works.length > 0) findings.push(...notFor(summary, told))
  if (findings.length > 0) return findings
  const why = 'Firmware finds nothing to start on it.'
  return [error('loader', 'no boot loader', why, summary.bootableFor.map(({ reason }) => reason).join(' '))]
}

/** No mistake of the image's: there may be no such machines. */
function notFor({ bootableFor }: DiskSummary, told: ReadonlySet<Firmware>): ImageFinding[] {
  const others = bootableFor.filter(({ bootable, firmware }) => !bootable && !told.has(firmware))
  return others.map(({ firmware, reason }) => ok('loader', `${firmware}: not for such machines. ${reason}`))
}

type InstalledLoader = { readonly folder: string; readonly file: string; readonly all: readonly string[] }

async function installedLoader(esp: Root, names: readonly string[]): Promise<InstalledLoader | undefined> {
  const folders = (await esp.fileSystem.list('/EFI')) ?? []
  for (const { name: folder, kind } of folders) {
    if (kind !== 'directory' || folder.toUpperCase() === 'BOOT') continue
    const entries = (await esp.fileSystem.list(`/EFI/${folder}`)) ?? []
    const files = entries.filter((entry) => entry.kind === 'file').map(({ name }) => name)
    const all = names.flatMap((wanted) => files.find((file) => file.toLowerCase() === wanted) ?? [])
    const [file] = all
    if (file !== undefined) return { folder, file, all }
  }
  return undefined
}

/** As grub-install --force-extra-removable does: shim starts the GRUB beside it, whose own prefix leads to its menu. */
function copiesOf(partition: number, { folder, file, all }: InstalledLoader, removable: string): Repair[] {
  return all
    .filter((name) => name === file || name.toLowerCase().startsWith('grub'))
    .map((name) => {
      const to = `/EFI/BOOT/${name === file ? removable : name}`
      return { kind: 'copy', partition, from: `/EFI/${folder}/${name}`, to }
    })
}
