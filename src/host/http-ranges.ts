/** A file on a web server, read by ranges (RFC 9110 §14): and only for as long as it is the same file (§13.1.5, If-Range). */
import { messageOf, OperationError } from '../base/errors.ts'
import { codeOf } from './file.ts'

/** What a file was when it was first seen: a strong entity tag, or when it was changed. */
export type HttpValidator = { readonly kind: 'etag' | 'lastModified'; readonly value: string }

export type HttpFile = {
  /** May hold a user and a password: a secret. */
  readonly url: string
  readonly sizeBytes: number
  readonly validator: HttpValidator
}

/** No byte for so long: it is tried again. */
const silenceMsMax = 15_000

/** For people: without user, password and query, which may be secrets. */
export function labelOfUrl(url: string): string {
  const { protocol, host, pathname } = new URL(url)
  return `${protocol}//${host}${pathname}`
}

/** Asks for the first byte. @throws {OperationError} usage, downloadFailed, rangesUnsupported, changesUnnoticed */
export async function describeHttpFile(text: string): Promise<HttpFile> {
  if (!/^https?:/i.test(text) || !URL.canParse(text)) {
    throw new OperationError('usage', `${text} is not a URL`, 'Write it like https://HOST/FILE.')
  }
  const label = labelOfUrl(text)
  const { response, stop } = await ask(text, 0, 0, undefined, label).catch((error: unknown) => {
    const hint = 'Check the address, the network and, for https, that its certificate is one that Node trusts.'
    throw new OperationError('downloadFailed', messageOf(error), hint, { cause: error })
  })
  stop()
  const hint = `Add it without --lazy, which fetches all of it now: slipway image add ${label}.`
  const range = rangeOf(response)
  if (response.status === 200 || (response.status === 206 && range === undefined)) {
    throw new OperationError('rangesUnsupported', `${label}: its server does not send parts of a file`, hint)
  }
  if (range === undefined) {
    const next = 'Check the address, and who may read it.'
    throw new OperationError('downloadFailed', `cannot fetch ${label}: the server says ${statusOf(response)}`, next)
  }
  const validator = validatorOf(response)
  if (validator === undefined) {
    const what = `${label}: its server tells neither an ETag nor Last-Modified, so that a change could not be noticed`
    throw new OperationError('changesUnnoticed', what, hint)
  }
  return { url: text, sizeBytes: range.total, validator }
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
    const { url, sizeBytes, validator } = this.#file
    const end = offset + target.byteLength
    const { response, body, heard, stop } = await ask(url, offset, end - 1, validator, this.#label)
    try {
      // 200: the whole of another file. 412 and 416: it is not, or not so long, any more.
      if ([200, 412, 416].includes(response.status)) throw this.#changed()
      if (response.status !== 206) throw away(`the server says ${statusOf(response)}`)
      const range = rangeOf(response)
      const now = validatorOf(response)
      const isSame = now === undefined || now.kind !== validator.kind || now.value === validator.value
      if (range?.total !== sizeBytes || !isSame) throw this.#changed()
      if (range.first !== offset || range.last !== end - 1) throw away('the server sends another part than was asked')
      let filled = 0
      for await (const chunk of body) {
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
  readonly response: Response
  readonly body: ReadableStream<Uint8Array>
  /** Bytes have come. */
  readonly heard: () => void
  /** Ends it, whatever is still to come. */
  readonly stop: () => void
}

async function ask(
  text: string,
  first: number,
  last: number,
  validator: HttpValidator | undefined,
  label: string,
): Promise<Answer> {
  const url = new URL(text)
  const headers = new Headers({ 'Accept-Encoding': 'identity', Range: `bytes=${first}-${last}` })
  if (validator !== undefined) headers.set('If-Range', validator.value)
  if (url.username !== '') {
    const credentials = `${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`
    headers.set('Authorization', `Basic ${Buffer.from(credentials).toString('base64')}`)
    url.username = ''
    url.password = ''
  }
  const ending = new AbortController()
  const watch = setTimeout(() => ending.abort(new Error('it does not answer')), silenceMsMax)
  watch.unref()
  try {
    const response = await fetch(url, { headers, signal: ending.signal })
    const body = (response.body ?? new ReadableStream<Uint8Array>()) as ReadableStream<Uint8Array>
    return {
      response,
      body,
      heard: () => void watch.refresh(),
      stop: () => {
        clearTimeout(watch)
        ending.abort()
      },
    }
  } catch (error) {
    clearTimeout(watch)
    throw away(`cannot fetch ${label}: ${reasonOf(error)}`, error)
  }
}

function away(reason: string, cause?: unknown): OperationError {
  const hint = 'Look at its server, and the network between; Slipway tries again by itself.'
  return new OperationError('sourceAway', reason, hint, { cause })
}

function statusOf({ status, statusText }: Response): string {
  return `${status} ${statusText}`.trim()
}

/** 'bytes 0-99/1234' (RFC 9110 §14.4). */
function rangeOf(response: Response): { first: number; last: number; total: number } | undefined {
  const match = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(response.headers.get('content-range') ?? '')
  const [first, last, total] = (match ?? []).slice(1).map(Number)
  if (response.status !== 206 || first === undefined || last === undefined || total === undefined) return undefined
  return Number.isSafeInteger(total) ? { first, last, total } : undefined
}

/** A weak tag says only that two files mean the same, and is not good for parts (RFC 9110 §13.1.5). */
function validatorOf({ headers }: Response): HttpValidator | undefined {
  const etag = headers.get('etag')
  if (etag !== null && !etag.startsWith('W/')) return { kind: 'etag', value: etag }
  const lastModified = headers.get('last-modified')
  return lastModified === null ? undefined : { kind: 'lastModified', value: lastModified }
}

/** fetch says "fetch failed" or "terminated" and hides why in the cause. */
export function reasonOf(error: unknown): string {
  const cause = error instanceof Error && error.cause !== undefined ? error.cause : error
  const code = codeOf(cause)
  return code === 'unknown error' ? messageOf(cause) : `${messageOf(cause)} (${code})`
}
