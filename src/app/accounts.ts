/** `slipway account`: the people who may sign in at a machine. */
import { OperationError } from '../base/errors.ts'
import type { Secret } from '../base/secret.ts'
import { accountName, checkPassword } from '../fleet/accounts.ts'
import { systemClock } from '../host/clock.ts'
import { scryptPasswords } from '../host/password.ts'
import { withFleet } from './admission.ts'

export type ListedAccount = { readonly name: string; readonly madeMs: number }

/** Before anybody is asked for a password. @throws {OperationError} usage, accountExists, accountUnknown */
export function checkAccount(stateDirectory: string, text: string, wanted: 'new' | 'known'): string {
  const name = accountName(text)
  if (name === undefined) {
    const hint = 'Use letters, digits, dots, dashes: ann, j.doe. At most 32.'
    throw new OperationError('usage', `${text} cannot be the name of an account`, hint)
  }
  const isKnown = withFleet(stateDirectory, (_, { account }) => account(name)) !== undefined
  if (wanted === 'new' && isKnown) {
    throw new OperationError(
      'accountExists',
      `there is an account ${name} already`,
      `Its password: slipway account password ${name}.`,
    )
  }
  if (wanted === 'known' && !isKnown) {
    throw new OperationError('accountUnknown', `there is no account ${name}`, 'slipway account list shows them.')
  }
  return name
}

/** A running server takes it from the next try on. @throws {OperationError} passwordUnfit; those of checkAccount */
export async function setPassword(
  stateDirectory: string,
  text: string,
  wanted: 'new' | 'known',
  password: Secret,
): Promise<void> {
  checkPassword(password)
  const kept = await scryptPasswords.hash(password)
  const name = checkAccount(stateDirectory, text, wanted)
  withFleet(stateDirectory, (_, { account, putAccount }) => {
    putAccount({ name, password: kept, madeMs: account(name)?.madeMs ?? systemClock.wallMs() })
  })
}

/** Boots that began with it end, and a running server ends their sessions. @throws {OperationError} those of checkAccount */
export function removeAccount(stateDirectory: string, text: string): string {
  const name = checkAccount(stateDirectory, text, 'known')
  withFleet(stateDirectory, (fleet, proofs) => {
    proofs.removeAccount(name)
    for (const { mac } of fleet.machines()) {
      fleet.releaseProvedBy(mac, (proof) => proof.kind === 'login' && proof.account === name)
    }
  })
  return name
}

export function listAccounts(stateDirectory: string): readonly ListedAccount[] {
  return withFleet(stateDirectory, (_, { accounts }) => accounts().map(({ name, madeMs }) => ({ name, madeMs })))
}
