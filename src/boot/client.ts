/** Who asks, and how to say so. */
import type { Mac } from '../base/address.ts'
import { unreachable } from '../base/assert.ts'

/** What is known of the program that asks. The DHCP room's description of a client fits as it is. */
export type Client = {
  readonly mac: Mac
  readonly program: Program
  readonly architecture: Architecture
  readonly uuid: string | undefined
}

export type Program =
  | { readonly kind: 'pxe' }
  | { readonly kind: 'uefiHttp' }
  | { readonly kind: 'ipxe'; readonly features: ReadonlySet<string>; readonly version: string | undefined }
  | { readonly kind: 'uboot'; readonly distro: boolean }
  | { readonly kind: 'linuxIpconfig' }
  | { readonly kind: 'other' }

export type Architecture = 'bios' | 'x86' | 'x86_64' | 'arm32' | 'arm64' | 'riscv64' | 'loongarch64' | 'unknown'

/** 'UEFI x86_64', 'iPXE 1.0.0 on BIOS'. For people. */
export function describeClient(client: Client): string {
  const { program, architecture } = client
  const platform = architecture === 'bios' ? 'BIOS' : architecture === 'unknown' ? '' : `UEFI ${architecture}`
  switch (program.kind) {
    case 'pxe':
      return platform === '' ? 'PXE' : `${platform} by PXE`
    case 'uefiHttp':
      return `${platform} by HTTP`
    case 'ipxe':
      return ['iPXE', program.version, platform === '' ? undefined : `on ${platform}`]
        .filter((part) => part !== undefined)
        .join(' ')
    case 'uboot':
      return architecture === 'unknown' ? 'U-Boot' : `U-Boot ${architecture}`
    case 'linuxIpconfig':
      return 'Linux'
    case 'other':
      return 'an operating system or a device'
    default:
      return unreachable(program)
  }
}
