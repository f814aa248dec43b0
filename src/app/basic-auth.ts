import { Secret } from '../base/secret.ts'

export type Typed = { readonly name: string; readonly password: Secret }

/** RFC 7617 §2: base64 of 'name:password'. Undefined: there is none, or nothing that can be read. */
export function parseBasic(header: string | undefined): Typed | undefined {
  const encoded = /^Basic +([A-Za-z0-9+/]+={0,2})$/i.exec(header ?? '')?.[1]
  if (encoded === undefined) return undefined
  const text = decodeBase64(encoded)
  const colon = text?.indexOf(':') ?? -1
  if (text === undefined || colon === -1) return undefined
  return { name: text.slice(0, colon), password: new Secret(text.slice(colon + 1)) }
}

function decodeBase64(text: string): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(Uint8Array.from(atob(text), (byte) => byte.charCodeAt(0)))
  } catch {
    return undefined // a name and a password that nobody can have
  }
}
