/** How fast does a kernel or an image leave, and how many small scripts a second, next to nginx? */
import { randomBytes } from 'node:crypto'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Contender, type Question, type Started, serverAddress, startProcess, unlessInstalled } from './frame.ts'
import { fetchWithAll, type HttpLoadResult } from './http-load.ts'

const files: Readonly<Record<string, number>> = { 'disk.img': 256 * 1024 * 1024, 'boot.ipxe': 1_200 }

type Load = { readonly path: string; readonly connections: number; readonly requests: number }
type Figure = (result: HttpLoadResult) => number
type Server = {
  readonly port: number
  readonly command: string
  readonly args: (folder: string) => string[]
  readonly ready: RegExp | undefined
}

function contender(name: string, missing: Contender['missing'], load: Load, figure: Figure, server: Server): Contender {
  const start = async (): Promise<Started> => {
    const folder = mkdtempSync(join(tmpdir(), 'slipway-bench-'))
    chmodSync(folder, 0o755)
    for (const [file, bytes] of Object.entries(files))
      writeFileSync(join(folder, file), randomBytes(bytes), { mode: 0o644 })
    const { command, args, ready, port } = server
    const isUp = (): boolean => {
      try {
        return (
          fetchWithAll({ address: serverAddress, port, path: '/boot.ipxe', connections: 1, requests: 1 }).answers === 1
        )
      } catch {
        return false // not up yet: startProcess asks again, and says so when it takes too long
      }
    }
    const running = await startProcess({ command, args: args(folder), ready: ready ?? isUp })
    return {
      measure: async () => figure(fetchWithAll({ address: serverAddress, port, ...load })),
      stop: async () => {
        await running.stop()
        rmSync(folder, { recursive: true })
      },
    }
  }
  return { name, start, ...(missing && { missing }) }
}

/** One worker, as we are one; the rest as a user would set it for boot files. */
function nginxArgs(folder: string, port: number): string[] {
  const configuration = join(folder, 'nginx.conf')
  writeFileSync(
    configuration,
    `daemon off; worker_processes 1; pid ${folder}/pid; error_log ${folder}/error.log; user root;
     events { worker_connections 1024; }
     http {
       access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
       client_body_temp_path ${folder}/t1; proxy_temp_path ${folder}/t2; fastcgi_temp_path ${folder}/t3;
       uwsgi_temp_path ${folder}/t4; scgi_temp_path ${folder}/t5;
       server { listen ${serverAddress}:${port}; root ${folder}; }
     }`,
  )
  return ['-c', configuration, '-e', join(folder, 'error.log')]
}

const ourPort = 8_080
const nginxPort = 8_081

function question(name: string, unit: string, load: Load, figure: Figure): Question {
  const serve = join(import.meta.dirname, 'serve.ts')
  return {
    name,
    unit,
    better: 'higher',
    goal: 0.75,
    ours: contender('slipway', undefined, load, figure, {
      port: ourPort,
      command: process.execPath,
      args: (folder) => [serve, 'http', serverAddress, String(ourPort), folder],
      ready: /ready/,
    }),
    peers: [
      contender('nginx', unlessInstalled('nginx-light', '/usr/sbin/nginx'), load, figure, {
        port: nginxPort,
        command: '/usr/sbin/nginx',
        args: (folder) => nginxArgs(folder, nginxPort),
        ready: undefined,
      }),
    ],
  }
}

const megabytesPerSecond: Figure = ({ bytes, seconds }) => bytes / 1e6 / seconds
const answersPerSecond: Figure = ({ answers, seconds }) => answers / seconds

export const questions: readonly Question[] = [
  question(
    'HTTP, 256 MiB file, 1 client',
    'MB/s',
    { path: '/disk.img', connections: 1, requests: 6 },
    megabytesPerSecond,
  ),
  question(
    'HTTP, 256 MiB file, 8 clients',
    'MB/s',
    { path: '/disk.img', connections: 8, requests: 1 },
    megabytesPerSecond,
  ),
  question(
    'HTTP, 1.2 kB file, 16 kept connections',
    'answers/s',
    { path: '/boot.ipxe', connections: 16, requests: 4_000 },
    answersPerSecond,
  ),
]
