/**
 * The boot listener with TLS. It comes up when there are certificates that can be shown, and takes up new ones while it
 * runs; what is wrong with them is an event, and what was there before goes on.
 */
import { messageOf, OperationError } from '../base/errors.ts'
import { systemTcp } from '../host/tcp.ts'
import { createTlsNetwork, type TlsFailure, type TlsNetwork, type TlsTerms } from '../host/tls.ts'
import type { HttpHandler } from '../http/policy.ts'
import { type HttpServer, serveHttp } from '../http/server.ts'
import type { Happening } from '../journal/events.ts'
import type { Clock, Timer } from '../ports/clock.ts'
import type { Log } from '../ports/log.ts'
import type { Endpoint } from '../ports/udp.ts'
import type { Certificate } from '../trust/certificate.ts'
import { readOpening } from '../trust/client-hello.ts'
import { explainHandshake } from '../trust/handshake.ts'
import { type Compat, cipherList, compatOf } from '../trust/suites.ts'
import { type CertificateTerms, loadServerCertificates, readSources } from './server-certificates.ts'
import { fromHttp, type Said } from './translate.ts'

export type HttpsOptions = {
  readonly listen: Endpoint
  /** Where a client is asked for its certificate. */
  readonly proofListen: Endpoint
  readonly certificates: CertificateTerms
  readonly compat: readonly Compat[]
  readonly serve: HttpHandler
  say(said: Said | undefined): void
  readonly clock: Clock
  readonly log: Log
}

type Running = { readonly network: TlsNetwork; readonly server: HttpServer }

const serviceName = 'https'
const serviceForProofs = 'https for proofs'

/** How long a certificate that was put into place, or a port that became free, may take to be seen. SIGHUP is quicker. */
const lookMs = 30_000
/** Certificates are made anew months before they end: a day is often enough. */
const renewalCheckMs = 24 * 60 * 60 * 1000

export class HttpsService {
  readonly #options: HttpsOptions
  #running: Running | undefined
  /** An iPXE of 2019 that is asked for a certificate and has none hangs up: who need not prove anything is not asked. */
  #asking: Running | undefined
  #host: string | undefined
  #leaves: readonly Certificate[] = []
  /** What is served now was made of these: the same is not loaded again before a day has gone by. */
  #sources: string | undefined
  #loadedAtMs = 0
  /** By service, why it failed the last time: each reason is told once, however often it is tried again. */
  readonly #told = new Map<string, string>()
  #timer: Timer | undefined
  #looking: Promise<void> = Promise.resolve()
  #closed = false

  constructor(options: HttpsOptions) {
    this.#options = options
  }

  /** By which host machines ask; undefined while HTTPS is not served. */
  get host(): string | undefined {
    return this.#running === undefined ? undefined : this.#host
  }

  get local(): Endpoint | undefined {
    return this.#running?.server.local
  }

  /** Serves, now or as soon as there is what it takes. Resolves after the first attempt, and never fails. */
  start(): Promise<void> {
    return this.look()
  }

  /** Looks whether there are other certificates, takes them up, and serves what could not be served. One look after the other. */
  look(): Promise<void> {
    this.#looking = this.#looking.then(() => this.#lookNow())
    return this.#looking
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#timer?.cancel()
    await this.#looking
    await Promise.all([this.#running?.server.close(), this.#asking?.server.close()])
  }

  async #lookNow(): Promise<void> {
    if (this.#closed) return
    const { certificates, clock, log } = this.#options
    this.#timer?.cancel()
    this.#timer = clock.after(lookMs, () => void this.look())
    const nowMs = clock.wallMs()
    try {
      const sources = await readSources(certificates)
      const isDue = nowMs - this.#loadedAtMs >= renewalCheckMs || nowMs < this.#loadedAtMs
      if (sources === this.#sources && !isDue) return
      // Until all of it is served: a port that is taken or a name that does not resolve may be in order in a moment.
      this.#sources = undefined
      const loaded = await loadServerCertificates(certificates, nowMs)
      for (const made of loaded.made) log.info('certificate made', { made })
      const terms = { identities: loaded.identities, ciphers: cipherList(this.#options.compat) }
      this.#running = await this.#serve(terms, this.#running, this.#options.listen, serviceName)
      this.#host = loaded.host
      this.#leaves = loaded.leaves
      this.#told.delete(serviceName)
      if (loaded.clientCa !== undefined && !(await this.#ask({ ...terms, clientCa: loaded.clientCa }))) return
      // What was made just now is no change by somebody else.
      this.#sources = loaded.made.length > 0 ? await readSources(certificates) : sources
      this.#loadedAtMs = nowMs
    } catch (error) {
      this.#tell(error)
    }
  }

  /** What has to do without a proof is served all the same where this cannot be. Whether it is served. */
  async #ask(terms: TlsTerms): Promise<boolean> {
    try {
      this.#asking = await this.#serve(terms, this.#asking, this.#options.proofListen, serviceForProofs)
      this.#told.delete(serviceForProofs)
      return true
    } catch (error) {
      if (!(error instanceof OperationError)) throw error
      this.#sayFailed(serviceForProofs, error.message, error.hint)
      return false
    }
  }

  async #serve(terms: TlsTerms, running: Running | undefined, listen: Endpoint, service: string): Promise<Running> {
    const { say, clock, serve } = this.#options
    if (running !== undefined) {
      running.network.renew(terms)
      return running
    }
    const network = createTlsNetwork(
      terms,
      {
        secured: ({ remote, protocol, cipher, certificate }) => {
          const compat = protocol === 'TLSv1.3' ? undefined : compatOf(cipher)
          const clientFingerprint = certificate?.kind === 'good' ? certificate.fingerprint : undefined
          const happening = { kind: 'tlsAgreed', protocol, cipher, compat, clientFingerprint } as const
          say({ whose: { address: remote.address }, happening })
        },
        failed: (failure) => say({ whose: { address: failure.remote.address }, happening: this.#explain(failure) }),
        openingIsWhole: (bytes) => readOpening(bytes).kind !== 'more',
      },
      systemTcp,
    )
    const onEvent = (event: Parameters<typeof fromHttp>[0]): void => say(fromHttp(event))
    const server = await serveHttp({ network, clock, listen, secure: true, handler: serve, onEvent })
    const endpoint = `${server.local.address}:${server.local.port}`
    say({ whose: {}, happening: { kind: 'serviceReady', service, endpoint } })
    return { network, server }
  }

  #explain({ reason, opening, sentBytes }: TlsFailure): Happening {
    const { clock, compat } = this.#options
    const failed = { reason, opening: readOpening(opening), certificateShown: sentBytes > alertBytesMax }
    const terms = { nowMs: clock.wallMs(), compat, certificates: this.#leaves }
    return { kind: 'tlsFailed', ...explainHandshake(failed, terms) }
  }

  /** Everything else works without; only what asks for TLS waits, or is told. */
  #tell(error: unknown): void {
    if (!(error instanceof OperationError)) this.#options.log.error('HTTPS', { reason: messageOf(error) })
    const isUp = this.#running !== undefined
    const reason = isUp ? `${messageOf(error)}; the former certificate is shown until then` : messageOf(error)
    const hint = error instanceof OperationError ? error.hint : 'Look at the log; it is tried again by itself.'
    this.#sayFailed(serviceName, reason, hint)
  }

  #sayFailed(service: string, reason: string, hint: string): void {
    if (this.#told.get(service) === reason) return
    this.#told.set(service, reason)
    this.#options.say({ whose: {}, happening: { kind: 'serviceFailed', service, reason, hint } })
  }
}

/** A record with an alert is 7 bytes; a ServerHello with a certificate is never so short. */
const alertBytesMax = 64
