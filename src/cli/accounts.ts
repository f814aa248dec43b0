import { type Command, Option } from 'commander'
import { defaultStateDirectory } from '../host/state-directory.ts'
import { askPassword } from './password.ts'
import { table } from './table.ts'

type Flags = { readonly state?: string; readonly json?: boolean; readonly passwordFile?: string }

export function addAccountCommands(program: Command): void {
  const account = program
    .command('account')
    .description('The people who may sign in at machines that demand it (require = "login" in slipway.toml).')
  const state = (): Option => new Option('--state <DIR>', 'where Slipway keeps what it knows')
  const passwordFile = (): Option =>
    new Option(
      '--password-file <FILE>',
      'its first line is the password; - for standard input (default: you are asked)',
    )
  const withPassword = [
    ['add', 'new', 'Make an account. It can sign in at once.', 'is added'],
    ['password', 'known', 'Give an account another password.', 'has another password'],
  ] as const
  for (const [command, wanted, description, done] of withPassword) {
    account
      .command(command)
      .description(description)
      .argument('<NAME>', 'what is typed at the machine: letters, digits, dots, dashes')
      .addOption(passwordFile())
      .addOption(state())
      .action(async (text: string, flags: Flags) => {
        const { checkAccount, setPassword } = await import('../app/accounts.ts')
        const directory = flags.state ?? defaultStateDirectory()
        const name = checkAccount(directory, text, wanted)
        await setPassword(directory, name, wanted, await askPassword(flags.passwordFile, name))
        process.stdout.write(`${name} ${done}.\n`)
      })
  }
  account
    .command('list')
    .description('List the accounts.')
    .addOption(state())
    .option('--json', 'as JSON, one a line')
    .action(async (flags: Flags) => {
      const { listAccounts } = await import('../app/accounts.ts')
      const accounts = listAccounts(flags.state ?? defaultStateDirectory())
      if (flags.json === true) for (const each of accounts) process.stdout.write(`${JSON.stringify(each)}\n`)
      else {
        const rows = accounts.map(({ name, madeMs }) => [name, new Date(madeMs).toISOString().slice(0, 10)])
        process.stdout.write(table(['name', 'made'], rows))
      }
    })
  account
    .command('remove')
    .description('Take an account away; boots that began with it end at once.')
    .argument('<NAME>', 'as `slipway account list` shows it')
    .addOption(state())
    .action(async (text: string, flags: Flags) => {
      const { removeAccount } = await import('../app/accounts.ts')
      process.stdout.write(`${removeAccount(flags.state ?? defaultStateDirectory(), text)} is removed.\n`)
    })
}
