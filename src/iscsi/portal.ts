import type { Portal } from './policy.ts'

/** RFC 7143 §13.8: address:port,group; an IPv6 address in brackets. */
export function formatPortal({ address, port, group }: Portal): string {
  const host = address.includes(':') ? `[${address}]` : address
  return group === undefined ? `${host}:${port}` : `${host}:${port},${group}`
}
