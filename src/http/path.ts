/** Request targets made into a path and a query: RFC 9112 §3.2, RFC 3986 §2.1 and §6.2.2, strictly. */

export type Target = { readonly path: string; readonly query: ReadonlyMap<string, string> }

const parametersMax = 64
const utf8 = new TextDecoder('utf-8', { fatal: true })

/**
 * Undefined if the target is not one that may be looked up: a bad escape, bytes that are no UTF-8, an encoded slash, a
 * back slash, a control character, or a segment that is `.` or `..` (written plainly or escaped).
 */
export function parseTarget(target: string): Target | undefined {
  const local = withoutAuthority(target)
  if (!local.startsWith('/')) return undefined
  const questionMark = local.indexOf('?')
  const path = parsePath(questionMark === -1 ? local : local.slice(0, questionMark))
  const query = questionMark === -1 ? new Map<string, string>() : parseQuery(local.slice(questionMark + 1))
  return path === undefined || query === undefined ? undefined : { path, query }
}

/** RFC 9112 §3.2.2: a server must take the absolute form too; whose name it carries is no concern of ours. */
function withoutAuthority(target: string): string {
  const match = /^https?:\/\/[^/?#]+/i.exec(target)
  if (match === null) return target
  const rest = target.slice(match[0].length)
  return rest.startsWith('/') ? rest : `/${rest}`
}

function parsePath(text: string): string | undefined {
  let path = ''
  for (const segment of text.split('/').slice(1)) {
    const decoded = percentDecode(segment)
    if (decoded === undefined || decoded === '.' || decoded === '..' || /[/\\]/.test(decoded)) return undefined
    // Doubled slashes are one: firmware joins a base URL and a name without looking.
    if (decoded !== '') path += `/${decoded}`
  }
  return text.endsWith('/') ? `${path}/` : path
}

function parseQuery(text: string): ReadonlyMap<string, string> | undefined {
  const query = new Map<string, string>()
  const parameters = text.split('&')
  if (parameters.length > parametersMax) return undefined
  for (const parameter of parameters) {
    if (parameter === '') continue
    const equals = parameter.indexOf('=')
    const [rawName, rawValue] =
      equals === -1 ? [parameter, ''] : [parameter.slice(0, equals), parameter.slice(equals + 1)]
    const name = percentDecode(rawName.replaceAll('+', ' '))
    const value = percentDecode(rawValue.replaceAll('+', ' '))
    if (name === undefined || value === undefined) return undefined
    if (!query.has(name)) query.set(name, value)
  }
  return query
}

/** Undefined if an escape is broken, the bytes are no UTF-8, or a control character comes out. */
function percentDecode(text: string): string | undefined {
  if (!/^[\x20-\x7e]*$/.test(text)) return undefined
  if (!text.includes('%')) return text
  const bytes = new Uint8Array(text.length)
  let size = 0
  for (let i = 0; i < text.length; i++) {
    let byte = text.charCodeAt(i)
    if (text[i] === '%') {
      const digits = text.slice(i + 1, i + 3)
      if (!/^[0-9a-f]{2}$/i.test(digits)) return undefined
      byte = Number.parseInt(digits, 16)
      i += 2
    }
    if (byte < 0x20 || byte === 0x7f) return undefined
    bytes[size++] = byte
  }
  try {
    return utf8.decode(bytes.subarray(0, size))
  } catch {
    return undefined // No UTF-8: nothing in a catalogue is called that.
  }
}
