/**
 * One GET from a stranger's web server (RFC 9110). Not by `fetch`, which cannot be told whom to trust: with `authority` that one
 * alone may vouch for the server, without it those that Node trusts.
 */
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http'
import { messageOf, OperationError } from '../base/errors.ts'
import { codeOf } from './file.ts'

/** An authority's certificates, PEM. Nothing secret. */
export type Authority = string

export type HttpPlace = {
  /** May hold a user and a password: a secret. */
  readonly url: string
  readonly authority?: Authority | undefined
}

export type HttpReply = {
  readonly status: number
  /** '404 Not Found' */
  readonly statusText: string
  readonly headers: IncomingHttpHeaders
  /** Once. Throws what Node throws: `reasonOf` has the words. */
  readonly body: AsyncIterable<Uint8Array>
  /** Ends it, whatever is still to come. */
  readonly stop: () => void
}

/** A connection on which nothing moves for so long is given up. */
const silenceMsMax = 300_000
/** A server that sends on and on. */
const redirectsMax = 5

/** For people: without user, password and query, which may be secrets. */
export function labelOfUrl(url: string): string {
  const { protocol, host, pathname } = new URL(url)
  return `${protocol}//${host}${pathname}`
}

/**
 * Follows where it is sent on (RFC 9110 §15.4), but never from https to http, and takes the password to no other server.
 * @throws {OperationError} certificateRefused, serverUnreachable
 */
export async function httpGet(
  place: HttpPlace,
  headers: Readonly<Record<string, string>>,
  signal: AbortSignal,
): Promise<HttpReply> {
  let url = new URL(place.url)
  let authorization = authorizationOf(url)
  for (let redirects = 0; redirects <= redirectsMax; redirects++) {
    const sent = authorization === undefined ? headers : { ...headers, authorization }
    const response = await ask(url, sent, place.authority, signal).catch((error: unknown) => {
      throw describe(error, url, place.authority)
    })
    const to = response.headers.location
    const status = response.statusCode ?? 0
    if (to === undefined || ![301, 302, 303, 307, 308].includes(status)) {
      return {
        status,
        statusText: `${status} ${response.statusMessage ?? ''}`.trim(),
        headers: response.headers,
        body: response,
        stop: () => response.destroy(),
      }
    }
    response.destroy()
    const next = URL.canParse(to, url.href) ? new URL(to, url) : undefined
    if (next === undefined || !/^https?:$/.test(next.protocol))
      throw unreachable('its server sends on to no web address')
    if (url.protocol === 'https:' && next.protocol === 'http:') {
      throw unreachable(`its server sends on to ${labelOfUrl(next.href)}, which anybody between could change`)
    }
    if (next.origin !== url.origin) authorization = undefined
    url = next
  }
  throw unreachable(`its server sends on more than ${redirectsMax} times`)
}

/** Node says "aborted" and hides why in the cause, or tries two addresses and says nothing of either. */
export function reasonOf(error: unknown): string {
  if (error instanceof OperationError) return error.message
  const inner = error instanceof AggregateError ? error.errors[0] : error
  const cause = inner instanceof Error && inner.cause !== undefined ? inner.cause : inner
  const code = codeOf(cause)
  return code === 'unknown error' ? messageOf(cause) : `${messageOf(cause)} (${code})`
}

async function ask(
  url: URL,
  headers: Readonly<Record<string, string>>,
  authority: Authority | undefined,
  signal: AbortSignal,
): Promise<IncomingMessage> {
  // Loaded here: a server whose images are all its own keeps the memory.
  const { request } = url.protocol === 'https:' ? await import('node:https') : await import('node:http')
  const ca = authority === undefined ? {} : { ca: authority }
  const { protocol, hostname, port, pathname, search } = url
  const host = hostname.replace(/^\[(.*)\]$/, '$1')
  return await new Promise((resolve, reject) => {
    const asked = request(
      { protocol, host, port, path: `${pathname}${search}`, headers, signal, ...ca },
      (response) => {
        // Whoever reads it hears of it; who does not is not to fall over it.
        response.on('error', () => undefined)
        resolve(response)
      },
    )
    asked.setTimeout(silenceMsMax, () => asked.destroy(new Error('nothing came for five minutes')))
    asked.on('error', reject)
    asked.end()
  })
}

function authorizationOf({ username, password }: URL): string | undefined {
  if (username === '') return undefined
  const credentials = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`
  return `Basic ${Buffer.from(credentials).toString('base64')}`
}

/** OpenSSL's and Node's names for what is wrong with a certificate. */
const certificateFaults: Readonly<Record<string, 'unknown' | 'expired' | 'early' | 'name'>> = {
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'unknown',
  UNABLE_TO_GET_ISSUER_CERT: 'unknown',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'unknown',
  SELF_SIGNED_CERT_IN_CHAIN: 'unknown',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'unknown',
  CERT_SIGNATURE_FAILURE: 'unknown',
  INVALID_CA: 'unknown',
  CERT_HAS_EXPIRED: 'expired',
  CERT_NOT_YET_VALID: 'early',
  ERR_TLS_CERT_ALTNAME_INVALID: 'name',
}

function describe(error: unknown, { hostname, host }: URL, authority: Authority | undefined): OperationError {
  const code = codeOf(error)
  const fault = certificateFaults[code]
  if (fault === undefined) return unreachable(reasonOf(error), error)
  const by = authority === undefined ? 'an authority that is trusted here' : 'the authority that was given for it'
  const [what, hint] = {
    unknown: [
      `the certificate of ${host} does not come from ${by}`,
      authority === undefined
        ? 'If it is a server of your own, name the certificate of its authority: --ca FILE.'
        : 'Another server answers there, or FILE of --ca FILE is not its authority.',
    ],
    expired: [`the certificate of ${host} has expired`, 'Renew it there, and look at the clock here.'],
    early: [`the certificate of ${host} is not valid yet`, 'Look at the clock here, and there.'],
    name: [
      `the certificate of ${host} is not for ${hostname}`,
      'Use a name that stands in it, or give it this one: openssl x509 -in FILE -noout -text.',
    ],
  }[fault] as [string, string]
  return new OperationError('certificateRefused', `${what} (${code})`, hint, { cause: error })
}

function unreachable(reason: string, cause?: unknown): OperationError {
  return new OperationError('serverUnreachable', reason, 'Check the address, and the network.', { cause })
}
