import { Fields } from './fields.ts'
import type { ByteSource } from './source.ts'

/**
 * The kernel_version of a bzImage (Linux, Documentation/arch/x86/boot.rst): '6.1.0-13-amd64 (user@host) #1 SMP ...'.
 * Undefined when it is no bzImage or does not say. @throws {DiskError} never because of what it says
 */
export async function bzImageVersion(source: ByteSource): Promise<string | undefined> {
  if (source.sizeBytes < 0x400) return undefined
  const header = new Fields('bzImage', await source.read(0x200, 0x100))
  if (header.ascii(2, 4) !== 'HdrS') return undefined
  // At 0x20e, from 0x200 on. Setup code is at most 64 sectors.
  const offset = header.u16(0x0e)
  if (offset === 0 || 0x200 + offset + 256 > source.sizeBytes) return undefined
  const version = new Fields('bzImage', await source.read(0x200 + offset, 256)).ascii(0, 256)
  return version === '' ? undefined : version
}
