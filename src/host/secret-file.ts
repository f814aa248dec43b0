import { readFile, stat } from 'node:fs/promises'
import { OperationError } from '../base/errors.ts'
import { Secret } from '../base/secret.ts'
import { describeOpen } from './file.ts'

/** A secret is a line, not a file of data. */
const secretBytesMax = 4_096

/** The file's first line. @throws {OperationError} fileMissing, fileForbidden, secretUnfit, secretExposed */
export async function readSecretFile(path: string): Promise<Secret> {
  let text: string
  try {
    const { mode, size } = await stat(path)
    if ((mode & 0o077) !== 0) {
      throw new OperationError('secretExposed', `${path} can be read by others`, `Take that away: chmod 600 ${path}.`)
    }
    if (size > secretBytesMax) {
      throw new OperationError('secretUnfit', `${path} is no secret: too long`, 'Put the secret alone into the file.')
    }
    text = await readFile(path, 'utf8')
  } catch (error) {
    throw describeOpen(path, error)
  }
  const secret = text.split(/\r?\n/, 1)[0] ?? ''
  // RFC 7143 §9.2.1: 96 bits at least where the connection is not encrypted.
  if (secret.length >= 12) return new Secret(secret)
  const hint = `Make one: openssl rand -base64 18 > ${path}.`
  throw new OperationError('secretUnfit', `the secret in ${path} is shorter than 12 characters`, hint)
}
