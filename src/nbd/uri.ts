/**
 * Where an export is: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md
 *
 *   nbd://HOST[:PORT]/EXPORT               nbd+unix:///EXPORT?socket=PATH
 */
import { OperationError } from '../base/errors.ts'
import { stringBytesMax } from './limits.ts'
import { portDefault } from './registry.ts'

export type NbdPlace =
  | { readonly kind: 'tcp'; readonly address: string; readonly port: number }
  | { readonly kind: 'unix'; readonly path: string }

export type NbdAddress = { readonly place: NbdPlace; readonly exportName: string }

export function isNbdUri(text: string): boolean {
  return /^nbds?(\+[a-z]+)?:/i.test(text)
}

/** @throws {OperationError} usage */
export function parseNbdUri(text: string): NbdAddress {
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (url === undefined || !isNbdUri(text)) throw wrong(text, 'is not an NBD address')
  if (/^nbds/i.test(url.protocol)) {
    const hint = 'Use a unix socket, a network of its own, or a tunnel (ssh -L, stunnel) to the server, and nbd://.'
    throw new OperationError('usage', 'Slipway does not speak TLS to NBD servers', hint)
  }
  const exportName = decoded(text, url.pathname.replace(/^\//, ''))
  if (new TextEncoder().encode(exportName).byteLength > stringBytesMax) {
    throw wrong(text, 'has too long a name for an export')
  }
  if (url.username !== '') throw wrong(text, 'has a user, which only TLS has a use for')
  if (url.protocol === 'nbd:') {
    const [parameter] = url.searchParams.keys()
    if (parameter !== undefined) throw wrong(text, `has a parameter ${parameter}, which nbd: does not know`)
    if (url.hostname === '') throw wrong(text, 'names no host')
    const address = decoded(text, url.hostname).replace(/^\[|\]$/g, '')
    return { place: { kind: 'tcp', address, port: url.port === '' ? portDefault : Number(url.port) }, exportName }
  }
  if (url.protocol !== 'nbd+unix:') throw wrong(text, 'is of a kind that Slipway does not know')
  const unknown = [...url.searchParams.keys()].find((key) => key !== 'socket')
  if (unknown !== undefined) throw wrong(text, `has a parameter ${unknown}, which nbd+unix: does not know`)
  // Not `searchParams`, which makes a space of a plus: a URI's query is no HTML form (RFC 3986 §3.4).
  const path = /[?&]socket=([^&]*)/.exec(url.search)?.[1]
  if (path === undefined || path === '') throw wrong(text, 'names no socket')
  return { place: { kind: 'unix', path: decoded(text, path) }, exportName }
}

/** In one spelling: two addresses of one export are one string. */
export function formatNbdUri({ place, exportName }: NbdAddress): string {
  const name = encodeURIComponent(exportName).replaceAll('%2F', '/')
  if (place.kind === 'unix')
    return `nbd+unix:///${name}?socket=${encodeURIComponent(place.path).replaceAll('%2F', '/')}`
  const host = place.address.includes(':') ? `[${place.address}]` : place.address
  return `nbd://${host}${place.port === portDefault ? '' : `:${place.port}`}/${name}`
}

function decoded(text: string, part: string): string {
  try {
    const plain = decodeURIComponent(part)
    if (!plain.includes('\0')) return plain
  } catch (error) {
    if (!(error instanceof URIError)) throw error
  }
  throw wrong(text, 'has bytes in it that are no text')
}

function wrong(text: string, why: string): OperationError {
  const hint = 'Write it like nbd://HOST:10809/EXPORT or nbd+unix:///EXPORT?socket=/run/nbd.sock.'
  return new OperationError('usage', `${text} ${why}`, hint)
}
