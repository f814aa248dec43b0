/** What goes on the wire for an answer: RFC 9110 §15, RFC 9112 §4 and §9. Pure: bytes and their sending are the shell's. */
import { assert } from '../base/assert.ts'
import type { HttpAnswer } from './policy.ts'
import { type ByteRange, chooseRange } from './range.ts'
import type { RawRequest } from './request.ts'

export type Plan = {
  readonly status: number
  /** Empty for HTTP/0.9. */
  readonly head: string
  /** The part of the body to send; `bytes` 0 for HEAD. */
  readonly range: ByteRange
  /** The connection ends after this answer. */
  readonly isLast: boolean
}

/** Registry of RFC 9110 §15: of what we or a handler may answer. */
const reasonPhrases: Readonly<Record<number, string>> = {
  200: 'OK',
  201: 'Created',
  202: 'Accepted',
  204: 'No Content',
  206: 'Partial Content',
  400: 'Bad Request',
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'Not Found',
  405: 'Method Not Allowed',
  408: 'Request Timeout',
  409: 'Conflict',
  410: 'Gone',
  411: 'Length Required',
  413: 'Content Too Large',
  414: 'URI Too Long',
  416: 'Range Not Satisfiable',
  429: 'Too Many Requests',
  431: 'Request Header Fields Too Large',
  500: 'Internal Server Error',
  501: 'Not Implemented',
  503: 'Service Unavailable',
  505: 'HTTP Version Not Supported',
}

export type AnswerTerms = {
  readonly request: RawRequest
  readonly answer: HttpAnswer
  /** Of the answer's whole body. */
  readonly bodyBytes: number
  readonly contentType: string
  /** The Date field's value. */
  readonly date: string
  /** The server's side of keep-alive: false when the connection has had its share. */
  readonly mayKeep: boolean
}

/** @throws {AssertionError} a handler's answer that would redirect, or whose header fields would break the head */
export function planAnswer({ request, answer, bodyBytes, contentType, date, mayKeep }: AnswerTerms): Plan {
  const { status } = answer
  const isRedirect = status >= 300 && status < 400
  assert(Number.isInteger(status) && status >= 200 && status <= 599 && !isRedirect, `${status} is no status to answer`)
  const isLast = !(mayKeep && wantsKeepAlive(request))
  const isHead = request.method === 'HEAD'
  if (request.version === '0.9') {
    // The client takes whatever comes as the file: an error's words must not become its kernel.
    return { status, head: '', range: { offset: 0, bytes: status === 200 ? bodyBytes : 0 }, isLast }
  }
  const fields: string[] = [`Date: ${date}`]
  let wireStatus = status
  let range: ByteRange = { offset: 0, bytes: bodyBytes }
  if (status === 200 && request.method !== 'POST') {
    fields.push('Accept-Ranges: bytes')
    // RFC 9110 §14.2: Range means something to GET only.
    const choice = chooseRange(
      isHead || !mayUseRange(request, answer) ? undefined : headerOf(request, 'range'),
      bodyBytes,
    )
    if (choice.kind === 'part') {
      range = choice.range
      wireStatus = 206
      fields.push(`Content-Range: bytes ${range.offset}-${range.offset + range.bytes - 1}/${bodyBytes}`)
    } else if (choice.kind === 'unsatisfiable') {
      range = { offset: 0, bytes: 0 }
      wireStatus = 416
      fields.push(`Content-Range: bytes */${bodyBytes}`)
    }
  }
  for (const [name, value] of Object.entries(answer.headers ?? {})) {
    assert(/^[!-9;-~]+$/.test(name) && /^[\t\x20-\x7e]*$/.test(value), `the header field ${name} fits on a line`)
    fields.push(`${name}: ${value}`)
  }
  if (wireStatus !== 204) {
    if (findHeader(answer, 'content-type') === undefined && wireStatus !== 416)
      fields.push(`Content-Type: ${contentType}`)
    fields.push(`Content-Length: ${range.bytes}`)
  }
  if (isLast) fields.push('Connection: close')
  else if (request.version === '1.0') fields.push('Connection: keep-alive')
  // RFC 9112 §2.3: our own version, also to an HTTP/1.0 client.
  const head = `HTTP/1.1 ${wireStatus} ${reasonPhrases[wireStatus] ?? 'Status'}\r\n${fields.join('\r\n')}\r\n\r\n`
  const bytes = isHead || wireStatus === 204 ? 0 : range.bytes
  return { status: wireStatus, head, range: { offset: range.offset, bytes }, isLast }
}

/** RFC 9112 §9.3. */
export function wantsKeepAlive({ version, headers }: RawRequest): boolean {
  const options = (headers.get('connection') ?? '').toLowerCase().split(/[\t ]*,[\t ]*/)
  if (version === '1.1') return !options.includes('close')
  return version === '1.0' && options.includes('keep-alive')
}

/** RFC 9110 §13.1.5: with If-Range, only if what the client has is what we have; weak tags never match. */
function mayUseRange(request: RawRequest, answer: HttpAnswer): boolean {
  const condition = headerOf(request, 'if-range')
  if (condition === undefined) return true
  if (condition.startsWith('W/')) return false
  return condition === findHeader(answer, condition.startsWith('"') ? 'etag' : 'last-modified')
}

function headerOf({ headers }: RawRequest, name: string): string | undefined {
  return headers.get(name)
}

function findHeader({ headers = {} }: HttpAnswer, name: string): string | undefined {
  return Object.entries(headers).find(([key]) => key.toLowerCase() === name)?.[1]
}
