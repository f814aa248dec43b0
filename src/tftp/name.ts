/**
 * File names as boot ROMs write them, made into the one form that the catalogue is asked for. shim asks for
 * `//grubx64.efi` and `\EFI\BOOT\grubx64.efi`, some ROMs put `./` in front.
 */

/** Undefined if the name climbs (`..`), is empty, or has a control character: no catalogue has such a name. */
export function normalName(name: string): string | undefined {
  const segments: string[] = []
  for (const segment of name.replaceAll('\\', '/').split('/')) {
    if (segment === '' || segment === '.') continue
    if (segment === '..') return undefined
    for (let i = 0; i < segment.length; i++) {
      const code = segment.charCodeAt(i)
      if (code < 0x20 || code === 0x7f) return undefined
    }
    segments.push(segment)
  }
  return segments.length === 0 ? undefined : segments.join('/')
}

/** For events and logs: what is not printable ASCII as \xHH, so that a name cannot forge a line or drive a terminal. */
export function printableName(name: string): string {
  let text = ''
  for (let i = 0; i < name.length; i++) {
    const code = name.charCodeAt(i)
    text += code >= 0x20 && code < 0x7f ? name.charAt(i) : `\\x${code.toString(16).padStart(2, '0')}`
  }
  return text
}
