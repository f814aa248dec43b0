/**
 * A script as data. iPXE src/image/script.c and src/core/exec.c, in BNF:
 *
 *   script   := "#!ipxe" newline line*
 *   line     := comment | [":" label] [command (operator command)*]
 *   operator := "||" | "&&" | ";"          -- words by themselves
 *   command  := word*                      -- none at all is a command too, and succeeds: "sanboot ... ||"
 *   word     := (text | "${" name "}")+    -- no white space, no quotes
 */
import type { Secret } from '../base/secret.ts'

export type Script = readonly Line[]

export type Line =
  | { readonly kind: 'blank' }
  | { readonly kind: 'comment'; readonly text: string }
  | { readonly kind: 'commands'; readonly label: string | undefined; readonly links: readonly Link[] }

/** One command and when it runs; the first of a line has `always`. */
export type Link = {
  /** always: ";". success: "&&". failure: "||". Judged by the last command that ran. */
  readonly when: 'always' | 'success' | 'failure'
  readonly command: Command
}

/** The first word is the command's name. Empty: does nothing, successfully. */
export type Command = readonly Word[]

export type Word = readonly Part[]

export type Part =
  | { readonly kind: 'text'; readonly text: string }
  /** 'mac:hexhyp' for ${mac:hexhyp}. */
  | { readonly kind: 'setting'; readonly name: string }
  /** Text that must not be seen anywhere but on the wire to the machine; printed by `print`, hidden by everything else. */
  | { readonly kind: 'secret'; readonly secret: Secret }

/** A script that iPXE could not run as it is written, or that is too big. */
export class ScriptError extends Error {
  override readonly name: string = 'ScriptError'
  readonly code: ScriptErrorCode
  /** Counted from 1. */
  readonly line: number

  constructor(code: ScriptErrorCode, line: number, message: string) {
    super(`line ${line}: ${message}`)
    this.code = code
    this.line = line
  }
}

export type ScriptErrorCode = 'noMagic' | 'tooLong' | 'nestedSetting' | 'badCharacter'

/** What may stand between "${" and "}": 'net0/ip', 'mac:hexhyp', '175.8:hex'. */
export function isSettingName(name: string): boolean {
  return /^[A-Za-z0-9_.:/-]*$/.test(name)
}

/** What may be a label, and a word of its own in `goto`. */
export function isLabel(name: string): boolean {
  return /^[A-Za-z0-9_][A-Za-z0-9_.-]*$/.test(name)
}
