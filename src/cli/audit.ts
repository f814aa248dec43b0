import type { Command } from 'commander'
import type { auditMachines } from '../app/audit.ts'
import { defaultStateDirectory } from '../host/state-directory.ts'
import { table } from './table.ts'

type Flags = { readonly state?: string; readonly storageApart?: boolean; readonly json?: boolean }
type Audited = ReturnType<typeof auditMachines>[number]

export function addAuditCommand(program: Command): void {
  program
    .command('audit')
    .description("Say of a machine's last boot who proved what to whom, what was encrypted, and what was not.")
    .argument('[MACHINE]', 'its MAC address or name (default: one line for each machine)')
    .option('--storage-apart', 'your word that only machines and this server are on the network that carries iSCSI')
    .option('--state <DIR>', 'where Slipway keeps what it knows')
    .option('--json', 'as JSON, one boot a line')
    .addHelpText('after', grades)
    .action(async (machine: string | undefined, flags: Flags) => {
      const { auditMachines } = await import('../app/audit.ts')
      const terms = { storageApart: flags.storageApart === true }
      const audits = auditMachines(flags.state ?? defaultStateDirectory(), machine, terms)
      if (flags.json === true) {
        for (const audit of audits) process.stdout.write(`${JSON.stringify(audit)}\n`)
      } else if (machine !== undefined) process.stdout.write(audits.map(inFull).join('\n'))
      else process.stdout.write(table(['MAC', 'name', 'last boot (UTC)', 'grade', 'above all'], audits.map(rowOf)))
    })
}

const grades = `
Grades, each the worst that was found:
  A  nothing of the boot could be read or changed on the wire
  B  it rests on an algorithm that is old, or on a switch that keeps others out
  C  somebody between the two can read or change blocks, or ask in the machine's name
  D  somebody who answers first can put another program or another disk in the place of ours
  E  whoever only listens has the secrets of this boot
  F  no secret was asked for`

function rowOf(audit: Audited): string[] {
  const { mac, name, grade, reasons } = audit
  return [mac, name ?? '-', timeOf(audit), grade ?? '-', grade === undefined ? nothing : (reasons[0]?.why ?? '-')]
}

const nothing = 'neither a secret nor a disk was handed out'

function timeOf({ startedMs }: Audited): string {
  return new Date(startedMs).toISOString().slice(0, 19).replace('T', ' ')
}

/** Everything that an audit says, for a person. */
export function inFull(audit: Audited): string {
  const { mac, name, grade, steps, reasons } = audit
  const who = name === undefined ? mac : `${name} (${mac})`
  const blocks = steps.map((step) =>
    [
      step.what,
      `  machine proved      ${step.machineProved}`,
      `  Slipway proved      ${step.serverProved}`,
      `  encrypted           ${step.encrypted}`,
      `  an attacker could   ${step.attacker}`,
    ].join('\n'),
  )
  const why = reasons.map(
    ({ caps, why, remedy }) => `  ${caps ?? '-'}  ${why}${remedy === '' ? '' : `\n     -> ${remedy}`}`,
  )
  return [
    `${who}: ${grade === undefined ? `no grade, ${nothing}` : `grade ${grade}`}. Boot of ${timeOf(audit)} UTC.`,
    '',
    ...(why.length === 0 ? [] : ['Why, and what would make it better:', ...why, '']),
    ...blocks.map((step) => `${step}\n`),
  ].join('\n')
}
