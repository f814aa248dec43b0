/** How fast is a boot ROM served over TFTP, alone and beside 31 others, next to tftpd-hpa and dnsmasq? */
import { randomBytes } from 'node:crypto'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Contender, type Question, type Started, serverAddress, startProcess, unlessInstalled } from './frame.ts'
import { readWithAll } from './tftp-load.ts'

/** What iPXE asks for; it never asks for a window. */
const blockBytes = 1_432
const name = 'ipxe.efi'
const tftpPort = 69

type Load = { readonly clients: number; readonly windowBlocks: number; readonly fileBytes: number }
type Server = { readonly command: string; readonly args: (folder: string) => string[]; readonly ready?: RegExp }

function contender(
  label: string,
  missing: Contender['missing'],
  load: Load,
  server: Server & { port: number },
): Contender {
  const start = async (): Promise<Started> => {
    const folder = mkdtempSync(join(tmpdir(), 'slipway-bench-'))
    chmodSync(folder, 0o755) // tftpd-hpa drops its rights
    writeFileSync(join(folder, name), randomBytes(load.fileBytes), { mode: 0o644 })
    const { command, args, ready } = server
    const running = await startProcess({ command, args: args(folder), ...(ready && { ready }) })
    const read = { address: serverAddress, port: server.port, name, blockBytes, ...load }
    return {
      measure: async () => {
        const { bytes, seconds } = readWithAll(read)
        return bytes / 1e6 / seconds
      },
      stop: async () => {
        await running.stop()
        rmSync(folder, { recursive: true })
      },
    }
  }
  return { name: label, start, ...(missing && { missing }) }
}

const ourPort = 6_900
const hpaPort = 6_901

function question(load: Load): Question {
  const serve = join(import.meta.dirname, 'serve.ts')
  const window = load.windowBlocks === 1 ? '' : `, windowsize ${load.windowBlocks}`
  return {
    name: `TFTP read, ${load.clients} client${load.clients === 1 ? '' : 's'}, blksize ${blockBytes}${window}`,
    unit: 'MB/s',
    better: 'higher',
    goal: 1,
    ours: contender('slipway', undefined, load, {
      command: process.execPath,
      args: (folder) => [serve, 'tftp', serverAddress, String(ourPort), folder],
      ready: /ready/,
      port: ourPort,
    }),
    peers: [
      contender('tftpd-hpa', unlessInstalled('tftpd-hpa', '/usr/sbin/in.tftpd'), load, {
        command: '/usr/sbin/in.tftpd',
        args: (folder) => ['--foreground', '-4', '--address', `${serverAddress}:${hpaPort}`, '--secure', folder],
        port: hpaPort,
      }),
      contender('dnsmasq', unlessInstalled('dnsmasq-base', '/usr/sbin/dnsmasq'), load, {
        command: '/usr/sbin/dnsmasq',
        args: (folder) => [
          ...['--no-daemon', '--port=0', '--conf-file=/dev/null', '--user=root', '--bind-interfaces'],
          ...[`--listen-address=${serverAddress}`, '--enable-tftp', `--tftp-root=${folder}`, '--tftp-max=200'],
        ],
        ready: /TFTP root is/,
        port: tftpPort,
      }),
    ],
  }
}

export const questions: readonly Question[] = [
  question({ clients: 1, windowBlocks: 1, fileBytes: 16e6 }),
  question({ clients: 32, windowBlocks: 1, fileBytes: 8e6 }),
]
