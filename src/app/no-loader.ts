/** An image on which a machine's firmware finds nothing to start: said before the machine tries, in words of the disk. */
import { OperationError } from '../base/errors.ts'
import type { Architecture } from '../boot/client.ts'
import type { ImageShelf, MeantImage } from './shelf.ts'

export type NoLoader = {
  /** 'debian@3' */
  readonly image: string
  /** A sentence, with what to do. */
  readonly reason: string
}

/** `fresh`: what it boots, if that is an image as it is. Undefined: there is a loader, or nobody can tell. */
export function whyNoLoader(
  shelf: ImageShelf,
  architecture: Architecture | undefined,
  fresh: () => MeantImage | undefined,
): NoLoader | undefined {
  if (architecture === undefined || architecture === 'unknown') return undefined
  try {
    const image = fresh()
    const known = image && shelf.bootabilityOf(image.path)
    if (image === undefined || known === undefined) return undefined
    const judged = known.find(({ firmware }) => firmware === architecture)
    if (judged?.bootable === true) return undefined
    const reason = judged?.reason ?? `There is no loader for ${architecture} in \\EFI\\BOOT.`
    return { image: image.label, reason }
  } catch (error) {
    // An image that is not there is told when the disk is asked for.
    if (!(error instanceof OperationError)) throw error
    return undefined
  }
}
