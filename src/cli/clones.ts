import type { Command } from 'commander'
import type { Library } from '../app/library.ts'
import { OperationError } from '../base/errors.ts'
import { formatBytes } from '../base/units.ts'
import { defaultStateDirectory } from '../host/state-directory.ts'
import { ProgressLine } from './progress.ts'
import { table } from './table.ts'

type Flags = { readonly state?: string; readonly json?: boolean }

export function addCloneCommands(program: Command): void {
  const clone = program.command('clone').description('What machines wrote: list, reset, commit, export.')
  const command = (usage: string, description: string): Command =>
    clone.command(usage).description(description).option('--state <DIR>', 'where Slipway keeps what it knows')
  command('list', 'List the machines that have clones, of what, and how much they really take.')
    .option('--json', 'as JSON, one clone a line')
    .action(list)
  command('reset <MACHINE>', 'Take away what a machine wrote: its next boot begins with what is published.').action(
    reset,
  )
  command('commit <MACHINE>', "Make a machine's disk the next version of an image.")
    .requiredOption('--as <NAME>', 'the image')
    .action(commit)
  command(
    'export <MACHINE> <FILE>',
    "Write a machine's disk to a file that stands alone; qcow2 if FILE ends so, else raw.",
  ).action(exportDisk)
}

async function withLibrary<T>(flags: Flags, action: (library: Library) => Promise<T>): Promise<T> {
  const { Library } = await import('../app/library.ts')
  const library = await Library.open(flags.state ?? defaultStateDirectory())
  try {
    return await action(library)
  } finally {
    library.close()
  }
}

async function list(flags: Flags): Promise<void> {
  const { listClones } = await import('../app/clone-commands.ts')
  const clones = await withLibrary(flags, listClones)
  if (flags.json === true) {
    for (const clone of clones) process.stdout.write(`${JSON.stringify(clone)}\n`)
    return
  }
  const rows = clones.map(({ mac, machineName, image, isOfOneBoot, takenBytes, inUse }) => [
    mac,
    machineName ?? '-',
    image,
    isOfOneBoot ? 'one boot' : 'kept',
    formatBytes(takenBytes),
    inUse ? 'in use' : '-',
  ])
  process.stdout.write(table(['machine', 'name', 'image', 'lasts', 'on disk', 'state'], rows))
}

async function reset(machine: string, flags: Flags): Promise<void> {
  const { resetClone } = await import('../app/clone-commands.ts')
  const gone = await withLibrary(flags, (library) => resetClone(library, machine))
  const freed = gone.reduce((sum, { takenBytes }) => sum + takenBytes, 0)
  process.stdout.write(`${machine} begins afresh at its next boot; ${formatBytes(freed)} are free again.\n`)
}

async function commit(machine: string, flags: Flags & { readonly as: string }): Promise<void> {
  const { commitClone } = await import('../app/clone-commands.ts')
  const { formatReference, isImageName } = await import('../app/library.ts')
  if (!isImageName(flags.as)) {
    throw new OperationError('usage', `${flags.as} is not a name for an image`, 'Use one like debian-12.')
  }
  const stopping = new AbortController()
  process.once('SIGINT', () => stopping.abort())
  process.once('SIGTERM', () => stopping.abort())
  await withLibrary(flags, async (library) => {
    const line = new ProgressLine()
    const onProgress = (doneBytes: number, totalBytes: number): void => line.show(doneBytes, totalBytes)
    const added = await commitClone(library, machine, { name: flags.as, signal: stopping.signal, onProgress }).finally(
      () => line.clear(),
    )
    const reference = formatReference(added)
    const isPublished = library.store.published(added.name) === added.version
    const next = isPublished ? 'It is published.' : `Machines get it after: slipway image publish ${reference}`
    process.stdout.write(`The disk of ${machine} is ${reference}. ${next}\n`)
  })
}

async function exportDisk(machine: string, file: string, flags: Flags): Promise<void> {
  const { exportClone } = await import('../app/clone-commands.ts')
  const { sizeBytes } = await withLibrary(flags, (library) => exportClone(library, machine, file))
  process.stdout.write(`Wrote ${file}: the disk of ${machine}, ${formatBytes(sizeBytes)}.\n`)
}
