import { type Command, Option } from 'commander'
import type { ListedLoader, LoadersWhere } from '../app/added-loaders.ts'
import { debianLoadersDirectories } from '../app/config.ts'
import type { SeenLoader as Loader } from '../app/loaders.ts'
import { createLog } from '../host/log.ts'
import { defaultStateDirectory } from '../host/state-directory.ts'
import { authorityName } from './ca.ts'
import { table } from './table.ts'
import { readConfig } from './up-options.ts'

type Flags = {
  readonly state?: string
  readonly config?: string
  readonly loaders?: string
  readonly json?: boolean
  readonly trustUs?: boolean
  readonly as?: string
}

const atNextStart = 'A running Slipway knows of it after its next start.'

export function addLoadersCommands(program: Command): void {
  const loaders = program
    .command('loaders')
    .description('The programs that firmware is handed: which there are, and adding your own.')
  const state = (): Option => new Option('--state <DIR>', 'where Slipway keeps what it knows')
  const places = (command: Command): Command =>
    command
      .addOption(state())
      .option('--config <FILE>', 'slipway.toml: where other loaders are')
      .option('--loaders <DIR>', 'where other loaders are (default: where Debian puts them)')
      .option('--json', 'as JSON')
  places(
    loaders.command('list').description('List them, with what each can do and which machines would get it.'),
  ).action(async (flags: Flags) => {
    const { listLoaders } = await import('../app/added-loaders.ts')
    const listed = await listLoaders(whereOf(flags), createLog('warn'))
    if (flags.json === true) {
      for (const loader of listed) process.stdout.write(`${JSON.stringify(loader)}\n`)
    } else process.stdout.write(table(columns, listed.filter(isKnown).map(rowOf)))
  })
  places(
    loaders
      .command('show')
      .description('Say everything that can be told of one, from its bytes.')
      .argument('<NAME>', 'one of the list, or the path of any file'),
  ).action(async (name: string, flags: Flags) => {
    const { showLoader } = await import('../app/added-loaders.ts')
    const { seen, listed } = await showLoader(whereOf(flags), name, createLog('warn'))
    if (flags.json === true) process.stdout.write(`${JSON.stringify({ ...seen, gets: listed?.gets ?? [] })}\n`)
    else process.stdout.write(describe(seen, listed))
  })
  loaders
    .command('add')
    .description('Keep a copy of a loader; `slipway up` hands it out before all others that would do.')
    .argument('<FILE>', 'an iPXE, or another program that a firmware can load')
    .option('--trust-us', "in the copy, replace iPXE's pinned public root by this site's authority")
    .option('--as <NAME>', "the name it is asked for by (default: the file's own)")
    .addOption(state())
    .action(async (path: string, flags: Flags) => {
      const { addLoader } = await import('../app/added-loaders.ts')
      const terms = { path, name: flags.as, trustUs: flags.trustUs === true, authorityName: authorityName() }
      const added = await addLoader(flags.state ?? defaultStateDirectory(), terms)
      const lines = [
        `${added.name} is ${added.replaced ? 'replaced' : 'added'}: ${whatOf(added.seen)}.`,
        ...added.changes.map(({ offset, why }) => `Changed in the copy, at byte ${offset}: it ${why}.`),
        ...(terms.trustUs && added.changes.length === 0 ? ['It trusts this site already: nothing was changed.'] : []),
        ...(added.seen.kind === 'ipxe' ? [] : ['It is no iPXE: machines get it only if they ask for it by name.']),
        atNextStart,
      ]
      process.stdout.write(`${lines.join('\n')}\n`)
    })
  loaders
    .command('remove')
    .description('Take away one that was added.')
    .argument('<NAME>', 'as it was added')
    .addOption(state())
    .action(async (name: string, flags: Flags) => {
      const { removeLoader } = await import('../app/added-loaders.ts')
      await removeLoader(flags.state ?? defaultStateDirectory(), name)
      process.stdout.write(`${name} is removed. ${atNextStart}\n`)
    })
  loaders
    .command('kit')
    .description("Write what an iPXE of your own is built with: this site's authority, script, settings.")
    .argument('<DIR>', 'a folder of its own')
    .addOption(state())
    .action(async (directory: string, flags: Flags) => {
      const { writeLoadersKit } = await import('../app/added-loaders.ts')
      const files = await writeLoadersKit(flags.state ?? defaultStateDirectory(), directory, authorityName())
      process.stdout.write(`${files.join('\n')}\nREADME says how to go on.\n`)
    })
}

function whereOf(flags: Flags): LoadersWhere {
  const file = readConfig(flags.config)
  const loaders = flags.loaders ?? file.loaders
  return {
    stateDirectory: flags.state ?? file.state ?? defaultStateDirectory(),
    directories: loaders === undefined ? debianLoadersDirectories : [loaders],
  }
}

type Known = ListedLoader & { readonly seen: Loader }

function isKnown(loader: ListedLoader): loader is Known {
  return loader.seen !== undefined
}

const columns = ['name', 'what it is', 'for', 'HTTPS', 'iSCSI', 'trusts', 'signed', 'goes to', 'from']

function rowOf({ name, directory, added, madeFrom, seen, gets }: Known): string[] {
  return [
    name,
    nameOf(seen),
    seen.firmware ?? '-',
    seen.can.https,
    seen.can.iscsi,
    trustOf(seen),
    seen.signed ? 'yes' : 'no',
    gets.length === 0 ? '-' : gets.join(', '),
    madeFrom !== undefined ? `a copy of ${madeFrom} that never rests` : added ? 'added' : directory,
  ]
}

const programs: Readonly<Record<Loader['kind'], string>> = {
  ipxe: 'iPXE',
  grub: 'GRUB',
  shim: 'shim',
  shimTool: "shim's tool",
  systemdBoot: 'systemd-boot',
  uki: 'UKI',
  linux: 'Linux',
  pxelinux: 'PXELINUX',
  memdisk: 'MEMDISK',
  uboot: 'U-Boot',
  efi: 'EFI program',
}

function nameOf({ kind, version }: Loader): string {
  return version === undefined ? programs[kind] : `${programs[kind]} ${version}`
}

function whatOf(loader: Loader): string {
  const firmware =
    loader.firmware === undefined ? '' : loader.firmware === 'bios' ? ' for BIOS' : ` for ${loader.firmware}`
  return `${nameOf(loader)}${firmware}`
}

function trustOf({ can, pinned, readsTlsCaVariable }: Loader): string {
  if (can.https === 'no') return '-'
  // Built with TRUST= it has the code that reads the variable and does not use it; its bytes do not tell.
  const variable = pinned.includes('ipxe.org') ? 'TlsCaCertificate' : 'perhaps TlsCaCertificate'
  const whom = [...pinned, ...(readsTlsCaVariable ? [variable] : [])]
  return whom.length === 0 ? 'unknown' : whom.join(', ')
}

function describe(loader: Loader, listed: ListedLoader | undefined): string {
  const { can, sbat } = loader
  const lines: (readonly [string, string])[] = [
    ['what it is', whatOf(loader)],
    ['form', loader.form],
    ['size', `${loader.sizeBytes} bytes${loader.compressed ? ', packed' : ''}`],
    ['can', `HTTPS ${can.https}, HTTP ${can.http}, iSCSI ${can.iscsi}, VLAN ${can.vlan}, TFTP ${can.tftp}`],
    ['trusts', trustOf(loader)],
    ['signed', loader.signed ? `by ${loader.signers.join('; ')}` : 'no'],
    ...(sbat.length === 0
      ? []
      : [['SBAT', sbat.map(({ component, generation }) => `${component},${generation}`).join(' ')] as const]),
    ['under U-Boot', underUboot(loader)],
    ['its script', scriptTravel(loader)],
    ['script in it', loader.embeddedScript === undefined ? 'none that can be seen' : 'yes, below'],
    ['goes to', listed === undefined || listed.gets.length === 0 ? 'no machine by itself' : listed.gets.join(', ')],
  ]
  const text = lines.map(([what, value]) => `${what.padEnd(13)} ${value}\n`).join('')
  return loader.embeddedScript === undefined ? text : `${text}\n${loader.embeddedScript}\n`
}

function underUboot({ kind, form, firmware, sleepCount, signed }: Loader): string {
  if (kind !== 'ipxe' || form !== 'efiApplication' || firmware === undefined) return '-'
  if (sleepCount === 0) return 'runs: it never rests the processor'
  if (signed) return 'stops at its banner, and no copy can be made: it is signed'
  return sleepCount === 1
    ? 'stops at its banner; machines with U-Boot get a copy that does not rest'
    : 'stops at its banner; build one with the nap.h of slipway loaders kit'
}

function scriptTravel({ kind, can, pinned, readsTlsCaVariable }: Loader): string {
  if (kind !== 'ipxe') return '-'
  if (can.https === 'no') return 'comes by HTTP: whoever is on the wire can read it, with the secrets of that boot'
  if (pinned.includes('this site')) return "comes by HTTPS, from a server that this site's authority signed for"
  if (readsTlsCaVariable) return 'comes by HTTPS, if the firmware has our authority enrolled in TlsCaCertificate'
  return 'does not come: it has HTTPS but does not trust this site; slipway loaders add --trust-us, or the kit'
}
