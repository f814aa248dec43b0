/** Script to text. Says exactly what the script says, or fails: there is no value that means something else when printed. */
import { assert, unreachable } from '../base/assert.ts'
import { lineCharactersMax, scriptBytesMax } from './limits.ts'
import {
  type Command,
  isLabel,
  isSettingName,
  type Line,
  type Link,
  type Part,
  type Script,
  type Word,
} from './script.ts'

const operators: Readonly<Record<Link['when'], string>> = { always: ';', success: '&&', failure: '||' }

/** With the secrets in it: for the machine and nobody else. Asserts that `script` can be said; see `plain`. */
export function print(script: Script): string {
  const text = `#!ipxe\n${script.map((line) => `${printLine(line, revealed)}\n`).join('')}`
  assert(text.length <= scriptBytesMax, 'a script of ours is small')
  return text
}

/** For people: secrets are dots. */
export function printRedacted(script: Script): string {
  return `#!ipxe\n${script.map((line) => `${printLine(line, hidden)}\n`).join('')}`
}

const revealed = (part: Extract<Part, { kind: 'secret' }>): string => part.secret.reveal()
const hidden = (): string => '****************'

type SecretPrinter = (part: Extract<Part, { kind: 'secret' }>) => string

function printLine(line: Line, secret: SecretPrinter): string {
  switch (line.kind) {
    case 'blank':
      return ''
    case 'comment':
      assert(/^[\x20-\x7e]*$/.test(line.text) && !line.text.endsWith('\\'), 'a comment is one line of ASCII')
      // "#!ipxe" is looked for in the first line only, but a comment that looks like it helps nobody.
      return line.text === '' ? '#' : `# ${line.text}`
    case 'commands': {
      assert(line.label === undefined || isLabel(line.label), 'a label is one word')
      assert(line.label !== undefined || line.links.length > 0, 'a line without a label has a command')
      const words = line.label === undefined ? [] : [`:${line.label}`]
      line.links.forEach((link, index) => {
        assert(index > 0 || link.when === 'always', 'the first command of a line always runs')
        if (index > 0) words.push(operators[link.when])
        words.push(...printCommand(link.command, secret))
      })
      const text = words.join(' ')
      assert(line.label !== undefined || !text.startsWith(':'), 'a command that begins with a colon would be a label')
      assert(text !== '', 'a line of one empty command is a blank line')
      assert(text.length <= lineCharactersMax, 'a line of ours is short')
      return text
    }
    default:
      return unreachable(line)
  }
}

function printCommand(command: Command, secret: SecretPrinter): string[] {
  return command.map((word) => {
    const text = printWord(word, secret)
    assert(text !== '||' && text !== '&&' && text !== ';', 'an operator is no word')
    return text
  })
}

/** What no quoting leaves: printable ASCII without a space; no `${` of its own, no leading `#`, no trailing backslash. */
function printWord(word: Word, secret: SecretPrinter): string {
  let printed = ''
  let literal = ''
  for (const part of word) {
    if (part.kind === 'setting') {
      assert(isSettingName(part.name), 'a setting has a plain name')
      printed += `\${${part.name}}`
      literal = ''
      continue
    }
    const text = part.kind === 'text' ? part.text : secret(part)
    assert(/^[\x21-\x7e]*$/.test(text), 'a word is printable ASCII without a space')
    literal += text
    // "$" at the end of one part and "{" at the start of the next would make an expansion of two harmless halves.
    assert(!literal.includes('${'), 'text must not look like a setting')
    printed += text
  }
  assert(printed !== '', 'a word has at least one character')
  assert(!printed.startsWith('#'), 'a word that begins with # would be a comment')
  assert(!printed.endsWith('\\'), 'a backslash at the end of a line would join it to the next')
  return printed
}
