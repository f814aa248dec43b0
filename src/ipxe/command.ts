/** The commands that our scripts use: https://ipxe.org/cmd. Each makes one command; `line` strings them together. */
import { assert } from '../base/assert.ts'
import type { Secret } from '../base/secret.ts'
import { foreignCharactersMax } from './limits.ts'
import type { Command, Line, Link, Part, Word } from './script.ts'

/** Something to put into a word: text of ours, a setting, a secret. */
export type Piece = string | Part

export const setting = (name: string): Part => ({ kind: 'setting', name })
export const secret = (value: Secret): Part => ({ kind: 'secret', secret: value })

/** One word of several pieces. */
export function word(...pieces: readonly Piece[]): Word {
  const parts: Part[] = []
  for (const piece of pieces) {
    const part = typeof piece === 'string' ? ({ kind: 'text', text: piece } as const) : piece
    const last = parts.at(-1)
    if (part.kind === 'text' && last?.kind === 'text') {
      parts[parts.length - 1] = { kind: 'text', text: last.text + part.text }
    } else parts.push(part)
  }
  return parts
}

/**
 * What somebody else chose (a host name, a serial number), made fit to stand in one word: whatever the language has no way
 * to say becomes a question mark.
 */
export function plain(text: string): string {
  const said = text.replaceAll(/[^A-Za-z0-9_.:@/+=,()-]/g, '?').slice(0, foreignCharactersMax)
  return said === '' ? '?' : said
}

/** The same for `echo`, which may keep the spaces. */
export function plainText(text: string): string {
  const words = text.slice(0, foreignCharactersMax).split(' ')
  return words.flatMap((part) => (part === '' ? [] : [plain(part)])).join(' ') || '?'
}

/** A line on the screen. Text of ours is cut at its spaces; a setting, or what `word` made, is one word. */
export function echo(...said: readonly (Piece | Word)[]): Command {
  const words = said.flatMap((piece) => {
    if (typeof piece === 'string') return piece.split(' ').flatMap((part) => (part === '' ? [] : [word(part)]))
    return ['kind' in piece ? [piece] : piece]
  })
  const first = words[0]?.[0]
  // iPXE's getopt would take it for an option.
  assert(first?.kind !== 'text' || !first.text.startsWith('-'), 'a line on the screen does not begin with a dash')
  return [word('echo'), ...words]
}

export function set(name: string, ...pieces: readonly Piece[]): Command {
  return [word('set'), word(name), word(...pieces)]
}

export const clear = (name: string): Command => [word('clear'), word(name)]
export const goto = (label: Piece): Command => [word('goto'), word(label)]
export const exit = (status = 0): Command => (status === 0 ? [word('exit')] : [word('exit'), word(String(status))])
/** Lets a person type `username` and `password`. Fails when cancelled. */
export const login: Command = [word('login')]
export const sleep = (seconds: Piece): Command => [word('sleep'), word(seconds)]
export const iseq = (a: Piece, b: Piece): Command => [word('iseq'), word(a), word(b)]
export const isset = (value: Piece): Command => [word('isset'), word(value)]
export const sanboot = (uri: Word): Command => [word('sanboot'), uri]
/** Boots without telling the operating system where its disk is (no iBFT). */
export const sanbootUndescribed = (uri: Word): Command => [word('sanboot'), word('--no-describe'), uri]
/** On a VLAN, the name of the new interface is the trunk's with the tag behind a dash. */
export const vcreate = (tag: number, trunk: Piece): Command => [
  word('vcreate'),
  word('--tag'),
  word(String(tag)),
  word(trunk),
]
export const ifopen = (name: Piece): Command => [word('ifopen'), word(name)]
export const imgfree = (name: string): Command => [word('imgfree'), word(name)]

/** Fetches `uri` and goes on with it instead of this script; frees it when it has ended. */
export const chainReplace = (uri: Word): Command => [word('chain'), word('--replace'), word('--autofree'), uri]

export function imgfetch(uri: Word, options: { readonly name: string; readonly timeoutMs: number }): Command {
  const { name, timeoutMs } = options
  return [word('imgfetch'), word('--name'), word(name), word('--timeout'), word(String(timeoutMs)), uri]
}

/** The kernel that `boot` starts; what follows its address is its command line. */
export function kernel(name: string, uri: Word, commandLine: readonly Word[]): Command {
  return [word('kernel'), word('--name'), word(name), uri, ...commandLine]
}
export const initrd = (name: string, uri: Word): Command => [word('initrd'), word('--name'), word(name), uri]
export const boot: Command = [word('boot')]
/** Of all images but the script that runs. */
export const imgfreeAll: Command = [word('imgfree')]

export const nothing: Command = []

export const blank: Line = { kind: 'blank' }
export const comment = (text: string): Line => ({ kind: 'comment', text })
export const label = (name: string): Line => ({ kind: 'commands', label: name, links: [] })

/** `line(a, and(b), or(c))` is "a && b || c". */
export function line(first: Command, ...rest: readonly Link[]): Line {
  return { kind: 'commands', label: undefined, links: [{ when: 'always', command: first }, ...rest] }
}

export const and = (command: Command): Link => ({ when: 'success', command })
export const or = (command: Command): Link => ({ when: 'failure', command })
/** "... ||": whatever happens, the script goes on. */
export const whatever: Link = or(nothing)
