/** A file on a web server, read by ranges (RFC 9110 §14): and only for as long as it is the same file (§13.1.5, If-Range). */
import { OperationError } from '../base/errors.ts'
import { type HttpPlace, type HttpReply, httpGet, labelOfUrl, reasonOf } from './http-get.ts'

/** What a file was when it was first seen: a strong entity tag, or when it was changed. */
export type HttpValidator = { readonly kind: 'etag' | 'lastModified'; readonly value: string }

export type HttpFile = HttpPlace & {
  readonly sizeBytes: number
  readonly validator: HttpValidator
}

/** No byte for so long: it is tried again. */
const silenceMsMax = 15_000
/** It is kept beside the image. */
const urlCharactersMax = 2_048

/** Asks for the first byte. @throws {OperationError} usage, downloadFailed, rangesUnsupported, changesUnnoticed */
export async function describeHttpFile(place: HttpPlace): Promise<HttpFile> {
  const { url, authority } = place
  if (!/^https?:/i.test(url) || !URL.canParse(url) || url.length > urlCharactersMax) {
    throw new OperationError('usage', `${url.slice(0, 200)} is not a URL`, 'Write it like https://HOST/FILE.')
  }
  const label = labelOfUrl(url)
  const { reply, stop } = await ask(place, 0, 0, undefined).catch((error: unknown) => {
    const { message, hint } = error as OperationError
    throw new OperationError('downloadFailed', `cannot fetch ${label}: ${message}`, hint, { cause: error })
  })
  stop()
  const hint = `Add it without --lazy, which fetches all of it now: slipway image add ${label}.`
  const range = rangeOf(reply)
  if (reply.status === 200 || (reply.status === 206 && range === undefined)) {
    throw new OperationError('rangesUnsupported', `${label}: its server does not send parts of a file`, hint)
  }
  if (range === undefined) {
    const next = 'Check the address, and who may read it.'
    throw new OperationError('downloadFailed', `cannot fetch ${label}: the server says ${reply.statusText}`, next)
  }
  const validator = validatorOf(reply)
  if (validator === undefined) {
    const what = `${label}: its server tells neither an ETag nor Last-Modified, so that a change could not be noticed`
    throw new OperationError('changesUnnoticed', what, hint)
  }
  return { url, ...(authority === undefined ? {} : { authority }), sizeBytes: range.total, validator }
}

export class HttpRanges {
  readonly #file: HttpFile
  readonly #label: string

  constructor(file: HttpFile) {
    this.#file = file
    this.#label = labelOfUrl(file.url)
  }

  /** @throws {OperationError} sourceAway, sourceChanged */
  async read(offset: number, target: Uint8Array): Promise<void> {
    const { sizeBytes, validator } = this.#file
    const end = offset + target.byteLength
    const { reply, heard, stop } = await ask(this.#file, offset, end - 1, validator)
    try {
      // 200: the whole of another file. 412 and 416: it is not, or not so long, any more.
      if ([200, 412, 416].includes(reply.status)) throw this.#changed()
      if (reply.status !== 206) throw away(`the server says ${reply.statusText}`)
      const range = rangeOf(reply)
      const now = validatorOf(reply)
      const isSame = now === undefined || now.kind !== validator.kind || now.value === validator.value
      if (range?.total !== sizeBytes || !isSame) throw this.#changed()
      if (range.first !== offset || range.last !== end - 1) throw away('the server sends another part than was asked')
      let filled = 0
      for await (const chunk of reply.body) {
        heard()
        if (filled + chunk.byteLength > target.byteLength) throw away('the server sends more than was asked')
        target.set(chunk, filled)
        filled += chunk.byteLength
      }
      if (filled < target.byteLength) throw away(`the answer ended after ${filled} of ${target.byteLength} bytes`)
    } catch (error) {
      throw error instanceof OperationError ? error : away(reasonOf(error), error)
    } finally {
      stop()
    }
  }

  #changed(): OperationError {
    const what = 'the file has changed on its server since it was added'
    const hint = `What was fetched stays readable. Add it again for a new version: slipway image add --lazy ${this.#label}.`
    return new OperationError('sourceChanged', what, hint)
  }
}

type Answer = {
  readonly reply: HttpReply
  /** Bytes have come. */
  readonly heard: () => void
  /** Ends it, whatever is still to come. */
  readonly stop: () => void
}

/** @throws {OperationError} sourceAway */
async function ask(
  place: HttpPlace,
  first: number,
  last: number,
  validator: HttpValidator | undefined,
): Promise<Answer> {
  const range = { 'accept-encoding': 'identity', range: `bytes=${first}-${last}` }
  const headers = validator === undefined ? range : { ...range, 'if-range': validator.value }
  const ending = new AbortController()
  const watch = setTimeout(() => ending.abort(new Error('it does not answer')), silenceMsMax)
  watch.unref()
  try {
    const reply = await httpGet(place, headers, ending.signal)
    const stop = (): void => {
      clearTimeout(watch)
      reply.stop()
    }
    return { reply, heard: () => void watch.refresh(), stop }
  } catch (error) {
    clearTimeout(watch)
    // Refused for its certificate, too: it may be another server that stands in its place for a while.
    const { message, hint } = error as OperationError
    throw new OperationError('sourceAway', message, hint, { cause: error })
  }
}

function away(reason: string, cause?: unknown): OperationError {
  const hint = 'Look at its server, and the network between; Slipway tries again by itself.'
  return new OperationError('sourceAway', reason, hint, { cause })
}

/** 'bytes 0-99/1234' (RFC 9110 §14.4). */
function rangeOf({ headers, status }: HttpReply): { first: number; last: number; total: number } | undefined {
  const match = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(headers['content-range'] ?? '')
  const [first, last, total] = (match ?? []).slice(1).map(Number)
  if (status !== 206 || first === undefined || last === undefined || total === undefined) return undefined
  return Number.isSafeInteger(total) ? { first, last, total } : undefined
}

/** A weak tag says only that two files mean the same, and is not good for parts (RFC 9110 §13.1.5). */
function validatorOf({ headers }: HttpReply): HttpValidator | undefined {
  const etag = headers.etag
  if (etag !== undefined && !etag.startsWith('W/')) return { kind: 'etag', value: etag }
  const lastModified = headers['last-modified']
  return lastModified === undefined ? undefined : { kind: 'lastModified', value: lastModified }
}
