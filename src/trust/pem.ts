/** PEM (RFC 7468): DER in base64 between two lines. */
import { OperationError } from '../base/errors.ts'
import { pemBytesMax } from './limits.ts'

export function encodePem(label: string, der: Uint8Array): string {
  let binary = ''
  for (const byte of der) binary += String.fromCharCode(byte)
  const lines = btoa(binary).match(/.{1,64}/g) ?? []
  return `-----BEGIN ${label}-----\n${lines.join('\n')}\n-----END ${label}-----\n`
}

/** Every block with that label, in order. What is around them is left alone. @throws {OperationError} certificateUnreadable */
export function decodePem(label: string, text: string): Uint8Array[] {
  if (text.length > pemBytesMax) throw unreadable(`a file of ${text.length} bytes`)
  const begin = `-----BEGIN ${label}-----`
  const end = `-----END ${label}-----`
  return text
    .split(begin)
    .slice(1)
    .map((part) => {
      const stop = part.indexOf(end)
      const body = part.slice(0, stop).replaceAll(/\s/g, '')
      if (stop === -1 || body === '' || !/^[A-Za-z0-9+/]+={0,2}$/.test(body) || body.length % 4 !== 0) {
        throw unreadable(`a ${label} that is cut short or is no base64`)
      }
      return Uint8Array.from(atob(body), (character) => character.charCodeAt(0))
    })
}

export function unreadable(what: string): OperationError {
  return new OperationError(
    'certificateUnreadable',
    `this is no certificate that can be used: ${what}`,
    'Look at it with openssl x509 -in FILE -noout -text, and give one in PEM: -----BEGIN CERTIFICATE-----.',
  )
}
