/** The certificate of somebody's authority, as a person names its file. */
import { X509Certificate } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { OperationError } from '../base/errors.ts'
import { describeOpen } from './file.ts'
import type { Authority } from './http-get.ts'

/** One authority with what it was signed by, and not the hundred of a system's bundle: it is kept beside each image. */
const authorityBytesMax = 8 * 1024

/** Its certificates and nothing else. @throws {OperationError} fileMissing, fileForbidden, authorityInvalid */
export async function readAuthority(path: string): Promise<Authority> {
  const text = await readFile(path, 'latin1').catch((error: unknown) => {
    throw describeOpen(path, error)
  })
  const blocks = text.match(/-----BEGIN CERTIFICATE-----[\s\S]*?-----END CERTIFICATE-----/g) ?? []
  const authority = blocks.map((block) => `${block}\n`).join('')
  const hint = 'Give its certificate in PEM (-----BEGIN CERTIFICATE-----), as openssl and slipway ca export write it.'
  if (blocks.length === 0) throw new OperationError('authorityInvalid', `${path} holds no certificate`, hint)
  if (authority.length > authorityBytesMax) {
    const next = 'Name a file that holds only the one that signed the certificate of the server.'
    throw new OperationError('authorityInvalid', `${path} holds ${blocks.length} certificates`, next)
  }
  for (const block of blocks) {
    if (isAuthority(block, path, hint)) continue
    const next = 'Name the certificate of the authority that signed it, or a self-signed one.'
    throw new OperationError('authorityInvalid', `${path} is the certificate of a server, not of an authority`, next)
  }
  return authority
}

/** For people. */
export function nameOfAuthority(authority: Authority): string {
  const { subject, fingerprint256 } = new X509Certificate(authority)
  return `${subject.replaceAll('\n', ', ')} (SHA-256 ${fingerprint256.replaceAll(':', '').toLowerCase().slice(0, 16)}...)`
}

function isAuthority(block: string, path: string, hint: string): boolean {
  try {
    const { ca, issuer, subject } = new X509Certificate(block)
    return ca || issuer === subject
  } catch (error) {
    throw new OperationError('authorityInvalid', `${path} holds a certificate that is damaged`, hint, { cause: error })
  }
}
