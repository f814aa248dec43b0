export type HashAlgorithm = 'md5' | 'sha1' | 'sha256' | 'sha3-256'

export interface Hash {
  /** The digest of the parts, one after the other. */
  digest(algorithm: HashAlgorithm, parts: readonly Uint8Array[]): Uint8Array
}
