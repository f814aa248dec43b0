/** Files of a FAT volume in an image, changed by mtools: no mount, no root. The image is a new version that nobody serves yet. */
import { OperationError } from '../base/errors.ts'
import { runTool } from './tool.ts'

export interface FatPlace {
  readonly imagePath: string
  /** Where the file system begins in the image. */
  readonly offsetBytes: number
}

const waitMsMax = 120_000

/** `path` from the volume's root; folders on the way are made where they are missing. @throws {OperationError} repairFailed, toolMissing */
export async function writeFileInFat(place: FatPlace, path: string, content: Uint8Array): Promise<void> {
  const parts = path.split('/').filter(Boolean)
  for (const part of parts) checkName(part)
  for (let depth = 1; depth < parts.length; depth++) {
    const folder = parts.slice(0, depth).join('/')
    // mdir fails where there is no such folder; mmd would ask what to do where there is one.
    const isThere = await mtools(place, 'mdir', ['-b', `::/${folder}`]).then(
      () => true,
      (error: unknown) => {
        if (error instanceof OperationError && error.code === 'repairFailed') return false
        throw error
      },
    )
    if (!isThere) await mtools(place, 'mmd', [`::/${folder}`])
  }
  await mtools(place, 'mcopy', ['-o', '-', `::/${parts.join('/')}`], content)
  const after = await mtools(place, 'mcopy', [`::/${parts.join('/')}`, '-'])
  if (Buffer.compare(after, content) !== 0)
    throw failed(`${path} does not read back as it was written; is there room for it?`)
}

/** What mtools would take as a pattern, an option or another drive. */
function checkName(name: string): void {
  if (!/^[\w][\w.+~ -]*$/.test(name)) throw failed(`a name that mtools cannot be told: ${JSON.stringify(name)}`)
}

async function mtools(place: FatPlace, program: string, args: readonly string[], input?: Uint8Array): Promise<Buffer> {
  const env = { PATH: '/usr/bin:/bin', LC_ALL: 'C', MTOOLS_SKIP_CHECK: '1' }
  const volume = `${place.imagePath}@@${place.offsetBytes}`
  const options = { env, timeoutMs: waitMsMax, debianPackage: 'mtools', name: 'mtools', input }
  const { code, said, complained } = await runTool(program, ['-i', volume, ...args], options)
  if (code !== 0) throw failed(complained.trim() || `${program} ended with ${code}`)
  return said
}

function failed(what: string): OperationError {
  const hint = 'Nothing that is served was changed. Make the change in the image by hand, and check it again.'
  return new OperationError('repairFailed', `the image could not be repaired: ${what}`, hint)
}
