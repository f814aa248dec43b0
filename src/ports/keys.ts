import type { Secret } from '../base/secret.ts'

/** RSA for what is old: iPXE of 2019 knows nothing else. P-256 for what is not. */
export type KeyKind = 'rsa3072' | 'rsa2048' | 'p256'

/** Key pairs, made and used outside: no room holds the numbers of a private key. */
export interface Keys {
  generate(kind: KeyKind): Promise<PrivateKey>
  /** A PEM private key, unencrypted: PKCS #8, or OpenSSL's older forms. @throws {OperationError} keyUnreadable */
  read(pem: Secret): PrivateKey
  /** Whether `signature` over `bytes` is by the owner of `publicKey` (SubjectPublicKeyInfo, DER). */
  verify(publicKey: Uint8Array, signed: SignedBytes): boolean
}

export type SignatureHash = 'sha256' | 'sha384' | 'sha512'

export type SignedBytes = {
  readonly bytes: Uint8Array
  readonly signature: Uint8Array
  readonly hash: SignatureHash
}

export interface PrivateKey {
  readonly algorithm: 'rsa' | 'ec'
  /** SubjectPublicKeyInfo (RFC 5280 §4.1.2.7), DER. */
  readonly publicKey: Uint8Array
  /** With SHA-256: RSASSA-PKCS1-v1_5 (RFC 8017 §8.2), or ECDSA as DER (RFC 3279 §2.2.3). */
  sign(bytes: Uint8Array): Uint8Array
  /** PKCS #8, PEM. */
  exportPem(): Secret
}
