/**
 * TcpNetwork whose connections are TLS. Rooms see plain bytes; who the peer proved to be and what was agreed is told once,
 * when the handshake is through.
 */
import { createSecureContext, createServer, type SecureContextOptions, type TLSSocket } from 'node:tls'
import type { Secret } from '../base/secret.ts'
import type { TcpListener, TcpNetwork } from '../ports/tcp.ts'
import type { Endpoint } from '../ports/udp.ts'
import { adopt, listenOn } from './tcp.ts'

/** One certificate with its key; several may stand side by side (RSA and P-256), the client's ciphers choose. */
export type TlsIdentity = {
  /** PEM, the leaf first. */
  readonly certificateChain: string
  readonly key: Secret
}

export type TlsTerms = {
  readonly identities: readonly TlsIdentity[]
  /** OpenSSL's names, strongest first, for TLS 1.2. TLS 1.3's are always its three. */
  readonly ciphers: string
  /** PEM of the CA whose client certificates are asked for. Undefined: none are. */
  readonly clientCa?: string
}

export type TlsSession = {
  readonly remote: Endpoint
  /** 'TLSv1.2' */
  readonly protocol: string
  readonly cipher: string
  readonly serverName: string | undefined
  /** SHA-256 of the client's certificate as hex, if it proved one by our CA. */
  readonly clientFingerprint: string | undefined
}

export type TlsEvents = {
  readonly secured: (session: TlsSession) => void
  /** `reason` is OpenSSL's: 'no shared cipher', 'tlsv1 alert unknown ca'. */
  readonly failed: (remote: Endpoint, reason: string) => void
}

/** A client that does not finish its handshake in this time is dropped. */
const handshakeMsMax = 15_000

/** Forward secrecy and authenticated encryption only. */
export const modernCiphers: string = [
  'ECDHE-ECDSA-AES128-GCM-SHA256',
  'ECDHE-RSA-AES128-GCM-SHA256',
  'ECDHE-ECDSA-AES256-GCM-SHA384',
  'ECDHE-RSA-AES256-GCM-SHA384',
  'ECDHE-ECDSA-CHACHA20-POLY1305',
  'ECDHE-RSA-CHACHA20-POLY1305',
].join(':')

/** Listens with TLS. `renew` takes new identities for the handshakes that begin from then on. */
export interface TlsNetwork extends TcpNetwork {
  renew(terms: TlsTerms): void
}

export function createTlsNetwork(terms: TlsTerms, events: TlsEvents, plain: TcpNetwork): TlsNetwork {
  const servers = new Set<ReturnType<typeof createServer>>()
  let current = terms
  return {
    listen: async (binding, accept): Promise<TcpListener> => {
      const server = createServer(
        { ...optionsOf(current), handshakeTimeout: handshakeMsMax, noDelay: true },
        (socket) => {
          events.secured(describe(socket))
          adopt(socket, accept)
        },
      )
      server.on('tlsClientError', (error, socket) => {
        const remote = { address: socket.remoteAddress ?? '', port: socket.remotePort ?? 0 }
        events.failed(remote, error.message)
        socket.destroy()
      })
      const listener = await listenOn(server, binding)
      servers.add(server)
      return {
        local: listener.local,
        close: () => {
          servers.delete(server)
          return listener.close()
        },
      }
    },
    connect: plain.connect,
    renew: (next) => {
      createSecureContext(optionsOf(next)) // throws before anything is changed if the key does not fit
      current = next
      for (const server of servers) server.setSecureContext(optionsOf(next))
    },
  }
}

function optionsOf(terms: TlsTerms): SecureContextOptions & { requestCert: boolean; rejectUnauthorized: boolean } {
  return {
    cert: terms.identities.map((identity) => identity.certificateChain),
    key: terms.identities.map((identity) => identity.key.reveal()),
    ciphers: terms.ciphers,
    minVersion: 'TLSv1.2',
    honorCipherOrder: true,
    dhparam: 'auto',
    requestCert: terms.clientCa !== undefined,
    // A boot loader without a certificate is still served what needs none; who asks for more is told no by the handler.
    rejectUnauthorized: false,
    ...(terms.clientCa === undefined ? {} : { ca: terms.clientCa }),
  }
}

function describe(socket: TLSSocket): TlsSession {
  const proved = socket.authorized ? socket.getPeerCertificate() : undefined
  const name: unknown = socket.servername
  return {
    remote: { address: (socket.remoteAddress ?? '').replace(/^::ffff:/, ''), port: socket.remotePort ?? 0 },
    protocol: socket.getProtocol() ?? 'unknown',
    cipher: socket.getCipher().name,
    serverName: typeof name === 'string' && name !== '' ? name : undefined,
    clientFingerprint: proved?.fingerprint256?.replaceAll(':', '').toLowerCase(),
  }
}
