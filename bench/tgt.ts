/** Debian's tgt in user space, serving one file: the peer of every bench of the target. */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type RunningProcess, serverAddress, startProcess } from './frame.ts'

const targetPrefix = 'iqn.2026-01.slipway.bench:tgt'

export type ServedByTgt = { readonly server: RunningProcess; readonly url: string }

/** The disk is LUN 1: LUN 0 is tgt's controller. `folder` takes its control socket. */
export async function serveByTgt(file: string, folder: string, port: number): Promise<ServedByTgt> {
  const { server, targetNames } = await serveManyByTgt([file], folder, port)
  return { server, url: `iscsi://${serverAddress}:${port}/${targetNames[0]}/1` }
}

/** A target for each file, in one tgtd. */
export async function serveManyByTgt(
  files: readonly string[],
  folder: string,
  port: number,
): Promise<{ readonly server: RunningProcess; readonly targetNames: readonly string[] }> {
  const environment = { TGT_IPC_SOCKET: join(folder, `tgt-${port}`) }
  const server = await startProcess({
    command: 'tgtd',
    args: ['-f', '--iscsi', `portal=${serverAddress}:${port}`],
    environment,
    ready: () => isListening(port),
  })
  const admin = (...words: string[]): void => {
    execFileSync('tgtadm', ['--lld', 'iscsi', ...words], { env: { ...process.env, ...environment } })
  }
  const targetNames = files.map((file, index) => {
    const id = String(index + 1)
    const name = index === 0 ? targetPrefix : `${targetPrefix}-${id}`
    admin('--mode', 'target', '--op', 'new', '--tid', id, '-T', name)
    admin('--mode', 'logicalunit', '--op', 'new', '--tid', id, '--lun', '1', '-b', file)
    admin('--mode', 'target', '--op', 'bind', '--tid', id, '-I', 'ALL')
    return name
  })
  return { server, targetNames }
}

/** Asked of the kernel: a connection would count as the server's first client. */
export function isListening(port: number): boolean {
  const hex = port.toString(16).toUpperCase().padStart(4, '0')
  return readFileSync('/proc/net/tcp', 'utf8').includes(`:${hex} 00000000:0000 0A`)
}
