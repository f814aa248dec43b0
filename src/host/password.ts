/** Passwords by scrypt (RFC 7914). */
import { randomBytes, scrypt, timingSafeEqual } from 'node:crypto'
import { Secret } from '../base/secret.ts'
import type { PasswordHash } from '../ports/password.ts'

/** OWASP's smallest for scrypt with this block size: 32 MiB and a tenth of a second for each try. */
const cost = { N: 2 ** 15, r: 8, p: 3 }
const saltBytes = 16
const hashBytes = 32
/** What a line that somebody else wrote may make us spend. */
const costMax = { N: 2 ** 18, r: 16, p: 16 }

export const scryptPasswords: PasswordHash = {
  hash: async (password) => {
    const salt = randomBytes(saltBytes)
    const { N, r, p } = cost
    const hash = await derive(password, salt, cost)
    return new Secret(['scrypt', N, r, p, salt.toString('base64'), hash.toString('base64')].join('$'))
  },
  verify: async (password, kept) => {
    const [scheme, ...fields] = kept.reveal().split('$')
    const [N = 0, r = 0, p = 0] = fields.slice(0, 3).map(Number)
    const [salt, hash] = fields.slice(3).map((field) => Buffer.from(field, 'base64'))
    if (scheme !== 'scrypt' || salt === undefined || hash?.byteLength !== hashBytes) return false
    if (!(N > 1 && N <= costMax.N && r > 0 && r <= costMax.r && p > 0 && p <= costMax.p)) return false
    return timingSafeEqual(await derive(password, salt, { N, r, p }), hash)
  },
}

type Cost = { readonly N: number; readonly r: number; readonly p: number }

function derive(password: Secret, salt: Uint8Array, { N, r, p }: Cost): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    // Node's own bound, 32 MiB, is a little short of what these need: 128 * N * r, and a little.
    scrypt(password.reveal(), salt, hashBytes, { N, r, p, maxmem: 256 * N * r }, (error, key) => {
      if (error === null) resolve(key)
      else reject(error)
    })
  })
}
