/** A person at U-Boot's prompt, on a machine's serial console. */
import type { Machine } from './machine.ts'

/** What takes longest at the prompt is `dhcp`: the network card needs 5 s to come up. */
const commandWithinMs = 40_000

/**
 * Stops U-Boot before it boots by itself, and gives the network card its address: without a ROM of its own QEMU's has none
 * that U-Boot would find. On x86 the card is not even there before `pci enum`.
 */
export async function stopAtPrompt(machine: Machine): Promise<void> {
  await machine.waitFor('Hit any key to stop autoboot', commandWithinMs)
  machine.type(' ')
  await machine.waitFor(/^=> /, commandWithinMs)
  await typeCommands(machine, ['pci enum', `setenv ethaddr ${machine.mac}`])
}

/** Types each when the one before it has ended. */
export async function typeCommands(machine: Machine, commands: readonly string[]): Promise<void> {
  for (const command of commands) {
    machine.type(`${command}\n`)
    await machine.waitFor(/^=> /, commandWithinMs)
  }
}
