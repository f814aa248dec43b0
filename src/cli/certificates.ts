import { type Command, InvalidArgumentError, Option } from 'commander'
import type { ListedCertificate } from '../app/machine-certificates.ts'
import { defaultStateDirectory } from '../host/state-directory.ts'
import { authorityName } from './ca.ts'
import { table } from './table.ts'

type Flags = { readonly state?: string; readonly json?: boolean; readonly out?: string; readonly days?: number }

/** Five years: replacing one means touching the machine. A lost one is revoked. */
const daysDefault = 1826
const daysMax = 7300

export function addCertificateCommands(program: Command): void {
  const certificate = program
    .command('certificate')
    .description('Certificates with which machines prove which they are: the strongest proof there is.')
  const state = (): Option => new Option('--state <DIR>', 'where Slipway keeps what it knows')
  certificate
    .command('issue')
    .description("Make one for a machine, signed by this site's authority, to be built into an iPXE of its own.")
    .argument('<MACHINE>', 'its MAC address or name')
    .requiredOption('--out <DIR>', 'where machine.crt and machine.key go')
    .addOption(new Option('--days <N>', 'how long it is good').argParser(days).default(daysDefault))
    .addOption(state())
    .addHelpText('after', afterIssue)
    .action(async (machine: string, flags: Flags) => {
      const { issueCertificate } = await import('../app/machine-certificates.ts')
      const terms = {
        machine,
        directory: flags.out ?? '',
        days: flags.days ?? daysDefault,
        authorityName: authorityName(),
      }
      const issued = await issueCertificate(flags.state ?? defaultStateDirectory(), terms)
      const lines = [
        `${terms.directory} holds the certificate ${issued.serial} of ${issued.mac}, good until ${day(issued.notAfterMs)}, and its key.`,
        `Build it in: MACHINE=${terms.directory} KIT/build PATH-TO-IPXE (KIT is made by \`slipway loaders kit KIT\`).`,
        'Then demand it, in slipway.toml:',
        `  [machine."${issued.mac}"]`,
        '  require = "certificate"',
      ]
      process.stdout.write(`${lines.join('\n')}\n`)
    })
  certificate
    .command('list')
    .description('List them, with what became of each.')
    .argument('[MACHINE]', 'only those of this one')
    .addOption(state())
    .option('--json', 'as JSON, one a line')
    .action(async (machine: string | undefined, flags: Flags) => {
      const { listCertificates } = await import('../app/machine-certificates.ts')
      const listed = listCertificates(flags.state ?? defaultStateDirectory(), machine)
      if (flags.json === true) for (const each of listed) process.stdout.write(`${JSON.stringify(each)}\n`)
      else process.stdout.write(table(['MAC', 'name', 'serial', 'made', 'good until', ''], listed.map(rowOf)))
    })
  certificate
    .command('revoke')
    .description('From now on it opens nothing; a boot that began with it ends at once.')
    .argument('<WHICH>', 'a serial number, or a machine: then all that it has')
    .addOption(state())
    .action(async (which: string, flags: Flags) => {
      const { revokeCertificates } = await import('../app/machine-certificates.ts')
      for (const { serial, mac } of revokeCertificates(flags.state ?? defaultStateDirectory(), which)) {
        process.stdout.write(`${serial} of ${mac} is revoked.\n`)
      }
    })
}

const afterIssue = `
Whoever has the key can be this machine. It belongs into the machine's flash, or on a stick that stays with it; a loader that
holds it is never handed out by Slipway. docs/security.md has the whole story.`

function days(text: string): number {
  const value = Number(text)
  if (Number.isInteger(value) && value >= 1 && value <= daysMax) return value
  throw new InvalidArgumentError(`Days are a number from 1 to ${daysMax}.`)
}

const day = (ms: number): string => new Date(ms).toISOString().slice(0, 10)

function rowOf({ mac, name, serial, issuedMs, notAfterMs, revokedMs }: ListedCertificate): string[] {
  const state = revokedMs === undefined ? '' : `revoked ${day(revokedMs)}`
  return [mac, name ?? '-', serial, day(issuedMs), day(notAfterMs), state]
}
