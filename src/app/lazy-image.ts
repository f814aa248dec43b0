/**
 * Images that live on a web server and are fetched as they are read: `images/debian@3.lazy` holds what was fetched,
 * `debian@3.lazy-map` which parts those are and where the rest is. The process that has it open for keeping holds its lock;
 * others read what is there, and fetch for themselves what is not.
 */
import type { OperationError } from '../base/errors.ts'
import { bytesHere, createLazyMap, LazyFile, type LazyMap, readLazyMap } from '../block/lazy-file.ts'
import type { RemoteState } from '../block/remote.ts'
import { nameOfAuthority } from '../host/authority-file.ts'
import { systemClock } from '../host/clock.ts'
import { openFile } from '../host/file.ts'
import { sha256OfFile } from '../host/hash.ts'
import { labelOfUrl } from '../host/http-get.ts'
import { type HttpFile, HttpRanges } from '../host/http-ranges.ts'
import { lockFile } from '../host/lock.ts'

export const lazySuffix = '.lazy'
export const mapSuffix = '-map'

/** What the map says of where the file comes from. The URL may hold a password: files of the library are their owner's only. */
type Origin = { readonly file: HttpFile; readonly sha256: string | undefined }

export type LazyStatus = {
  readonly label: string
  readonly sizeBytes: number
  readonly hereBytes: number
  readonly verification: LazyMap['verification']
  /** What the whole must have, if that was given. */
  readonly sha256: string | undefined
  /** Who alone may vouch for its server, if that was given. */
  readonly authority: string | undefined
}

export type LazyOptions = {
  onState?(state: RemoteState): void
  onUnkept?(error: OperationError): void
  onVerified?(isRight: boolean): void
}

export function isLazyPath(path: string): boolean {
  return path.endsWith(lazySuffix)
}

/** Makes both files, empty. @throws {OperationError} noSpace, ioError */
export async function createLazyImage(
  paths: { readonly data: string; readonly map: string },
  file: HttpFile,
  sha256: string | undefined,
): Promise<void> {
  const data = await openFile(paths.data, 'createOrTruncate')
  await data.truncate(file.sizeBytes).finally(() => data.close())
  const map = await openFile(paths.map, 'createOrTruncate')
  const origin: Origin = { file, sha256 }
  const descriptor = new TextEncoder().encode(JSON.stringify(origin))
  await createLazyMap(map, file.sizeBytes, descriptor).finally(() => map.close())
}

/** @throws {OperationError} fileMissing, imageCorrupt, ioError */
export async function openLazyImage(
  path: string,
  options: LazyOptions = {},
  mapPath: string = `${path}${mapSuffix}`,
): Promise<LazyFile> {
  const lock = lockFile(mapPath, 'mustBeThere')
  const mode = lock === undefined ? 'readOnly' : 'readWrite'
  const map = await openFile(mapPath, mode)
  try {
    const data = await openFile(path, mode)
    const found = await readLazyMap(map)
    const { file, sha256 } = originOf(found)
    return new LazyFile({
      ...options,
      source: new HttpRanges(file),
      clock: systemClock,
      label: labelOfUrl(file.url),
      data,
      // The lock goes with the map.
      map: { ...forwarded(map), close: () => map.close().finally(() => lock?.release()) },
      found,
      keeps: lock !== undefined,
      ...(sha256 === undefined ? {} : { verify: async (whole) => (await sha256OfFile(whole)) === sha256 }),
    })
  } catch (error) {
    await map.close()
    lock?.release()
    throw error
  }
}

/** @throws {OperationError} fileMissing, imageCorrupt, ioError */
export async function lazyStatus(path: string): Promise<LazyStatus> {
  const map = await openFile(`${path}${mapSuffix}`, 'readOnly')
  try {
    const found = await readLazyMap(map)
    const { file, sha256 } = originOf(found)
    const { sizeBytes, verification } = found
    const authority = file.authority === undefined ? undefined : nameOfAuthority(file.authority)
    return { label: labelOfUrl(file.url), sizeBytes, hereBytes: bytesHere(found), verification, sha256, authority }
  } finally {
    await map.close()
  }
}

function originOf({ descriptor }: LazyMap): Origin {
  return JSON.parse(new TextDecoder().decode(descriptor)) as Origin
}

/** The methods of an object whose class keeps private fields. */
function forwarded(file: Awaited<ReturnType<typeof openFile>>): Awaited<ReturnType<typeof openFile>> {
  return {
    path: file.path,
    readOnly: file.readOnly,
    sizeBytes: () => file.sizeBytes(),
    read: (offset, target) => file.read(offset, target),
    write: (offset, source) => file.write(offset, source),
    sync: () => file.sync(),
    punchHole: (offset, bytes) => file.punchHole(offset, bytes),
    truncate: (sizeBytes) => file.truncate(sizeBytes),
    grow: (sizeBytes) => file.grow(sizeBytes),
    close: () => file.close(),
  }
}
