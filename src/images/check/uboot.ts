/** Under U-Boot, which has nowhere to put an iBFT, Linux finds its root only where its kernel is started at once. */
import type { OpenedDisk } from '../../disk/inspect.ts'
import { findLinuxStart } from '../../disk/linux-start.ts'
import { readWhole } from '../../disk/source.ts'
import type { Unpacker } from '../../ports/unpack.ts'
import { initramfsLogin } from '../initramfs-login.ts'
import { initramfsBytesMax } from '../limits.ts'
import { type ImageFinding, ok, warning } from './finding.ts'

const why =
  'U-Boot cannot tell a Linux that its boot loader starts where its root is; start = "kernel" does, and needs this.'

/** @throws {DiskError} a damaged initramfs; {OperationError} ioError, unpackFailed */
export async function checkUboot(disk: OpenedDisk, unpacker: Unpacker): Promise<ImageFinding[]> {
  const check = 'uboot'
  const found = await findLinuxStart(disk)
  if (found.kind === 'missing') {
    const next =
      'Put /boot on ext4 or FAT, with a GRUB menu or boot loader entries, if a machine with U-Boot is to boot it.'
    return [warning(check, `under U-Boot no kernel could be started: ${found.why}`, why, next)]
  }
  const { kernel, initramfs, menu } = found.start
  const archives: Uint8Array[] = []
  for (const { source } of initramfs) archives.push(await readWhole(source, initramfsBytesMax))
  if ((await initramfsLogin(archives, unpacker)) === 'neither') {
    const names = initramfs.map(({ path }) => path).join(', ')
    const what = `under U-Boot ${kernel.path} would not find its root: ${names === '' ? 'it has no initramfs' : `${names} has no iSCSI`}`
    const next =
      'apt install open-iscsi; touch /etc/iscsi/iscsi.initramfs; update-initramfs -u (Fedora: dracut -f --add iscsi)'
    return [warning(check, what, why, next)]
  }
  return [ok(check, `under U-Boot Linux finds its root with start = "kernel": ${kernel.path}, as ${menu} has it`)]
}
