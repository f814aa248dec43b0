/** Who asks: what one DHCP packet says about the program that sent it. `client.ts` finds it out. */
import type { Mac } from '../base/address.ts'

/** The processor and firmware interface of option 93 (RFC 4578 §2.1 and IANA's processor architecture types). */
export type Architecture = 'bios' | 'x86' | 'x86_64' | 'arm32' | 'arm64' | 'riscv64' | 'loongarch64' | 'unknown'

/** What an iPXE says it was built with: the encapsulated options of option 175. */
export type IpxeFeature =
  | 'pxe'
  | 'iscsi'
  | 'aoe'
  | 'http'
  | 'https'
  | 'tftp'
  | 'ftp'
  | 'dns'
  | 'bzimage'
  | 'multiboot'
  | 'srp'
  | 'nbi'
  | 'pxeImage'
  | 'elf'
  | 'comboot'
  | 'efi'
  | 'fcoe'
  | 'vlan'
  | 'menu'
  | 'sdi'
  | 'nfs'

export type ClientProgram =
  /** A PXE ROM or UEFI's PXE: fetches one file by TFTP. */
  | { readonly kind: 'pxe' }
  /** UEFI HTTP boot (UEFI 2.10 §24.7): fetches one URL. */
  | { readonly kind: 'uefiHttp' }
  /** `version` is '1.0.0', or undefined where it does not say. */
  | { readonly kind: 'ipxe'; readonly features: ReadonlySet<IpxeFeature>; readonly version: string | undefined }
  /**
   * U-Boot: the file name it takes is the one of the BOOTP `file` field. `distro` when its distro boot asks with PXE's
   * class for an EFI application; plain U-Boot asks for whatever its `bootfile` variable says.
   */
  | { readonly kind: 'uboot'; readonly distro: boolean }
  /** The kernel's own configuration by `ip=dhcp`, or the initramfs's ipconfig. */
  | { readonly kind: 'linuxIpconfig' }
  /** An operating system, a phone, a printer. Wants an address; does not boot from us. */
  | { readonly kind: 'other' }

export type ClientFacts = {
  readonly mac: Mac
  readonly program: ClientProgram
  readonly architecture: Architecture
  /** Option 97 as SMBIOS prints it, lower case. Undefined when absent or all zeroes, which is no identity. */
  readonly uuid: string | undefined
  /** Option 60, whole. Here and below what is not printable ASCII stands as '?'. */
  readonly vendorClass: string | undefined
  /** Option 12: what the client calls itself. Untrusted. */
  readonly hostName: string | undefined
  /** The BOOTP `file` field of the request: U-Boot names what it would like there. Untrusted. */
  readonly requestedFile: string | undefined
}
