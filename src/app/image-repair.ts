/** `slipway image check --fix`: what the findings would have changed, changed in a new version, and told line by line. */
import { OperationError } from '../base/errors.ts'
import { openRawDevice } from '../block/file.ts'
import { openDisk, type Volume } from '../disk/inspect.ts'
import { readWhole, sourceOfDevice } from '../disk/source.ts'
import { writeFilesInExt4 } from '../host/debugfs.ts'
import { openFile } from '../host/file.ts'
import { writeFileInFat } from '../host/mtools.ts'
import { formatReference, type ImageVersion } from '../images/catalogue.ts'
import type { ImageFinding, Repair } from '../images/check/finding.ts'
import { readText } from '../images/check/root.ts'
import { copiedFileBytesMax } from '../images/limits.ts'
import { contentOfDevice } from './disk-content.ts'
import { openGolden } from './golden.ts'
import type { Library } from './library.ts'

export type FileChange = {
  readonly partition: number
  readonly path: string
  /** What it is a copy of; then there are no lines. */
  readonly copyOf: string | undefined
  /** In order, each a line that went or came. */
  readonly lines: readonly { readonly kind: 'removed' | 'added'; readonly text: string }[]
}

export type Repaired = { readonly version: ImageVersion; readonly changes: readonly FileChange[] }

/** Undefined when no finding has a repair. @throws {OperationError} imageBusy, noSpace, repairFailed, toolMissing, ... */
export async function repairVersion(
  library: Library,
  version: ImageVersion,
  findings: readonly ImageFinding[],
  signal: AbortSignal,
): Promise<Repaired | undefined> {
  const repairs = findings.flatMap((finding) => finding.repairs ?? [])
  if (repairs.length === 0) return undefined
  let changes: FileChange[] = []
  const { device } = await openGolden(library.pathOf(version))
  try {
    const added = await library.addDisk({
      name: version.name,
      label: `${formatReference(version)}, repaired`,
      totalBytes: device.sizeBytes,
      chunks: contentOfDevice(device),
      signal,
      onProgress: () => {},
      finish: async (draft) => {
        changes = await repairImage(draft, repairs)
      },
    })
    return { version: added, changes }
  } finally {
    await device.close()
  }
}

/** `path`: a raw image that is nobody's yet. */
async function repairImage(path: string, repairs: readonly Repair[]): Promise<FileChange[]> {
  const { changes, write } = await planRepairs(path, repairs)
  for (const each of write) await each()
  return changes
}

type Plan = { readonly changes: FileChange[]; readonly write: readonly (() => Promise<void>)[] }

/** Everything is read before anything is written. */
async function planRepairs(path: string, repairs: readonly Repair[]): Promise<Plan> {
  const device = await openRawDevice(await openFile(path, 'readOnly'), { readOnly: true })
  try {
    const { volumes } = await openDisk(sourceOfDevice(device))
    const texts = new Map<string, { readonly volume: Volume; readonly path: string; before: string; after: string }>()
    const plan = { changes: [] as FileChange[], write: [] as (() => Promise<void>)[] }
    for (const repair of repairs) {
      const volume = volumes.find(({ number }) => number === repair.partition)
      if (volume?.content.kind !== 'fileSystem') throw cannot(`partition ${repair.partition} cannot be read`)
      const { fileSystem } = volume.content
      if (repair.kind === 'copy') {
        const file = await fileSystem.open(repair.from)
        if (file === undefined) throw cannot(`${repair.from} is gone`)
        const content = await readWhole(file, copiedFileBytesMax)
        plan.write.push(() => writeIn(path, volume, repair.to, content))
        plan.changes.push({ partition: volume.number, path: repair.to, copyOf: repair.from, lines: [] })
        continue
      }
      const key = `${volume.number}:${repair.path}`
      const known = texts.get(key)
      if (known !== undefined) known.after = repair.edit(known.after)
      else {
        const before = await readText({ partition: volume.number, fileSystem }, repair.path)
        if (before === undefined && (await fileSystem.stat(repair.path)) !== undefined)
          throw cannot(`${repair.path} is no text that can be changed`)
        texts.set(key, { volume, path: repair.path, before: before ?? '', after: repair.edit(before ?? '') })
      }
    }
    for (const { volume, path: file, before, after } of texts.values()) {
      if (before === after) continue
      const content = new TextEncoder().encode(after)
      plan.write.push(() => writeIn(path, volume, file, content))
      plan.changes.push({
        partition: volume.number,
        path: file,
        copyOf: undefined,
        lines: changedLines(before, after),
      })
    }
    return plan
  } finally {
    await device.close()
  }
}

async function writeIn(imagePath: string, volume: Volume, path: string, content: Uint8Array): Promise<void> {
  const place = { imagePath, offsetBytes: volume.partition.offsetBytes }
  const kind = volume.content.kind === 'fileSystem' ? volume.content.fileSystem.kind : volume.content.kind
  if (kind.startsWith('fat')) await writeFileInFat(place, path, content)
  else if (kind.startsWith('ext')) await writeFilesInExt4(place, [{ path, content: new TextDecoder().decode(content) }])
  else throw cannot(`nothing here writes to ${kind}`)
}

/** Of texts that are mostly alike: what is between the first and the last lines that they share, less what is in both in order. */
function changedLines(before: string, after: string): FileChange['lines'] {
  const old = linesOf(before)
  const now = linesOf(after)
  const lines: { kind: 'removed' | 'added'; text: string }[] = []
  let at = 0
  for (const text of old) {
    // Each old line is looked for in what is left of the new ones: what is passed over on the way is new.
    const found = now.indexOf(text, at)
    if (found === -1) {
      lines.push({ kind: 'removed', text })
      continue
    }
    for (const each of now.slice(at, found)) lines.push({ kind: 'added', text: each })
    at = found + 1
  }
  for (const text of now.slice(at)) lines.push({ kind: 'added', text })
  return lines
}

function linesOf(text: string): string[] {
  return text === '' ? [] : text.replace(/\n$/, '').split('\n')
}

function cannot(what: string): OperationError {
  const hint = 'Nothing was added. Do by hand what the findings say, and add the image again.'
  return new OperationError('repairFailed', `the image could not be repaired: ${what}`, hint)
}
