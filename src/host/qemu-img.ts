/** Formats that we do not read ourselves are left to qemu-img, where it is installed. */
import { OperationError } from '../base/errors.ts'
import { runTool } from './tool.ts'

export type ForeignFormat = 'vmdk' | 'vhdx' | 'vdi' | 'vpc'

/**
 * Makes a raw image of it, with holes. The source must stand alone: one that names other files could name any.
 * @throws {OperationError} toolMissing, imageCorrupt, imageUnsupported, noSpace, interrupted
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

async function qemuImg(args: readonly string[], format: string, signal: AbortSignal): Promise<string> {
  const { code, said, complained } = await runTool('qemu-img', args, {
    env: process.env,
    signal,
    debianPackage: 'qemu-utils',
    name: `qemu-img, which a ${format} image needs,`,
    otherwise: 'convert the image where it is: qemu-img convert -O qcow2 FILE OTHER',
  })
  if (code === 0) return said.toString()
  if (/No space left/i.test(complained)) {
    throw new OperationError('noSpace', 'the disk is full', 'Free space on the disk that holds it; nothing was kept.')
  }
  const why = complained.trim().split('\n')[0] ?? ''
  const hint = 'Fetch it again, or look at it: qemu-img info FILE.'
  throw new OperationError('imageCorrupt', `qemu-img cannot read this ${format} image: ${why}`, hint)
}
