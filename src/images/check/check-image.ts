/** `slipway image check`: what would break in an image's system after its kernel has started, and what to do about it. */

import { OperationError } from '../../base/errors.ts'
import type { KernelFile, OpenedDisk } from '../../disk/inspect.ts'
import { summaryOf } from '../../disk/inspect.ts'
import { readOsRelease } from '../../disk/os-release.ts'
import { isDiskError } from '../../disk/source.ts'
import type { Unpacker } from '../../ports/unpack.ts'
import { checkedKernelCountMax } from '../limits.ts'
import { type ImageFinding, ok, warning } from './finding.ts'
import { checkInitramfs, checkOpenIscsi } from './iscsi.ts'
import { checkLoaders } from './loader.ts'
import { menuLinesOf } from './menus.ts'
import { checkNetwork } from './network.ts'
import { type Root, readText } from './root.ts'
import { checkRootDevice } from './root-device.ts'
import { checkUboot } from './uboot.ts'

/** In the order in which a boot would meet them. @throws {OperationError} ioError; never because of what the bytes say */
export async function checkImage(disk: OpenedDisk, unpacker: Unpacker): Promise<ImageFinding[]> {
  const summary = await summaryOf(disk)
  const volumes = disk.volumes.flatMap(({ number }) => rootOn(disk, number) ?? [])
  const findings: ImageFinding[] = []
  const look = async (check: string, run: () => Promise<ImageFinding[]>): Promise<void> => {
    try {
      findings.push(...(await run()))
    } catch (thrown) {
      // A damaged archive or folder ends its own check.
      const isBytes = isDiskError(thrown) || (thrown instanceof OperationError && thrown.code === 'unpackFailed')
      if (!isBytes) throw thrown
      findings.push(warning(check, thrown.message, 'This could not be looked at.', thrown.hint))
    }
  }
  await look('loader', () => checkLoaders(summary, volumes))
  await look('uboot', () => checkUboot(disk, unpacker))
  const root = await findRoot(disk)
  if (root === undefined) {
    const why = 'Whether it keeps its disk cannot be told.'
    const known = summary.partitions.map(({ number, content }) => `${number}: ${content}`).join(', ')
    const next = `Slipway reads ext4 and FAT (here: ${known === '' ? 'no partitions' : known}).`
    return [...findings, warning('root', 'no Linux root file system was found that can be read', why, next)]
  }
  const bootOf = (partition: number): Root => rootOn(disk, partition) ?? root
  await look('root.device', async () => checkRootDevice(root, summary, await menuLinesOf(volumes)))
  for (const kernel of newest(summary.kernels)) {
    await look('initramfs', async () => {
      const menus = await menuLinesOf(volumes)
      return checkInitramfs({ root, boot: bootOf(kernel.partition), kernel, menus }, unpacker)
    })
  }
  await look('iscsid', () => checkOpenIscsi(root))
  await look('network', () => checkNetwork(root))
  await look('identity', () => checkIdentity(root))
  return findings
}

async function findRoot(disk: OpenedDisk): Promise<Root | undefined> {
  for (const { number } of disk.volumes) {
    const root = rootOn(disk, number)
    if (root === undefined || root.fileSystem.kind.startsWith('fat') || root.fileSystem.kind === 'iso9660') continue
    try {
      if ((await readOsRelease(root.fileSystem)) !== undefined) return root
    } catch (thrown) {
      if (!isDiskError(thrown)) throw thrown
    }
  }
  return undefined
}

function rootOn(disk: OpenedDisk, partition: number): Root | undefined {
  const content = disk.volumes.find(({ number }) => number === partition)?.content
  return content?.kind === 'fileSystem' ? { partition, fileSystem: content.fileSystem } : undefined
}

/** By version, numbers as numbers; those without an own version (a link named vmlinuz) lead to one of the others. */
function newest(kernels: readonly KernelFile[]): KernelFile[] {
  const named = kernels.filter(({ version }) => version !== '' || kernels.length === 1)
  const collator = new Intl.Collator('en', { numeric: true })
  return named.toSorted((a, b) => collator.compare(b.version, a.version)).slice(0, checkedKernelCountMax)
}

/** Clones of one image that all believe to be the same machine. */
async function checkIdentity(root: Root): Promise<ImageFinding[]> {
  const id = (await readText(root, '/etc/machine-id'))?.trim() ?? ''
  if (id === '' || id === 'uninitialized') return [ok('identity', 'every clone makes its own machine-id')]
  const why = 'Every clone has the same; DHCP clients that identify themselves by it get one address for all.'
  const found = warning('identity', '/etc/machine-id is set', why, 'truncate -s 0 /etc/machine-id')
  return [{ ...found, repairs: [{ kind: 'edit', partition: root.partition, path: '/etc/machine-id', edit: () => '' }] }]
}
