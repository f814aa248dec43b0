/** Debian's tgt in user space, serving one file: the peer of every bench of the target. */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type RunningProcess, serverAddress, startProcess } from './frame.ts'

const target = 'iqn.2026-01.slipway.bench:tgt'

export type ServedByTgt = { readonly server: RunningProcess; readonly url: string }

/** `folder` takes its control socket. The disk is LUN 1: LUN 0 is tgt's controller. */
export async function serveByTgt(file: string, folder: string, port: number): Promise<ServedByTgt> {
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
  admin('--mode', 'target', '--op', 'new', '--tid', '1', '-T', target)
  admin('--mode', 'logicalunit', '--op', 'new', '--tid', '1', '--lun', '1', '-b', file)
  admin('--mode', 'target', '--op', 'bind', '--tid', '1', '-I', 'ALL')
  return { server, url: `iscsi://${serverAddress}:${port}/${target}/1` }
}

/** Asked of the kernel: a connection would count as the server's first client. */
export function isListening(port: number): boolean {
  const hex = port.toString(16).toUpperCase().padStart(4, '0')
  return readFileSync('/proc/net/tcp', 'utf8').includes(`:${hex} 00000000:0000 0A`)
}
