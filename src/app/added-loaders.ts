/** The loaders that can be handed out, as `slipway loaders` lists and shows them; and those that a user added. */
import { messageOf, OperationError } from '../base/errors.ts'
import type { Architecture } from '../boot/client.ts'
import type { Loader } from '../boot/loaders.ts'
import { planBoot } from '../boot/plan.ts'
import { isDiskError, sourceOfBytes } from '../disk/source.ts'
import { listFiles, makeDirectory, removeFile } from '../host/directory.ts'
import { openFile } from '../host/file.ts'
import { systemHash } from '../host/hash.ts'
import { basename, join } from '../host/path.ts'
import { makeStateDirectory } from '../host/state-directory.ts'
import { writeWholeFile } from '../host/whole-file.ts'
import type { Log } from '../ports/log.ts'
import { exportCertificate } from '../trust/authority.ts'
import { fingerprintOf } from '../trust/certificate.ts'
import {
  formatFingerprint,
  identifyLoader,
  ipxePublicRoot,
  type KnownRoot,
  type Loader as SeenLoader,
} from '../trust/loaders/identify.ts'
import { loadersKit } from '../trust/loaders/kit.ts'
import { type Change, withTrust } from '../trust/loaders/patch.ts'
import { addedLoadersFolder, type CatalogueEntry, loaderBytesMax, loaderName, readLoaders } from './loaders.ts'
import { needAuthority, ownRootName, ownRoots, rootOf } from './site-authority.ts'

export type LoadersWhere = {
  readonly stateDirectory: string
  /** Looked at after what was added. */
  readonly directories: readonly string[]
}

export type ListedLoader = CatalogueEntry & {
  readonly added: boolean
  /** Machines that would get it: 'BIOS', 'UEFI x86_64', 'U-Boot arm64'. */
  readonly gets: readonly string[]
}

/** In the order in which they are chosen from; what is nothing known comes last. */
export async function listLoaders(where: LoadersWhere, log: Log): Promise<readonly ListedLoader[]> {
  const added = join(makeStateDirectory(where.stateDirectory), addedLoadersFolder)
  await makeDirectory(added)
  const catalogue = await readLoaders([added, ...where.directories], log, await ownRoots(where.stateDirectory))
  const audience = audienceOf(catalogue.known)
  return catalogue.entries.map((entry) => ({
    ...entry,
    added: entry.directory === added,
    gets: audience.get(entry.name) ?? [],
  }))
}

/** A file by its path, or a loader by the name it is asked for. @throws {OperationError} notALoader, loaderUnknown */
export async function showLoader(
  where: LoadersWhere,
  nameOrPath: string,
  log: Log,
): Promise<{ readonly seen: SeenLoader; readonly listed: ListedLoader | undefined }> {
  const listed = (await listLoaders(where, log)).find(({ name }) => name === nameOrPath)
  if (listed?.seen !== undefined) return { seen: listed.seen, listed }
  if (listed === undefined && !nameOrPath.includes('/') && !(await isThere(nameOrPath))) {
    const hint = 'Name one of `slipway loaders list`, or give the path of a file.'
    throw new OperationError('loaderUnknown', `there is no loader called ${nameOrPath}`, hint)
  }
  const path = listed === undefined ? nameOrPath : join(listed.directory, listed.name)
  const seen = await identify(path, await readLoaderFile(path), await ownRoots(where.stateDirectory))
  return { seen, listed }
}

export type AddTerms = {
  readonly path: string
  /** Undefined: the file's own name. */
  readonly name: string | undefined
  /** Makes a copy that trusts this site's authority in place of the public root. */
  readonly trustUs: boolean
  /** For an authority that has to be made. */
  readonly authorityName: string
}

export type Added = {
  readonly name: string
  readonly seen: SeenLoader
  readonly replaced: boolean
  readonly changes: readonly Change[]
}

/**
 * Copies a loader into the state directory, where `up` looks first. The user's file is not changed.
 * @throws {OperationError} notALoader, loaderNameUnfit, those of withTrust, those of openSiteAuthority
 */
export async function addLoader(stateDirectory: string, terms: AddTerms): Promise<Added> {
  const name = terms.name ?? basename(terms.path)
  if (!loaderName.test(name) || name.includes('/') || name.startsWith('.')) {
    const hint = 'Firmware asks by these endings: .efi, .kpxe, .kkpxe, .pxe, .0. Choose one: --as snponly.efi.'
    throw new OperationError('loaderNameUnfit', `${name} is no name that a loader can be asked for by`, hint)
  }
  const bytes = await readLoaderFile(terms.path)
  const before = await identify(terms.path, bytes, [])
  const authority = terms.trustUs ? await needAuthority(stateDirectory, terms.authorityName) : undefined
  const roots = authority === undefined ? await ownRoots(stateDirectory) : [rootOf(authority.certificate)]
  const trustsUs = (await identify(terms.path, bytes, roots)).pinned.includes(ownRootName)
  const ours = roots[0]
  const changed =
    authority === undefined || ours === undefined || trustsUs
      ? { bytes, changes: [] }
      : await withTrust(bytes, { replaced: ipxePublicRoot, ours })
  const folder = join(makeStateDirectory(stateDirectory), addedLoadersFolder)
  await makeDirectory(folder)
  const replaced = (await listFiles(folder)).some((file) => file.name === name)
  await writeWholeFile(join(folder, name), changed.bytes, 0o644)
  const seen = changed.changes.length === 0 && !trustsUs ? before : await identify(terms.path, changed.bytes, roots)
  return { name, seen, replaced, changes: changed.changes }
}

/** Takes away what was added; the folders of others are not touched. @throws {OperationError} loaderNotAdded */
export async function removeLoader(stateDirectory: string, name: string): Promise<void> {
  const folder = join(makeStateDirectory(stateDirectory), addedLoadersFolder)
  await makeDirectory(folder)
  const names = (await listFiles(folder)).map((file) => file.name)
  if (!names.includes(name)) {
    const hint = names.length === 0 ? 'Nothing was added.' : `Added were: ${names.join(', ')}.`
    throw new OperationError('loaderNotAdded', `${name} was not added with slipway loaders add`, hint)
  }
  await removeFile(join(folder, name))
}

/** Writes what somebody needs who builds their own iPXE. Returns the paths. @throws {OperationError} fileExists */
export async function writeLoadersKit(
  stateDirectory: string,
  directory: string,
  authorityName: string,
): Promise<readonly string[]> {
  const { certificate } = await needAuthority(stateDirectory, authorityName)
  const files = loadersKit({
    authorityPem: exportCertificate(certificate),
    authoritySubject: certificate.subject,
    fingerprint: formatFingerprint(fingerprintOf(certificate, systemHash)),
  })
  for (const { path } of files) {
    // A kit that was worked on is somebody's work.
    if (!(await isThere(join(directory, path)))) continue
    const hint = 'Choose a folder of its own for the kit, or take the old one away.'
    throw new OperationError('fileExists', `${join(directory, path)} exists already`, hint)
  }
  await makeDirectory(join(directory, 'config'))
  for (const file of files) {
    await writeWholeFile(join(directory, file.path), file.content, file.executable ? 0o755 : 0o644)
  }
  return files.map(({ path }) => join(directory, path))
}

/** Who is asked about: every firmware that boots from a network, and what it is called. */
const firmwares: ReadonlyArray<readonly [what: string, kind: 'pxe' | 'uboot', architecture: Architecture]> = [
  ['BIOS', 'pxe', 'bios'],
  ['UEFI x86_64', 'pxe', 'x86_64'],
  ['UEFI arm64', 'pxe', 'arm64'],
  ['U-Boot x86_64', 'uboot', 'x86_64'],
  ['U-Boot arm64', 'uboot', 'arm64'],
]

/** The plan itself is asked, so that this list and a boot cannot differ. */
function audienceOf(loaders: readonly Loader[]): ReadonlyMap<string, readonly string[]> {
  const audience = new Map<string, string[]>()
  for (const [what, kind, architecture] of firmwares) {
    const program = kind === 'pxe' ? ({ kind } as const) : ({ kind, distro: false } as const)
    const plan = planBoot({
      client: { mac: '02:00:00:00:00:01', program, architecture, uuid: undefined },
      standing: 'admitted',
      transport: 'auto',
      loaders,
      httpsServed: true,
      diskOnVlan: false,
      firmwareTrustsUs: false,
      loaderWasTried: false,
    })
    if (plan.kind === 'loader') audience.set(plan.file, [...(audience.get(plan.file) ?? []), what])
  }
  return audience
}

async function readLoaderFile(path: string): Promise<Uint8Array> {
  const file = await openFile(path, 'readOnly')
  try {
    if (file.sizeBytes() > loaderBytesMax) {
      const hint = 'A loader that firmware fetches has a few megabytes at most.'
      throw new OperationError('notALoader', `${path} is larger than any loader`, hint)
    }
    const bytes = new Uint8Array(file.sizeBytes())
    await file.read(0, bytes)
    return bytes
  } finally {
    await file.close()
  }
}

async function identify(path: string, bytes: Uint8Array, roots: readonly KnownRoot[]): Promise<SeenLoader> {
  try {
    return await identifyLoader(sourceOfBytes(bytes), roots)
  } catch (error) {
    const hint =
      'Give an EFI program (.efi), an iPXE for BIOS (.pxe, .kpxe, .kkpxe, .lkrn) or a PXELINUX (pxelinux.0), whole.'
    if (isDiskError(error)) {
      throw new OperationError('notALoader', `${path} is a broken EFI program: ${messageOf(error)}`, hint)
    }
    if (error instanceof OperationError && error.code === 'notALoader') {
      throw new OperationError('notALoader', `${path} is no boot loader`, hint, { cause: error })
    }
    throw error
  }
}

async function isThere(path: string): Promise<boolean> {
  try {
    await (await openFile(path, 'readOnly')).close()
    return true
  } catch (error) {
    if (error instanceof OperationError && error.code === 'fileMissing') return false
    throw error
  }
}
