/** Somebody at the serial console of a machine that runs Debian: logs in, types commands, and reads how they ended. */
import { OperationError } from '../src/base/errors.ts'
import { debianLoginPrompt, debianShellPrompt } from './debian-image.ts'
import type { Machine } from './machine.ts'

const commandWithinMs = 180_000

export class Shell {
  readonly machine: Machine

  private constructor(machine: Machine) {
    this.machine = machine
  }

  /** As root, once the machine asks who it is. @throws {OperationError} notSeen */
  static async logIn(machine: Machine, withinMs: number): Promise<Shell> {
    await machine.waitFor(debianLoginPrompt, withinMs)
    machine.type('root\n')
    await machine.waitFor(debianShellPrompt, commandWithinMs)
    // A long command would be broken into lines, with blanks that nobody typed.
    machine.type('stty cols 1000\n')
    await machine.waitFor(debianShellPrompt, commandWithinMs)
    return new Shell(machine)
  }

  /** Runs one to its end and returns what it printed. @throws {OperationError} notSeen, commandFailed */
  async run(command: string): Promise<string> {
    // What is typed is echoed, twice if the shell was not waiting for it yet; only its answer has a number behind the word.
    this.machine.type(`${command}; echo "ended:$?"\n`)
    const { match } = await this.machine.waitFor(/([\s\S]*?)ended:(\d+)\n/, commandWithinMs)
    const printed = (match[1] ?? '').replace(/^[\s\S]*ended:\$\?".*\n/, '').trim()
    if (match[2] !== '0') throw new OperationError('commandFailed', `${command}: ${printed}`, 'Look at the screen.')
    return printed
  }
}
