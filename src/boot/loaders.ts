/** What each loader can do: what must be known of a program before it is handed to a firmware. */
import type { Architecture } from './client.ts'

export type Loader = {
  /** The name it is asked for by. */
  readonly file: string
  readonly program: 'ipxe' | 'grub' | 'shim' | 'pxelinux' | 'uki'
  /** bios: a PXE network boot program. efi: an EFI application. */
  readonly platform: 'bios' | 'efi'
  /** The processor it was built for; `bios` for a PXE network boot program. */
  readonly architecture: Architecture
  /** By the names of iPXE's features: 'iscsi', 'http', 'https', 'vlan'. */
  readonly features: ReadonlySet<string>
  /** Never puts the processor to rest, so U-Boot, which cannot wake it, may run it. */
  readonly runsUnderUboot: boolean
  /** Signed for Secure Boot by somebody firmware trusts. */
  readonly signed: boolean
}
