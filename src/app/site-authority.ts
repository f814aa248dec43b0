/** The site's certificate authority, as `slipway ca` shows, exports, imports and replaces it. */
import { OperationError } from '../base/errors.ts'
import { Secret } from '../base/secret.ts'
import { systemClock } from '../host/clock.ts'
import { openFile } from '../host/file.ts'
import { systemHash } from '../host/hash.ts'
import { systemKeys } from '../host/keys.ts'
import { systemRandom } from '../host/random.ts'
import { makeStateDirectory } from '../host/state-directory.ts'
import { createTrustFiles } from '../host/trust-files.ts'
import { writeWholeFile } from '../host/whole-file.ts'
import { exportCertificate, type Identity, readChain, type TrustPorts } from '../trust/authority.ts'
import { type Certificate, fingerprintOf } from '../trust/certificate.ts'
import { efiSignatureList } from '../trust/efi-signature-list.ts'
import { pemBytesMax } from '../trust/limits.ts'
import { formatFingerprint, type KnownRoot } from '../trust/loaders/identify.ts'
import {
  authorityCertificateFile,
  importSiteAuthority,
  openSiteAuthority,
  rotateSiteAuthority,
  type TrustFiles,
} from '../trust/site.ts'

/** The folder of the state directory that holds keys and certificates. */
export const trustFolder = 'trust'

export const trustPorts: TrustPorts = { keys: systemKeys, hash: systemHash, random: systemRandom }

/** pem and der: a certificate. efi: an EFI signature list, as UEFI's TlsCaCertificate and QEMU's cacerts take it. */
export type CertificateFormat = 'pem' | 'der' | 'efi'

export type AuthorityFacts = {
  readonly subject: string
  readonly fingerprint: string
  readonly serial: string
  readonly notBeforeMs: number
  readonly notAfterMs: number
}

/** Undefined: none has been made yet. @throws {OperationError} certificateUnreadable, fileForbidden */
export async function showAuthority(stateDirectory: string): Promise<AuthorityFacts | undefined> {
  const certificate = await readCertificateOf(stateDirectory)
  return certificate && factsOf(certificate)
}

/** @throws {OperationError} authorityMissing, fileMissing, fileForbidden */
export async function exportAuthority(stateDirectory: string, path: string, format: CertificateFormat): Promise<void> {
  const certificate = await readCertificateOf(stateDirectory)
  if (certificate === undefined) {
    const hint = 'The first `slipway up` makes it; `slipway ca rotate` makes it now, `slipway ca import` takes yours.'
    throw new OperationError('authorityMissing', `there is no certificate authority in ${stateDirectory} yet`, hint)
  }
  await writeWholeFile(path, inFormat(certificate, format), 0o644)
}

/** What was there stays until the new one is found good. @throws {OperationError} those of importAuthority */
export async function importAuthorityFiles(
  stateDirectory: string,
  files: { readonly certificatePath: string; readonly keyPath: string },
): Promise<AuthorityFacts> {
  const certificatePem = await readText(files.certificatePath)
  const keyPem = new Secret(await readText(files.keyPath))
  const given = { certificatePem, keyPem, nowMs: systemClock.wallMs() }
  return factsOf((await importSiteAuthority(given, trustFiles(stateDirectory), trustPorts)).certificate)
}

/** A new one; the former certificate stays beside it under a name of its own. */
export async function rotateAuthority(stateDirectory: string, authorityName: string): Promise<AuthorityFacts> {
  const terms = { authorityName, nowMs: systemClock.wallMs() }
  return factsOf((await rotateSiteAuthority(terms, trustFiles(stateDirectory), trustPorts)).certificate)
}

/** The authority, made if there is none: whoever prepares loaders before the first start needs it. */
export async function needAuthority(stateDirectory: string, authorityName: string): Promise<Identity> {
  const terms = { authorityName, nowMs: systemClock.wallMs() }
  return (await openSiteAuthority(terms, trustFiles(stateDirectory), trustPorts)).authority
}

/** What to look for in loaders: our own root, if there is one. */
export async function ownRoots(stateDirectory: string): Promise<readonly KnownRoot[]> {
  const certificate = await readCertificateOf(stateDirectory)
  return certificate === undefined ? [] : [rootOf(certificate)]
}

/** How our own root is called where loaders are shown. */
export const ownRootName = 'this site'

export function rootOf(certificate: Certificate): KnownRoot {
  return { name: ownRootName, fingerprint: fingerprintOf(certificate, systemHash) }
}

function factsOf(certificate: Certificate): AuthorityFacts {
  const { subject, serial, notBeforeMs, notAfterMs } = certificate
  const fingerprint = formatFingerprint(fingerprintOf(certificate, systemHash))
  return { subject, fingerprint, serial, notBeforeMs, notAfterMs }
}

function inFormat(certificate: Certificate, format: CertificateFormat): string | Uint8Array {
  switch (format) {
    case 'pem':
      return exportCertificate(certificate)
    case 'der':
      return certificate.der
    case 'efi':
      // The owner tells people whose entry it is; the beginning of the certificate's own fingerprint does.
      return efiSignatureList([certificate], fingerprintOf(certificate, systemHash).subarray(0, 16))
  }
}

/** Without the key: an authority whose key is kept elsewhere can be shown all the same. */
async function readCertificateOf(stateDirectory: string): Promise<Certificate | undefined> {
  const pem = await createTrustFiles(`${stateDirectory}/${trustFolder}`).read(authorityCertificateFile)
  return pem === undefined ? undefined : readChain(pem)[0]
}

function trustFiles(stateDirectory: string): TrustFiles {
  return createTrustFiles(`${makeStateDirectory(stateDirectory)}/${trustFolder}`)
}

async function readText(path: string): Promise<string> {
  const file = await openFile(path, 'readOnly')
  try {
    if (file.sizeBytes() > pemBytesMax) {
      throw new OperationError('certificateUnreadable', `${path} is too large for a PEM file`, 'Check the path.')
    }
    const bytes = new Uint8Array(file.sizeBytes())
    await file.read(0, bytes)
    return new TextDecoder().decode(bytes)
  } finally {
    await file.close()
  }
}
