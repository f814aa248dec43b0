/** Byte ranges: RFC 9110 §14. One range is served; several, or a header we cannot read, get the whole (§14.2 allows both). */

export type ByteRange = { readonly offset: number; readonly bytes: number }

/** `whole`: answer 200. `unsatisfiable`: answer 416. */
export type RangeChoice =
  | { readonly kind: 'whole' }
  | { readonly kind: 'part'; readonly range: ByteRange }
  | { readonly kind: 'unsatisfiable' }

const whole: RangeChoice = { kind: 'whole' }
const unsatisfiable: RangeChoice = { kind: 'unsatisfiable' }

/** `header` is the value of Range, `sizeBytes` the whole body's. */
export function chooseRange(header: string | undefined, sizeBytes: number): RangeChoice {
  const match = /^bytes[ \t]*=[ \t]*(\d{0,15})-(\d{0,15})[ \t]*$/i.exec(header ?? '')
  if (match === null) return whole
  const [, first = '', last = ''] = match
  if (first === '') {
    if (last === '') return whole
    // The last N bytes (§14.1.2); of nothing, or none of them, there is no part.
    const bytes = Math.min(Number(last), sizeBytes)
    return bytes === 0 ? unsatisfiable : part(sizeBytes - bytes, bytes)
  }
  const offset = Number(first)
  if (last !== '' && Number(last) < offset) return whole
  if (offset >= sizeBytes) return unsatisfiable
  const end = last === '' ? sizeBytes : Math.min(Number(last) + 1, sizeBytes)
  return part(offset, end - offset)
}

function part(offset: number, bytes: number): RangeChoice {
  return { kind: 'part', range: { offset, bytes } }
}
