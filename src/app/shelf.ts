/**
 * The golden images that are being served, each opened once and shared by all clones that stand on it, through one cache.
 * They come from the library, by name and version, or are the one file that `slipway up FILE` named.
 */
import { OperationError } from '../base/errors.ts'
import type { BlockCache } from '../block/cache.ts'
import type { RemoteState } from '../block/remote.ts'
import { type Bootability, whatIsOn } from '../disk/inspect.ts'
import type { Assignment } from '../fleet/machine.ts'
import { findVersion, formatReference, type ImageVersion } from '../images/catalogue.ts'
import { type GoldenImage, goldenImageName, openGolden } from './golden.ts'
import type { Library } from './library.ts'
import { isNbdUri } from './nbd-disk.ts'

export type ShelfParts = {
  readonly library: Library
  /** Absolute path of the image that is served without the library. */
  readonly filePath: string | undefined
  readonly cache: BlockCache
  /** An image that lives elsewhere went away, or came back. */
  onState?(label: string, state: RemoteState): void
  /** What is fetched of it cannot be kept, or is not what it must be. */
  onTrouble?(label: string, reason: string, hint: string): void
}

/** A golden image that is meant, not opened yet. */
export type MeantImage = {
  readonly path: string
  /** 'debian@3'. */
  readonly label: string
  /** How a clone in the state directory's `clones` names it. */
  readonly backingName: string
}

export class ImageShelf {
  readonly #parts: ShelfParts
  readonly #open = new Map<string, Promise<GoldenImage>>()
  /** Of the file that is served without the library, which has them of its own. */
  #fileBootability: readonly Bootability[] | undefined
  #looking: Promise<void> = Promise.resolve()

  constructor(parts: ShelfParts) {
    this.#parts = parts
  }

  /** What a boot that begins now gets. @throws {OperationError} imageUnknown */
  meant({ image, version }: Pick<Assignment, 'image' | 'version'>): MeantImage {
    const { filePath, library } = this.#parts
    if (filePath !== undefined && image === goldenImageName) {
      return { path: filePath, label: goldenImageName, backingName: filePath }
    }
    const found = findVersion(library.store, { name: image, version })
    // Relative, so that the state directory can be moved, or restored elsewhere.
    const path = library.pathOf(found)
    return { path, label: formatReference(found), backingName: isNbdUri(path) ? path : `../images/${found.file}` }
  }

  /** The image's name alone: all versions have it. Undefined: it is neither in the library nor the file that is served. */
  nameOf(path: string): string | undefined {
    if (path === this.#parts.filePath) return goldenImageName
    return this.#versionAt(path)?.name
  }

  /** Where the trace of its boot is kept; undefined for a file that is served without the library. */
  tracePathOf(path: string): string | undefined {
    const found = this.#versionAt(path)
    return found === undefined ? undefined : this.#parts.library.tracePathOf(found)
  }

  labelOf(path: string): string {
    const found = this.#versionAt(path)
    return found === undefined ? goldenImageName : formatReference(found)
  }

  /** Which firmwares find something to start on it; undefined while nobody has looked, or could. */
  bootabilityOf(path: string): readonly Bootability[] | undefined {
    return path === this.#parts.filePath ? this.#fileBootability : this.#versionAt(path)?.contents.bootableFor
  }

  /** Shared; closed with the shelf. @throws {OperationError} fileMissing, imageCorrupt, ... */
  open(path: string): Promise<GoldenImage> {
    const known = this.#open.get(path)
    if (known !== undefined) return known
    const opening = openGolden(path, {
      cache: this.#parts.cache,
      expectedSizeBytes: this.#versionAt(path)?.sizeBytes,
      onState: (state) => this.#parts.onState?.(this.labelOf(path), state),
      onUnkept: ({ message, hint }) => this.#parts.onTrouble?.(this.labelOf(path), message, hint),
      onVerified: (isRight) => {
        if (isRight) return
        const hint = 'Machines are refused it: remove it, and add it again from a source that you trust.'
        this.#parts.onTrouble?.(this.labelOf(path), 'it does not have the SHA-256 that it must have', hint)
      },
    })
    opening.catch(() => this.#open.delete(path)) // the next one tries again
    this.#open.set(path, opening)
    // Nobody waits for it.
    if (path === this.#parts.filePath)
      this.#looking = opening.then((golden) => this.#lookInto(golden)).catch(() => undefined)
    return opening
  }

  /** One that cannot be read now is told by whoever needs it. */
  async #lookInto({ device }: GoldenImage): Promise<void> {
    this.#fileBootability = (await whatIsOn(device)).bootableFor
  }

  #versionAt(path: string): ImageVersion | undefined {
    const { library } = this.#parts
    return library.store.versions().find((version) => library.pathOf(version) === path)
  }

  async close(): Promise<void> {
    const all = await Promise.allSettled(this.#open.values())
    await this.#looking
    this.#open.clear()
    for (const golden of all) if (golden.status === 'fulfilled') await golden.value.device.close()
  }
}

/** @throws {OperationError} cloneOfAnother */
export function cloneOfAnother(clone: string, name: string, wanted: string, mac?: string): OperationError {
  const reset = mac === undefined ? 'move it away' : `slipway clone reset ${mac}`
  const hint = `Serve ${name} as before, or start afresh (${reset}: what it wrote is lost).`
  return new OperationError('cloneOfAnother', `${clone} is a clone of ${name}, not of ${wanted}`, hint)
}
