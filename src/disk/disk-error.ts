import { OperationError } from '../base/errors.ts'

/** `malformed`: the bytes contradict themselves. `unsupported`: they are right, and this reader does not know them. */
export type DiskErrorCode = 'malformed' | 'unsupported' | 'tooLarge'

/** What is on the disk cannot be read as what it says it is. Nothing else is thrown because of a disk's bytes. */
export class DiskError extends OperationError {
  override readonly name: string = 'DiskError'
  /** 'GPT', 'FAT', 'ext4', ... */
  readonly structure: string

  constructor(code: DiskErrorCode, structure: string, what: string) {
    super(code, `${structure}: ${what}`, hints[code])
    this.structure = structure
  }
}

const hints: Readonly<Record<DiskErrorCode, string>> = {
  malformed: 'Check the image with the tool that made it (sgdisk -v, fsck.fat -n, e2fsck -fn), or make it again.',
  unsupported: 'Slipway can still serve this disk; it only cannot look inside. Nothing needs to be done.',
  tooLarge: 'Slipway reads only what a boot needs. If this file is meant to be that big, serve it another way.',
}

export function malformed(structure: string, what: string): DiskError {
  return new DiskError('malformed', structure, what)
}

export function unsupported(structure: string, what: string): DiskError {
  return new DiskError('unsupported', structure, what)
}
