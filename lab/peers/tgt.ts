/** Debian's iSCSI target, set up by its own command. */
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { Child } from '../child.ts'
import { type LabNetwork, lab } from '../namespace.ts'
import { portListening } from './port.ts'

export type TgtOptions = {
  readonly targetName: string
  readonly imagePath: string
}

/** Ready when it returns; the image is given read-write: lend it a copy. */
export async function startTgt(network: LabNetwork, folder: string, options: TgtOptions): Promise<Child> {
  const socketFolder = join(folder, 'tgt')
  await mkdir(socketFolder, { recursive: true })
  const env = { ...process.env, TGT_IPC_SOCKET: join(socketFolder, 'socket') }
  const child = network.start(['tgtd', '-f', '--iscsi', `portal=${lab.serverAddress}:3260`], { name: 'tgtd', env })
  child.discardOutput()
  await portListening(network, child, 3260)
  const admin = async (...words: string[]): Promise<void> => {
    const tool = network.start(['tgtadm', '--lld', 'iscsi', ...words], { name: 'tgtadm', env })
    tool.discardOutput()
    const { code } = await tool.exited
    if (code !== 0) throw new Error(`tgtadm ${words.join(' ')}: ${tool.errorText}`)
  }
  await admin('--mode', 'target', '--op', 'new', '--tid', '1', '-T', options.targetName)
  await admin('--mode', 'logicalunit', '--op', 'new', '--tid', '1', '--lun', '1', '-b', options.imagePath)
  await admin('--mode', 'target', '--op', 'bind', '--tid', '1', '-I', 'ALL')
  return child
}
