/**
 * Which certificates the boot listener shows: those that this site's authority makes, or the user's own. Both are looked
 * at again and again, so that a renewal (ours, or an ACME client's), `slipway ca rotate` and `slipway ca import` are taken
 * up by the running server.
 */
import { OperationError } from '../base/errors.ts'
import { Secret } from '../base/secret.ts'
import { systemHash } from '../host/hash.ts'
import { systemKeys } from '../host/keys.ts'
import { addressesOfName } from '../host/name-lookup.ts'
import { systemRandom } from '../host/random.ts'
import { readTextFile } from '../host/text-file.ts'
import type { TlsIdentity } from '../host/tls.ts'
import { createTrustFiles } from '../host/trust-files.ts'
import { checkServerCertificate, coversName, exportCertificate } from '../trust/authority.ts'
import type { Certificate } from '../trust/certificate.ts'
import { pemBytesMax } from '../trust/limits.ts'
import { authorityCertificateFile, authorityFile, openSiteTrust, tlsIdentityOf } from '../trust/site.ts'
import type { OwnCertificate } from './config.ts'

export type CertificateTerms = {
  /** Where we are served. */
  readonly address: string
  readonly serverName: string | undefined
  readonly own: OwnCertificate | undefined
  /** DNS servers that machines are told of; none: as this computer resolves names. */
  readonly dnsServers: readonly string[]
  /** Of the state directory: keys and certificates. */
  readonly trustDirectory: string
}

export type ServerCertificates = {
  readonly identities: readonly TlsIdentity[]
  readonly leaves: readonly Certificate[]
  /** By which host machines ask, so that the certificate is for it. */
  readonly host: string
  /** PEM of the authority that signs the certificates of machines; undefined while there is none. */
  readonly clientCa: string | undefined
  /** What was made just now, for the log. */
  readonly made: readonly string[]
}

/**
 * What all of it depends on, to be compared: when it differs from what it was, load again. A file that is not there is as
 * good a state as any.
 */
export async function readSources(terms: CertificateTerms): Promise<string> {
  if (terms.own === undefined) return (await createTrustFiles(terms.trustDirectory).read(authorityFile)) ?? ''
  const { certificatePath, keyPath } = terms.own
  const authority = (await readClientCa(terms)) ?? ''
  const read = (path: string): Promise<string> => readTextFile(path, pemBytesMax).catch(() => '')
  return `${await read(certificatePath)}\n${await read(keyPath)}\n${authority}`
}

/** Machines prove themselves to our authority whoever signed for us. */
async function readClientCa({ trustDirectory }: CertificateTerms): Promise<string | undefined> {
  return await createTrustFiles(trustDirectory).read(authorityCertificateFile)
}

/**
 * @throws {OperationError} those of openSiteTrust; of a certificate of the user's own those of checkServerCertificate,
 * fileMissing, fileForbidden, nameUnresolved
 */
export async function loadServerCertificates(terms: CertificateTerms, nowMs: number): Promise<ServerCertificates> {
  return terms.own === undefined ? loadOfAuthority(terms, nowMs) : loadOwn(terms, terms.own, nowMs)
}

async function loadOfAuthority(terms: CertificateTerms, nowMs: number): Promise<ServerCertificates> {
  const { address, serverName, trustDirectory } = terms
  const trust = await openSiteTrust(
    {
      authorityName: `Slipway CA of ${serverName ?? address}`,
      names: { dns: serverName === undefined ? [] : [serverName], ip: [address] },
      nowMs,
    },
    createTrustFiles(trustDirectory),
    { keys: systemKeys, hash: systemHash, random: systemRandom },
  )
  const leaves = trust.servers.map(({ certificate }) => certificate)
  const clientCa = exportCertificate(trust.authority.certificate)
  return {
    identities: trust.servers.map((server) => tlsIdentityOf(server, trust.authority.certificate)),
    leaves,
    host: address,
    clientCa,
    made: trust.made,
  }
}

async function loadOwn(terms: CertificateTerms, own: OwnCertificate, nowMs: number): Promise<ServerCertificates> {
  const { address, serverName, dnsServers } = terms
  const chainPem = await readTextFile(own.certificatePath, pemBytesMax)
  const keyPem = new Secret(await readTextFile(own.keyPath, pemBytesMax))
  const names = serverName === undefined ? { dns: [], ip: [address] } : { dns: [serverName], ip: [] }
  const { chain, key } = checkServerCertificate({ chainPem, keyPem, names, nowMs }, systemKeys)
  const [leaf] = chain
  // By address where the certificate allows it: that needs no DNS.
  const host = leaf !== undefined && coversName(leaf, address) ? address : (serverName ?? address)
  if (host !== address) await checkName(host, address, dnsServers)
  const certificateChain = chain.map(exportCertificate).join('')
  const identity = { certificateChain, key: key.exportPem() }
  return { identities: [identity], leaves: chain.slice(0, 1), host, clientCa: await readClientCa(terms), made: [] }
}

/** A machine that is sent to a name that leads elsewhere gets no script, and nobody could tell it why. */
async function checkName(name: string, address: string, dnsServers: readonly string[]): Promise<void> {
  const found = await addressesOfName(name, dnsServers)
  if (found.includes(address)) return
  const asked = dnsServers.length === 0 ? 'as this computer resolves names' : `by ${dnsServers.join(', ')}`
  const what =
    found.length === 0
      ? `${name} does not resolve, ${asked}`
      : `${name} is ${found.join(', ')}, ${asked}, and not ${address}`
  const hint = `Give ${name} the address ${address} in DNS, name the server that knows it ([dhcp] dns), or have a certificate made for ${address}.`
  throw new OperationError('nameUnresolved', what, hint)
}
