/**
 * TcpNetwork whose connections are TLS. Rooms see plain bytes; who the peer proved to be and what was agreed is told once,
 * when the handshake is through.
 */
import { createServer as createPlainServer } from 'node:net'
import {
  createSecureContext,
  createServer,
  type SecureContextOptions,
  type TLSSocket,
  type Server as TlsServer,
} from 'node:tls'
import type { Secret } from '../base/secret.ts'
import type { PeerCertificate, TcpListener, TcpNetwork } from '../ports/tcp.ts'
import type { Endpoint } from '../ports/udp.ts'
import { codeOf } from './file.ts'
import { adopt, listenOn } from './tcp.ts'
import { doorLimits, endpointOf, type Opening, provingDoorLimits, TlsDoor } from './tls-door.ts'

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
  readonly certificate: PeerCertificate | undefined
}

/** A handshake that came to nothing. */
export type TlsFailure = {
  readonly remote: Endpoint
  /** OpenSSL's, or Node's: 'no shared cipher', 'tlsv1 alert unknown ca', 'timeout'. */
  readonly reason: string
  /** What the client sent first, as far as it was looked at. */
  readonly opening: Uint8Array
  readonly sentBytes: number
}

export type TlsEvents = {
  readonly secured: (session: TlsSession) => void
  readonly failed: (failure: TlsFailure) => void
  /** Whether what a client has sent so far is enough to tell what it offers. The handshake begins when it is. */
  readonly openingIsWhole: (bytes: Uint8Array) => boolean
}

/** Listens with TLS. `renew` takes new identities for the handshakes that begin from then on. */
export interface TlsNetwork extends TcpNetwork {
  renew(terms: TlsTerms): void
}

export function createTlsNetwork(terms: TlsTerms, events: TlsEvents, plain: TcpNetwork): TlsNetwork {
  const servers = new Set<TlsServer>()
  let current = terms
  return {
    listen: async (binding, accept): Promise<TcpListener> => {
      const limits = current.clientCa === undefined ? doorLimits : provingDoorLimits
      const server = createServer(
        { ...optionsOf(current), handshakeTimeout: limits.handshakeMsMax, noDelay: true },
        (socket) => {
          door.leave(parentOf(socket) ?? socket)
          const session = describe(socket)
          events.secured(session)
          adopt(socket, accept, session.certificate)
        },
      )
      const openings = new WeakMap<object, Opening>()
      const { openingIsWhole } = events
      const door = new TlsDoor({
        limits,
        openingIsWhole,
        begin: (socket, opening) => {
          openings.set(socket, opening)
          server.emit('connection', socket)
        },
        failed: (opening, reason) => events.failed({ ...opening, reason, opening: opening.bytes, sentBytes: 0 }),
      })
      server.on('tlsClientError', (error, socket) => {
        const plainSocket = parentOf(socket) ?? socket
        const opening = openings.get(plainSocket)
        socket.destroy()
        if (!door.leave(plainSocket)) return
        events.failed({
          remote: opening?.remote ?? endpointOf(socket),
          reason: `${codeOf(error)} ${error.message}`,
          opening: opening?.bytes ?? new Uint8Array(0),
          sentBytes: opening?.sentBytes() ?? 0,
        })
      })
      const plainServer = createPlainServer({ noDelay: true }, (socket) => door.enter(socket))
      const listener = await listenOn(plainServer, binding)
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

function parentOf(socket: TLSSocket): object | undefined {
  const parent: unknown = Reflect.get(socket, '_parent')
  return parent instanceof Object ? parent : undefined
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
  const name: unknown = socket.servername
  return {
    remote: endpointOf(socket),
    protocol: socket.getProtocol() ?? 'unknown',
    cipher: socket.getCipher().name,
    serverName: typeof name === 'string' && name !== '' ? name : undefined,
    certificate: certificateOf(socket),
  }
}

function certificateOf(socket: TLSSocket): PeerCertificate | undefined {
  // Empty where it was not asked for, or where the client has none.
  const shown: Partial<ReturnType<TLSSocket['getPeerCertificate']>> = socket.getPeerCertificate()
  if (shown.fingerprint256 === undefined) return undefined
  const fingerprint = shown.fingerprint256.replaceAll(':', '').toLowerCase()
  if (socket.authorized) return { kind: 'good', fingerprint }
  return { kind: 'bad', fingerprint, reason: String(socket.authorizationError) }
}
