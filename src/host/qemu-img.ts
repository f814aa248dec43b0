/** Formats that we do not read ourselves are left to qemu-img, where it is installed. */
import { execFile } from 'node:child_process'
import { OperationError } from '../base/errors.ts'
import { codeOf } from './file.ts'

export type ForeignFormat = 'vmdk' | 'vhdx' | 'vdi' | 'vpc'

const outputBytesMax = 1024 * 1024

/**
 * Makes a raw image of it, with holes. The source must stand alone: one that names other files could name any.
 * @throws {OperationError} toolMissing, imageCorrupt, imageUnsupported, noSpace
 */
export async function convertToRaw(
  from: { readonly path: string; readonly format: ForeignFormat },
  to: string,
  signal: AbortSignal,
): Promise<void> {
  const described = await qemuImg(['info', '--output=json', '-f', from.format, from.path], from.format, signal)
  const info = JSON.parse(described) as Record<string, unknown>
  if (info['backing-filename'] !== undefined) {
    const hint = 'Flatten it where the other file is: qemu-img convert -O qcow2 FILE WHOLE.qcow2.'
    throw new OperationError('imageUnsupported', `the ${from.format} image stands on another file`, hint)
  }
  // What lies behind the end of a file that was cut off would be converted to zeroes. qemu-img has no check of vpc.
  if (from.format !== 'vpc') await qemuImg(['check', '-q', '-f', from.format, from.path], from.format, signal)
  await qemuImg(['convert', '-f', from.format, '-O', 'raw', '-S', '4k', from.path, to], from.format, signal)
}

function qemuImg(args: readonly string[], format: string, signal: AbortSignal): Promise<string> {
  return new Promise((resolve, reject) => {
    const options = { maxBuffer: outputBytesMax, encoding: 'utf8', signal } as const
    execFile('qemu-img', args, options, (error, stdout, stderr) => {
      if (error === null) resolve(stdout)
      else reject(describe(error, format, stderr))
    })
  })
}

function describe(error: Error, format: string, stderr: string): OperationError {
  if (codeOf(error) === 'ENOENT') {
    const hint = 'Install it (apt install qemu-utils), or convert the image where it is: qemu-img convert -O qcow2.'
    return new OperationError('toolMissing', `a ${format} image needs the program qemu-img, which is not here`, hint)
  }
  if (codeOf(error) === 'ABORT_ERR') {
    return new OperationError('interrupted', 'stopped before the image was whole', 'Nothing was kept.')
  }
  const said = stderr.trim().split('\n')[0] ?? ''
  if (/No space left/i.test(stderr)) {
    return new OperationError('noSpace', 'the disk is full', 'Free space on the disk that holds it; nothing was kept.')
  }
  const hint = 'Fetch it again, or look at it: qemu-img info FILE.'
  return new OperationError('imageCorrupt', `qemu-img cannot read this ${format} image: ${said}`, hint, {
    cause: error,
  })
}
