/** Goal: what is on a machine's screen is found, however the serial line cuts and decorates it. */
import { expect, test } from 'vitest'
import { Screen } from '../../../lab/screen.ts'

const feed = (screen: Screen, text: string, atMs = 0): void => screen.feed(new TextEncoder().encode(text), atMs)

/** SeaBIOS's serial console: clear, colours, the cursor placed before each run of characters. */
const decorated =
  '\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS\r\n\x1b[0;30;47mW\r\x1b[04;02Helcome to GR\x1b[04;13H\x1b[04;14HUB\x1b[4;1Hboot\r\n'

test('control sequences are taken out, and a placed cursor starts a line only when it does not go on', () => {
  const screen = new Screen()
  feed(screen, decorated)
  expect(screen.lines.map((line) => line.text)).toEqual(['SeaBIOS', 'Welcome to GRUB', 'boot'])
})

test('the text is the same whether it comes whole or byte by byte', () => {
  const whole = new Screen()
  feed(whole, decorated)
  const bytewise = new Screen()
  for (const byte of new TextEncoder().encode(decorated)) bytewise.feed(Uint8Array.of(byte), 0)
  expect(bytewise.text).toBe(whole.text)
})

test('waitFor goes on behind the last match, so that a second boot is not taken for the first', async () => {
  const screen = new Screen()
  feed(screen, 'ready boot I\n', 10)
  expect((await screen.waitFor(/ready boot (I+)/, 1000)).match[1]).toBe('I')
  const second = screen.waitFor(/ready boot (I+)$/, 1000)
  feed(screen, 'ready bo', 20)
  feed(screen, 'ot II\n', 30)
  expect(await second).toMatchObject({ atMs: 30, match: { 1: 'II' } })
})

test('what does not come is an error that shows the last lines', async () => {
  const screen = new Screen()
  feed(screen, 'No bootable device.\n')
  await expect(screen.waitFor('ready', 10)).rejects.toThrow('No bootable device.')
})

test('a machine that goes off ends the waiting', async () => {
  const screen = new Screen()
  const waiting = screen.waitFor('ready', 60_000)
  screen.close('the machine is off', 5)
  await expect(waiting).rejects.toThrow('the machine is off')
})
