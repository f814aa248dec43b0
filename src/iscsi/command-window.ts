/**
 * Which CmdSN may come, and whose turn it is: RFC 7143 §4.2.2.1.
 *
 *              ExpCmdSN             MaxCmdSN
 *   past, ignored  │ turn, held, held  │  outside, ignored
 */
import { commandWindow } from './limits.ts'
import { after, isBefore } from './serial-number.ts'

export class CommandWindow {
  /** ExpCmdSN: the number whose turn it is. */
  expected: number
  /** MaxCmdSN: the last that may come. */
  max: number
  /** What came before its turn, by CmdSN. */
  readonly #held = new Map<number, () => void>()

  constructor(first: number) {
    this.expected = first
    this.max = after(first, commandWindow - 1)
  }

  /** The window may be closed: then it is nobody's turn. */
  isTurnOf(commandNumber: number): boolean {
    return commandNumber === this.expected && !isBefore(this.max, commandNumber)
  }

  /** Inside the window, and not there yet. */
  isExpected(commandNumber: number): boolean {
    if (isBefore(commandNumber, this.expected) || isBefore(this.max, commandNumber)) return false
    return !this.#held.has(commandNumber)
  }

  /** The turn goes to the next number. */
  advance(): void {
    this.expected = after(this.expected)
  }

  /** One more may come: one of those that did is over. */
  widen(): void {
    this.max = after(this.max)
  }

  /** One numbered request that is not a task: its place in the window is free again at once. */
  turn(act: () => void): void {
    this.advance()
    this.widen()
    act()
  }

  /** Its turn passes without anything being done. False if it has had it, or cannot have one. */
  skip(commandNumber: number): boolean {
    if (!this.isTurnOf(commandNumber)) return this.hold(commandNumber, () => this.turn(() => {}))
    this.turn(() => {})
    this.release()
    return true
  }

  /** False for what is outside the window, or there already: it is ignored in silence. */
  hold(commandNumber: number, act: () => void): boolean {
    if (this.isTurnOf(commandNumber) || !this.isExpected(commandNumber)) return false
    this.#held.set(commandNumber, act)
    return true
  }

  /** Those whose turn has come by now. */
  release(): void {
    while (this.#held.size > 0) {
      const act = this.#held.get(this.expected)
      if (act === undefined) return
      this.#held.delete(this.expected)
      act()
    }
  }

  /** What is held will never have its turn. */
  clear(): void {
    this.#held.clear()
  }
}
