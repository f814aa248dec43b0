import { type Command, InvalidArgumentError, Option } from 'commander'
import type { TraceSummary } from '../app/boot-traces.ts'
import type { ImageFinding } from '../app/image-check.ts'
import type { FileChange } from '../app/image-repair.ts'
import type { ImagePolicy, ImageReference, ImageVersion, Library } from '../app/library.ts'
import { isNbdUri, nameOfExport } from '../app/nbd-address.ts'
import { OperationError } from '../base/errors.ts'
import { formatBytes } from '../base/units.ts'
import { kindOf, takenBytes } from '../host/directory.ts'
import { join } from '../host/path.ts'
import { defaultStateDirectory } from '../host/state-directory.ts'
import { exitCode } from './exit.ts'
import { ProgressLine } from './progress.ts'
import { table } from './table.ts'

type Flags = { readonly state?: string; readonly json?: boolean }
type AddFlags = Flags & {
  readonly name?: string
  readonly sha256?: string
  readonly lazy?: boolean
  readonly ca?: string
}

export function addImageCommands(program: Command): void {
  const image = program.command('image').description('The library of images: add, look at, publish, roll back, remove.')
  const command = (usage: string, description: string): Command =>
    image
      .command(usage)
      .description(description)
      .option('--state <DIR>', 'where Slipway keeps what it knows')
      .exitOverride()

  command(
    'add <SOURCE>',
    'Bring an image in as the next version of its name: a file, an http(s) URL or an NBD address.',
  )
    .option('--name <NAME>', 'what it is called (default: made from the name of the file)')
    .addOption(new Option('--sha256 <HEX>', 'what the file must have, as its publisher says').argParser(sha256))
    .option('--lazy', 'leave the file of a URL where it is, and fetch of it what machines read')
    .option(
      '--ca <FILE>',
      'of https: the authority (PEM) that alone may vouch for the server; kept with a --lazy image',
    )
    .addHelpText(
      'after',
      '\nRaw and qcow2, packed with gzip, xz or zstd or not; vmdk, vhdx and vdi where qemu-img is installed.',
    )
    .action(addImage)
  command('list', 'List all versions of all images.').option('--json', 'as JSON, one version a line').action(listImages)
  command('show <NAME>', 'Tell what is known of NAME, or of NAME@N.').option('--json', 'as JSON').action(showImage)
  command('check <NAME>', 'Look for what would break when a machine boots from it; NAME, NAME@N or a file.')
    .option('--json', 'one finding a line, as JSON')
    .option('--fix', 'repair what new files alone can repair, in a new version')
    .action(checkImage)
  command('publish <NAME@N>', 'What machines get at their next boot; who is running keeps what it has.').action(publish)
  command('rollback <NAME>', 'Publish what was published before.').action(rollback)
  command(
    'policy <NAME> <POLICY>',
    'What the disks of its machines are: ephemeral, persistent or read-only; default: as [clones] says for all.',
  ).action(setPolicy)
  command('remove <NAME>', 'Remove NAME with all its versions, or NAME@N. Refused while clones need it.')
    .option('--prune', 'only versions that are not published and that no clone needs')
    .action(remove)
}

async function withLibrary<T>(flags: Flags, action: (library: Library) => Promise<T> | T): Promise<T> {
  const { Library } = await import('../app/library.ts')
  const library = await Library.open(flags.state ?? defaultStateDirectory())
  try {
    return await action(library)
  } finally {
    library.close()
  }
}

async function addImage(source: string, flags: AddFlags): Promise<void> {
  const { formatReference, isImageName, nameFromSource } = await import('../app/library.ts')
  const name = flags.name ?? nameFromSource(isNbdUri(source) ? nameOfExport(source) : source)
  if (name === undefined || !isImageName(name)) {
    const hint = 'Use lower-case letters, digits, dots and dashes: --name debian-12.'
    throw new OperationError('usage', `${flags.name ?? source} is not a name for an image`, hint)
  }
  const isExport = isNbdUri(source)
  if (isExport && (flags.lazy === true || flags.sha256 !== undefined)) {
    const hint = 'An export stays with its server, which answers for its bytes: leave --lazy and --sha256 out.'
    throw new OperationError('usage', `${source} is an export of an NBD server`, hint)
  }
  if (flags.lazy === true && !/^https?:/i.test(source)) {
    const hint = 'Leave --lazy out: the file is copied into the library.'
    throw new OperationError('usage', '--lazy is for http and https URLs', hint)
  }
  if (flags.ca !== undefined && !/^https:/i.test(source)) {
    const hint = 'Leave --ca out, or name the image by an address that begins with https:.'
    throw new OperationError('usage', '--ca is for https URLs', hint)
  }
  const authority = flags.ca === undefined ? undefined : await authorityIn(flags.ca)
  await withLibrary(flags, async (library) => {
    const line = new ProgressLine()
    const added = isExport
      ? await library.addExport(name, source)
      : flags.lazy === true
        ? await library.addLazily({ name, source, authority, sha256: flags.sha256 })
        : await library
            .add({
              name,
              source,
              authority,
              sha256: flags.sha256,
              signal: stoppedByPerson(),
              onProgress: ({ receivedBytes, totalBytes }) => line.show(receivedBytes, totalBytes),
            })
            .finally(() => line.clear())
    const size = `${formatBytes(added.sizeBytes)}, ${await whereItIs(library.pathOf(added))}`
    const lines = [`Added ${formatReference(added)}: ${size}, ${systemOf(added)}; boots ${firmwaresOf(added)}.`]
    if (library.store.published(name) === added.version)
      lines.push('It is published: machines get it at their next boot.')
    else lines.push(`Machines get it after: slipway image publish ${formatReference(added)}`)
    process.stdout.write(`${lines.join('\n')}\n`)
    for (const problem of problemsOf(added)) process.stderr.write(`Take care: ${problem}\n`)
  })
}

async function authorityIn(path: string): Promise<string> {
  const { readAuthority } = await import('../host/authority-file.ts')
  return readAuthority(path)
}

async function listImages(flags: Flags): Promise<void> {
  const { isLazyPath, lazyStatus } = await import('../app/lazy-image.ts')
  await withLibrary(flags, async (library) => {
    const rows: string[][] = []
    for (const version of library.store.versions()) {
      const published = library.store.published(version.name) === version.version
      const path = library.pathOf(version)
      const taken = isNbdUri(path) || (await kindOf(path)) === undefined ? 0 : await takenBytes(path)
      const lazy = isLazyPath(path) ? await lazyStatus(path) : undefined
      if (flags.json === true) {
        process.stdout.write(
          `${JSON.stringify({ ...version, contents: undefined, published, takenBytes: taken, lazy, path })}\n`,
        )
      }
      rows.push([
        `${version.name}@${version.version}`,
        published ? 'published' : '-',
        version.format,
        formatBytes(version.sizeBytes),
        isNbdUri(path) ? 'by NBD' : `${formatBytes(taken)}${lazy === undefined ? '' : ` (${shareOf(lazy)})`}`,
        systemOf(version),
        firmwaresOf(version),
        new Date(version.addedMs).toISOString().slice(0, 16),
      ])
    }
    if (flags.json === true) return
    process.stdout.write(table(['image', 'state', 'format', 'size', 'on disk', 'system', 'boots', 'added (UTC)'], rows))
  })
}

async function showImage(name: string, flags: Flags): Promise<void> {
  const { findVersion, formatReference } = await import('../app/library.ts')
  const { listCloneFiles } = await import('../app/clone-files.ts')
  const { isLazyPath, lazyStatus } = await import('../app/lazy-image.ts')
  const { describeTrace } = await import('../app/boot-traces.ts')
  const wanted = await referenceOf(name)
  await withLibrary(flags, async (library) => {
    const version = findVersion(library.store, wanted)
    const published = library.store.published(version.name) === version.version
    const path = library.pathOf(version)
    const clones = (await listCloneFiles(join(library.directory, '../clones'))).filter(
      ({ backingPath }) => backingPath === path,
    )
    if (flags.json === true) {
      const policy = library.store.policyOf(version.name)
      const bootTrace = await describeTrace(library.tracePathOf(version))
      const lazy = isLazyPath(path) ? await lazyStatus(path) : undefined
      const value = { ...version, published, policy, lazy, path, bootTrace, clones: clones.map(({ mac }) => mac) }
      process.stdout.write(`${JSON.stringify(value)}\n`)
      return
    }
    const { contents } = version
    const authority = isLazyPath(path) ? (await lazyStatus(path)).authority : undefined
    const lines: [string, string][] = [
      ['image', `${formatReference(version)}${published ? ', published' : ''}`],
      ['size', `${formatBytes(version.sizeBytes)}, ${await whereItIs(path)}, ${version.format}`],
      ['SHA-256', version.sha256 ?? 'not known: it lives elsewhere'],
      ['source', version.source],
      ...(authority === undefined ? [] : [['vouched by', authority] satisfies [string, string]]),
      ['its SHA-256', version.sourceSha256 ?? 'not known'],
      ['added', new Date(version.addedMs).toISOString()],
      ['file', path],
      ['system', systemOf(version)],
      ['table', contents.table],
      ...contents.partitions.map(({ number, content, sizeBytes, isEsp, label }): [string, string] => [
        `partition ${number}`,
        [content, formatBytes(sizeBytes), ...(isEsp ? ['EFI system partition'] : []), label].filter(Boolean).join(', '),
      ]),
      ...contents.loaders.map(({ path: at, architecture, problem }): [string, string] => [
        'loader',
        [at, architecture ?? 'unknown processor', problem].filter(Boolean).join(', '),
      ]),
      ...contents.kernels.map(({ path: at, version: release }): [string, string] => [
        'kernel',
        `${at} ${release}`.trim(),
      ]),
      ...contents.bootableFor.map(({ firmware, bootable, reason }): [string, string] => [
        firmware,
        `${bootable ? 'boots' : 'does not boot'}: ${reason}`,
      ]),
      ['boot trace', traceWords(await describeTrace(library.tracePathOf(version)))],
      ['policy', policyWord(library.store.policyOf(version.name))],
      ['clones', clones.length === 0 ? 'none' : clones.map(({ mac }) => mac).join(', ')],
    ]
    for (const [title, text] of lines) process.stdout.write(`${title.padEnd(13)} ${text}\n`)
  })
}

function traceWords(trace: TraceSummary | undefined): string {
  if (trace === undefined) return 'none yet: the first good boot makes it'
  return `${formatBytes(trace.readBytes)} in ${trace.readCount} reads, fetched ahead when a machine boots`
}

async function checkImage(name: string, flags: Flags & { readonly fix?: boolean }): Promise<void> {
  const { checkImageFile, checkVersion } = await import('../app/image-check.ts')
  const { findVersion } = await import('../app/library.ts')
  if ((await kindOf(name)) === 'file') {
    if (flags.fix === true) {
      const hint = `Add it to the library, which keeps what it was: slipway image add ${name}. Then check that with --fix.`
      throw new OperationError('usage', `${name} is not in the library, and is never written to`, hint)
    }
    tellFindings(await checkImageFile(name), flags)
    return
  }
  const wanted = await referenceOf(name)
  await withLibrary(flags, async (library) => {
    const version = findVersion(library.store, wanted)
    const findings = await checkVersion(library, version)
    if (flags.fix === true) await fixImage(library, version, findings, flags)
    else tellFindings(findings, flags)
  })
}

function tellFindings(findings: readonly ImageFinding[], flags: Flags): void {
  for (const finding of findings) {
    const { repairs, ...plain } = finding
    const line = JSON.stringify({ ...plain, repairable: repairs !== undefined })
    process.stdout.write(`${flags.json === true ? line : describe(finding)}\n`)
  }
  if (findings.some(({ level }) => level === 'error')) process.exitCode = exitCode.found
}

/** What is told last is what is left. */
async function fixImage(
  library: Library,
  version: ImageVersion,
  findings: readonly ImageFinding[],
  flags: Flags,
): Promise<void> {
  const { repairVersion } = await import('../app/image-repair.ts')
  const { checkVersion } = await import('../app/image-check.ts')
  const { formatReference } = await import('../app/library.ts')
  const before = formatReference(version)
  const damaged = findings.find(({ level, check }) => level === 'error' && check === 'file')
  if (damaged !== undefined) throw new OperationError('imageCorrupt', damaged.what, damaged.doNext)
  const repaired = await repairVersion(library, version, findings, stoppedByPerson())
  if (repaired === undefined) {
    tellFindings(findings, flags)
    if (flags.json !== true) process.stdout.write(`${before}: nothing that could be repaired here.\n`)
    return
  }
  const after = formatReference(repaired.version)
  // What machines would have got is replaced by its repair; anything else waits, as every new version does.
  const isPublished = library.store.published(version.name) === version.version
  if (isPublished) library.store.publish(version.name, repaired.version.version, Date.now())
  if (flags.json === true) {
    const value = { repaired: after, of: before, published: isPublished, changes: repaired.changes }
    process.stdout.write(`${JSON.stringify(value)}\n`)
  } else {
    const lines = [`${before} is as it was; ${after} is the same with these changes:`]
    for (const change of repaired.changes) lines.push(...describeChange(change))
    lines.push(
      isPublished
        ? `${after} is published: machines get it at their next boot. To undo: slipway image rollback ${version.name}`
        : `Machines get it after: slipway image publish ${after}`,
      `Check of ${after}:`,
    )
    process.stdout.write(`${lines.join('\n')}\n`)
  }
  tellFindings(await checkVersion(library, repaired.version), flags)
}

function describeChange({ partition, path, copyOf, lines }: FileChange): string[] {
  const signs = { removed: '-', added: '+' } as const
  const told = lines.map(({ kind, text }) => `    ${signs[kind]} ${text}`)
  return [`  ${path} (partition ${partition})${copyOf === undefined ? '' : `: a copy of ${copyOf}`}`, ...told]
}

function stoppedByPerson(): AbortSignal {
  const stopping = new AbortController()
  process.once('SIGINT', () => stopping.abort())
  process.once('SIGTERM', () => stopping.abort())
  return stopping.signal
}

async function publish(name: string, flags: Flags): Promise<void> {
  const { findVersion, formatReference } = await import('../app/library.ts')
  const wanted = await referenceOf(name)
  if (wanted.version === undefined) {
    const hint = `Say which version: slipway image publish ${name}@N. See them with slipway image list.`
    throw new OperationError('usage', `${name} is no version`, hint)
  }
  await withLibrary(flags, (library) => {
    const version = findVersion(library.store, wanted)
    library.store.publish(version.name, version.version, Date.now())
    process.stdout.write(`${formatReference(version)} is published: machines get it at their next boot.\n`)
  })
}

async function rollback(name: string, flags: Flags): Promise<void> {
  const { findVersion } = await import('../app/library.ts')
  await withLibrary(flags, async (library) => {
    const now = findVersion(library.store, { ...(await referenceOf(name)), version: undefined })
    const version = library.store.rollback(now.name)
    if (version === undefined) {
      const hint = 'Publish another one by its number: slipway image publish NAME@N.'
      throw new OperationError('nothingBefore', `nothing was published before ${now.name}@${now.version}`, hint)
    }
    process.stdout.write(`${now.name}@${version} is published again: machines get it at their next boot.\n`)
  })
}

async function setPolicy(name: string, word: string, flags: Flags): Promise<void> {
  const { findVersion } = await import('../app/library.ts')
  const policies = new Map<string, ImagePolicy | undefined>([
    ['ephemeral', 'ephemeral'],
    ['persistent', 'persistent'],
    ['read-only', 'readOnly'],
    ['default', undefined],
  ])
  if (!policies.has(word)) {
    throw new OperationError('usage', `${word} is no policy`, `Use one of: ${[...policies.keys()].join(', ')}.`)
  }
  await withLibrary(flags, async (library) => {
    const version = findVersion(library.store, { ...(await referenceOf(name)), version: undefined })
    library.store.setPolicy(version.name, policies.get(word))
    const said = word === 'default' ? 'as [clones] says for all' : word
    process.stdout.write(`The disks of machines with ${version.name} are ${said}, from their next boot on.
`)
  })
}

async function remove(name: string, flags: Flags & { readonly prune?: boolean }): Promise<void> {
  const { formatReference, versionsToRemove } = await import('../app/library.ts')
  const { listCloneFiles } = await import('../app/clone-files.ts')
  const wanted = await referenceOf(name)
  await withLibrary(flags, async (library) => {
    const clones = await listCloneFiles(join(library.directory, '../clones'))
    const dependents = library.store.versions().flatMap((version) => {
      const path = library.pathOf(version)
      return clones.filter((clone) => clone.backingPath === path).map(({ mac }) => ({ label: mac, file: version.file }))
    })
    const chosen = versionsToRemove(library.store, wanted, { prune: flags.prune === true, dependents })
    await library.remove(chosen)
    const said = chosen.map(formatReference).join(', ')
    process.stdout.write(chosen.length === 0 ? 'Nothing to remove.\n' : `Removed ${said}.\n`)
  })
}

async function referenceOf(text: string): Promise<ImageReference> {
  const { parseReference } = await import('../app/library.ts')
  const found = parseReference(text)
  if (found !== undefined) return found
  throw new OperationError('usage', `${text} is not the name of an image`, 'Names are like debian-12 or debian-12@3.')
}

function sha256(text: string): string {
  const digits = text.toLowerCase().replace(/^sha256:/, '')
  if (/^[0-9a-f]{64}$/.test(digits)) return digits
  throw new InvalidArgumentError('A SHA-256 is 64 hexadecimal digits.')
}

async function whereItIs(path: string): Promise<string> {
  const { isLazyPath, lazyStatus } = await import('../app/lazy-image.ts')
  if (isNbdUri(path)) return 'kept by its NBD server'
  if (!isLazyPath(path)) return `${formatBytes(await takenBytes(path))} on disk`
  const status = await lazyStatus(path)
  const checked = { notYet: '', right: ', checked', wrong: ', NOT WHAT IT MUST BE' }[status.verification]
  return `${formatBytes(status.hereBytes)} of ${formatBytes(status.sizeBytes)} fetched (${shareOf(status)}${checked})`
}

function shareOf({ hereBytes, sizeBytes }: { readonly hereBytes: number; readonly sizeBytes: number }): string {
  return `${Math.floor((hereBytes / sizeBytes) * 100)} % here`
}

function policyWord(policy: ImagePolicy | undefined): string {
  if (policy === undefined) return 'as [clones] says for all'
  return policy === 'readOnly' ? 'read-only' : policy
}

function systemOf({ contents }: ImageVersion): string {
  const { distribution } = contents
  return distribution === undefined ? 'unknown system' : `${distribution.name} ${distribution.version}`.trim()
}

function firmwaresOf({ contents }: ImageVersion): string {
  const firmwares = contents.bootableFor.filter(({ bootable }) => bootable).map(({ firmware }) => firmware)
  return firmwares.length === 0 ? 'nothing' : firmwares.join(', ')
}

function problemsOf({ contents }: ImageVersion): readonly string[] {
  const works = contents.bootableFor.some(({ bootable }) => bootable)
  return [
    ...contents.problems,
    ...(works ? [] : [`no boot loader: ${contents.bootableFor.map(({ reason }) => reason).join(' ')}`]),
  ]
}

const marks = { ok: 'ok     ', warning: 'warning', error: 'ERROR  ' } as const

function describe({ level, what, whyItMatters, doNext }: ImageFinding): string {
  const more = [whyItMatters, doNext].filter((text) => text !== '').map((text) => `\n          ${text}`)
  return `${marks[level]}  ${what}${more.join('')}`
}
