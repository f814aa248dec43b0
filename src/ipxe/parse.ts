/** Text to script: iPXE src/image/script.c process_script, src/core/exec.c split_command and command_terminator. */
import { lineCharactersMax, linesMax, scriptBytesMax } from './limits.ts'
import { type Line, type Link, type Part, type Script, ScriptError, type Word } from './script.ts'

const operators: ReadonlyMap<string, Link['when']> = new Map([
  [';', 'always'],
  ['&&', 'success'],
  ['||', 'failure'],
])

/** What isspace() calls white space, without the line feed, which ends the line. */
const whiteSpace = /[ \t\v\f\r]+/

/**
 * Comments at the end of a line are dropped; everything else comes back from `print`.
 * @throws {ScriptError} noMagic, tooLong, nestedSetting, badCharacter
 */
export function parse(text: string): Script {
  if (!/^#!(ipxe|gpxe)\s/.test(text)) throw new ScriptError('noMagic', 1, 'a script begins with #!ipxe')
  if (text.length > scriptBytesMax) throw new ScriptError('tooLong', 1, `more than ${scriptBytesMax} characters`)
  const physical = text.split('\n')
  if (physical.at(-1) === '') physical.pop()
  if (physical.length > linesMax) throw new ScriptError('tooLong', linesMax, `more than ${linesMax} lines`)
  const lines: Line[] = []
  let joined = ''
  for (let index = 1; index < physical.length; index++) {
    joined += (physical[index] ?? '').replace(/\r$/, '')
    if (joined.length > lineCharactersMax) throw new ScriptError('tooLong', index + 1, 'the line is too long')
    const continues = joined.endsWith('\\')
    if (continues) joined = joined.slice(0, -1)
    if (continues && index < physical.length - 1) continue
    lines.push(parseLine(joined, index + 1))
    joined = ''
  }
  return lines
}

function parseLine(text: string, number: number): Line {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: exactly what must not be in a script
  if (/[\x00-\x08\x0e-\x1f\x7f]/.test(text)) throw new ScriptError('badCharacter', number, 'a control character')
  const words = text.split(whiteSpace).filter((word) => word !== '')
  const first = words[0]
  if (first === undefined) return { kind: 'blank' }
  if (first.startsWith('#')) return { kind: 'comment', text: text.trim().slice(1).trim() }
  // script.c cuts the label at white space only, and takes the rest of the line for a command.
  const label = first.startsWith(':') ? first.slice(1) : undefined
  const rest = label === undefined ? words : words.slice(1)
  return { kind: 'commands', label, links: parseLinks(rest, number) }
}

function parseLinks(words: readonly string[], number: number): Link[] {
  const comment = words.findIndex((word) => word.startsWith('#'))
  const said = comment === -1 ? words : words.slice(0, comment)
  if (said.length === 0) return []
  const links: Link[] = []
  let when: Link['when'] = 'always'
  let command: Word[] = []
  for (const word of said) {
    const operator = operators.get(word)
    if (operator === undefined) {
      command.push(parseWord(word, number))
      continue
    }
    links.push({ when, command })
    when = operator
    command = []
  }
  return [...links, { when, command }]
}

/** @throws {ScriptError} nestedSetting */
export function parseWord(text: string, number: number): Word {
  const parts: Part[] = []
  let at = 0
  while (at < text.length) {
    const open = text.indexOf('${', at)
    const close = open === -1 ? -1 : text.indexOf('}', open)
    // "${" that is never closed is text: expand_settings finds no end and stops.
    const textEnd = close === -1 ? text.length : open
    if (textEnd > at) parts.push({ kind: 'text', text: text.slice(at, textEnd) })
    if (close === -1) break
    const name = text.slice(open + 2, close)
    if (name.includes('${')) throw new ScriptError('nestedSetting', number, `a setting inside a setting: ${text}`)
    parts.push({ kind: 'setting', name })
    at = close + 1
  }
  return parts
}
