/**
 * A network of our own: a bridge with an address, taps for virtual machines, and no way out. It lives in an unnamed
 * network namespace that is held open by one process reading its standard input: when we end, however we end, the pipe
 * closes, that process ends, and the kernel takes the bridge, the taps and the namespace away. There is nothing to remove.
 *
 * Without root it makes a user namespace around it; where the system allows neither, the error says so.
 */
import { spawn } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { messageOf, OperationError } from '../src/base/errors.ts'
import { Child, type ChildOptions, runCommand } from './child.ts'

export const lab = {
  interfaceName: 'slipway0',
  storageName: 'slipway0.2',
  serverAddress: '192.168.77.1',
  prefixLength: 24,
  network: '192.168.77.0',
  netmask: '255.255.255.0',
  /** Where a DHCP server of the lab hands out addresses. */
  firstLease: '192.168.77.100',
  lastLease: '192.168.77.199',
} as const

export class LabNetwork {
  readonly #holder: ReturnType<typeof spawn>
  readonly #enter: readonly string[]
  #tapCount = 0

  private constructor(holder: ReturnType<typeof spawn>, asRoot: boolean) {
    this.#holder = holder
    const user = asRoot ? [] : ['--user', '--preserve-credentials']
    this.#enter = ['nsenter', '--target', String(holder.pid), ...user, '--net', '--']
  }

  /** @throws {OperationError} namespaceRefused, tapRefused */
  static async create(): Promise<LabNetwork> {
    checkTun()
    const asRoot = process.getuid?.() === 0
    const unshare = asRoot ? ['--net'] : ['--user', '--map-root-user', '--net']
    const holder = spawn('unshare', [...unshare, '--', 'sh', '-c', 'echo ready; exec cat'], {
      stdio: ['pipe', 'pipe', 'pipe'],
      // Ctrl-C must not take the network away while what runs in it is being stopped.
      detached: true,
    })
    await holderReady(holder)
    const network = new LabNetwork(holder, asRoot)
    try {
      await network.#configure()
    } catch (error) {
      await network.close()
      throw error
    }
    return network
  }

  async #configure(): Promise<void> {
    const { interfaceName, serverAddress, prefixLength } = lab
    // Without a carrier IPv6 stays tentative and nobody could send a router advertisement: nodad, and a port that is up.
    const commands = [
      'link set lo up',
      `link add ${interfaceName} type bridge forward_delay 0 mcast_snooping 0`,
      `addr add ${serverAddress}/${prefixLength} brd + dev ${interfaceName}`,
      `link set ${interfaceName} addrgenmode none up`,
      `addr add fe80::1/64 dev ${interfaceName} nodad`,
      'link add slipway0-wire type veth peer name slipway0-end',
      `link set slipway0-wire master ${interfaceName} addrgenmode none up`,
      // It is in the same namespace: with ARP it would answer for the server's address, and packets would come in by it.
      'link set slipway0-end arp off addrgenmode none up',
    ]
    await this.run(['ip', '-batch', '-'], 'ip', `${commands.join('\n')}\n`)
  }

  /** A new tap on a bridge. QEMU opens it by name, inside the namespace. */
  async addTap(bridge: string = lab.interfaceName): Promise<string> {
    const name = `slipway0-tap${this.#tapCount++}`
    await this.run(
      ['ip', '-batch', '-'],
      'ip',
      `tuntap add dev ${name} mode tap\nlink set ${name} master ${bridge} addrgenmode none up\n`,
    )
    return name
  }

  /**
   * A second network beside the first, with an address of the server's: what a switch's port of VLAN 2 leads to, without
   * tags. Named as Linux names a VLAN's interface; this kernel need not have VLANs.
   */
  async addStorage(address: string): Promise<void> {
    const name = lab.storageName
    const commands = [
      `link add ${name} type bridge forward_delay 0 mcast_snooping 0`,
      `addr add ${address}/24 brd + dev ${name}`,
      `link set ${name} addrgenmode none up`,
    ]
    await this.run(['ip', '-batch', '-'], 'ip', `${commands.join('\n')}\n`)
  }

  async removeTap(name: string): Promise<void> {
    await this.run(['ip', 'link', 'del', name], 'ip')
  }

  /** Starts a program inside. */
  start(command: readonly string[], options: Omit<ChildOptions, 'enter'>): Child {
    return new Child(command, { ...options, enter: this.#enter })
  }

  /** Runs a program inside to its end and returns what it printed. @throws {OperationError} commandFailed */
  async run(command: readonly string[], name: string, input?: string): Promise<string> {
    return await runCommand(command, { name, enter: this.#enter }, input)
  }

  /** What still runs inside keeps the network alive: stop it first. */
  async close(): Promise<void> {
    if (this.#holder.exitCode !== null || this.#holder.signalCode !== null) return
    const gone = new Promise((resolve) => this.#holder.once('close', resolve))
    this.#holder.stdin?.end()
    await gone
  }
}

function checkTun(): void {
  try {
    accessSync('/dev/net/tun', constants.R_OK | constants.W_OK)
  } catch (error) {
    throw new OperationError(
      'tapRefused',
      `A virtual machine's network card needs /dev/net/tun: ${messageOf(error)}`,
      'As root: `modprobe tun`; in a container, pass the device: `--device /dev/net/tun --cap-add NET_ADMIN`.',
      { cause: error },
    )
  }
}

async function holderReady(holder: ReturnType<typeof spawn>): Promise<void> {
  let errorText = ''
  holder.stderr?.on('data', (chunk: Buffer) => {
    errorText += chunk.toString()
  })
  await new Promise<void>((resolve, reject) => {
    holder.stdout?.once('data', () => resolve())
    const refuse = (why: string): void =>
      reject(
        new OperationError(
          'namespaceRefused',
          `A private network namespace could not be made: ${why}`,
          'Run as root; in a container, with `--privileged`.',
        ),
      )
    holder.once('error', (error) => refuse(error.message))
    holder.once('close', () => refuse(errorText.trim() || 'unshare ended'))
  })
}
