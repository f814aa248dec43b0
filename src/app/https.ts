/** The boot listener with TLS: the site's certificates, made at the first start and renewed by themselves. */
import { systemClock } from '../host/clock.ts'
import { systemHash } from '../host/hash.ts'
import type { NetworkInterface } from '../host/interfaces.ts'
import { systemKeys } from '../host/keys.ts'
import { systemRandom } from '../host/random.ts'
import { systemTcp } from '../host/tcp.ts'
import { createTlsNetwork, modernCiphers, type TlsNetwork, type TlsTerms } from '../host/tls.ts'
import { createTrustFiles } from '../host/trust-files.ts'
import type { HttpHandler } from '../http/policy.ts'
import { type HttpServer, serveHttp } from '../http/server.ts'
import type { Log } from '../ports/log.ts'
import { openSiteTrust, tlsIdentityOf } from '../trust/site.ts'
import type { Compat, UpConfig } from './config.ts'
import { fromHttp, type Said } from './translate.ts'

export type HttpsParts = {
  readonly serve: HttpHandler
  say(said: Said | undefined): void
  readonly log: Log
}

/**
 * What older loaders need beside the modern suites, only on this listener. Each is weaker: CBC without forward secrecy for
 * the iPXE of 2019, DHE and RSA without ECDHE for OVMF of 2022.
 */
const compatCiphers: Readonly<Record<Compat, string>> = {
  'ipxe-2019': 'AES128-SHA256:AES256-SHA256:AES128-SHA:AES256-SHA',
  ovmf: 'DHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-GCM-SHA384:AES128-GCM-SHA256:AES256-GCM-SHA384:DHE-RSA-AES256-SHA256',
}

/** The setting that allows this suite; undefined: a modern one, which is always allowed. */
function compatOf(cipher: string): Compat | undefined {
  const allows = (ciphers: string): boolean => ciphers.split(':').includes(cipher)
  if (allows(modernCiphers)) return undefined
  return (Object.keys(compatCiphers) as Compat[]).find((name) => allows(compatCiphers[name]))
}

const renewalCheckMs = 24 * 60 * 60 * 1000

/** @throws {OperationError} those of openSiteTrust; portTaken, portForbidden */
export async function startHttps(
  config: UpConfig,
  network: NetworkInterface,
  directory: string,
  { serve, say, log }: HttpsParts,
): Promise<HttpServer> {
  const terms = (): Promise<TlsTerms> => tlsTerms(config, network, directory, log)
  const tls = createTlsNetwork(
    await terms(),
    {
      secured: ({ remote, protocol, cipher, clientFingerprint }) => {
        const compat = protocol === 'TLSv1.3' ? undefined : compatOf(cipher)
        const happening = { kind: 'tlsAgreed', protocol, cipher, compat, clientFingerprint } as const
        say({ whose: { address: remote.address }, happening })
      },
      failed: (remote, reason) => {
        say({ whose: { address: remote.address }, happening: { kind: 'tlsFailed', reason: inWords(reason) } })
      },
    },
    systemTcp,
  )
  const server = await serveHttp({
    network: tls,
    clock: systemClock,
    listen: { address: network.address, port: config.ports.https },
    secure: true,
    handler: serve,
    onEvent: (event) => say(fromHttp(event)),
  })
  const stopRenewing = renewDaily(tls, terms, log)
  return {
    local: server.local,
    get connectionCount() {
      return server.connectionCount
    },
    close: () => {
      stopRenewing()
      return server.close()
    },
  }
}

async function tlsTerms(config: UpConfig, network: NetworkInterface, directory: string, log: Log): Promise<TlsTerms> {
  const { serverName } = config
  const trust = await openSiteTrust(
    {
      authorityName: `Slipway CA of ${serverName ?? network.address}`,
      names: { dns: serverName === undefined ? [] : [serverName], ip: [network.address] },
      nowMs: systemClock.wallMs(),
    },
    createTrustFiles(directory),
    { keys: systemKeys, hash: systemHash, random: systemRandom },
  )
  for (const made of trust.made) log.info('certificate made', { made })
  const ciphers = [modernCiphers, ...config.compat.map((name) => compatCiphers[name])].join(':')
  return { identities: trust.servers.map(tlsIdentityOf), ciphers }
}

function renewDaily(tls: TlsNetwork, terms: () => Promise<TlsTerms>, log: Log): () => void {
  let timer = systemClock.after(renewalCheckMs, renew)
  function renew(): void {
    timer = systemClock.after(renewalCheckMs, renew)
    terms().then(
      (next) => tls.renew(next),
      (error: unknown) => log.error('certificates could not be renewed', { reason: String(error) }),
    )
  }
  return () => timer.cancel()
}

/** OpenSSL's reasons, as a person says them. */
function inWords(reason: string): string {
  const words: readonly (readonly [RegExp, string])[] = [
    [/no shared cipher/i, 'no cipher suite in common: an old loader may need [https] compat'],
    [/unknown ca/i, 'the loader does not trust our CA'],
    [/bad certificate|certificate unknown/i, 'the loader refused our certificate: not signed by a CA it trusts'],
    [/certificate expired/i, 'the loader found our certificate expired: look at its clock'],
    [/unsupported protocol|version/i, 'the loader has only TLS versions that are no longer safe'],
    [/http request/i, 'plain HTTP on the HTTPS port'],
    [/ECONNRESET|socket hang up|disconnected/i, 'the loader hung up during the handshake'],
  ]
  return words.find(([pattern]) => pattern.test(reason))?.[1] ?? reason
}
