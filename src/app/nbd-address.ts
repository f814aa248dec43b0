/** Addresses of NBD servers, for whoever reads the command line: loads no client. */
import { isNbdUri, parseNbdUri } from '../nbd/uri.ts'

export { isNbdUri }

/** @throws {OperationError} usage */
export function nameOfExport(uri: string): string {
  return parseNbdUri(uri).exportName
}
