/** A machine's disk, held open by QEMU's initiator with the secrets of a script, and told what to read and write. */
import { onTestFinished } from 'vitest'
import { type LabNetwork, lab } from '../../lab/namespace.ts'
import { Screen } from '../../lab/screen.ts'
import { fetchScript } from './script-login.ts'

const withinMs = 15_000

/** QEMU knows no mutual CHAP: the server's must be one-way. */
export class MachineDisk {
  readonly #network: LabNetwork
  readonly #command: readonly string[]
  readonly #qemuIo: ReturnType<LabNetwork['start']>
  readonly #screen = new Screen()

  private constructor(network: LabNetwork, command: readonly string[]) {
    this.#network = network
    this.#command = command
    const qemuIo = network.start(command, { name: 'qemu-io' })
    onTestFinished(async () => void (await qemuIo.stop('SIGKILL')))
    qemuIo.output.on('data', (chunk: Buffer) => this.#screen.feed(chunk, 0))
    void qemuIo.exited.then(() => this.#screen.close(qemuIo.errorText, 0))
    this.#qemuIo = qemuIo
  }

  /** Boots: fetches a script of its own, and logs in with it. @throws {OperationError} notSeen: refused */
  static async boot(network: LabNetwork, mac: string): Promise<MachineDisk> {
    const script = await fetchScript({ network }, `http://${lab.serverAddress}/boot/${mac.replaceAll(':', '-')}.ipxe`)
    const of = (name: string): string => script.get(name) ?? ''
    const options = [
      `driver=iscsi,transport=tcp,portal=${lab.serverAddress}:3260,target=${of('target')},lun=0`,
      `initiator-name=${of('initiator-iqn')},user=${of('username')},password-secret=chap`,
    ]
    const secret = ['--object', `secret,id=chap,data=${of('password')}`]
    return await MachineDisk.#logIn(network, ['qemu-io', ...secret, '--image-opts', options.join()])
  }

  static async #logIn(network: LabNetwork, command: readonly string[]): Promise<MachineDisk> {
    const disk = new MachineDisk(network, command)
    await disk.#screen.waitFor('qemu-io>', withinMs)
    return disk
  }

  /** With the same secrets. @throws {OperationError} notSeen: refused */
  async logInAgain(): Promise<MachineDisk> {
    return await MachineDisk.#logIn(this.#network, this.#command)
  }

  /** 'read -P 0x5a 1M 64k': 'read 65536/65536', 'read failed: Input/output error' or 'Pattern verification failed'. */
  async say(command: string, answersWithinMs: number = withinMs): Promise<string> {
    this.#qemuIo.write(`${command}\n`)
    const answer = /(?:read|wrote) \d+\/\d+|(?:read|write) failed: [^\r\n]*|Pattern verification failed/
    return (await this.#screen.waitFor(answer, answersWithinMs)).match[0]
  }

  /** Logs out. */
  async close(): Promise<void> {
    this.#qemuIo.write('quit\n')
    await this.#qemuIo.exited
  }
}
