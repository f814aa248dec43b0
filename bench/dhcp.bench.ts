/**
 * How many DHCP exchanges a second does the server keep up with? perfdhcp, which comes with Kea, plays a relay with 20,000
 * clients. The figure is the highest rate at which at least 99 of 100 exchanges end with an ACK. All keep their leases:
 * they are in the kernel before the ACK leaves (Kea's memfile and dnsmasq's lease file do no more).
 */
import { execFile } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import {
  type Contender,
  clientCore,
  makeNamespacePair,
  type NamespacePair,
  type ProcessOptions,
  type Question,
  startProcess,
  unlessInstalled,
} from './frame.ts'

const clientCount = 20_000
const runSeconds = 2
const completedShareMin = 0.99
/** Each is a tenth more than the one before. */
const rates: readonly number[] = Array.from({ length: 60 }, (_, index) => Math.round(100 * 1.1 ** index))
const firstAddress = '10.111.16.0'
const lastAddress = '10.111.143.255'

const perfdhcp = '/usr/sbin/perfdhcp'
const needsPerfdhcp = unlessInstalled('kea-admin', perfdhcp)

export const questions: readonly Question[] = [
  {
    name: 'DHCP exchanges, 20,000 clients, leases kept',
    unit: 'exchanges/s',
    better: 'higher',
    goal: 1,
    ours: contender('slipway', 'kea-admin', perfdhcp, ({ server }, directory) => ({
      command: process.execPath,
      args: [
        join(import.meta.dirname, 'dhcp-server.ts'),
        server.interfaceName,
        server.address,
        firstAddress,
        lastAddress,
        directory,
      ],
      ready: /ready/,
    })),
    peers: [
      contender('kea', 'kea-dhcp4-server', '/usr/sbin/kea-dhcp4', (namespaces, directory) => {
        const configuration = join(directory, 'kea.json')
        writeFileSync(configuration, keaConfiguration(namespaces, directory))
        return {
          command: '/usr/sbin/kea-dhcp4',
          args: ['-c', configuration],
          environment: { KEA_PIDFILE_DIR: directory, KEA_LOCKFILE_DIR: directory },
          ready: () => sleep(1_500, true),
        }
      }),
      contender('dnsmasq', 'dnsmasq-base', '/usr/sbin/dnsmasq', ({ server }, directory) => ({
        command: '/usr/sbin/dnsmasq',
        args: [
          ...['--keep-in-foreground', '--conf-file=/dev/null', '--user=root', '--port=0', '--log-facility=/dev/null'],
          ...['--bind-interfaces', `--interface=${server.interfaceName}`, `--pid-file=${join(directory, 'pid')}`],
          `--dhcp-range=${firstAddress},${lastAddress},255.255.0.0,1h`,
          ...['--dhcp-lease-max=40000', `--dhcp-leasefile=${join(directory, 'leases')}`, '--dhcp-authoritative'],
          // Without it, it pings each address before it offers it.
          ...['--no-ping', '--dhcp-boot=undionly.kpxe'],
        ],
        ready: () => sleep(500, true),
      })),
    ],
  },
]

function contender(
  name: string,
  debianPackage: string,
  file: string,
  options: (namespaces: NamespacePair, directory: string) => Omit<ProcessOptions, 'namespaceName'>,
): Contender {
  return {
    name,
    missing: () => needsPerfdhcp() ?? (existsSync(file) ? undefined : debianPackage),
    start: async () => {
      const namespaces = makeNamespacePair(`d${name.slice(0, 1)}`)
      const directory = mkdtempSync(join(tmpdir(), `slipway-bench-${name}-`))
      const running = await startProcess({ ...options(namespaces, directory), namespaceName: namespaces.server.name })
      return {
        measure: rateSearch(namespaces),
        stop: async () => {
          await running.stop()
          namespaces.remove()
          rmSync(directory, { recursive: true })
        },
      }
    },
  }
}

/** The first time by bisection; after that from where it ended, up or down step by step. */
function rateSearch(namespaces: NamespacePair): () => Promise<number> {
  let found: number | undefined
  // A rate that was missed gets a second chance: something else on the machine may have cost it.
  const holds = async (index: number): Promise<boolean> => {
    const rate = rates[index]
    if (rate === undefined) return false
    return (await keepsUp(namespaces, rate)) || (await keepsUp(namespaces, rate))
  }
  return async () => {
    found = found === undefined ? await bisect(holds) : await climb(found, holds)
    return rates[found] ?? 0
  }
}

type Holds = (index: number) => Promise<boolean>

/** The highest index that holds; -1 if none does. */
async function bisect(holds: Holds): Promise<number> {
  let low = 0
  let high = rates.length - 1
  while (low <= high) {
    const middle = (low + high) >> 1
    if (await holds(middle)) low = middle + 1
    else high = middle - 1
  }
  return high
}

async function climb(from: number, holds: Holds): Promise<number> {
  let index = from
  if (await holds(index)) {
    while (await holds(index + 1)) index++
    return index
  }
  do index--
  while (index >= 0 && !(await holds(index)))
  return index
}

async function keepsUp({ client, server }: NamespacePair, rate: number): Promise<boolean> {
  const load = ['-4', '-r', String(rate), '-R', String(clientCount), '-p', String(runSeconds), '-W', '200000']
  const args = ['netns', 'exec', client.name, 'taskset', '-c', String(clientCore), 'timeout', '30', perfdhcp, ...load]
  // It ends with status 3 when something was dropped, which is what we are after.
  const printed = await promisify(execFile)('ip', [...args, '-l', client.address, server.address]).then(
    ({ stdout }) => stdout,
    (error: { stdout?: string }) => error.stdout ?? '',
  )
  const sent = numbers(printed, /^sent packets: (\d+)/gm)
  const received = numbers(printed, /^received packets: (\d+)/gm)
  const [discovers = 0] = sent
  const acknowledged = received[1] ?? 0
  // Fewer than asked for: it is perfdhcp that does not keep up.
  const wasOffered = discovers >= 0.95 * rate * runSeconds
  return wasOffered && acknowledged >= completedShareMin * discovers
}

function numbers(text: string, pattern: RegExp): readonly number[] {
  return [...text.matchAll(pattern)].map((match) => Number(match[1]))
}

/** As its manual recommends for speed: several threads (its default), UDP sockets as all clients are behind a relay. */
function keaConfiguration({ server }: NamespacePair, directory: string): string {
  const database = { type: 'memfile', persist: true, name: join(directory, 'leases.csv'), 'lfc-interval': 3600 }
  const subnet = {
    subnet: '10.111.0.0/16',
    pools: [{ pool: `${firstAddress}-${lastAddress}` }],
    'next-server': server.address,
    'boot-file-name': 'undionly.kpxe',
  }
  const logger = { name: 'kea-dhcp4', severity: 'ERROR', output_options: [{ output: 'stdout' }] }
  return JSON.stringify({
    Dhcp4: {
      'interfaces-config': { interfaces: [server.interfaceName], 'dhcp-socket-type': 'udp' },
      'multi-threading': { 'enable-multi-threading': true },
      'lease-database': database,
      'valid-lifetime': 3600,
      subnet4: [subnet],
      loggers: [logger],
    },
  })
}
