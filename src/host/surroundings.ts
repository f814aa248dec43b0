/** What this machine is like, for `slipway doctor`: room on a disk, and what the firewall says. Changes nothing. */
import { execFile } from 'node:child_process'
import { access, constants, readFile, statfs } from 'node:fs/promises'
import { dirname } from 'node:path'

export interface DirectoryFacts {
  readonly exists: boolean
  /** This user may make files in it, or, where it is not there, make it. */
  readonly writable: boolean
  readonly freeBytes: number
  /** What statfs calls it: 'tmpfs' loses everything at a restart; undefined for ordinary disks. */
  readonly volatile: boolean
}

const tmpfsMagic = 0x01021994
const ramfsMagic = 0x858458f6

export async function directoryFacts(path: string): Promise<DirectoryFacts> {
  let place = path
  while (!(await may(place, constants.F_OK)) && dirname(place) !== place) place = dirname(place)
  const room = await statfs(place)
  return {
    exists: place === path,
    writable: await may(place, constants.W_OK | constants.X_OK),
    freeBytes: room.bavail * room.bsize,
    volatile: room.type === tmpfsMagic || room.type === ramfsMagic,
  }
}

async function may(path: string, mode: number): Promise<boolean> {
  return access(path, mode).then(
    () => true,
    () => false,
  )
}

/** What was read of the firewall; undefined where a tool is missing or this user may not ask. */
export interface FirewallReading {
  /** `nft -j list ruleset`. */
  readonly nftJson: string | undefined
  /** `iptables-save`. */
  readonly iptables: string | undefined
  readonly ufwEnabled: boolean
  readonly firewalldRunning: boolean
}

export async function readFirewall(): Promise<FirewallReading> {
  const [nftJson, iptables, ufw, firewalld] = await Promise.all([
    output('nft', ['-j', 'list', 'ruleset']),
    output('iptables-save', ['-t', 'filter']),
    readFile('/etc/ufw/ufw.conf', 'utf8').catch(() => ''),
    may('/run/firewalld', constants.F_OK),
  ])
  return { nftJson, iptables, ufwEnabled: /^ENABLED=yes/im.test(ufw), firewalldRunning: firewalld }
}

/** Administrators' tools are in sbin, which a user's PATH may leave out. */
const environment = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' }
const outputBytesMax = 8 * 1024 * 1024
const waitMsMax = 5_000

function output(program: string, args: readonly string[]): Promise<string | undefined> {
  return new Promise((resolve) => {
    const options = { env: environment, maxBuffer: outputBytesMax, timeout: waitMsMax, encoding: 'utf8' } as const
    execFile(program, args, options, (error, stdout) => resolve(error === null ? stdout : undefined))
  })
}
