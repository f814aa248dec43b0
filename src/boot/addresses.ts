/**
 * Where a machine finds what is its own. The paths are ours to choose, so they are made and understood in one place.
 *
 *   /boot/52-54-00-77-00-10.ipxe?uuid=...&serial=...     its script
 *   ...&sign-in=1                                        the same, with a name and a password
 *   /loader/snponly.efi                                  a loader
 *   /report/52-54-00-77-00-10?boot=...&step=...          how it is getting on
 *   /linux/52-54-00-77-00-10/kernel                      what it starts without its disk's boot loader, with a boot and its key
 */

import { type Mac, parseMac } from '../base/address.ts'
import { assert } from '../base/assert.ts'
import { pollsMax, refetchesMax } from './limits.ts'

/** Scheme and authority: where our HTTP or HTTPS listener is, as the machine sees it. */
export type WebServer = { readonly secure: boolean; readonly host: string; readonly port: number }

export type ScriptQuery = {
  readonly uuid: string | undefined
  readonly serial: string | undefined
  /** How many times it has asked while held. */
  readonly pollCount: number
  /** How many times its disk refused the secrets of a script. */
  readonly refetchCount: number
  /** Somebody signs in: iPXE sends name and password only when it is asked for them (RFC 9110 §11.6.1). */
  readonly signIn: boolean
}

/**
 * For DHCP's option 67 and for `chain`: iPXE puts its own settings in (src/usr/autoboot.c fetch_next_server_and_filename,
 * in 2019 as today). A machine without a UUID leaves it empty.
 */
export function scriptUrl(server: WebServer, mac: Mac, count: { poll?: number; refetch?: number } = {}): string {
  // Only values that no one but the machine chooses: a setting that DHCP can set would let others write into the URL.
  let url = `${origin(server)}/boot/${fileName(mac)}.ipxe?uuid=\${uuid}&serial=\${serial:uristring}`
  if (count.poll !== undefined) url += `&poll=${count.poll}`
  if (count.refetch !== undefined) url += `&refetch=${count.refetch}`
  return url
}

/** By HTTPS only, and only for a person who was asked: what was typed goes into the address, where iPXE looks for it. */
export function signInUrl(server: WebServer, mac: Mac): string {
  assert(server.secure, 'nobody is asked for a password without TLS')
  const typed = `\${username:uristring}:\${password:uristring}@`
  return `${scriptUrl(server, mac).replace('://', () => `://${typed}`)}&sign-in=1`
}

export function loaderUrl(server: WebServer, file: string): string {
  return `${origin(server)}/loader/${file}`
}

export function reportUrl(server: WebServer, mac: Mac, bootId: string): string {
  return `${origin(server)}/report/${fileName(mac)}?boot=${bootId}`
}

/** Of the folder with a machine's kernel: what stands before name and key, and what behind them. */
export function linuxUrl(server: WebServer, mac: Mac): { readonly scheme: string; readonly rest: string } {
  const [scheme = '', authority = ''] = origin(server).split('://')
  return { scheme: `${scheme}://`, rest: `${authority}/linux/${fileName(mac)}` }
}

export type WebResource =
  | { readonly kind: 'script'; readonly mac: Mac }
  | { readonly kind: 'loader'; readonly file: string }
  | { readonly kind: 'report'; readonly mac: Mac }
  | { readonly kind: 'linux'; readonly mac: Mac; readonly file: string }

/** `path` is decoded and normal, without its query. Undefined: no path of ours. */
export function parsePath(path: string): WebResource | undefined {
  const [, folder, name, ...more] = path.split('/')
  if (folder === undefined || name === undefined) return undefined
  if (folder === 'linux') {
    const mac = macOfFileName(name)
    const [file, ...further] = more
    return mac === undefined || file === undefined || further.length > 0 ? undefined : { kind: 'linux', mac, file }
  }
  if (more.length > 0) return undefined
  if (folder === 'loader') return name === '' ? undefined : { kind: 'loader', file: name }
  const isScript = folder === 'boot' && name.endsWith('.ipxe')
  if (!isScript && folder !== 'report') return undefined
  const mac = macOfFileName(isScript ? name.slice(0, -'.ipxe'.length) : name)
  if (mac === undefined) return undefined
  return { kind: isScript ? 'script' : 'report', mac }
}

/** What is not as it should be is taken for not said: none of it is proof of anything. */
export function parseScriptQuery(query: ReadonlyMap<string, string>): ScriptQuery {
  return {
    uuid: query.get('uuid') || undefined,
    serial: query.get('serial') || undefined,
    pollCount: countOf(query.get('poll'), pollsMax),
    refetchCount: countOf(query.get('refetch'), refetchesMax),
    signIn: query.get('sign-in') === '1',
  }
}

export type Report = { readonly bootId: string | undefined; readonly step: string; readonly error: string | undefined }

/** What a script says of itself: words of ours, or nothing. */
export function parseReport(query: ReadonlyMap<string, string>): Report | undefined {
  const word = (name: string): string | undefined => {
    const value = query.get(name)
    return value !== undefined && /^[a-z0-9-]{1,32}$/i.test(value) ? value : undefined
  }
  const step = word('step')
  return step === undefined ? undefined : { bootId: word('boot'), step, error: word('error') }
}

function origin({ secure, host, port }: WebServer): string {
  const isDefault = port === (secure ? 443 : 80)
  return `${secure ? 'https' : 'http'}://${host}${isDefault ? '' : `:${port}`}`
}

/** Colons in a path would do no harm; dashes are what people type and file systems take. */
function fileName(mac: Mac): string {
  return mac.replaceAll(':', '-')
}

function macOfFileName(name: string): Mac | undefined {
  const mac = parseMac(name)
  if (mac !== undefined) return mac
  // Hardware that is not Ethernet: type and address with dashes (base/address.ts).
  return /^[0-9a-f]{2}(-[0-9a-f]{2}){1,16}$/.test(name) ? name : undefined
}

function countOf(text: string | undefined, max: number): number {
  return text !== undefined && /^\d{1,7}$/.test(text) ? Math.min(Number(text), max) : 0
}
