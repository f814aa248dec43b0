/** Text that a target answers with, perhaps in several PDUs. */
import { WireError } from '../wire/reader.ts'
import { headerBytes } from './header.ts'
import { sendTargetsBytesMax } from './limits.ts'
import type { KeyValue } from './text.ts'

export class AnswerText {
  readonly #pieces: Uint8Array[] = []
  #bytes = 0

  /** @throws {WireError} badLength, for a target that never comes to an end */
  add(piece: Uint8Array): void {
    this.#bytes += piece.byteLength
    if (this.#bytes > answerBytesMax) throw new WireError('badLength', headerBytes)
    this.#pieces.push(piece)
  }

  /** SendTargets answers repeat keys, which text of a negotiation may not. */
  pairs(): readonly KeyValue[] {
    const all = new Uint8Array(this.#bytes)
    let at = 0
    for (const piece of this.#pieces) {
      all.set(piece, at)
      at += piece.byteLength
    }
    return new TextDecoder()
      .decode(all)
      .split('\0')
      .filter((pair) => pair.includes('='))
      .map((pair): KeyValue => [pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1)])
  }
}

/** Nobody's list of targets is longer than ours may be. */
const answerBytesMax = 4 * sendTargetsBytesMax
