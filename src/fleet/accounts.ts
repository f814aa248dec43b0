/** The people who may sign in at a machine. */
import { OperationError } from '../base/errors.ts'
import type { Secret } from '../base/secret.ts'
import { accountNameCharactersMax, passwordCharactersMax, passwordCharactersMin } from './limits.ts'

export type Account = {
  readonly name: string
  /** Not the password: what `PasswordHash` made of it. */
  readonly password: Secret
  readonly madeMs: number
}

export interface AccountStore {
  /** By name. */
  accounts(): readonly Account[]
  account(name: string): Account | undefined
  /** Kept past kill -9 when it returns. @throws {OperationError} */
  putAccount(account: Account): void
  removeAccount(name: string): void
}

/** What can be an account's name, in its one form; undefined if it is none. */
export function accountName(text: string): string | undefined {
  const name = text.toLowerCase()
  return name.length <= accountNameCharactersMax && /^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$/.test(name) ? name : undefined
}

/** Whether a person can type it at iPXE's `login`. @throws {OperationError} passwordUnfit, without the password */
export function checkPassword(password: Secret): void {
  const text = password.reveal()
  if (text.length < passwordCharactersMin) {
    throw unfit(`is shorter than ${passwordCharactersMin} characters`, 'Choose a longer one: a few words do well.')
  }
  if (text.length > passwordCharactersMax) {
    throw unfit(`is longer than the ${passwordCharactersMax} characters that iPXE takes`, 'Choose a shorter one.')
  }
  if (!/^[\x20-\x7e]*$/.test(text)) {
    throw unfit('has a character that iPXE has no key for', 'Use what is on an English keyboard.')
  }
  // iPXE would look for a setting of that name (src/core/exec.c, expand_settings).
  if (text.includes('${')) throw unfit('has ${ in it, which iPXE takes for a setting', 'Leave one of the two out.')
}

function unfit(why: string, hint: string): OperationError {
  return new OperationError('passwordUnfit', `the password ${why}`, hint)
}
