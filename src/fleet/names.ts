/**
 * iSCSI names: RFC 7143 §4.2.7 (form), RFC 3722 (which characters), RFC 3721 §2.
 *
 *   iqn.2026-01.internal.slipway:disk.525400770010
 *       yyyy-mm reversed domain  : anything the owner of the domain likes
 *
 * A machine keeps its two names for ever. A power cut leaves a session behind; the machine's next login is known to take
 * its place because name and ISID are the same (RFC 7143 §6.3.5), and Linux keeps node records by the target's name. What
 * changes at each boot is the credentials.
 */
import type { Mac } from '../base/address.ts'
import { assert } from '../base/assert.ts'
import { iscsiNameBytesMax } from './limits.ts'

/** `.internal` is reserved for private networks (ICANN, 2024): nobody else's names begin so. */
export const namingAuthorityDefault = 'iqn.2026-01.internal.slipway'

/**
 * The name in the form it is compared in, or undefined if it is none. iqn, eui and naa forms (RFC 7143 §4.2.7.4 to 6);
 * upper case is folded, as RFC 3722 §3 does; characters beyond ASCII are refused, as nothing that boots can send them.
 */
export function parseIscsiName(text: string): string | undefined {
  const name = text.toLowerCase()
  if (name.length > iscsiNameBytesMax) return undefined
  const isIqn = /^iqn\.\d{4}-(0[1-9]|1[0-2])\.[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[a-z0-9.:-]+)?$/.test(name)
  return isIqn || /^eui\.[0-9a-f]{16}$/.test(name) || /^naa\.([0-9a-f]{16}|[0-9a-f]{32})$/.test(name) ? name : undefined
}

export function initiatorNameOf(authority: string, mac: Mac): string {
  return nameOf(authority, 'machine', mac)
}

export function targetNameOf(authority: string, mac: Mac): string {
  return nameOf(authority, 'disk', mac)
}

/** The machine whose disk this is; undefined if it is not a name that `targetNameOf` made. */
export function macOfTargetName(authority: string, targetName: string): Mac | undefined {
  const prefix = `${authority}:disk.`
  if (!targetName.startsWith(prefix)) return undefined
  const digits = targetName.slice(prefix.length)
  if (/^[0-9a-f]{12}$/.test(digits)) return digits.replaceAll(/(..)(?=.)/g, '$1:')
  // Hardware that is not Ethernet has its type in front and dashes: base/address.ts.
  return /^[0-9a-f]{2}(-[0-9a-f]{2}){1,16}$/.test(digits) ? digits : undefined
}

function nameOf(authority: string, role: 'machine' | 'disk', mac: Mac): string {
  const name = parseIscsiName(`${authority}:${role}.${mac.replaceAll(':', '')}`)
  assert(name !== undefined, 'a naming authority that was checked and a MAC address make an iSCSI name')
  return name
}
