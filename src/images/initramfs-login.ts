/** Whether an initramfs can log in to its root disk when it is told where: what a start without a boot loader stands on. */
import type { Unpacker } from '../ports/unpack.ts'
import { type InitramfsListing, listInitramfs } from './check/initramfs.ts'

/** unknown: packed in a way that nothing here can unpack, which says nothing against it. */
export type InitramfsLogin = 'initramfsTools' | 'dracut' | 'neither' | 'unknown'

/** Of the archives that one entry of a menu names, in their order. @throws {DiskError} malformed; {OperationError} unpackFailed */
export async function initramfsLogin(archives: readonly Uint8Array[], unpacker: Unpacker): Promise<InitramfsLogin> {
  const found: InitramfsLogin[] = []
  for (const archive of archives) found.push(loginOf(await listInitramfs(archive, [], unpacker)))
  return (
    found.find((each) => each !== 'neither' && each !== 'unknown') ??
    (found.includes('unknown') ? 'unknown' : 'neither')
  )
}

/** dracut's module iscsi has /sbin/iscsiroot, open-iscsi's hook for initramfs-tools a script; both use iscsistart. */
export function loginOf({ names, unreadPacking }: InitramfsListing): InitramfsLogin {
  const has = (pattern: RegExp): boolean => [...names].some((name) => pattern.test(name))
  if (has(/bin\/iscsistart$/)) {
    if (has(/bin\/iscsiroot$/)) return 'dracut'
    if (has(/^scripts\/local-top\/iscsi$/)) return 'initramfsTools'
  }
  return unreadPacking === undefined ? 'neither' : 'unknown'
}
