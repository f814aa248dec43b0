/** How an image comes into the library that stays where it is: on a web server (`--lazy`), or on an NBD server. */
import { OperationError } from '../base/errors.ts'
import { openRawDevice } from '../block/file.ts'
import { noBacking, openQcow2 } from '../block/qcow2/open.ts'
import { whatIsOn } from '../disk/inspect.ts'
import { systemClock } from '../host/clock.ts'
import { nodeCompression } from '../host/compression.ts'
import { removeIfThere, renameDurably } from '../host/directory.ts'
import { type HttpPlace, labelOfUrl } from '../host/http-get.ts'
import { describeHttpFile } from '../host/http-ranges.ts'
import { packingOf } from '../host/image-source.ts'
import { join } from '../host/path.ts'
import type { ImageVersion } from '../images/catalogue.ts'
import { recognisedBytes, recogniseFormat } from '../images/foreign.ts'
import { checkWhole } from './image-intake.ts'
import { createLazyImage, lazySuffix, mapSuffix, openLazyImage } from './lazy-image.ts'
import type { Library } from './library.ts'
import { formatNbdUri, openNbdDisk, parseNbdUri } from './nbd-disk.ts'

/** The caller has the name's lock, and takes `draft` and its map away if this fails. @throws {OperationError} */
export async function bringInLazily(
  library: Library,
  { name, place, sha256 }: { readonly name: string; readonly place: HttpPlace; readonly sha256: string | undefined },
  draft: string,
): Promise<ImageVersion> {
  const source = await describeHttpFile(place)
  const label = labelOfUrl(place.url)
  const draftMap = `${draft}${mapSuffix}`
  await createLazyImage({ data: draft, map: draftMap }, source, sha256)
  const { format, sizeBytes, contents } = await inspectLazily(draft, draftMap, label)
  const version = library.store.nextVersion(name)
  const file = `${name}@${version}${lazySuffix}`
  const path = join(library.directory, file)
  // The map last: without one nothing is served.
  await renameDurably(draft, path)
  await renameDurably(draftMap, `${path}${mapSuffix}`)
  const added: ImageVersion = {
    name,
    version,
    file,
    format,
    sizeBytes,
    sha256: undefined,
    source: label,
    sourceSha256: sha256,
    addedMs: systemClock.wallMs(),
    contents,
  }
  library.store.add(added)
  return added
}

async function inspectLazily(
  draft: string,
  draftMap: string,
  label: string,
): Promise<Pick<ImageVersion, 'format' | 'sizeBytes' | 'contents'>> {
  const file = await openLazyImage(draft, {}, draftMap)
  try {
    const head = new Uint8Array(recognisedBytes)
    await file.read(0, head)
    const packing = packingOf(head)
    const format = recogniseFormat(head)
    if (packing !== 'none' || (format !== 'raw' && format !== 'qcow2')) {
      const what = packing === 'none' ? `a ${format} image` : `packed with ${packing}`
      const hint = 'Add it without --lazy, or put it there unpacked, as raw or qcow2.'
      throw new OperationError('imageUnsupported', `${label} is ${what}, which cannot be read in parts`, hint)
    }
    if (format === 'qcow2') await checkWhole(file, label)
    const device =
      format === 'raw'
        ? await openRawDevice(file, { readOnly: true })
        : await openQcow2(file, { compression: nodeCompression, backing: noBacking, readOnly: true })
    return { format, sizeBytes: device.sizeBytes, contents: await whatIsOn(device) }
  } catch (error) {
    // The draft's path means nothing to the person who named the source.
    if (!(error instanceof OperationError)) throw error
    throw new OperationError(error.code, error.message.replaceAll(draft, label), error.hint, { cause: error })
  } finally {
    await file.close()
  }
}

/** @throws {OperationError} imageKnown, unreachable, serverUnfit, remoteUnfit, ... */
export async function bringInExport(library: Library, name: string, text: string): Promise<ImageVersion> {
  const uri = formatNbdUri(parseNbdUri(text))
  const known = library.store.versions().find(({ file }) => file === uri)
  if (known !== undefined) {
    const hint = 'A version never changes: export what is new under another name, and add that.'
    throw new OperationError('imageKnown', `${uri} is in the library already, as ${known.name}@${known.version}`, hint)
  }
  const device = await openNbdDisk(uri, { readOnly: true })
  try {
    const added: ImageVersion = {
      name,
      version: library.store.nextVersion(name),
      file: uri,
      format: 'raw',
      sizeBytes: device.sizeBytes,
      sha256: undefined,
      source: uri,
      sourceSha256: undefined,
      addedMs: systemClock.wallMs(),
      contents: await whatIsOn(device),
    }
    library.store.add(added)
    return added
  } finally {
    await device.close()
  }
}

/** What `bringInLazily` may have left. */
export async function removeLazyDraft(draft: string): Promise<void> {
  await removeIfThere(draft)
  await removeIfThere(`${draft}${mapSuffix}`)
}
