import { hostname } from 'node:os'
import { type Command, Option } from 'commander'
import type { AuthorityFacts, CertificateFormat } from '../app/site-authority.ts'
import { defaultStateDirectory } from '../host/state-directory.ts'

type Flags = { readonly state?: string; readonly json?: boolean; readonly format?: CertificateFormat }

/** What a new authority is called: it is shown to people who look at a certificate. */
export function authorityName(): string {
  return `Slipway CA of ${hostname()}`
}

const takenUp = 'A running Slipway takes it up within half a minute.'

export function addCaCommands(program: Command): void {
  const ca = program.command('ca').description("The site's certificate authority: whom loaders are to trust.")
  const state = (): Option => new Option('--state <DIR>', 'where Slipway keeps what it knows')
  ca.command('show')
    .description('Say which authority there is, its fingerprint, and how long it is good.')
    .addOption(state())
    .option('--json', 'as JSON')
    .action(async (flags: Flags) => {
      const { showAuthority } = await import('../app/site-authority.ts')
      const facts = await showAuthority(flags.state ?? defaultStateDirectory())
      if (flags.json === true) process.stdout.write(`${JSON.stringify(facts ?? null)}\n`)
      else process.stdout.write(facts === undefined ? none : describe(facts))
    })
  ca.command('export')
    .description('Write its certificate, without the key: for loaders, firmware and browsers that are to trust it.')
    .argument('<FILE>', 'where to')
    .addOption(state())
    .addOption(
      new Option('--format <FORMAT>', 'efi: a signature list, as UEFI setup screens and QEMU take it')
        .choices(['pem', 'der', 'efi'])
        .default('pem'),
    )
    .action(async (file: string, flags: Flags) => {
      const { exportAuthority } = await import('../app/site-authority.ts')
      await exportAuthority(flags.state ?? defaultStateDirectory(), file, flags.format ?? 'pem')
      process.stdout.write(`${file} holds the certificate. It is no secret.\n`)
    })
  ca.command('import')
    .description('Take over an authority of your own. What was there stays until the new one is found good.')
    .argument('<CERT>', 'its certificate, PEM')
    .argument('<KEY>', 'its private key, PEM, without a password')
    .addOption(state())
    .action(async (certificatePath: string, keyPath: string, flags: Flags) => {
      const { importAuthorityFiles } = await import('../app/site-authority.ts')
      const files = { certificatePath, keyPath }
      const facts = await importAuthorityFiles(flags.state ?? defaultStateDirectory(), files)
      process.stdout.write(`${describe(facts)}${takenUp}\n`)
    })
  ca.command('rotate')
    .description('Make a new authority. Every loader that trusts the former one must be made to trust this one.')
    .addOption(state())
    .action(async (flags: Flags) => {
      const { rotateAuthority } = await import('../app/site-authority.ts')
      const facts = await rotateAuthority(flags.state ?? defaultStateDirectory(), authorityName())
      process.stdout.write(`${describe(facts)}${takenUp}\n`)
      process.stdout.write('Loaders that trust the former one: slipway loaders list says which. Add them again.\n')
      process.stdout.write('Certificates of machines stay good: slipway certificate list. Revoke what shall not.\n')
    })
}

const none = 'There is none yet. The first `slipway up` makes it, `slipway ca import` takes yours.\n'

function describe(facts: AuthorityFacts): string {
  const day = (ms: number): string => new Date(ms).toISOString().slice(0, 10)
  return [
    `subject      ${facts.subject}`,
    `fingerprint  ${facts.fingerprint}`,
    `serial       ${facts.serial}`,
    `good         from ${day(facts.notBeforeMs)} to ${day(facts.notAfterMs)}`,
    '',
  ].join('\n')
}
