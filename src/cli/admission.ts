import type { Command } from 'commander'
import { decideAbout, listMachines } from '../app/admission.ts'
import { defaultStateDirectory } from '../host/state-directory.ts'
import { table } from './table.ts'

type Flags = { readonly state?: string; readonly json?: boolean; readonly uuid?: string }

export function addAdmissionCommands(program: Command): void {
  const verdicts = [
    ['admit', 'Let a machine boot. One that is waiting notices by itself within seconds.'],
    [
      'dismiss',
      'The other board that came with its MAC address was an impostor; what was decided about the machine stays.',
    ],
    ['release', 'End the boot of a machine: its sessions and its secrets. It stays admitted and may boot again.'],
    ['refuse', 'Never let a machine boot; its sessions end, and what it was given is worth nothing from now on.'],
    ['forget', 'Know nothing of a machine any more; its sessions end.'],
  ] as const
  for (const [verdict, description] of verdicts) {
    const command = program
      .command(verdict)
      .description(description)
      .argument('<MACHINE>', 'its MAC address, as its screen or `slipway machines` shows it, or its name')
      .option('--state <DIR>', 'where Slipway keeps what it knows')
      .action((mac: string, flags: Flags) => {
        const machine = decideAbout(flags.state ?? defaultStateDirectory(), mac, verdict, flags.uuid)
        const said = {
          admit: `is admitted${machine?.uuid === undefined ? '' : `, with UUID ${machine.uuid}`}`,
          dismiss: 'has no other board waiting any more',
          release: 'is released',
          refuse: 'is refused, also after a restart, unless slipway.toml says admit = true of it',
          forget: 'is forgotten',
        }[verdict]
        process.stdout.write(`${machine?.mac ?? mac} ${said}.\n`)
      })
    if (verdict === 'admit') {
      command.option(
        '--uuid <UUID>',
        'the board that is meant, where two came with one MAC address; none: it tells no UUID',
      )
    }
  }
  program
    .command('machines')
    .description('List the machines that were seen or configured.')
    .option('--state <DIR>', 'where Slipway keeps what it knows')
    .option('--json', 'as JSON, one machine a line')
    .action((flags: Flags) => {
      const machines = listMachines(flags.state ?? defaultStateDirectory())
      if (flags.json === true) {
        for (const machine of machines) process.stdout.write(`${JSON.stringify(machine)}\n`)
        return
      }
      const rows = machines.map((machine) => [
        machine.mac,
        machine.name ?? '-',
        machine.rivalUuid === undefined
          ? machine.decision
          : `${machine.decision}; another board came: ${machine.rivalUuid}`,
        machine.uuid ?? '-',
        new Date(machine.lastSeenMs).toISOString().slice(0, 19),
      ])
      process.stdout.write(table(['MAC', 'name', 'decision', 'UUID', 'last seen (UTC)'], rows))
    })
}
