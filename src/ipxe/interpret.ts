/**
 * Runs a script as iPXE does, without doing anything: what would touch the world comes out as an effect, and the caller
 * says how it went. iPXE src/core/exec.c, src/image/script.c; what differs between 2019 and 2026 is not used here.
 *
 *          ┌──────────── complete(result) ───────────┐
 *          ▼                                         │
 *   next() ──▶ effect (print, fetch, boot, sleep) ──▶ waiting
 *          └─▶ ended (exit, end of script, a command failed, too many commands)
 */
import { assert } from '../base/assert.ts'
import { commandsPerRunMax, expandedCharactersMax, expansionsPerWordMax, scriptDepthMax } from './limits.ts'
import { type Arguments, commandOptions, parseArguments } from './options.ts'
import { parse } from './parse.ts'
import { type Link, type Script, ScriptError, type Word } from './script.ts'

/** iPXE's error numbers as it prints them behind "https://ipxe.org/", in hexadecimal: the platform's part is left out. */
export const errorNumber = {
  usage: 0x1c000000,
  noSuchCommand: 0x2e000000,
  notExecutable: 0x2e000000,
  noSuchLabel: 0x2d000000,
  notSet: 0x2d000000,
  notEqual: 0x22000000,
  cancelled: 0x0b000000,
} as const

/** One thing the script wants done. */
export type Effect = {
  readonly command: string
  readonly options: ReadonlyMap<string, string>
  readonly operands: readonly string[]
}

export type Result = {
  /** 0: it worked. Otherwise iPXE's error number. */
  readonly status: number
  /** Settings that it changed: `choose` and `login` do, and `dhcp`. */
  readonly settings?: ReadonlyMap<string, string>
  /** What `chain`, `imgexec` or `boot` got, where it was a script: it runs next. */
  readonly script?: string
}

export type Step =
  | { readonly kind: 'effect'; readonly effect: Effect }
  /**
   * exit: the script said so. finished: its last line was done. failed: a line failed and nothing caught it, which ends
   * a script. runaway: the limit on commands was reached.
   */
  | { readonly kind: 'ended'; readonly how: 'exit' | 'finished' | 'failed' | 'runaway'; readonly status: number }

type Frame = {
  readonly script: Script
  /** The line that runs, or the next one when `linkIndex` is past its end. */
  lineIndex: number
  linkIndex: number
  lastStatus: number
}

export class Interpreter {
  readonly settings: Map<string, string>
  readonly #frames: Frame[] = []
  #commandCount = 0
  #waiting: Effect | undefined
  #ended: Extract<Step, { kind: 'ended' }> | undefined
  /** The last error, which ${errno} reads. */
  #errno = 0

  /** `settings` is what the machine knows before the script: 'mac', 'ip', 'filename', 'platform'. */
  constructor(script: Script, settings: ReadonlyMap<string, string>) {
    this.settings = new Map(settings)
    this.#push(script)
  }

  /** The next thing to do, after everything that needs nobody was done. Not while an effect waits for `complete`. */
  next(): Step {
    assert(this.#waiting === undefined, 'an effect waits for its result')
    while (this.#ended === undefined) {
      const effect = this.#advance()
      if (effect === undefined) continue
      this.#waiting = effect
      return { kind: 'effect', effect }
    }
    return this.#ended
  }

  complete(result: Result): void {
    const effect = this.#waiting
    assert(effect !== undefined, 'a result belongs to an effect')
    this.#waiting = undefined
    for (const [name, value] of result.settings ?? []) this.settings.set(name, value)
    if (result.status !== 0 || result.script === undefined) {
      this.#settle(result.status)
      return
    }
    const chained = parsed(result.script)
    if (chained === undefined) {
      this.#settle(errorNumber.notExecutable)
      return
    }
    if (effect.options.has('replace')) this.#frames.pop()
    if (this.#frames.length >= scriptDepthMax) this.#end('runaway', errorNumber.usage)
    else this.#push(chained)
  }

  #push(script: Script): void {
    this.#frames.push({ script, lineIndex: 0, linkIndex: 0, lastStatus: 0 })
  }

  /** Runs one command, or moves to the next line. Returns an effect if that command needs the world. */
  #advance(): Effect | undefined {
    const frame = this.#frames.at(-1)
    assert(frame !== undefined, 'a run that has not ended has a script')
    const line = frame.script[frame.lineIndex]
    if (line === undefined) {
      this.#leave(0, 'finished')
      return undefined
    }
    const link = line.kind === 'commands' ? line.links[frame.linkIndex] : undefined
    if (link === undefined) {
      // The line is over, and with it the script if what ran last in it failed.
      if (frame.lastStatus !== 0) this.#leave(frame.lastStatus, 'failed')
      frame.lineIndex++
      frame.linkIndex = 0
      frame.lastStatus = 0
      return undefined
    }
    frame.linkIndex++
    if (!runs(link, frame.lastStatus)) return undefined
    if (++this.#commandCount > commandsPerRunMax) {
      this.#end('runaway', errorNumber.usage)
      return undefined
    }
    return this.#execute(link.command)
  }

  #execute(command: readonly Word[]): Effect | undefined {
    const [name, ...argv] = command.map((word) => this.expand(sourceOf(word)))
    if (name === undefined) {
      this.#settle(0)
      return undefined
    }
    const table = Object.hasOwn(commandOptions, name) ? commandOptions[name] : undefined
    if (table === undefined) {
      this.#settle(errorNumber.noSuchCommand)
      return undefined
    }
    const given = parseArguments(table, argv)
    if (given === undefined) {
      this.#settle(errorNumber.usage)
      return undefined
    }
    return this.#builtin(name, given) ? undefined : { command: name, ...given }
  }

  /** What changes nothing outside the interpreter. False: it is an effect. */
  #builtin(name: string, { operands }: Arguments): boolean {
    const [first, second] = operands
    switch (name) {
      case 'set':
        if (first === undefined) this.#settle(errorNumber.usage)
        else {
          this.settings.set(untyped(first), operands.slice(1).join(' '))
          this.#settle(0)
        }
        return true
      case 'clear':
        this.settings.delete(untyped(first ?? ''))
        this.#settle(first === undefined ? errorNumber.usage : 0)
        return true
      case 'inc':
        this.settings.set(first ?? '', String(Number(this.settings.get(first ?? '') ?? 0) + Number(second ?? 1)))
        this.#settle(first === undefined ? errorNumber.usage : 0)
        return true
      case 'isset':
        if (operands.length !== 1) this.#settle(errorNumber.usage)
        else this.#settle(first === '' ? errorNumber.notSet : 0)
        return true
      case 'iseq':
        if (operands.length !== 2) this.#settle(errorNumber.usage)
        else this.#settle(first === second ? 0 : errorNumber.notEqual)
        return true
      case 'goto':
        this.#goto(first)
        return true
      case 'exit': {
        const status = Number(first ?? 0)
        if (Number.isInteger(status)) this.#leave(status, 'exit')
        else this.#settle(errorNumber.usage)
        return true
      }
      default:
        return false
    }
  }

  /** goto_exec: the first such label of the script; the rest of the line is not run. */
  #goto(label: string | undefined): void {
    const frame = this.#frames.at(-1)
    const target = frame?.script.findIndex((line) => line.kind === 'commands' && line.label === label) ?? -1
    if (frame === undefined || label === undefined || target === -1) {
      this.#settle(errorNumber.noSuchLabel)
      return
    }
    frame.lineIndex = target
    frame.linkIndex = 0
    frame.lastStatus = 0
  }

  /** The script that runs is over; the one that chained it goes on with its status. */
  #leave(status: number, how: 'exit' | 'finished' | 'failed'): void {
    this.#frames.pop()
    if (this.#frames.length === 0) this.#end(how, status)
    else this.#settle(status)
  }

  #end(how: Extract<Step, { kind: 'ended' }>['how'], status: number): void {
    this.#ended = { kind: 'ended', how, status }
  }

  #settle(status: number): void {
    const frame = this.#frames.at(-1)
    if (frame !== undefined) frame.lastStatus = status
    if (status !== 0) this.#errno = status
  }

  /**
   * expand_settings: the innermost "${...}" from the left becomes its value, until none is left; values are looked at again.
   * A setting that is not there is nothing.
   */
  expand(text: string): string {
    let expanded = text
    for (let count = 0; count < expansionsPerWordMax && expanded.length <= expandedCharactersMax; count++) {
      const close = closingBrace(expanded)
      if (close === undefined) return expanded
      const open = expanded.lastIndexOf('${', close)
      const value = this.#valueOf(expanded.slice(open + 2, close))
      expanded = expanded.slice(0, open) + value + expanded.slice(close + 1)
    }
    return expanded.slice(0, expandedCharactersMax)
  }

  #valueOf(name: string): string {
    const colon = name.indexOf(':')
    const type = colon === -1 ? '' : name.slice(colon + 1)
    const plainName = colon === -1 ? name : name.slice(0, colon)
    if (plainName === 'errno') {
      const hex = this.#errno.toString(16).padStart(8, '0')
      return type === 'hexraw' ? hex : type === 'hex' ? hex.replaceAll(/(..)(?=.)/g, '$1:') : `0x${hex}`
    }
    const value = this.settings.get(plainName) ?? ''
    if (type === 'hexhyp') return value.replaceAll(':', '-')
    if (type === 'hexraw') return value.replaceAll(':', '')
    return type === 'uristring' ? encodeURIComponent(value) : value
  }
}

function parsed(text: string): Script | undefined {
  try {
    return parse(text)
  } catch (error) {
    if (error instanceof ScriptError) return undefined
    throw error
  }
}

function runs(link: Link, lastStatus: number): boolean {
  if (link.when === 'always') return true
  return link.when === 'success' ? lastStatus === 0 : lastStatus !== 0
}

/** The first "}" that has a "${" before it. */
function closingBrace(text: string): number | undefined {
  const open = text.indexOf('${')
  if (open === -1) return undefined
  const close = text.indexOf('}', open)
  return close === -1 ? undefined : close
}

/** 'username:string' is stored as 'username'. */
const untyped = (name: string): string => name.split(':', 1)[0] ?? name

function sourceOf(word: Word): string {
  return word
    .map((part) => {
      if (part.kind === 'setting') return `\${${part.name}}`
      return part.kind === 'text' ? part.text : part.secret.reveal()
    })
    .join('')
}
