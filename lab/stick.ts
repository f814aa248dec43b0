/** A stick in a UEFI machine: what firmware starts from by itself, before it asks the network. */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { runCommand } from './child.ts'

/** One program and what lies beside it: enough for an iPXE. */
const stickKibibytes = 4096
/** UEFI 2.10 §3.5.1.1: what is started from media that can be taken out. */
const startedByFirmware = '::/EFI/BOOT/BOOTX64.EFI'

export type StickContent = {
  /** Path of an EFI program for x86_64. */
  readonly program: string
  /** In its root, by name: `file:/NAME` to an iPXE that was started from it. */
  readonly files: Readonly<Record<string, string>>
}

/** A FAT file system in a file of `folder`; returns its path. @throws {OperationError} commandFailed */
export async function makeStick(folder: string, name: string, content: StickContent): Promise<string> {
  const stick = join(folder, `${name}.img`)
  const run = (...command: readonly string[]): Promise<string> => runCommand(command, { name: command[0] ?? '' })
  await run('mkfs.fat', '-C', '-n', 'STICK', stick, String(stickKibibytes))
  await run('mmd', '-i', stick, '::/EFI', '::/EFI/BOOT')
  await run('mcopy', '-i', stick, content.program, startedByFirmware)
  for (const [file, text] of Object.entries(content.files)) {
    const beside = join(folder, `${name}-${file}`)
    await writeFile(beside, text, { mode: 0o600 })
    await run('mcopy', '-i', stick, beside, `::/${file}`)
  }
  return stick
}
