import type { Secret } from '../base/secret.ts'

/** Passwords as they are kept: slow to try, each with a salt of its own. */
export interface PasswordHash {
  /** One line of text, with everything in it that `verify` needs. */
  hash(password: Secret): Promise<Secret>
  /** Takes as long whatever the outcome. False too when `kept` is nothing that `hash` made. */
  verify(password: Secret, kept: Secret): Promise<boolean>
}
