import type { Mac } from '../base/address.ts'

/** Who asks. A DHCP room's description of a client fits as it is. */
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
