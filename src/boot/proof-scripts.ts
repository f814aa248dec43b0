/** The scripts by which a machine proves itself: with the certificate in its iPXE, or by a person who signs in. */
import type { Mac } from '../base/address.ts'
import {
  and,
  blank,
  chainReplace,
  clear,
  comment,
  echo,
  exit,
  goto,
  isset,
  label,
  line,
  login,
  or,
  plain,
  set,
  setting,
  sleep,
  whatever,
  word,
} from '../ipxe/command.ts'
import type { Line, Script } from '../ipxe/script.ts'
import { refusalSeconds, signInRetrySeconds } from './limits.ts'
import { uriWord } from './scripts.ts'

/** Sends the machine to the port that asks for its certificate. An iPXE of 2019 that has none hangs up there, and comes back. */
export function proveScript(facts: { readonly mac: Mac; readonly proofUrl: string }): Script {
  return [
    comment(`Slipway: ${plain(facts.mac)} is asked for its certificate`),
    line(chainReplace(uriWord(facts.proofUrl)), and(exit(1)), whatever),
    line(set('slipway-error', setting('errno:hexraw'))),
    line(echo('')),
    line(echo('Slipway: this machine must prove itself by a certificate in its iPXE.')),
    line(echo('It has none, or could not show it:', word('https://ipxe.org/', setting('slipway-error')))),
    line(echo('On the server, type: slipway certificate issue', plain(facts.mac))),
    line(sleep(String(refusalSeconds)), whatever),
    line(exit(1)),
  ]
}

export type SignInScriptFacts = {
  readonly mac: Mac
  /** The script's own URL, with what was typed in it: addresses.ts. */
  readonly signInUrl: string
  /** What became of the try before; undefined: there was none. */
  readonly before: SignInTrouble | undefined
}

/** wrong: name or password. slowed: nobody looked at them; the next try counts after so many seconds. */
export type SignInTrouble = { readonly kind: 'wrong' } | { readonly kind: 'slowed'; readonly waitSeconds: number }

/**
 * Asks for a name and a password, and for the machine's script with them. iPXE keeps both as the settings that also name the
 * CHAP user: they are cleared before anybody can type, and after each try, so that none of it reaches the disk's login.
 */
export function signInScript({ mac, signInUrl, before }: SignInScriptFacts): Script {
  return [
    comment(`Slipway: ${plain(mac)} waits for somebody to sign in`),
    ...forgetTyped,
    line(echo('')),
    ...trouble(before),
    line(echo('Slipway: this machine boots when somebody has signed in. Ctrl-C goes on without.')),
    line(sleep('2'), or(goto('stopped'))),
    blank,
    label('ask'),
    line(login, or(goto('stopped'))),
    line(isset(setting('username')), or(goto('ask'))),
    line(chainReplace(uriWord(signInUrl)), and(goto('stopped')), whatever),
    line(set('slipway-error', setting('errno:hexraw'))),
    ...forgetTyped,
    line(echo('Slipway did not answer:', word('https://ipxe.org/', setting('slipway-error')))),
    line(sleep(String(signInRetrySeconds)), or(goto('stopped'))),
    line(goto('ask')),
    blank,
    label('stopped'),
    ...forgetTyped,
    line(echo('Slipway: nobody signed in; the firmware goes on.')),
    line(exit(1)),
  ]
}

/** For every script that follows a sign-in. Nobody but the person who typed it should have it in memory. */
export const forgetTyped: readonly Line[] = [line(clear('username'), whatever), line(clear('password'), whatever)]

function trouble(before: SignInTrouble | undefined): Line[] {
  switch (before?.kind) {
    case undefined:
      return []
    case 'wrong':
      return [line(echo('Slipway: the name or the password is not right.'))]
    case 'slowed':
      return [
        line(echo(`Slipway: too many wrong tries. The next one is in ${before.waitSeconds} seconds.`)),
        line(sleep(String(before.waitSeconds)), or(goto('stopped'))),
      ]
  }
}
