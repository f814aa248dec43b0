import { type Command, Option } from 'commander'
import type { TargetAccess } from '../app/served-disks.ts'
import type { TargetEvent, TargetOptions } from '../app/target.ts'
import { describeTargetEvent } from '../app/target-report.ts'
import { OperationError } from '../base/errors.ts'
import { addressAndPort, wholeNumber } from './options.ts'
import { runUntilStopped } from './until-stopped.ts'

type Flags = {
  readonly listen: { readonly address: string; readonly port: number | undefined }
  readonly name?: string
  readonly readOnly?: boolean
  readonly inPlace?: boolean
  readonly clone?: string
  readonly blockSize: '512' | '4096'
  readonly physicalBlockSize: '512' | '4096'
  readonly reservations?: string
  readonly chap?: string
  readonly chapSecretFile?: string
  readonly mutual?: string
  readonly mutualSecretFile?: string
  readonly workers: number
  readonly jsonEvents?: boolean
}

const iscsiPort = 3260

export function addTargetCommand(program: Command): void {
  program
    .command('target')
    .description('Serve disk images by iSCSI, and nothing of booting.')
    .argument(
      '<IMAGE...>',
      'disk images, raw or qcow2, or nbd://HOST/EXPORT, a target each; opened read-only unless --in-place',
    )
    .addOption(
      new Option('--listen <ADDR:PORT>', 'where to listen')
        .argParser(addressAndPort)
        .default({ address: '0.0.0.0', port: iscsiPort }, `0.0.0.0:${iscsiPort}`),
    )
    .option('--name <IQN>', 'name of the target (default: made from the name of the image)')
    .addOption(new Option('--read-only', 'refuse writes').conflicts(['inPlace', 'clone']))
    .addOption(new Option('--in-place', 'write to the image itself').conflicts(['readOnly', 'clone']))
    .addOption(
      new Option('--clone <FILE.qcow2>', 'keep what is written in this file; made if it is not there').conflicts([
        'readOnly',
        'inPlace',
      ]),
    )
    .addOption(new Option('--block-size <BYTES>', 'logical block').choices(['512', '4096']).default('512'))
    .addOption(
      new Option('--physical-block-size <BYTES>', 'told to initiators').choices(['512', '4096']).default('512'),
    )
    .option('--reservations <FILE>', 'keep persistent reservations here across restarts (default: not kept)')
    .option('--chap <USER>', 'the initiator must prove that it is USER')
    .option('--chap-secret-file <FILE>', 'file with its secret, 12 characters or more')
    .option('--mutual <USER>', 'prove to the initiator that we are USER')
    .option('--mutual-secret-file <FILE>', 'file with our secret, another one')
    .option('--workers <N>', 'serve from N processes, at the N ports after the one of --listen', wholeNumber, 0)
    .option('--json-events', 'one event a line, as JSON, on standard output')
    .addHelpText(
      'after',
      '\nWithout --read-only, --in-place or --clone, writes go to a clone that is gone when it stops.',
    )
    .action(async (images: readonly string[], flags: Flags) => {
      const { startTarget } = await import('../app/target.ts')
      const options = optionsOf(images, flags)
      const print = (event: TargetEvent): void => {
        const line = flags.jsonEvents === true ? JSON.stringify(event) : describeTargetEvent(event)
        process.stdout.write(`${line}\n`)
      }
      await runUntilStopped(
        () => startTarget(options, print),
        (line) => process.stderr.write(`${line}\n`),
      )
    })
}

function optionsOf(imagePaths: readonly string[], flags: Flags): TargetOptions {
  if (flags.mutual !== undefined && flags.chap === undefined) {
    throw usage('--mutual needs --chap', 'We prove ourselves only to an initiator that proves itself: add --chap USER.')
  }
  return {
    imagePaths,
    listen: { address: flags.listen.address, port: flags.listen.port ?? iscsiPort },
    name: flags.name,
    access: accessOf(flags),
    blockBytes: flags.blockSize === '4096' ? 4096 : 512,
    physicalBlockBytes: flags.physicalBlockSize === '4096' ? 4096 : 512,
    reservationsPath: flags.reservations,
    initiator: credentialOf('chap', flags.chap, flags.chapSecretFile),
    target: credentialOf('mutual', flags.mutual, flags.mutualSecretFile),
    workerCount: flags.workers,
  }
}

function accessOf(flags: Flags): TargetAccess {
  if (flags.readOnly === true) return { kind: 'readOnly' }
  if (flags.inPlace === true) return { kind: 'inPlace' }
  if (flags.clone !== undefined) return { kind: 'clone', path: flags.clone }
  return { kind: 'ephemeral' }
}

function credentialOf(option: string, user: string | undefined, secretFile: string | undefined) {
  if (user === undefined && secretFile === undefined) return undefined
  if (user !== undefined && secretFile !== undefined) return { user, secretFile }
  const missing = user === undefined ? `--${option} USER` : `--${option}-secret-file FILE`
  throw usage(`${missing} is missing`, `Give both --${option} USER and --${option}-secret-file FILE.`)
}

function usage(message: string, hint: string): OperationError {
  return new OperationError('usage', message, hint)
}
