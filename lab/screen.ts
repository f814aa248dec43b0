/** What a machine shows on its serial console, as text with times: terminal control sequences are taken out. */
import { OperationError } from '../src/base/errors.ts'

export type ScreenLine = { readonly atMs: number; readonly text: string }

type Waiter = {
  readonly pattern: RegExp
  readonly resolve: (seen: Seen) => void
  readonly reject: (error: Error) => void
  readonly timer: NodeJS.Timeout
}

export type Seen = { readonly atMs: number; readonly match: RegExpExecArray }

/** A machine that prints without end is held to this much text. */
const textLimitCharacters = 4_000_000

const controlStart = '\u001b'
/** CSI (ECMA-48 §5.4) and the two-character sequences that firmware uses. */
const controlSequence = new RegExp(`${controlStart}(?:\\[([0-9;?]*)([@-~])|[()][A-Z0-9]|[=>cDEHM78])`, 'g')
const unfinishedSequence = new RegExp(`${controlStart}(?:\\[[0-9;?]*|[()])?$`)

export class Screen {
  readonly #decoder = new TextDecoder('utf-8')
  readonly #lines: ScreenLine[] = []
  readonly #listeners = new Set<(line: ScreenLine) => void>()
  readonly #waiters = new Set<Waiter>()
  #held = ''
  #line = ''
  /** Where the cursor was placed last, from 1; undefined once something was printed there. */
  #column: number | undefined
  #text = ''
  /** `waitFor` looks at what follows the last match. */
  #searchFrom = 0
  #closedBecause: string | undefined

  /** Everything shown so far. */
  get text(): string {
    return this.#text
  }

  get lines(): readonly ScreenLine[] {
    return this.#lines
  }

  /** Calls back for every finished line that is not empty. Returns what ends that. */
  onLine(listener: (line: ScreenLine) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  feed(bytes: Uint8Array, atMs: number): void {
    let text = this.#held + this.#decoder.decode(bytes, { stream: true })
    // A sequence that is cut between two chunks waits for its rest.
    const cut = unfinishedSequence.exec(text)
    this.#held = cut === null ? '' : text.slice(cut.index)
    if (cut !== null) text = text.slice(0, cut.index)
    let shownTo = 0
    for (const sequence of text.matchAll(controlSequence)) {
      this.#append(text.slice(shownTo, sequence.index), atMs)
      shownTo = sequence.index + sequence[0].length
      if (sequence[2] === 'H' || sequence[2] === 'f') this.#column = Number(sequence[1]?.split(';')[1] || '1')
    }
    this.#append(text.slice(shownTo), atMs)
    for (const waiter of this.#waiters) this.#check(waiter, atMs)
  }

  /** The machine is off: nobody need wait any longer. */
  close(because: string, atMs: number): void {
    this.#append('\n', atMs)
    this.#closedBecause = because
    for (const waiter of this.#waiters) this.#fail(waiter, because)
  }

  /** The first match after the previous one's end. @throws {OperationError} notSeen, with the screen's last lines */
  waitFor(pattern: RegExp | string, timeoutMs: number): Promise<Seen> {
    const regex =
      typeof pattern === 'string'
        ? new RegExp(pattern.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&'))
        : new RegExp(pattern.source, 'm')
    return new Promise((resolve, reject) => {
      const waiter: Waiter = {
        pattern: regex,
        resolve,
        reject,
        timer: setTimeout(() => this.#fail(waiter, `nothing within ${timeoutMs / 1000} s`), timeoutMs),
      }
      this.#waiters.add(waiter)
      this.#check(waiter, this.#lines.at(-1)?.atMs ?? 0)
      if (this.#closedBecause !== undefined && this.#waiters.has(waiter)) this.#fail(waiter, this.#closedBecause)
    })
  }

  /** The last lines, for an error message. */
  tail(lineCount = 40): string {
    return this.#text.split('\n').slice(-lineCount).join('\n')
  }

  #check(waiter: Waiter, atMs: number): void {
    const match = waiter.pattern.exec(this.#text.slice(this.#searchFrom))
    if (match === null) return
    this.#searchFrom += match.index + match[0].length
    this.#waiters.delete(waiter)
    clearTimeout(waiter.timer)
    waiter.resolve({ atMs, match })
  }

  #fail(waiter: Waiter, because: string): void {
    this.#waiters.delete(waiter)
    clearTimeout(waiter.timer)
    waiter.reject(
      new OperationError(
        'notSeen',
        `The machine's screen did not show ${waiter.pattern}: ${because}. Its last lines:\n${this.tail()}`,
        'Look at the lines above: the last one says where it stopped.',
      ),
    )
  }

  #append(shown: string, atMs: number): void {
    let text = shown.replaceAll(/[\r\0]/g, '')
    if (text === '') return
    // Firmware places the cursor before words, in words, and twice: only where the next text does not go on, it starts a line.
    if (this.#column !== undefined && this.#column - 1 !== this.#line.length) text = `\n${text}`
    this.#column = undefined
    this.#text += text
    if (this.#text.length > textLimitCharacters) {
      throw new OperationError('screenFull', 'The machine prints without end.', 'Look at its first lines.')
    }
    for (const part of text.split(/(\n)/)) {
      if (part !== '\n') {
        this.#line += part
        continue
      }
      const line = { atMs, text: this.#line.trimEnd() }
      this.#line = ''
      if (line.text === '') continue
      this.#lines.push(line)
      for (const listener of this.#listeners) listener(line)
    }
  }
}
