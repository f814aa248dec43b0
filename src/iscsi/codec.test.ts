/** Goal: what is read is what was written, and no bytes are read as anything but a PDU or an error. Method: any bytes at all. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { WireError } from '../wire/reader.ts'
import { opcode } from './codes.ts'
import { headerBytes, headerOf } from './header.ts'
import { decodeInitiatorPdu, encodeInitiatorPdu } from './initiator-pdu.ts'
import { decodeTargetPdu, encodeTargetPdu } from './target-pdu.ts'
import {
  decodeText,
  encodeText,
  formatBase64,
  formatHexadecimal,
  type KeyValue,
  parseBinary,
  parseNumber,
} from './text.ts'

const runs = { numRuns: 3_000 }

/** A basic header segment without additional segments and data, of an opcode that exists more often than not. */
const header = fc
  .tuple(fc.uint8Array({ minLength: headerBytes, maxLength: headerBytes }), fc.constantFrom(...Object.values(opcode)))
  .map(([bytes, code]) => {
    bytes[0] = ((bytes[0] ?? 0) & 0x40) | code
    bytes.fill(0, 4, 8)
    return bytes
  })

function orWireError<T>(read: () => T): T | undefined {
  try {
    return read()
  } catch (error) {
    expect(error).toBeInstanceOf(WireError)
    return undefined
  }
}

/** Fields that mean nothing beside others (NSG without T) are written as zeroes, so bytes are compared once they were ours. */
function writtenAgain<T>(bytes: Uint8Array, read: (bytes: Uint8Array) => T, write: (pdu: T) => Uint8Array): void {
  const pdu = orWireError(() => read(bytes))
  if (pdu === undefined) return
  const written = write(pdu)
  expect(write(read(written))).toEqual(written)
  expect((written[0] ?? 0) & 0x3f).toBe((bytes[0] ?? 0) & 0x3f)
}

test("an initiator's PDU that was written is read as it was written; any other bytes are an error", () => {
  const read = (bytes: Uint8Array) => decodeInitiatorPdu(headerOf(bytes))
  fc.assert(
    fc.property(header, (bytes) => writtenAgain(bytes, read, (pdu) => encodeInitiatorPdu(pdu))),
    runs,
  )
})

test("a target's PDU that was written is read as it was written; any other bytes are an error", () => {
  const read = (bytes: Uint8Array) => decodeTargetPdu(headerOf(bytes))
  const write = (pdu: ReturnType<typeof read>): Uint8Array => {
    const bytes = new Uint8Array(headerBytes)
    encodeTargetPdu(new DataView(bytes.buffer), 0, pdu, 0)
    return bytes
  }
  // The immediate bit is the initiator's.
  const fromTarget = header.map((bytes) => {
    bytes[0] = (bytes[0] ?? 0) & 0x3f
    return bytes
  })
  fc.assert(
    fc.property(fromTarget, (bytes) => writtenAgain(bytes, read, write)),
    runs,
  )
})

const key = fc.stringMatching(/^[A-Z][A-Za-z0-9]{0,40}$/)
const value = fc.stringMatching(/^[A-Za-z0-9.:,_~+/@-]{0,200}$/)
const pairs: fc.Arbitrary<KeyValue[]> = fc.uniqueArray(fc.tuple(key, value), {
  selector: ([name]) => name,
  maxLength: 20,
})

test('text that was written is read as it was, and any bytes are pairs or an error', () => {
  const same = fc.property(pairs, (given) => {
    expect(decodeText(encodeText(given))).toEqual(given)
  })
  fc.assert(same, runs)
  const any = fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
    orWireError(() => decodeText(bytes))
  })
  fc.assert(any, runs)
})

test('binary values are the same in hexadecimal and in base64; what is neither is refused, not guessed', () => {
  const same = fc.property(fc.uint8Array({ minLength: 1, maxLength: 64 }), (bytes) => {
    expect(parseBinary(formatHexadecimal(bytes), 64)).toEqual(bytes)
    expect(parseBinary(formatBase64(bytes), 64)).toEqual(bytes)
    expect(parseBinary(formatHexadecimal(bytes), bytes.byteLength - 1)).toBeUndefined()
  })
  fc.assert(same, runs)
  const any = fc.property(fc.string({ maxLength: 80 }), (text) => {
    const bytes = parseBinary(text, 32)
    if (bytes !== undefined) expect(bytes.byteLength).toBeLessThanOrEqual(32)
    const number = parseNumber(text)
    if (number !== undefined) expect(Number.isSafeInteger(number)).toBe(true)
  })
  fc.assert(any, runs)
})
