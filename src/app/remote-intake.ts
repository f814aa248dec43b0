/** How an image comes into the library that stays where it is: on a web server (`--lazy`), or on an NBD server. */
import { OperationError } from '../base/errors.ts'
import { whatIsOn } from '../disk/inspect.ts'
import { removeIfThere, renameDurably } from '../host/directory.ts'
import { type HttpPlace, labelOfUrl } from '../host/http-get.ts'
import { describeHttpFile } from '../host/http-ranges.ts'
import { packingOf } from '../host/image-source.ts'
import { join } from '../host/path.ts'
import type { ImageVersion } from '../images/catalogue.ts'
import { recognisedBytes, recogniseFormat } from '../images/foreign.ts'
import { enter, lookInto } from './image-intake.ts'
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
  const found = await inspectLazily(draft, draftMap, label)
  const version = library.store.nextVersion(name)
  const file = `${name}@${version}${lazySuffix}`
  const path = join(library.directory, file)
  // The map last: without one nothing is served.
  await renameDurably(draft, path)
  await renameDurably(draftMap, `${path}${mapSuffix}`)
  return enter(library, { name, version, file, ...found, sha256: undefined, source: label, sourceSha256: sha256 })
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
    return await lookInto(file, format, label)
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
    const version = library.store.nextVersion(name)
    const unknown = { sha256: undefined, sourceSha256: undefined }
    const found = { format: 'raw', sizeBytes: device.sizeBytes, contents: await whatIsOn(device) } as const
    return enter(library, { name, version, file: uri, ...found, ...unknown, source: uri })
  } finally {
    await device.close()
  }
}

/** What `bringInLazily` may have left. */
export async function removeLazyDraft(draft: string): Promise<void> {
  await removeIfThere(draft)
  await removeIfThere(`${draft}${mapSuffix}`)
}
