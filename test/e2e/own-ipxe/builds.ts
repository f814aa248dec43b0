/** The iPXE builds with HTTPS that SLIPWAY_TEST_IPXE names, and a Slipway that serves them with the authority they trust. */
import { join } from 'node:path'
import { type Rig, type RigOptions, rig } from '../rig.ts'

const { SLIPWAY_TEST_IPXE: folder = '' } = process.env

export const builds = {
  uboot: 'bin-x86_64-efi-snp.efi',
  uefi: 'bin-x86_64-efi-snponly.efi',
  bios: 'bin-undionly.kpxe',
  ubootArm64: 'bin-arm64-efi-snp.efi',
} as const

export const pathOf = (file: string): string => join(folder, file)

/** What a person types who has such builds: `loaders add` for each, as they are. */
export const addAll: readonly (readonly string[])[] = Object.values(builds).map((file) => [
  'loaders',
  'add',
  pathOf(file),
])

/** The authority whose certificate is in the builds is this site's. */
export const importAuthority: readonly string[] = ['ca', 'import', pathOf('ca.crt'), pathOf('ca.key')]

/** HTTPS is up when it resolves. */
export async function rigWithBuilds(
  options: Pick<RigOptions, 'variant' | 'prepare' | 'config'> & {
    readonly dhcp?: 'own' | 'off'
    readonly before?: readonly (readonly string[])[]
  },
): Promise<Rig> {
  const before = [...(options.before ?? [importAuthority]), ...addAll]
  const made = await rig({ dhcp: 'own', ...options, admit: 'all', chap: 'mutual', before })
  await made.server.waitFor('serviceReady', 60_000, ({ service }) => service === 'https')
  return made
}
