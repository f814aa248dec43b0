/**
 * The trust of one site, kept in files: the authority, and the server's two certificates, made when there are none and
 * made anew when they run out or the server's names change. What is not in order is refused before anything is written.
 *
 *   ca.pem  server-rsa.pem  server-p256.pem   private key and certificate in one file, so that no crash parts a pair
 *   ca.crt  ca-<end of serial>.crt            the authority's certificate for everybody, and its predecessors'
 */
import { OperationError } from '../base/errors.ts'
import { Secret } from '../base/secret.ts'
import type { KeyKind, Keys } from '../ports/keys.ts'
import {
  createAuthority,
  exportCertificate,
  type Identity,
  importAuthority,
  issueLeaf,
  readChain,
  renewalReason,
  type TrustPorts,
} from './authority.ts'
import { type Certificate, equalBytes, type SubjectNames } from './certificate.ts'

/** Small text files of the state directory. */
export interface TrustFiles {
  /** Undefined when it is not there. @throws {OperationError} fileForbidden, ioError */
  read(name: string): Promise<string | undefined>
  /** Whole or not at all, and on stable storage when it resolves; a secret is readable by its owner only. */
  write(name: string, text: string | Secret): Promise<void>
  /** No other process, and nobody else in this one, is inside an `action` of these files meanwhile. @throws {OperationError} trustInUse */
  alone<T>(action: () => Promise<T>): Promise<T>
}

export interface SiteTerms {
  /** Shown to people who look at the certificate: 'Slipway CA of lab1'. */
  readonly authorityName: string
  readonly names: SubjectNames
  readonly nowMs: number
}

export interface SiteTrust {
  readonly authority: Identity
  /** RSA first. */
  readonly servers: readonly Identity[]
  /** What was made just now and why, for the log: 'server-rsa: it ends on 2027-01-02'. */
  readonly made: readonly string[]
}

export const authorityFile = 'ca.pem'
export const authorityCertificateFile = 'ca.crt'
const leafKinds: ReadonlyArray<readonly [file: string, kind: KeyKind]> = [
  ['server-rsa.pem', 'rsa3072'],
  ['server-p256.pem', 'p256'],
]

/**
 * Reads what is there and makes what is missing. Call it again once a day: that is the renewal.
 * @throws {OperationError} those of importAuthority and issueLeaf; authorityKeyMissing
 */
export function openSiteTrust(terms: SiteTerms, files: TrustFiles, ports: TrustPorts): Promise<SiteTrust> {
  return files.alone(() => openTrust(terms, files, ports))
}

async function openTrust(terms: SiteTerms, files: TrustFiles, ports: TrustPorts): Promise<SiteTrust> {
  const made: string[] = []
  const { authority, isNew } = await openAuthority(terms, files, ports)
  if (isNew) made.push(`ca: ${authority.certificate.subject}`)
  const servers: Identity[] = []
  for (const [file, keyKind] of leafKinds) {
    const wanted = { issuer: authority.certificate, names: terms.names, nowMs: terms.nowMs }
    const old = await readLeaf(file, files, ports)
    const reason = old === undefined ? 'there was none' : renewalReason(old.certificate, wanted, ports.keys)
    if (old !== undefined && reason === undefined) {
      servers.push(old)
      continue
    }
    const leafTerms = { profile: 'server', keyKind, names: terms.names, nowMs: terms.nowMs } as const
    const leaf = await issueLeaf(authority, leafTerms, ports)
    await writeIdentity(file, leaf, files)
    servers.push(leaf)
    made.push(`${file}: ${reason}`)
  }
  return { authority, servers, made }
}

/** The authority alone, made if there is none. @throws {OperationError} those of importAuthority; authorityKeyMissing */
export function openSiteAuthority(
  terms: Pick<SiteTerms, 'authorityName' | 'nowMs'>,
  files: TrustFiles,
  ports: TrustPorts,
): Promise<OpenedAuthority> {
  return files.alone(() => openAuthority(terms, files, ports))
}

type OpenedAuthority = { readonly authority: Identity; readonly isNew: boolean }

/** Between not finding one and writing it nobody else may do the same: the site would have two, and one key for neither. */
async function openAuthority(
  terms: Pick<SiteTerms, 'authorityName' | 'nowMs'>,
  files: TrustFiles,
  ports: TrustPorts,
): Promise<OpenedAuthority> {
  const known = await readSiteAuthority(terms.nowMs, files, ports.keys)
  if (known !== undefined) return { authority: known, isNew: false }
  const authority = await createAuthority({ name: terms.authorityName, nowMs: terms.nowMs }, ports)
  await writeAuthority(authority, files)
  return { authority, isNew: true }
}

/**
 * As `host/tls.ts` takes it: the leaf and the authority. TLS lets a server leave the root out (RFC 5246 §7.4.2), but an iPXE
 * knows no more of it than its fingerprint, and must be shown it.
 */
export function tlsIdentityOf(
  { certificate, key }: Identity,
  authority: Certificate,
): { readonly certificateChain: string; readonly key: Secret } {
  return { certificateChain: exportCertificate(certificate) + exportCertificate(authority), key: key.exportPem() }
}

/** A certificate with which one machine proves itself (iPXE with CERT= and PRIVKEY=). @throws as issueLeaf */
export async function issueMachineCertificate(
  authority: Identity,
  terms: { readonly machine: string; readonly days: number; readonly nowMs: number },
  ports: TrustPorts,
): Promise<Identity> {
  const none = { dns: [], ip: [] }
  // RSA: the iPXE of 2019 can sign with nothing else. 2048 bits: it takes the third of the time that 3072 do.
  return issueLeaf(
    authority,
    {
      profile: 'client',
      keyKind: 'rsa2048',
      names: none,
      commonName: terms.machine,
      days: terms.days,
      nowMs: terms.nowMs,
    },
    ports,
  )
}

/** Takes over somebody else's authority. What was there stays until the new one is found good. @throws as importAuthority */
export async function importSiteAuthority(
  given: { readonly certificatePem: string; readonly keyPem: Secret; readonly nowMs: number },
  files: TrustFiles,
  ports: TrustPorts,
): Promise<Identity> {
  const authority = importAuthority(given, ports.keys)
  await files.alone(() => writeAuthority(authority, files))
  return authority
}

/** A new authority in place of the old. Every loader that trusts the old one must be told. @throws {OperationError} */
export async function rotateSiteAuthority(
  terms: Pick<SiteTerms, 'authorityName' | 'nowMs'>,
  files: TrustFiles,
  ports: TrustPorts,
): Promise<Identity> {
  const authority = await createAuthority({ name: terms.authorityName, nowMs: terms.nowMs }, ports)
  await files.alone(() => writeAuthority(authority, files))
  return authority
}

/** The former certificate stays beside the new one: its fingerprint is in loaders that must be found and changed. */
async function keepFormer(next: Certificate, files: TrustFiles): Promise<void> {
  const pem = await files.read('ca.crt')
  const former = pem === undefined ? undefined : readChain(pem)[0]
  if (former === undefined || pem === undefined || equalBytes(former.der, next.der)) return
  await files.write(`ca-${former.serial.slice(-6)}.crt`, pem)
}

/** An authority whose key is kept elsewhere, or was lost, cannot sign: said so before a new one is made by mistake. */
export async function readSiteAuthority(nowMs: number, files: TrustFiles, keys: Keys): Promise<Identity | undefined> {
  const pem = await files.read(authorityFile)
  const certificatePem = await files.read(authorityCertificateFile)
  if (pem === undefined) {
    if (certificatePem === undefined) return undefined
    const hint =
      'Put it back from a copy, or make a new authority: slipway ca rotate. Loaders that trust the old one must be told.'
    throw new OperationError('authorityKeyMissing', 'ca.pem, with the key of the certificate authority, is gone', hint)
  }
  const authority = importAuthority({ certificatePem: pem, keyPem: new Secret(pem), nowMs }, keys)
  const expected = exportCertificate(authority.certificate)
  // A crash between the two files.
  if (certificatePem !== expected) await files.write(authorityCertificateFile, expected)
  return authority
}

/** A leaf that cannot be read is made anew: nothing is lost with it. */
async function readLeaf(file: string, files: TrustFiles, ports: TrustPorts): Promise<Identity | undefined> {
  const pem = await files.read(file)
  if (pem === undefined) return undefined
  try {
    const [certificate] = readChain(pem)
    const key = ports.keys.read(new Secret(pem))
    const isPair = certificate !== undefined && equalBytes(certificate.publicKey, key.publicKey)
    return isPair ? { certificate, key } : undefined
  } catch (error) {
    if (error instanceof OperationError) return undefined
    throw error
  }
}

async function writeAuthority(authority: Identity, files: TrustFiles): Promise<void> {
  await keepFormer(authority.certificate, files)
  await writeIdentity(authorityFile, authority, files)
  await files.write(authorityCertificateFile, exportCertificate(authority.certificate))
}

async function writeIdentity(file: string, { certificate, key }: Identity, files: TrustFiles): Promise<void> {
  await files.write(file, new Secret(`${key.exportPem().reveal()}${exportCertificate(certificate)}`))
}
