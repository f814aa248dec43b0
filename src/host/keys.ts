import {
  createPrivateKey,
  createPublicKey,
  generateKeyPair,
  type KeyObject,
  sign as signBytes,
  verify as verifyBytes,
} from 'node:crypto'
import { promisify } from 'node:util'
import { OperationError } from '../base/errors.ts'
import { Secret } from '../base/secret.ts'
import type { Keys, PrivateKey } from '../ports/keys.ts'

const generatePair = promisify(generateKeyPair)

/** Key pairs by Node's OpenSSL. */
export const systemKeys: Keys = {
  generate: async (kind) => {
    const pair =
      kind === 'p256'
        ? await generatePair('ec', { namedCurve: 'P-256' })
        : await generatePair('rsa', { modulusLength: kind === 'rsa2048' ? 2048 : 3072, publicExponent: 0x10001 })
    return wrap(pair.privateKey)
  },
  read: (pem) => {
    const text = pem.reveal()
    if (/^-----BEGIN ENCRYPTED PRIVATE KEY|^Proc-Type: 4,ENCRYPTED/m.test(text)) {
      const hint = 'Take its password off: openssl pkey -in KEY -out PLAIN-KEY (and keep that safe).'
      throw new OperationError('keyUnreadable', 'the private key is encrypted', hint)
    }
    let key: KeyObject
    try {
      key = createPrivateKey(text)
    } catch {
      // OpenSSL's reason may quote what it read; it is left out.
      const hint = 'Give a PEM file that begins with -----BEGIN PRIVATE KEY-----.'
      throw new OperationError('keyUnreadable', 'there is no private key in that file', hint)
    }
    return wrap(key)
  },
  verify: (publicKey, { bytes, signature, hash }) => {
    try {
      const key = createPublicKey({ key: Buffer.from(publicKey), format: 'der', type: 'spki' })
      return verifyBytes(hash, bytes, key, signature)
    } catch {
      return false // a key of a kind that cannot verify anything
    }
  },
}

function wrap(key: KeyObject): PrivateKey {
  const type = key.asymmetricKeyType
  if (type !== 'rsa' && type !== 'ec') {
    const hint =
      'iPXE and UEFI know RSA and, newer ones, P-256: openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072.'
    throw new OperationError('keyUnreadable', `a key of the kind ${type ?? 'unknown'}`, hint)
  }
  return {
    algorithm: type,
    publicKey: new Uint8Array(createPublicKey(key).export({ format: 'der', type: 'spki' })),
    sign: (bytes) => new Uint8Array(signBytes('sha256', bytes, key)),
    exportPem: () => new Secret(key.export({ format: 'pem', type: 'pkcs8' }).toString()),
  }
}
