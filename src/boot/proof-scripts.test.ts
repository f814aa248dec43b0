/**
 * Goal: a machine that must prove itself is told what is missing, and what a person types at it goes to us and nowhere else.
 * Method: the texts as goldens, and the scripts run by the interpreter against a world that answers as it likes.
 */
import { expect, test } from 'vitest'
import { Interpreter, type Result } from '../ipxe/interpret.ts'
import { parse } from '../ipxe/parse.ts'
import { print } from '../ipxe/print.ts'
import { scriptUrl, signInUrl, type WebServer } from './addresses.ts'
import type { Refusal } from './choose-script.ts'
import { forgetTyped, proveScript, type SignInScriptFacts, signInScript } from './proof-scripts.ts'
import { refusedScript } from './scripts.ts'

const mac = '52:54:00:77:00:10'
const server: WebServer = { secure: true, host: '192.168.77.1', port: 443 }
const prove = print(proveScript({ mac, proofUrl: scriptUrl({ ...server, port: 8443 }, mac) }))
const signIn = (before?: SignInScriptFacts['before']): string =>
  print(signInScript({ mac, signInUrl: signInUrl(server, mac), before }))

test.for([
  ['prove.ipxe', prove],
  ['sign-in.ipxe', signIn()],
  ['sign-in-again.ipxe', signIn({ kind: 'wrong' })],
  ['sign-in-slowed.ipxe', signIn({ kind: 'slowed', waitSeconds: 30 })],
] as const)('%s is what it was', async ([file, text]) => {
  await expect(text).toMatchFileSnapshot(`vectors/${file}`)
  expect(print(parse(text))).toBe(text)
})

type World = (command: string, operands: readonly string[]) => Result
const works: Result = { status: 0 }
const fails: Result = { status: 0x0216eb8f }
const typed = (username: string, password: string): Result => ({
  status: 0,
  settings: new Map([
    ['username', username],
    ['password', password],
  ]),
})

/** `ran` is what the machine did, the screen apart. */
function run(source: string, world: World, atFirst: readonly (readonly [string, string])[] = []) {
  const interpreter = new Interpreter(parse(source), new Map(atFirst))
  const screen: string[] = []
  const ran: string[] = []
  for (let steps = 0; steps < 200; steps++) {
    const step = interpreter.next()
    if (step.kind === 'ended') return { screen, ran, settings: interpreter.settings, status: step.status }
    const { command, operands } = step.effect
    if (command === 'echo') screen.push(operands.join(' '))
    else ran.push([command, ...operands].join(' '))
    interpreter.complete(world(command, operands))
  }
  throw new Error(`it never ends: ${ran.join('; ')}`)
}

test('what was typed goes out by HTTPS, whatever characters it has, and the next script runs without it', () => {
  const next = print([...forgetTyped])
  const world: World = (command) => {
    if (command === 'login') return typed('ann', 'p@ss:w/rd? #%&')
    return command === 'chain' ? { status: 0, script: next } : works
  }
  const { ran, settings } = run(signIn(), world, [['password', 'an older one']])
  const url = new URL(ran.find((each) => each.startsWith('chain'))?.slice('chain '.length) ?? '')
  expect(url.protocol).toBe('https:')
  expect(decodeURIComponent(url.username)).toBe('ann')
  expect(decodeURIComponent(url.password)).toBe('p@ss:w/rd? #%&')
  expect(url.searchParams.get('sign-in')).toBe('1')
  expect([...settings.keys()]).not.toEqual(expect.arrayContaining(['password']))
})

test('an older password is gone before anybody can type, and a typed one when nobody answered', () => {
  let passwordAtLogin: string | undefined
  let tries = 0
  const interpreter = new Interpreter(parse(signIn()), new Map([['password', 'an older one']]))
  for (;;) {
    const step = interpreter.next()
    if (step.kind === 'ended') break
    const { command } = step.effect
    if (command === 'login') passwordAtLogin = interpreter.settings.get('password')
    const cancelled = command === 'login' && ++tries > 3
    interpreter.complete(
      command === 'login' && !cancelled
        ? typed('ann', 'wonderland')
        : cancelled
          ? fails
          : command === 'chain'
            ? fails
            : works,
    )
    if (command === 'login') expect(passwordAtLogin).toBeUndefined()
  }
  expect(tries).toBe(4)
  expect(interpreter.settings.has('password')).toBe(false)
})

test('an empty name is asked for again; Ctrl-C, or an iPXE without login, gives the machine back', () => {
  let tries = 0
  const { ran, screen, status } = run(signIn(), (command) => {
    if (command !== 'login') return works
    return ++tries < 3 ? typed('', '') : fails
  })
  expect(ran.some((each) => each.startsWith('chain'))).toBe(false)
  expect(screen.join('\n')).toContain('nobody signed in')
  expect(status).toBe(1)
})

test('who was slowed waits before it may type again', () => {
  const { ran } = run(signIn({ kind: 'slowed', waitSeconds: 30 }), (command) => (command === 'login' ? fails : works))
  expect(ran.indexOf('sleep 30')).toBeLessThan(ran.indexOf('login'))
  expect(ran).toContain('sleep 30')
})

test('a machine that has no certificate to show is told so, and how to get one', () => {
  const { screen, status } = run(prove, (command) => (command === 'chain' ? { status: 0x0228608f } : works))
  expect(screen.join('\n')).toMatch(
    /must prove itself by a certificate[\s\S]*https:\/\/ipxe.org\/0228608f[\s\S]*slipway certificate issue 52:54/,
  )
  expect(status).toBe(1)
})

test.for<Refusal>([
  'needsCertificate',
  'certificateUnknown',
  'certificateOfAnother',
  'certificateRevoked',
  'certificateUnfit',
])('refused for %s: the screen says what to do, for which machine, in lines that fit', (why) => {
  const { screen } = run(print(refusedScript({ mac, why })), () => works)
  expect(screen.join('\n')).toMatch(/certificate issue 52:54:00:77:00:10/)
  for (const line of screen) expect(line.length).toBeLessThanOrEqual(80)
})
