/** GRUB for the lab's images: made by grub-mkimage from Debian's modules, for UEFI and for BIOS. */
import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)

const grubFolder = '/usr/lib/grub'
/** For either firmware. */
const commonModules = [
  ...['part_gpt', 'part_msdos', 'fat', 'normal', 'configfile', 'linux', 'echo', 'test', 'loadenv', 'search'],
  ...['terminal', 'smbios', 'reboot', 'halt', 'sleep', 'minicmd', 'cat', 'ls'],
]

/** Of a grub.cfg: `${quirks}` is then what the kernel has to be told on this firmware. */
export const grubSetsQuirks = `set quirks=""
# U-Boot's EFI hands Linux bad MTRRs and crashes in SetVirtualAddressMap. Without ACPI tables Linux tests whether the timer
# ticks, and on a busy host takes an emulated one for broken.
smbios --type 0 --get-string 4 --set vendor
if [ "\${vendor}" = "U-Boot" ]; then set quirks="disable_mtrr_trim efi=noruntime no_timer_check"; fi
`

export type GrubPlatform = 'i386-pc' | 'x86_64-efi' | 'arm64-efi'

export type GrubRecipe = {
  readonly platform: GrubPlatform
  /** Where its configuration is: '/grub', '(,gpt2)/grub'. */
  readonly prefix: string
  readonly modules?: readonly string[]
  /** Where modules for this platform are, if not where this system's packages put them. */
  readonly platformFolder?: string
  /** A file with commands that it runs before it looks there. */
  readonly earlyConfigPath?: string
}

export async function makeGrub(recipe: GrubRecipe, output: string): Promise<void> {
  const { platform, prefix, modules = [], earlyConfigPath, platformFolder = join(grubFolder, platform) } = recipe
  const disk = platform === 'i386-pc' ? ['biosdisk'] : []
  const early = earlyConfigPath === undefined ? [] : ['-c', earlyConfigPath]
  const options = ['-O', platform, '-d', platformFolder, '-p', prefix, '-o', output, ...early]
  await run('grub-mkimage', [...options, ...commonModules, ...modules, ...disk])
}

/** What stands in the MBR and leads to the core image. */
export async function grubBootSector(): Promise<Uint8Array> {
  return await readFile(join(grubFolder, 'i386-pc', 'boot.img'))
}

export async function grubVersion(): Promise<string> {
  return (await run('grub-mkimage', ['--version'])).stdout
}
