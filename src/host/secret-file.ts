import { readFile, stat } from 'node:fs/promises'
import { OperationError } from '../base/errors.ts'
import { Secret } from '../base/secret.ts'
import { describeOpen } from './file.ts'

/** A secret is a line, not a file of data. */
const secretBytesMax = 4_096

/** The file's first line, long enough for CHAP. @throws {OperationError} fileMissing, fileForbidden, secretUnfit, secretExposed */
export async function readSecretFile(path: string): Promise<Secret> {
  const secret = await readSecretLine(path)
  // RFC 7143 §9.2.1: 96 bits at least where the connection is not encrypted.
  if (secret.reveal().length >= 12) return secret
  const hint = `Make one: openssl rand -base64 18 > ${path}.`
  throw new OperationError('secretUnfit', `the secret in ${path} is shorter than 12 characters`, hint)
}

/** The file's first line, whatever it is. @throws {OperationError} fileMissing, fileForbidden, secretUnfit, secretExposed */
export async function readSecretLine(path: string): Promise<Secret> {
  try {
    const { mode, size } = await stat(path)
    if ((mode & 0o077) !== 0) {
      throw new OperationError('secretExposed', `${path} can be read by others`, `Take that away: chmod 600 ${path}.`)
    }
    if (size > secretBytesMax) {
      throw new OperationError('secretUnfit', `${path} is no secret: too long`, 'Put the secret alone into the file.')
    }
    return firstLine(await readFile(path, 'utf8'))
  } catch (error) {
    throw describeOpen(path, error)
  }
}

/** The first line that comes in, from a pipe. @throws {OperationError} secretUnfit */
export async function readSecretInput(input: AsyncIterable<unknown>): Promise<Secret> {
  let text = ''
  for await (const chunk of input) {
    text += String(chunk)
    if (text.includes('\n') || text.length > secretBytesMax) break
  }
  if (text.length <= secretBytesMax) return firstLine(text)
  throw new OperationError('secretUnfit', 'what came on standard input is no secret: too long', 'Give it one line.')
}

function firstLine(text: string): Secret {
  return new Secret(text.split(/\r?\n/, 1)[0] ?? '')
}
