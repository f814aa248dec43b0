import { assert } from './assert.ts'

/** A password or key. Nothing that prints, logs or serialises it shows it; only `reveal` does, and is easy to search for. */
export class Secret {
  readonly #value: string

  constructor(value: string) {
    this.#value = value
  }

  reveal(): string {
    return this.#value
  }

  toString(): string {
    return '[secret]'
  }

  toJSON(): string {
    return '[secret]'
  }
}

/** Whether two secrets are one, in constant time. */
export function secretsEqual(a: Secret, b: Secret): boolean {
  const encoder = new TextEncoder()
  return equalInConstantTime(encoder.encode(a.reveal()), encoder.encode(b.reveal()))
}

/** Takes the same time whatever the bytes are; lengths are public. */
export function equalInConstantTime(a: Uint8Array, b: Uint8Array): boolean {
  if (a.byteLength !== b.byteLength) return false
  let difference = 0
  for (let i = 0; i < a.byteLength; i++) difference |= at(a, i) ^ at(b, i)
  return difference === 0
}

function at(bytes: Uint8Array, index: number): number {
  const value = bytes[index]
  assert(value !== undefined, 'index inside the bytes')
  return value
}
