/**
 * What a Linux that was started without its boot loader has to be told so that it finds its root: the target and this boot's
 * secrets in an archive that comes behind its initramfs, and how to get on the network on its command line. The secrets are
 * in the archive only: /proc/cmdline can be read by everybody, and the boot's log shows it.
 */
import type { Mac } from '../base/address.ts'
import { assert } from '../base/assert.ts'
import { type ArchivedFile, cpioArchive } from './cpio.ts'
import type { Login } from './scripts.ts'

export type LinuxSettings = {
  readonly portal: { readonly address: string; readonly port: number }
  readonly targetName: string
  readonly initiatorName: string
  /** Undefined: the target asks for no proof. */
  readonly initiator: Login | undefined
  /** Undefined: one-way CHAP, or none. */
  readonly target: Login | undefined
}

const utf8 = new TextEncoder()

/** For initramfs-tools and for dracut: each reads its own file and does not mind the other's. Holds secrets. */
export function settingsArchive(settings: LinuxSettings): Uint8Array {
  const secretFile = (path: string, text: string): ArchivedFile => {
    return { kind: 'file', path, mode: 0o600, content: utf8.encode(text) }
  }
  return cpioArchive([
    { kind: 'directory', path: 'etc', mode: 0o755 },
    secretFile('etc/iscsi.initramfs', forInitramfsTools(settings)),
    { kind: 'directory', path: 'etc/cmdline.d', mode: 0o755 },
    secretFile('etc/cmdline.d/95-slipway.conf', forDracut(settings)),
  ])
}

/** open-iscsi's scripts/local-top/iscsi takes it for a piece of shell. */
function forInitramfsTools({ portal, targetName, initiatorName, initiator, target }: LinuxSettings): string {
  const lines: (readonly [name: string, value: string | undefined])[] = [
    ['ISCSI_INITIATOR', initiatorName],
    ['ISCSI_TARGET_NAME', targetName],
    ['ISCSI_TARGET_IP', portal.address],
    ['ISCSI_TARGET_PORT', String(portal.port)],
    ['ISCSI_USERNAME', initiator?.user],
    ['ISCSI_PASSWORD', initiator?.secret.reveal()],
    ['ISCSI_IN_USERNAME', target?.user],
    ['ISCSI_IN_PASSWORD', target?.secret.reveal()],
  ]
  return lines.map(([name, value]) => (value === undefined ? '' : `${name}='${checked(value)}'\n`)).join('')
}

/** dracut.cmdline(7), netroot=iscsi:; a piece of the command line that is not on it. */
function forDracut({ portal, targetName, initiatorName, initiator, target }: LinuxSettings): string {
  const logins = [initiator, target].flatMap((login) =>
    login === undefined ? [] : [login.user, login.secret.reveal()],
  )
  const proofs = logins.length === 0 ? '' : `${logins.map(checked).join(':')}@`
  const netroot = `netroot=iscsi:${proofs}${checked(portal.address)}::${portal.port}:0:${checked(targetName)}`
  return `${netroot} rd.iscsi.initiator=${checked(initiatorName)} rd.neednet=1\n`
}

/** Names, addresses and base32: nothing that a shell or dracut would take for more than text. */
function checked(value: string): string {
  assert(/^[A-Za-z0-9.:-]+$/.test(value), 'what a Linux is told is plain')
  return value
}

/**
 * What of the menu's command line says how to find the disk, or what to do with the network: it is said anew. All else stays, the
 * root first of all.
 */
const replaced =
  /^(ip=|BOOTIF=|initrd=|netroot=|iscsi_|iscsi_auto$|rd\.iscsi\.(firmware|ibft|initiator)\b|rd\.bootif=|BOOT_IMAGE=)/i

export type KernelLineFacts = {
  /** As the image's own menu has it. */
  readonly commandLine: string
  readonly mac: Mac
}

/** COMMAND_LINE_SIZE of x86 is 2048; what the firmware's quirks add comes to it. */
export const commandLineCharactersMax = 1_900

/**
 * The words of the command line. Undefined for one that a script of iPXE cannot say: not ASCII, `||`, `&&` or `;` alone, a
 * word that begins with `#`, a `${`; or too long a one.
 */
export function kernelLine({ commandLine, mac }: KernelLineFacts): readonly string[] | undefined {
  const own = commandLine.split(/\s+/).filter((word) => word !== '' && !replaced.test(word))
  // `root=iscsi:...` would log in somewhere else, and give the disk that it finds there.
  if (own.some((word) => /^root=iscsi:/i.test(word))) return undefined
  const isSayable = own.every((word) => {
    return /^[\x21-\x7e]+$/.test(word) && !/^(\|\||&&|;)$|^#|\$\{|\\$/.test(word)
  })
  // Before a `--`, behind which words are init's.
  const end = own.indexOf('--')
  const at = end === -1 ? own.length : end
  // 01: the card is an Ethernet one (ARP's number for it), as PXELINUX says it.
  const network = ['ip=dhcp', `BOOTIF=01-${mac.replaceAll(':', '-')}`]
  const all = [...own.slice(0, at), ...network, ...own.slice(at)]
  return isSayable && all.join(' ').length <= commandLineCharactersMax ? all : undefined
}
