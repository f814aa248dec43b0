import { readFile, stat } from 'node:fs/promises'
import { OperationError } from '../base/errors.ts'
import { describeOpen } from './file.ts'

/** A small text file, whole. @throws {OperationError} fileMissing, fileForbidden, fileTooLarge */
export async function readTextFile(path: string, bytesMax: number): Promise<string> {
  try {
    if ((await stat(path)).size <= bytesMax) return await readFile(path, 'utf8')
  } catch (error) {
    throw describeOpen(path, error)
  }
  throw new OperationError('fileTooLarge', `${path} is larger than such a file can be`, 'Check the path.')
}
