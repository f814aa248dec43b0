/**
 * The text of a grub.cfg as statements (GRUB manual §6; grub-core/script/yylex.l and parser.y): as much of the language as menus
 * are written in. Who wrote it is a stranger: length and nesting are bounded.
 *
 *   statements := (statement (newline | ';'))*
 *   statement  := if statements then statements (elif ...)* (else ...)? fi
 *               | for word in word* do statements done | (while | until) statements do statements done
 *               | function word { statements } | word+ ('{' statements '}')?
 */
import { malformed } from './disk-error.ts'
import { grubNestingMax, grubTokenCountMax } from './limits.ts'

export type GrubPart =
  | { readonly kind: 'text'; readonly text: string; readonly isQuoted: boolean }
  | { readonly kind: 'variable'; readonly name: string; readonly isQuoted: boolean }

export type GrubWord = readonly GrubPart[]

export type GrubStatement =
  /** `body` of a menuentry or submenu. */
  | {
      readonly kind: 'command'
      readonly words: readonly GrubWord[]
      readonly body: readonly GrubStatement[] | undefined
    }
  | {
      readonly kind: 'if'
      readonly branches: readonly {
        readonly condition: readonly GrubStatement[]
        readonly body: readonly GrubStatement[]
      }[]
      readonly otherwise: readonly GrubStatement[]
    }
  | {
      readonly kind: 'for'
      readonly name: string
      readonly words: readonly GrubWord[]
      readonly body: readonly GrubStatement[]
    }
  /** No menu that anything makes has one: it is read, and not run. */
  | { readonly kind: 'loop' }
  | { readonly kind: 'function'; readonly name: string; readonly body: readonly GrubStatement[] }

type Token =
  | { readonly kind: 'word'; readonly word: GrubWord }
  | { readonly kind: 'end' }
  | { readonly kind: '{' | '}' }

/** @throws {DiskError} malformed */
export function parseGrub(text: string): readonly GrubStatement[] {
  const parser = new Parser(tokensOf(text))
  const statements = parser.statements([])
  if (!parser.isAtEnd) throw malformed('grub.cfg', 'something is closed that was not opened')
  return statements
}

/** What stands at `at` of `$name` or `${name}`: the name, and where it ends. A dollar alone is one. */
function variableAt(text: string, at: number): { readonly name: string; readonly end: number } | undefined {
  const pattern = /\$(?:\{([A-Za-z0-9_@?*#-]+)\}|([A-Za-z_][A-Za-z0-9_]*|[0-9?@*#]))/y
  pattern.lastIndex = at
  const match = pattern.exec(text)
  return match === null ? undefined : { name: match[1] ?? match[2] ?? '', end: pattern.lastIndex }
}

function tokensOf(text: string): Token[] {
  const tokens: Token[] = []
  let at = 0
  while (at < text.length) {
    if (tokens.length >= grubTokenCountMax) throw malformed('grub.cfg', `more than ${grubTokenCountMax} words`)
    const character = text.charAt(at)
    if (character === '\n' || character === ';') {
      tokens.push({ kind: 'end' })
      at++
    } else if (/\s/.test(character)) at++
    else if (character === '\\' && text.charAt(at + 1) === '\n') at += 2
    else if (character === '#') {
      const end = text.indexOf('\n', at)
      at = end === -1 ? text.length : end
    } else if ((character === '{' || character === '}') && /^[\s;]?$/.test(text.charAt(at + 1))) {
      tokens.push({ kind: character })
      at++
    } else {
      const { word, end } = wordAt(text, at)
      tokens.push({ kind: 'word', word })
      at = end
    }
  }
  return tokens
}

function wordAt(text: string, start: number): { readonly word: GrubWord; readonly end: number } {
  const word: GrubPart[] = []
  let plain = ''
  let at = start
  const flush = (): void => {
    if (plain !== '') word.push({ kind: 'text', text: plain, isQuoted: false })
    plain = ''
  }
  while (at < text.length && !/[\s;]/.test(text.charAt(at))) {
    const character = text.charAt(at)
    if (character === "'") {
      const end = text.indexOf("'", at + 1)
      if (end === -1) throw malformed('grub.cfg', 'a quotation without an end')
      flush()
      word.push({ kind: 'text', text: text.slice(at + 1, end), isQuoted: true })
      at = end + 1
    } else if (character === '"') {
      flush()
      at = quotedAt(text, at + 1, word)
    } else if (character === '\\') {
      // A backslash before the end of a line joins it to the next.
      if (text.charAt(at + 1) !== '\n') plain += text.charAt(at + 1)
      at += 2
    } else {
      const variable = character === '$' ? variableAt(text, at) : undefined
      if (variable === undefined) plain += character
      else {
        flush()
        word.push({ kind: 'variable', name: variable.name, isQuoted: false })
      }
      at = variable?.end ?? at + 1
    }
  }
  flush()
  return { word, end: at }
}

/** Inside double quotes: variables count, a backslash keeps a dollar, a quote or a backslash. Returns where it ended. */
function quotedAt(text: string, start: number, word: GrubPart[]): number {
  let plain = ''
  let at = start
  const flush = (): void => {
    word.push({ kind: 'text', text: plain, isQuoted: true })
    plain = ''
  }
  while (at < text.length) {
    const character = text.charAt(at)
    if (character === '"') {
      flush()
      return at + 1
    }
    const variable = character === '$' ? variableAt(text, at) : undefined
    if (variable !== undefined) {
      flush()
      word.push({ kind: 'variable', name: variable.name, isQuoted: true })
      at = variable.end
    } else if (character === '\\' && /[$"\\]/.test(text.charAt(at + 1))) {
      plain += text.charAt(at + 1)
      at += 2
    } else {
      plain += character
      at++
    }
  }
  throw malformed('grub.cfg', 'a quotation without an end')
}

class Parser {
  readonly #tokens: readonly Token[]
  #at = 0
  #depth = 0

  constructor(tokens: readonly Token[]) {
    this.#tokens = tokens
  }

  get isAtEnd(): boolean {
    return this.#at >= this.#tokens.length
  }

  /** Up to one of `ends`, which is left standing, or the end of the text. */
  statements(ends: readonly string[]): GrubStatement[] {
    if (++this.#depth > grubNestingMax) throw malformed('grub.cfg', `nested deeper than ${grubNestingMax}`)
    const found: GrubStatement[] = []
    while (!this.isAtEnd) {
      const token = this.#tokens[this.#at]
      if (token?.kind === 'end') {
        this.#at++
        continue
      }
      if (ends.includes(this.#keyword() ?? '')) break
      if (token?.kind === '}') break
      found.push(this.#statement())
    }
    this.#depth--
    return found
  }

  /** An unquoted word, or a brace. */
  #keyword(): string | undefined {
    const token = this.#tokens[this.#at]
    if (token?.kind !== 'word') return token?.kind
    const [part, ...more] = token.word
    return part?.kind === 'text' && !part.isQuoted && more.length === 0 ? part.text : undefined
  }

  #expect(keyword: string): void {
    if (this.#keyword() !== keyword) throw malformed('grub.cfg', `'${keyword}' is missing`)
    this.#at++
  }

  #block(open: string, close: string): GrubStatement[] {
    this.#expect(open)
    const body = this.statements([close])
    this.#expect(close)
    return body
  }

  #words(): GrubWord[] {
    const words: GrubWord[] = []
    for (let token = this.#tokens[this.#at]; token?.kind === 'word'; token = this.#tokens[this.#at]) {
      words.push(token.word)
      this.#at++
    }
    return words
  }

  #skipEnds(): void {
    while (this.#tokens[this.#at]?.kind === 'end') this.#at++
  }

  #statement(): GrubStatement {
    const keyword = this.#keyword()
    if (keyword === 'if') return this.#if()
    if (keyword === 'function') {
      this.#at++
      const name = this.#keyword() ?? ''
      this.#at++
      this.#skipEnds()
      return { kind: 'function', name, body: this.#block('{', '}') }
    }
    if (keyword === 'for') {
      this.#at++
      const name = this.#keyword() ?? ''
      this.#at++
      this.#expect('in')
      const words = this.#words()
      this.#skipEnds()
      return { kind: 'for', name, words, body: this.#block('do', 'done') }
    }
    if (keyword === 'while' || keyword === 'until') {
      this.#at++
      this.statements(['do'])
      this.#block('do', 'done')
      return { kind: 'loop' }
    }
    const words = this.#words()
    if (this.#tokens[this.#at]?.kind === '{') return { kind: 'command', words, body: this.#block('{', '}') }
    return { kind: 'command', words, body: undefined }
  }

  #if(): GrubStatement {
    const branches: { condition: GrubStatement[]; body: GrubStatement[] }[] = []
    let otherwise: GrubStatement[] = []
    do {
      this.#at++ // if, elif
      const condition = this.statements(['then'])
      this.#expect('then')
      branches.push({ condition, body: this.statements(['elif', 'else', 'fi']) })
    } while (this.#keyword() === 'elif')
    if (this.#keyword() === 'else') {
      this.#at++
      otherwise = this.statements(['fi'])
    }
    this.#expect('fi')
    return { kind: 'if', branches, otherwise }
  }
}
